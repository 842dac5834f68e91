"""How much disk an index needs, said before the work starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from patchword.errors import DataError
from patchword.store.manifest import Manifest

ROW_BYTES = 500  # of the catalog, for one image with a usual path and EXIF
SPARE = 64 << 20  # left free on the disk


def bytes_per_image(manifest: Manifest) -> int:
    """Bytes of one image: set size x D x 2, the shortlist's vector, and its row in the catalog."""
    return set_bytes(manifest) + ROW_BYTES


def set_bytes(manifest: Manifest) -> int:
    """Bytes of one item in a shard."""
    shortlist = 0 if manifest.pooled.kind == "own" else 2 * manifest.pooled.width
    return 2 * manifest.set_size * manifest.width + shortlist + 12


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start what the disk can not hold.

    Args:
        folder: on the disk in question.
        needed: bytes.

    Raises:
        DataError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise DataError(
            f"the index needs about {size_text(needed)} and '{folder}' has {size_text(free)} free. Free some space, "
            "index fewer pictures, or use a model with fewer or narrower vectors."
        )


def size_text(count: int | float) -> str:
    """A number of bytes for people.

    Example:
        >>> size_text(812), size_text(3_400_000), size_text(18_432_000_000)
        ('812 bytes', '3.4 MB', '18.4 GB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{int(count)} bytes"
