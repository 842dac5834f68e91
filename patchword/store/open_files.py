"""How many files this process may have open: a mapped shard takes one of them."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path

from patchword.errors import DataError

_SPARE = 256  # for everything but the shards: connections, pictures, the catalog
_USUAL_MOST = 10_240  # what macOS allows where it names no limit


def allow_more(count: int) -> None:
    """Raise the soft limit of open files to the hard one where so many more would not fit below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_now() + count + _SPARE
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    for most in (max(needed, _USUAL_MOST), _USUAL_MOST) if hard == resource.RLIM_INFINITY else (hard,):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return


def _open_now() -> int:
    """Files that are open now, as far as the system tells."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


def refuse_if_too_many(place: Path, count: int, error: OSError) -> None:
    """Say that an index can not be opened for want of open files, where that is the reason.

    Args:
        place: of the index.
        count: of its shards.
        error: that opening them ended with.

    Raises:
        DataError: it is.
    """
    if error.errno in (errno.EMFILE, errno.ENFILE):
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise DataError(
            f"'{place}' has {count:,} shards, and this process may have {soft:,} files open. Each shard takes one. "
            f"Allow more with: ulimit -n {count + 2 * _SPARE}"
        ) from None
