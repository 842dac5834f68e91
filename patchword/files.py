"""Files that appear whole or not at all: written under a temporary name beside the old one, then renamed over it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_SHOWN = 24  # letters of a file's name that its draft shows; the whole name may leave no room for more


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft that takes the place of a file when all went well, and is removed otherwise; the old file survives that.

    A link stays, and its target is replaced. A file that is there keeps its permissions. What is there and is no file
    (a device, a pipe) stays too: the finished draft is written into it.

    Args:
        path: the file. The draft lies in the same folder, so that the renaming is one step of the file system; its name
            begins with a dot and the first letters of the file's, holds the number of this process, and ends in
            ``.tmp``.

    Raises:
        OSError: the file can not be written; its ``filename`` is ``path``.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> with replacing(place / "numbers.txt") as draft:
        ...     _ = draft.write_text("1 2 3")
        >>> [file.name for file in place.iterdir()]
        ['numbers.txt']
    """
    old = _found(path)
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if old is not None and not stat.S_ISREG(old.st_mode):
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / "draft"
            yield draft
            with draft.open("rb") as whole, path.open("wb") as there:
                shutil.copyfileobj(whole, there)
        return
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name[:_SHOWN]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        if old is not None:
            draft.touch(0o600)  # nobody reads the draft who may not read the file
        yield draft
        if old is not None:
            _take_over(draft, old)
        draft.replace(target)
    except OSError as error:
        if error.filename != str(draft):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def _found(path: Path) -> os.stat_result | None:
    """What is there, at the end of all links."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _take_over(draft: Path, old: os.stat_result) -> None:
    """Give a draft the permissions of the file that it replaces, and its owner where that is allowed."""
    with suppress(PermissionError):
        os.chown(draft, old.st_uid, old.st_gid)
    draft.chmod(stat.S_IMODE(old.st_mode) & 0o777)


def save_tensors(
    tensors: Mapping[str, Tensor] | Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a ``.safetensors`` file that those may read who may read other new files here.

    Raises:
        OSError, SafetensorError: the disk is full, or the place can not be written.
    """
    import numpy as np
    import safetensors.numpy
    import safetensors.torch

    path.touch()
    mode = path.stat().st_mode
    content: dict[str, Any] = dict(tensors)
    is_numpy = any(isinstance(tensor, np.ndarray) for tensor in content.values())
    (safetensors.numpy if is_numpy else safetensors.torch).save_file(content, path, metadata)
    path.chmod(mode)  # safetensors leaves files that only their owner can read


def write_whole(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file in UTF-8 with plain line feeds, complete or not at all.

    Args:
        path: the file; one that is there is replaced, see ``replacing``.
        text: its content.
        durable: also wait until content and name would survive a loss of power.

    Raises:
        OSError: the disk is full, or the folder is missing or can not be written.
    """
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        sync_folder(Path(os.path.realpath(path)).parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power; where folders can not be opened, do nothing."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems refuse this, and then order names themselves
    finally:
        os.close(handle)
