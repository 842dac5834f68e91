"""Searching an index: the reader that stays open, answers from many threads, and follows what writers do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.data.clip_features import ClipEncoder
from patchword.errors import ConfigError, DataError
from patchword.index.about import info as folder_info
from patchword.index.asked import Asked, CaptionQueries
from patchword.index.batch import answer_each
from patchword.index.calibrate import Calibration, read_calibration
from patchword.index.candidates import candidates_for
from patchword.index.catalog import Catalog, Item
from patchword.index.collection import Collection, Hits
from patchword.index.explain_item import explain_item
from patchword.index.inputs import encode_image, encode_queries, reads_regions
from patchword.index.layout import open_folder
from patchword.index.manifest import read_manifest
from patchword.index.model_hash import open_model
from patchword.index.parallel import Cores, one_core
from patchword.index.pooled import PoolSpec
from patchword.index.query import Answer, Found, FoundCaption, Mode, Part, Query
from patchword.index.results import ReaderInfo
from patchword.index.shortlist.view import open_shortlist
from patchword.index.snapshot import open_snapshot
from patchword.model import Model
from patchword.types import Alignment

EXACT_MS = 100.0  # `auto` scores everything as long as that is expected to take less
Picture = int | Path | str | NDArray[np.uint8]


@dataclass(frozen=True)
class State:
    """One generation as searches see it."""

    images: Collection
    captions: Collection


class Index:
    """A folder of pictures that answers queries. Made by ``Index.open``; safe to use from several threads.

    Attributes:
        folder: of the index.
        model: that it was made with.
        catalog: what is known about its items.
        manifest: what it was made with.
        spec: the vectors of its shortlist.
        clip: of models that read CLIP's vector of a sentence.
    """

    def __init__(
        self, folder: Path, model: Model, backend: Mapping[str, Any], clip: ClipEncoder | None, threads: int | None
    ) -> None:
        self.place = open_folder(folder)
        self.folder, self.model = self.place.path, model
        self.manifest = read_manifest(self.place)
        self.spec = PoolSpec.of(self.manifest.pooled, model)
        self.catalog = Catalog(self.place)
        self.clip, self._options, self._cores = clip, dict(backend), Cores(threads)
        self._calibration: tuple[int, Calibration | None] = (-1, None)
        self._refreshing = Lock()
        model.method.eval()
        self._state = State(self._open("image"), self._open("caption"))

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
    ) -> Index:
        """Open an index for reading.

        Args:
            folder: the index.
            model: the model it was made with, or where that is now; by default where it was.
            device: where the model's weights go; scoring is done on the CPU.
            backend: options of the shortlist's backend that differ here (``uri``, ``token`` of a Milvus server).
            clip: CLIP model folder, for models that read CLIP's vector of a sentence.
            threads: that score; by default as many as torch may use.

        Raises:
            DataError: there is no index, or it is damaged.
            CheckpointError: the model is missing, or not the one the index was made with.
        """
        place = open_folder(folder)
        loaded = open_model(read_manifest(place), model, device=device)
        return cls(place.path, loaded, backend or {}, None if clip is None else ClipEncoder(clip), threads)

    def _open(self, kind: Literal["image", "caption"], before: Collection | None = None) -> Collection:
        snapshot = open_snapshot(self.place, kind)
        if before is not None and before.shortlist.is_current(self.place, kind):
            return before.advanced(snapshot, before.shortlist.advanced(snapshot))
        options = {**self.manifest.backend.options, **self._options}
        method = self.manifest.model.method
        shortlist = open_shortlist(self.place, snapshot, method, self.manifest.pooled, options)
        if before is None:
            return Collection(snapshot, shortlist, self.spec, self._cores)
        return before.advanced(snapshot, shortlist)

    def __len__(self) -> int:
        return len(self._state.images)

    @property
    def images(self) -> Collection:
        """The images of the generation that is searched now."""
        return self._state.images

    def refresh(self) -> bool:
        """Look for a newer generation and take it, while searches go on with the old one.

        Returns:
            Whether there was one.
        """
        with self._refreshing:
            now = self._state
            if self.catalog.generation() == now.images.snapshot.generation:
                return False
            self._state = State(self._open("image", now.images), self._open("caption", now.captions))
            return True

    def search(
        self,
        query: str | Query,
        k: int = 10,
        *,
        mode: Mode = "auto",
        where: str | None = None,
        threshold: float | None = None,
        candidates: int | None = None,
    ) -> Answer:
        """The best images for one query; see ``search_batch``."""
        return self.search_batch(
            [query], k, mode=mode, where=where, threshold=threshold, candidates=candidates
        )[0]  # fmt: skip

    def search_batch(
        self,
        queries: Sequence[str | Query],
        k: int = 10,
        *,
        mode: Mode = "auto",
        where: str | None = None,
        threshold: float | None = None,
        candidates: int | None = None,
    ) -> list[Answer]:
        """The best images for each of several queries, encoded and scored together.

        Args:
            queries: sentences, taken word for word, or compositions.
            k: at most so many images.
            mode: ``exact`` scores every image, ``fast`` those of a shortlist, ``auto`` scores every one as long as that
                is expected to take less than 100 ms.
            where: only images for which this holds; see ``patchword.index.filters``.
            threshold: only images with at least this score.
            candidates: of the shortlist; by default what ``index info --recall`` recommends.

        Raises:
            DataError: a query is empty or unknown to the model, or an image can not be encoded.
            ConfigError: the filter can not be read, or k is below 1.
        """
        started = time.perf_counter()
        if k < 1:
            raise ConfigError(f"`k` is {k}. Expected 1 or more.")
        if mode not in ("auto", "exact", "fast"):
            raise ConfigError(f"the mode {mode!r} is unknown. Known: auto, exact, fast.")
        if not queries:
            return []
        images = self._state.images
        asked_for = [Query.of(query) for query in queries]
        with one_core(), torch.no_grad():
            asked = encode_queries(self.model, asked_for, images, self.clip)
            rows = None if where is None else images.snapshot.known(self.catalog.where(where))
            done, hits = self._hits(images, asked, k, mode, rows, threshold, candidates)
        items = self.catalog.find({int(images.snapshot.ids[row]) for found in hits for row in found.rows})
        took = (time.perf_counter() - started) * 1e3 / len(queries)
        searched = len(images) if rows is None else len(rows)
        return [
            Answer(self._found(images, query, one, items), done, searched, one.rescored, took)
            for query, one in zip(asked_for, hits, strict=True)
        ]

    def search_each(
        self,
        queries: Sequence[str | Query],
        k: int = 10,
        *,
        mode: Mode = "auto",
        where: str | None = None,
        threshold: float | None = None,
        candidates: int | None = None,
    ) -> list[Answer | DataError]:
        """Like `search_batch`, but a query that can not be answered does not stop the others: its place holds the
        reason.

        Raises:
            ConfigError: what is wrong for all of them: the filter, or k.
        """

        def ask(some: Sequence[str | Query]) -> list[Answer]:
            return self.search_batch(
                some, k, mode=mode, where=where, threshold=threshold, candidates=candidates
            )  # fmt: skip

        return answer_each(ask, queries)

    def _hits(
        self,
        collection: Collection,
        asked: Asked,
        k: int,
        mode: Mode,
        rows: NDArray[np.int64] | None,
        threshold: float | None,
        candidates: int | None,
    ) -> tuple[Literal["exact", "fast"], list[Hits]]:
        """Search in the mode that was asked for; returns the mode that was used, and what was found."""
        items = len(collection) if rows is None else len(rows)
        wanted = max(k, candidates or candidates_for(self.place, len(collection), k))
        if mode == "exact" or items <= wanted or (
            mode == "auto" and collection.expected_ms(items, asked) / len(asked) <= EXACT_MS
        ):  # fmt: skip
            return "exact", collection.exact(asked, k, rows, threshold)
        return "fast", collection.fast(asked, k, rows, threshold, wanted)

    def _found(self, images: Collection, query: Query, hits: Hits, items: Mapping[int, Item]) -> list[Found]:
        """Hits with what the catalog knows; images that a writer has just removed are left out."""
        ids = images.snapshot.ids[hits.rows].tolist()
        chances = self._probabilities(hits.scores) if query.sentence is not None else None
        found: list[Found] = []
        for place, (one, score) in enumerate(zip(ids, hits.scores.tolist(), strict=True)):
            if one in items:
                chance = None if chances is None else float(chances[place])
                found.append(Found(one, score, chance, items[one], len(found) + 1))
        return found

    def _probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """The probability that a pair with such a score matches: from the calibration, else from the method itself."""
        calibration = self.calibration
        if calibration is not None:
            return calibration.probabilities(scores)
        said = self.model.method.match_probability(torch.from_numpy(scores))
        return None if said is None else np.asarray(said.detach().cpu().numpy(), dtype=np.float64)

    @property
    def calibration(self) -> Calibration | None:
        """The fitted probability of a match, read again when its file has changed."""
        stamp, known = self._calibration
        now = Calibration.stamp(self.place)
        if now != stamp:
            known = read_calibration(self.place, self.manifest.model.hash)
            self._calibration = (now, known)
        return known

    def similar(
        self,
        id: int,
        k: int = 10,
        *,
        mode: Mode = "auto",
        where: str | None = None,
        threshold: float | None = None,
    ) -> Answer:
        """The images most like an indexed one, itself left out.

        Raises:
            DataError: there is no such image.
        """
        query = Query((Part(image=int(id)),))
        found = self.search(query, k + 1, mode=mode, where=where, threshold=threshold)
        others = [hit for hit in found.hits if hit.id != id][:k]
        hits = [Found(hit.id, hit.score, hit.probability, hit.item, rank) for rank, hit in enumerate(others, start=1)]
        return Answer(hits, found.mode, found.searched, found.rescored, found.took_ms)

    def captions_for(
        self, image: Picture, k: int = 10, *, mode: Mode = "auto", threshold: float | None = None
    ) -> list[FoundCaption]:
        """The best indexed captions for an image.

        Args:
            image: id of an indexed image, a picture file, or a decoded picture ``(H, W, 3)``.

        Raises:
            DataError: no captions are indexed, or the image can not be encoded.
        """
        if k < 1:
            raise ConfigError(f"`k` is {k}. Expected 1 or more.")
        state = self._state
        captions = state.captions
        if not len(captions):
            raise DataError("no captions are indexed. Add some with: patchword index captions INDEX FILE")
        with one_core(), torch.no_grad():
            asked = CaptionQueries(self.model.method, encode_image(self.model, image, state.images))
            _, (hits,) = self._hits(captions, asked, k, mode, None, threshold, None)
        ids = captions.snapshot.ids[hits.rows].tolist()
        items = self.catalog.find_captions(ids)
        chances = self._probabilities(hits.scores)
        known = [place for place, one in enumerate(ids) if one in items]
        return [
            FoundCaption(
                ids[place],
                float(hits.scores[place]),
                None if chances is None else float(chances[place]),
                items[ids[place]],
                rank,
            )
            for rank, place in enumerate(known, start=1)
        ]

    def explain(self, id: int, text: str) -> Alignment:
        """Why an indexed image and a text get their score: words x patches, with boxes in 0..1 where they are known.

        Raises:
            DataError: there is no such image, its picture or its features are gone, or the text is unknown.
        """
        item = self.item(id)
        images = self._state.images
        boxes = images.snapshot.boxes(int(images.snapshot.positions([id])[0]))
        return explain_item(self.model, self.manifest, item, text, boxes)

    def item(self, id: int) -> Item:
        """What is known about an image.

        Raises:
            DataError: there is no such image.
        """
        return self.catalog.items([int(id)])[0]

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
        state = self._state
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
        return not reads_regions(self.model) and not self.model.method.image_extras

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
