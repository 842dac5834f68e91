"""Where the parts of an index folder lie, and how a file of it comes into being: whole or not at all."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from patchword.errors import DataError
from patchword.files import sync_folder

FORMAT, VERSION = "patchword-index", 1
_TRIES = 5  # at a file whose draft a writer takes for one that was left
_LEFT_S = 60.0  # a draft of this age was left by a process that was killed


@dataclass(frozen=True)
class IndexFolder:
    """The names inside an index folder.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def manifest(self) -> Path:
        """What the index was made with."""
        return self.path / "manifest.json"

    @property
    def catalog(self) -> Path:
        """The only truth about what is in the index."""
        return self.path / "catalog.sqlite"

    @property
    def shards(self) -> Path:
        """Folder of the vector files."""
        return self.path / "shards"

    @property
    def skipped(self) -> Path:
        """List of the files that could not be indexed."""
        return self.path / "skipped.jsonl"

    @property
    def shortlist(self) -> Path:
        """Files of the shortlist's backend; they can be made again from the shards."""
        return self.path / "shortlist"

    @property
    def lock(self) -> Path:
        """The file that the one process that writes has locked."""
        return self.path / "writer.lock"

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.shards / f"{number:06d}.safetensors"

    def shard_numbers(self) -> list[int]:
        """Numbers of the shard files that are there, whether or not the catalog names them; ascending."""
        names = (path.name.removesuffix(".safetensors") for path in self.shards.glob("*.safetensors"))
        return sorted(int(name) for name in names if name.isdecimal())


def open_folder(folder: Path | str | IndexFolder) -> IndexFolder:
    """The index in a folder.

    Raises:
        DataError: there is none.
    """
    if isinstance(folder, IndexFolder):
        return folder
    place = IndexFolder(Path(folder))
    if not place.path.is_dir():
        raise DataError(
            f"'{place.path}' is not an index: there is no such folder. Make one with: patchword index build"
        )
    for part in (place.manifest, place.catalog):
        if not part.is_file():
            raise DataError(
                f"'{place.path}' is not an index: it has no {part.name}. Make one with: patchword index build"
            )
    return place


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index, be it one with a damaged manifest, which whoever opens it says."""
    place = IndexFolder(folder)
    try:
        about = json.loads(place.manifest.read_text(encoding="utf-8"))
    except OSError:
        return False
    except ValueError:
        return place.catalog.is_file()
    return isinstance(about, dict) and about.get("format") == FORMAT


def write_whole(path: Path, content: str) -> None:
    """Put a text file in place under its name only once it is complete and on the disk.

    Not all who write hold the lock (measuring does not), so each has a draft of its own. A writer that begins removes
    drafts, see `Writer.remove_orphans`; whose was not left over writes it again.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    for attempt in range(_TRIES):
        try:
            with fresh.open("w", encoding="utf-8", newline="\n") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            break
        except FileNotFoundError:
            if attempt + 1 == _TRIES:
                raise
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)
    for left in path.parent.glob(f".{path.name}.*.new"):  # of processes that were killed
        try:
            if time.time() - left.stat().st_mtime > _LEFT_S:
                left.unlink()
        except OSError:
            continue
