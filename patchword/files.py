"""Files that appear whole or not at all: written under a temporary name beside the old one, then renamed over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft that takes the place of a file when all went well, and is removed otherwise; the old file survives that.

    Args:
        path: the file. The draft lies in the same folder, so that the renaming is one step of the file system; its name
            begins with a dot, holds the number of this process, and ends in ``.tmp``.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> with replacing(place / "numbers.txt") as draft:
        ...     _ = draft.write_text("1 2 3")
        >>> [file.name for file in place.iterdir()]
        ['numbers.txt']
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


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
        path: the file; one that is there is replaced.
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
        sync_folder(path.parent)


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
