"""What the actions of an index return."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Changes:
    """What a build, an addition or a sync did. ``found = indexed + moved + unchanged + skipped``, always.

    Attributes:
        found: picture files that were there.
        indexed: of them, encoded now.
        moved: of them, known content at a new path.
        unchanged: of them, indexed before.
        skipped: of them, not indexed; the reasons are in ``skipped.jsonl``.
        removed: items whose file is gone, or can not be indexed any more.
        replaced: items whose file has another content now; it is among the indexed ones, with a new id.
        ignored: files that are no pictures, and hidden ones.
        unseen: folders that could not be read; what is indexed of them was kept.
        images: in the index now.
        generation: of the catalog now.
        seconds: that it took.
        unknown_columns: paths in the table of columns that name no item.
        damage: what was wrong with vector files that could not be read, a sentence each.
        restored: of the indexed ones, those that had lost their vectors and keep their ids.
        lost: of the removed ones, those of which neither vectors nor file are left.
        without_vectors: images that can not be found until a sync looks through their folders.
        restored_captions, lost_captions: captions that had lost their vectors: encoded again, or taken out because
            what the model reads beside them is not kept.
        unreachable: of the skipped ones, files that the system did not let be looked at or read; what is indexed of
            them was kept.
        taken_back: vector files that had been given up as missing or damaged, are whole, and are used again.
        column_files: what became of files of columns that have changed since they were named, a sentence each.
        model_place: where the model is now, when that was noted because it is not at its old place any more.
    """

    found: int
    indexed: int
    moved: int
    unchanged: int
    skipped: int
    removed: int
    replaced: int
    ignored: int
    unseen: int
    images: int
    generation: int
    seconds: float
    unknown_columns: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    restored: int = 0
    lost: int = 0
    without_vectors: int = 0
    restored_captions: int = 0
    lost_captions: int = 0
    unreachable: int = 0
    taken_back: tuple[str, ...] = ()
    column_files: tuple[str, ...] = ()
    model_place: str | None = None

    def __post_init__(self) -> None:
        assert self.found == self.indexed + self.moved + self.unchanged + self.skipped, f"the counts differ: {self}"

    def line(self) -> str:
        """The counts in one line."""
        text = (
            f"found {self.found:,} = {self.indexed:,} indexed + {self.moved:,} moved + {self.unchanged:,} unchanged "
            f"+ {self.skipped:,} skipped"
        )
        if self.replaced:
            text += f"; {self.replaced:,} of the indexed replace older content"
        if self.removed:
            text += f"; {self.removed:,} removed, their files are gone or can not be indexed any more"
        if self.unreachable:
            text += f"; {self.unreachable:,} of the skipped can not be read now, and what is indexed of them was kept"
        if self.restored:
            text += f"; {self.restored:,} of the indexed had lost their vectors and keep their ids"
        if self.lost:
            text += f"; {self.lost:,} of the removed are lost: neither vectors nor files are left"
        return text


@dataclass(frozen=True)
class Removed:
    """What a removal did.

    Attributes:
        removed: ids that are not in the index any more.
        images: in the index now.
        generation: of the catalog now.
    """

    removed: tuple[int, ...]
    images: int
    generation: int


@dataclass(frozen=True)
class CaptionChanges:
    """What adding captions did: ``found = indexed + unchanged + skipped``.

    Attributes:
        found: captions in the file.
        indexed: of them, encoded now.
        unchanged: of them, indexed before.
        skipped: of them, not indexed, with line and reason.
        linked: of the indexed ones, those that name an indexed image.
        captions: in the index now.
        generation: of the catalog now.
        cleared: older ones that were forgotten first.
    """

    found: int
    indexed: int
    unchanged: int
    skipped: tuple[tuple[int, str], ...]
    linked: int
    captions: int
    generation: int
    cleared: int = 0

    def __post_init__(self) -> None:
        assert self.found == self.indexed + self.unchanged + len(self.skipped), f"the counts differ: {self}"

    def line(self) -> str:
        """The counts in one line."""
        return (
            f"found {self.found:,} = {self.indexed:,} indexed + {self.unchanged:,} unchanged "
            f"+ {len(self.skipped):,} skipped; {self.linked:,} of the new ones belong to an indexed image"
            + (f"; {self.cleared:,} older ones were forgotten" if self.cleared else "")
        )


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    Attributes:
        shards_before, shards_after: number of shard files.
        bytes_before, bytes_after: their sizes.
        dropped: removed items whose vectors are gone now.
        generation: of the catalog now.
        cleared: files deleted that a sync had given up as missing or damaged.
    """

    shards_before: int
    shards_after: int
    bytes_before: int
    bytes_after: int
    dropped: int
    generation: int
    cleared: int = 0


@dataclass(frozen=True)
class BackendChanged:
    """What a change of the shortlist did.

    Attributes:
        backend: that finds the shortlist now.
        pooled: kind of its vectors now.
        images: in it.
        seconds: that it took.
    """

    backend: str
    pooled: str
    images: int
    seconds: float


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    Attributes:
        problems: what is wrong, a sentence each; empty when all is well.
        images, captions: items that were checked.
        shards: files that were read to the last byte.
        bytes: in them.
        damaged: of them, missing or not as they were written; a sync encodes their items again.
        given_up: vector files that a sync gave up as missing or damaged and that lie there still; a sync takes back
            those that are whole and needed, `compact` deletes those of which nothing is needed.
    """

    problems: tuple[str, ...]
    images: int
    captions: int
    shards: int
    bytes: int
    damaged: int = 0
    given_up: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class FolderInfo:
    """What the folder of an index holds, whether or not it can be searched: no model is loaded for it.

    `ReaderInfo` is what an open index says.

    Attributes:
        images, captions: items.
        vectors: of all images.
        set_size: vectors of an image, on average.
        width: D.
        pooled: kind and width of the shortlist's vectors.
        model: label, method, path and hash.
        roots: folders that items come from, with their number of items.
        columns: that a filter may name, with their types.
        backend: of the shortlist.
        shards: number of vector files.
        dead: removed items whose vectors are still there, until `compact`.
        skipped: files that could not be indexed.
        bytes: on the disk, by part.
        generation: of the catalog.
        created: when the index was made.
    """

    images: int
    captions: int
    vectors: int
    set_size: float
    width: int
    pooled: dict[str, object]
    model: dict[str, str]
    roots: dict[str, int]
    columns: dict[str, str]
    backend: str
    shards: int
    dead: int
    skipped: int
    bytes: dict[str, int]
    generation: int
    created: str


@dataclass(frozen=True)
class ReaderInfo:
    """What an open index answers from: the generation that is searched now, with the model that is loaded.

    `FolderInfo` is what lies on the disk, which may be newer.

    Attributes:
        images, captions: that are searched.
        model, method: label and name.
        columns: that a filter may name, with their types.
        generation: grows with every change.
        backend: of the shortlist.
        shortlist: what its vectors are.
        is_calibrated: whether hits have a fitted probability.
        has_captions: whether captions can be found.
        bytes: on the disk: ``images``, ``captions``, ``catalog``, ``shortlist``.
    """

    images: int
    captions: int
    model: str
    method: str
    columns: dict[str, str]
    generation: int
    backend: str
    shortlist: str
    is_calibrated: bool
    has_captions: bool
    bytes: dict[str, int]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        vectors: file of the vectors.
        metadata: file of the items.
        items: exported items.
        bytes: of both files.
    """

    vectors: str
    metadata: str
    items: int
    bytes: int
