"""Searching an index: the reader that stays open, answers from many threads, and follows what writers do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Unpack

from patchword.data.clip_features import ClipEncoder
from patchword.errors import DataError
from patchword.index.about import info as folder_info
from patchword.index.results import ReaderInfo
from patchword.model import Model
from patchword.retrieve.batch import answer_each
from patchword.retrieve.calibrate import Calibration
from patchword.retrieve.collection import Collection
from patchword.retrieve.explain_item import explain_item
from patchword.retrieve.inputs import reads_regions
from patchword.retrieve.opened import Opened
from patchword.retrieve.parallel import Cores
from patchword.retrieve.query import Answer, FoundCaption, Mode, Part, Picture, Query
from patchword.retrieve.wanted import How, Wanted
from patchword.shortlist.pooled import PoolSpec
from patchword.store.catalog import Catalog, Item
from patchword.store.layout import open_folder
from patchword.store.manifest import Manifest, read_manifest
from patchword.store.model_hash import open_model
from patchword.types import Alignment


class Index:
    """A folder of pictures that answers queries. Made by ``Index.open``; safe to use from several threads.

    Attributes:
        folder: of the index.
        model: that it was made with.
        clip: of models that read CLIP's vector of a sentence.
    """

    def __init__(
        self,
        folder: Path,
        model: Model,
        backend: Mapping[str, Any],
        clip: ClipEncoder | None,
        threads: int | None,
        detector: Path | str | None = None,
    ) -> None:
        self.place = open_folder(folder)
        self.folder, self.model = self.place.path, model
        self.clip, self._cores, self._backend, self._detector = clip, Cores(threads), backend, detector
        model.method.eval()
        self._refreshing = Lock()
        self._opened = Opened(self.place, model, clip, backend, self._cores, detector)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        model: Model | Path | str | None = None,
        device: str = "cpu",
        backend: Mapping[str, Any] | None = None,
        clip: Path | str | None = None,
        threads: int | None = None,
        detector: Path | str | None = None,
    ) -> Index:
        """Open an index for reading.

        Args:
            folder: the index.
            model: the model it was made with, or where that is now; by default where it was.
            device: where the model's weights go; scoring is done on the CPU.
            backend: options of the shortlist's backend that differ here (``uri``, ``token`` of a Milvus server).
            clip: CLIP model folder, for models that read CLIP's vector of a sentence.
            threads: that score; by default as many as torch may use.
            detector: that the region features were extracted with, to ask with pictures that are not indexed; loaded
                for the first of them.

        Raises:
            DataError: there is no index, or it is damaged.
            CheckpointError: the model is missing, or not the one the index was made with.
            ConfigError: a detector was named, and the model reads no regions.
        """
        place = open_folder(folder)
        loaded = open_model(read_manifest(place), model, device=device)
        encoder = None if clip is None else ClipEncoder(clip)
        return cls(place.path, loaded, backend or {}, encoder, threads, detector)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def images(self) -> Collection:
        """The images of the generation that is searched now."""
        return self._opened.generations.now.images

    @property
    def captions(self) -> Collection:
        """The captions of the generation that is searched now."""
        return self._opened.generations.now.captions

    @property
    def catalog(self) -> Catalog:
        """What is known about its items."""
        return self._opened.catalog

    @property
    def manifest(self) -> Manifest:
        """What it was made with."""
        return self._opened.manifest

    @property
    def spec(self) -> PoolSpec:
        """The vectors of its shortlist."""
        return self._opened.spec

    @property
    def calibration(self) -> Calibration | None:
        """The fitted probability of a match, read again when its file has changed."""
        return self._opened.chances.calibration

    def refresh(self) -> bool:
        """Look for a newer generation, or a newer shortlist, and take it, while searches go on with the old one.

        Where another index was put in the place of the folder, or a link to it now leads to another one, that is
        opened, as long as it is of the same model.

        Returns:
            Whether there was anything newer.

        Raises:
            DataError: the index is gone or damaged, or another one of another model; searches go on with the old one.
        """
        with self._refreshing:
            now = self._opened
            if not now.is_replaced():
                if now.generations.refresh(now.catalog):
                    return True
                if not now.is_replaced():  # nor meanwhile
                    return False
            how = self._backend, self._cores, self._detector
            self._opened = Opened(self.place, self.model, self.clip, *how, now)
            return True

    def search(self, query: str | Query, k: int = 10, **how: Unpack[How]) -> Answer:
        """The best images for one query; see ``search_batch``."""
        return self.search_batch([query], k, **how)[0]

    def search_batch(self, queries: Iterable[str | Query], k: int = 10, **how: Unpack[How]) -> list[Answer]:
        """The best images for each of several queries, encoded and scored together.

        Indexed images that a query is to be like are no answers to it.

        Args:
            queries: sentences, taken word for word, or compositions; one alone may be given as it is.
            k: at most so many images.
            how: ``mode``, ``where``, ``threshold`` and ``candidates``; see ``patchword.retrieve.wanted.Wanted``.

        Raises:
            DataError: a query is empty or unknown to the model, or an image can not be encoded.
            ConfigError: the filter can not be read, the mode is unknown, or k is below 1.
        """
        wanted, now = Wanted(k, **how), self._opened
        asked = [Query.of(query) for query in _several(queries)]
        return now.searching.images(now.generations.now.images, asked, wanted) if asked else []

    def search_each(self, queries: Iterable[str | Query], k: int = 10, **how: Unpack[How]) -> list[Answer | DataError]:
        """Like `search_batch`, but a query that can not be answered does not stop the others: its place holds the
        reason.

        Raises:
            ConfigError: what is wrong for all of them: the filter, the mode, or k.
        """
        return answer_each(lambda some: self.search_batch(some, k, **how), _several(queries))

    def similar(self, id: int, k: int = 10, **how: Unpack[How]) -> Answer:
        """The images most like an indexed one, itself left out; see ``search_batch``.

        Raises:
            DataError: there is no such image.
        """
        return self.search(Query((Part(image=int(id)),)), k, **how)

    def captions_for(
        self, image: Picture, k: int = 10, *, mode: Mode = "auto", threshold: float | None = None
    ) -> list[FoundCaption]:
        """The best indexed captions for an image.

        Args:
            image: id of an indexed image, a picture file, or a decoded picture ``(H, W, 3)``.

        Raises:
            DataError: no captions are indexed, or the image can not be encoded.
            ConfigError: the mode is unknown, or k is below 1.
        """
        wanted, now = Wanted(k, mode=mode, threshold=threshold), self._opened
        state = now.generations.now
        if not len(state.captions):
            raise DataError("no captions are indexed. Add some with: patchword index captions INDEX FILE")
        return now.searching.captions(state, image, wanted)

    def explain(self, id: int, text: str) -> Alignment:
        """Why an indexed image and a text get their score: words x patches, with boxes in 0..1 where they are known.

        Raises:
            DataError: there is no such image, its picture or its features are gone, or the text is unknown.
        """
        now = self._opened
        (item,) = now.catalog.items([int(id)])
        snapshot = now.generations.now.images.snapshot
        boxes = snapshot.boxes(int(snapshot.positions([id])[0]))
        return explain_item(self.model, now.manifest, item, text, boxes)

    def item(self, id: int) -> Item:
        """What is known about an image.

        Raises:
            DataError: there is no such image.
        """
        return self.catalog.items([int(id)])[0]

    def find(self, name: Path | str) -> int | None:
        """The id of an indexed image by its path below its folder, its file, or its ``split/image id`` or image id in
        the region features; None where no image has that name.

        Raises:
            DataError: several images have it.
        """
        return self.catalog.named(name)

    def picture(self, id: int) -> Path | None:
        """The picture file of an image; None when it is gone or has left its folder.

        Raises:
            DataError: there is no such image.
        """
        item = self.item(id)
        if item.file is None:
            return None
        try:
            file = item.file.resolve(strict=True)
            is_inside = file.is_relative_to(Path(item.root).resolve(strict=True))
        except (OSError, RuntimeError):
            return None
        return file if is_inside and file.is_file() else None

    def info(self) -> ReaderInfo:
        """Say what the index answers from now."""
        state = self._opened.generations.now
        return ReaderInfo(
            images=len(state.images),
            captions=len(state.captions),
            model=self.manifest.model.label,
            method=self.manifest.model.method,
            columns=self.catalog.columns(),
            generation=state.images.snapshot.generation,
            backend=self.manifest.backend.kind,
            shortlist=self.manifest.pooled.kind,
            is_calibrated=self.calibration is not None,
            has_captions=len(state.captions) > 0,
            bytes=dict(folder_info(self.place).bytes),
        )

    @property
    def accepts_pictures(self) -> bool:
        """Whether a picture that is not in the index can be asked with."""
        has_regions = not reads_regions(self.model) or self._detector is not None
        return has_regions and not self.model.method.image_extras

    def close(self) -> None:
        """End its threads and close its files."""
        self._cores.close()
        self.catalog.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _several(queries: Iterable[str | Query]) -> list[str | Query]:
    """The queries of a batch; a text or a composition alone is one of them."""
    return [queries] if isinstance(queries, (str, Query)) else list(queries)
