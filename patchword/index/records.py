"""What is read from the catalog and registered in it: items, folders, new images and captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patchword.index.scan import Seen

if TYPE_CHECKING:
    from patchword.index.exif import Facts

RACY_NS = 2_000_000_000  # a file that changed this shortly before it was read may have changed again unseen


@dataclass(frozen=True)
class Known:
    """An item of the catalog, as far as finding changes needs it."""

    id: int
    root: int
    path: str
    hash: str
    size: int
    mtime: int
    checked: int

    def is_same(self, seen: Seen) -> bool:
        """Whether size and time of change say that the content is the same."""
        return (self.size, self.mtime) == (seen.size, seen.mtime) and self.checked - self.mtime > RACY_NS


@dataclass(frozen=True)
class Root:
    """A folder that items come from; ``kind`` is ``folder``, ``files`` (only those named) or ``features``."""

    id: int
    path: Path
    kind: str
    follow: bool


@dataclass(frozen=True)
class NewItem:
    """An image to be registered with the shard that holds its vectors. An item at the same path is replaced by it.

    Attributes:
        seen: its file.
        hash: of the content of the file; of features alone, of the features.
        checked: when the file was read.
        facts: what the picture says.
        feature: which region features belong to it.
        feature_hash: of these.
    """

    seen: Seen
    hash: str
    checked: int
    facts: Facts | None = None
    feature: str | None = None
    feature_hash: str | None = None


@dataclass(frozen=True)
class NewCaption:
    """A caption to be registered with the shard that holds its vectors."""

    text: str
    image: int | None = None
