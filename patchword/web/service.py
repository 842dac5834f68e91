"""One index being served: what the routes call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from patchword.data.pictures import Picture
from patchword.explain.lit_words import lit_words
from patchword.retrieve.engine import Index
from patchword.retrieve.query import Answer, Found, FoundCaption, Part, Query
from patchword.search import unknown_words
from patchword.store.catalog import Item
from patchword.web.batching import LARGEST, Asked, Batcher
from patchword.web.metrics import Metrics
from patchword.web.originals import Original, open_original
from patchword.web.presence import Presence
from patchword.web.refusals import Refusal
from patchword.web.schemas import (
    CaptionOut,
    CaptionsOut,
    ExplainOut,
    HitOut,
    InfoOut,
    ItemOut,
    LimitsOut,
    PartIn,
    SearchOut,
    WordOut,
)
from patchword.web.settings import Settings
from patchword.web.thumbs import ThumbCache
from patchword.web.uploads import decode_upload, from_base64
from patchword.web.workers import Workers

T = TypeVar("T")
_LOOKUPS = 2  # threads that look items up
HIDDEN = {"root"}  # columns whose values are paths of this machine, which a filter could find out letter by letter
_NAMES = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)"|([^\W\d]\w*)""")
_log = logging.getLogger("patchword.web")


class Service:
    """An open index with its threads.

    Args:
        index: stays open when the service stops.
        settings: see `Settings`.
    """

    def __init__(self, index: Index, settings: Settings) -> None:
        self.index, self.settings, self.limits = index, settings, settings.limits
        self.metrics = Metrics()
        self._make_threads()
        self.thumbs = ThumbCache(int(settings.cache_mb * 1e6))
        self._refresher: asyncio.Task[None] | None = None
        self.metrics.watch("images", "indexed images", lambda: len(index))
        self.metrics.watch("generation", "generation of the index", lambda: self.generation)
        self.metrics.watch("queue", "searches that wait", lambda: self.batcher.waiting)

    @property
    def generation(self) -> int:
        """Of the index, as it is searched now."""
        return self.index.images.snapshot.generation

    # ---------------------------------------------------------------- life

    def _make_threads(self) -> None:
        waiting, threads = self.limits.concurrency + LARGEST, self.settings.workers
        self.room = asyncio.Semaphore(LARGEST)  # for queries of batches, which so never take the room of other requests
        self.batcher = Batcher(self.index, self.metrics, waiting=waiting)
        self.pictures = Workers("patchword-pictures", threads, waiting)
        self.thinkers = Workers("patchword-encode", threads, waiting)
        self.lookups = Workers("patchword-catalog", _LOOKUPS, waiting)  # the catalog only: never behind a picture
        self.presence = Presence()
        self._is_stopped = False

    def start(self) -> None:
        """Begin to look for changes of the index; after `stop`, begin anew."""
        if self._is_stopped:
            self._make_threads()
        self._refresher = asyncio.ensure_future(self._refresh())

    async def stop(self) -> None:
        """End all threads; what is being scored is finished."""
        if self._refresher is not None:
            self._refresher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refresher
        self._is_stopped = True
        self.pictures.stop()
        self.thinkers.stop()
        self.lookups.stop()
        self.presence.stop()
        if not await asyncio.to_thread(self.batcher.stop, self.settings.stop_s):
            _log.warning("a search was still being scored after %g s", self.settings.stop_s)

    async def _refresh(self) -> None:
        """Take over a changed index. Searches in work keep the one they began with."""
        said = ""
        while True:
            await asyncio.sleep(self.settings.refresh_s)
            try:
                if await asyncio.to_thread(self.index.refresh):
                    self.metrics.reloads.inc()
                    _log.info("the index has changed: %s images", f"{len(self.index):,}")
                said = ""
            except Exception as error:  # noqa: BLE001  whatever it is, the old snapshot still answers
                if str(error) != said:
                    said = str(error)
                    _log.warning("the index can not be read anew, the last state is served: %s", error)

    # ---------------------------------------------------------------- searches

    async def search(self, parts: Sequence[PartIn], asked: Asked) -> SearchOut:
        """Answer a query of words and pictures."""
        if len(parts) > self.limits.max_parts:
            raise Refusal(422, f"the query has {len(parts)} parts. At most {self.limits.max_parts} can be joined.")
        self.check(asked)
        texts = [None if part.text is None else self.clean(part.text, "text") for part in parts]
        unknown = unknown_words(self.index.model, [text for text in texts if text is not None])
        if all(part.image is None for part in parts):
            plain = zip(texts, parts, strict=True)
            query = Query(tuple(Part(text=text, image=part.image_id, weight=part.weight) for text, part in plain))
            return await self.told(await self.batcher.search(query, asked), unknown)

        def with_pictures() -> Answer:
            made = []
            for text, part in zip(texts, parts, strict=True):
                picture = part.image_id if part.image is None else self.decode(from_base64(part.image))
                made.append(Part(text=text, image=picture, weight=part.weight))
            return self.alone(Query(tuple(made)), asked)

        return await self.told(await self.thinkers.run(with_pictures), unknown)

    async def like_picture(self, raw: bytes, asked: Asked) -> SearchOut:
        """Images like a picture file that was sent."""
        self.check(asked)
        return await self.told(
            await self.thinkers.run(lambda: self.alone(Query((Part(image=self.decode(raw)),)), asked))
        )

    async def like_image(self, image: int, asked: Asked) -> SearchOut:
        """Images like an indexed one."""
        self.check(asked)
        await self.item(image)
        return await self.told(
            await self.thinkers.run(
                lambda: self.index.similar(
                    image, asked.k, mode=asked.mode, where=asked.where, threshold=asked.threshold
                )
            )
        )

    async def captions(self, image: int | bytes, k: int) -> CaptionsOut:
        """Captions for an indexed image, or for a picture file that was sent."""
        self.check(Asked(k))
        if not len(self.index.captions):
            raise Refusal(404, "no captions are indexed. Build the index with a caption set to find some.")
        if isinstance(image, int):
            await self.item(image)
        found = await self.thinkers.run(
            lambda: self.index.captions_for(self.decode(image) if isinstance(image, bytes) else image, k)
        )
        return CaptionsOut(hits=[_caption(hit) for hit in found])

    async def explain(self, image: int, text: str) -> ExplainOut:
        """Why an image and a sentence got their score."""
        query = self.clean(text, "q")
        await self.item(image)
        found = await self.thinkers.run(self.timed("explain", lambda: self.index.explain(image, query)))
        words = [WordOut(text=readable(w.text), part=w.part, is_mark=w.is_mark) for w in lit_words(found)]
        boxes = None if found.boxes is None else found.boxes.tolist()
        return ExplainOut(score=found.score, words=words, parts=found.parts.tolist(), boxes=boxes)

    def alone(self, query: Query, asked: Asked) -> Answer:
        """A search outside the batches: encoding its picture would keep all others waiting."""
        search = self.timed(
            "picture",
            lambda: self.index.search(query, asked.k, mode=asked.mode, where=asked.where, threshold=asked.threshold),
        )
        return search()

    def decode(self, raw: bytes) -> Picture:
        """The pixels of a picture file that was sent."""
        return self.timed("decode", lambda: decode_upload(raw, self.limits.max_pixels))()

    # ---------------------------------------------------------------- items

    async def item(self, image: int) -> Item:
        """What the index knows about an image.

        Raises:
            Refusal: 404, it is not in the index.
        """
        found = await self.lookups.run(lambda: self.index.catalog.find([image]))
        if image not in found:
            raise Refusal(404, f"there is no image {image}. It was removed, or never there.")
        return found[image]

    async def about(self, image: int) -> ItemOut:
        """An item for the outside."""
        item = await self.item(image)
        (available,) = await self.presence.of([item])
        return ItemOut(
            id=item.id,
            path=inside(item.path),
            bytes=item.size,
            modified=when(item.mtime),
            width=item.width,
            height=item.height,
            taken=item.taken,
            camera=None if item.camera is None else readable(item.camera),
            columns=item.columns,
            available=available,
        )

    async def original(self, image: int) -> Original:
        """The open picture file of an image; whoever asks closes it."""
        item = await self.item(image)
        return await self.pictures.run(lambda: open_original(item, self.index.picture(image)))

    async def told(self, answer: Answer, unknown: Sequence[str] = ()) -> SearchOut:
        """An answer for the outside. Whether each file is there is asked for a short time, beside the event loop."""
        there = await self.presence.of([found.item for found in answer.hits])
        hits = await self.lookups.run(lambda: list(map(_hit, answer.hits, there)))
        return SearchOut(
            hits=hits,
            mode=answer.mode,
            searched=answer.searched,
            rescored=answer.rescored,
            took_ms=round(answer.took_ms, 3),
            unknown_words=list(unknown),
        )

    async def info(self) -> InfoOut:
        """What is served."""
        index, limits = self.index, self.limits
        columns = await self.lookups.run(lambda: index.catalog.columns())
        return InfoOut(
            images=len(index),
            captions=len(index.captions),
            model=Path(index.manifest.model.path).name,
            method=index.manifest.model.method,
            columns={name: kind for name, kind in columns.items() if name not in HIDDEN},
            generation=self.generation,
            accepts_pictures=index.accepts_pictures,
            limits=LimitsOut(
                body_mb=limits.max_body_mb,
                pixels=limits.max_pixels,
                query=limits.max_query,
                k=limits.max_k,
                parts=limits.max_parts,
                batch=limits.max_batch,
                timeout_s=limits.timeout_s,
            ),
        )

    # ---------------------------------------------------------------- checks

    def check(self, asked: Asked) -> None:
        """Refuse what asks for too much.

        Raises:
            Refusal: 422.
        """
        if not 1 <= asked.k <= self.limits.max_k:
            raise Refusal(422, f"`k` is {asked.k}. From 1 to {self.limits.max_k:,} results can be asked for.")
        if asked.where is not None:
            self.clean(asked.where, "where")
            if HIDDEN & names_in(asked.where):
                raise Refusal(400, "the filter names the unknown column `root`. See /info for the known ones.")

    def clean(self, text: str, name: str) -> str:
        """A text without control characters.

        Raises:
            Refusal: 422, it is too long, or no text.
        """
        if len(text) > self.limits.max_query:
            raise Refusal(422, f"`{name}` has {len(text):,} characters. At most {self.limits.max_query:,} are read.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Refusal(422, f"`{name}` has half a character (a lone surrogate). Expected Unicode text.") from None
        return "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)

    def timed(self, stage: str, work: Callable[[], T]) -> Callable[[], T]:
        """The same work, whose time is counted."""

        def run() -> T:
            started = time.perf_counter()
            try:
                return work()
            finally:
                self.metrics.stages.labels(stage).observe(time.perf_counter() - started)

        return run


def _hit(found: Found, available: bool | None) -> HitOut:
    item = found.item
    return HitOut(
        rank=found.rank,
        id=found.id,
        score=found.score,
        probability=found.probability,
        path=inside(item.path),
        width=item.width,
        height=item.height,
        taken=item.taken,
        columns=item.columns,
        available=available,
    )


def _caption(found: FoundCaption) -> CaptionOut:
    return CaptionOut(
        rank=found.rank,
        id=found.id,
        score=found.score,
        probability=found.probability,
        caption=readable(found.item.text),
        image_id=found.item.image_id,
    )


def inside(path: str) -> str:
    """A path below the indexed folder, as text that JSON can hold; of an absolute one only the name."""
    return readable(path if not Path(path).is_absolute() else Path(path).name)


def names_in(where: str) -> set[str]:
    """The names in a filter, outside its texts, in lower case.

    Example:
        >>> sorted(names_in("path = 'root' and Root like 'x'"))
        ['and', 'like', 'path', 'root']
    """
    return {(found[1] or found[2] or "").lower() for found in _NAMES.finditer(where)} - {""}


def when(mtime: float) -> str | None:
    """Seconds since 1970 as a date in UTC; None for a date that no calendar has.

    Example:
        >>> when(1714557600.0), when(1e30)
        ('2024-05-01T10:00:00Z', None)
    """
    try:
        return datetime.fromtimestamp(mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return None


def readable(text: str) -> str:
    """Text that can be written as UTF-8: file names may hold any bytes."""
    return text.encode("utf-8", "replace").decode("utf-8")
