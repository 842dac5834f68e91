"""The one way in which pictures enter an index: look, plan, settle what needs no encoding, then shard by shard."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich.console import Console

from patchword.console import ProgressBar
from patchword.index.compacting import join_small
from patchword.index.pending import Batch, Pending, Source
from patchword.index.plan import Hashed, Place, Plan, make_plan
from patchword.index.records import Known, NewItem
from patchword.index.restoring import NOT_FINITE, Restored, restore_images
from patchword.index.results import Changes
from patchword.index.scan import Scan, Seen, Skip, show
from patchword.index.writer import Writer
from patchword.store.estimate import bytes_per_image, require_space, size_text
from patchword.store.layout import write_whole
from patchword.store.schema import count_items, generation

SAVE_EVERY_S = 30.0  # a slow model's work is saved at least this often; small shards are joined later


@dataclass(frozen=True)
class Scope:
    """A part of the roots.

    Attributes:
        root: number.
        below: folder or file below the root with ``/``; "" is all of it.
    """

    root: int
    below: str = ""

    def holds(self, path: str) -> bool:
        """Whether a path below the root belongs to it."""
        return not self.below or path == self.below or path.startswith(f"{self.below}/")


@dataclass
class Update:
    """One pass over some files.

    Attributes:
        writer: of the index.
        hashes: reads files for their hash, in order; None for one that can not be read.
        open_source: gives what turns files into batches; called when something is to be encoded.
        console: where progress goes.
        lost: ids of images that lost their vectors.
        outdated: ids of images whose region features have changed.
        says_size: say how much there is to do before it is done.
        save_every_s: longest time between two shards.
        started: when, on the monotonic clock.
    """

    writer: Writer
    hashes: Callable[[Sequence[Seen]], Iterable[Hashed | None]]
    open_source: Callable[[], Source]
    console: Console
    lost: frozenset[int] = frozenset()
    outdated: frozenset[int] = frozenset()
    says_size: bool = False
    save_every_s: float = SAVE_EVERY_S
    started: float = field(default_factory=time.monotonic)
    _indexed: int = field(default=0, init=False)
    _broken: int = field(default=0, init=False)
    _dropped: int = field(default=0, init=False)  # items whose file has changed and can not be indexed
    _outdated: int = field(default=0, init=False)  # those whose file has changed and can not be read now
    _unread: int = field(default=0, init=False)  # files that were to be encoded and can not be read now
    _restored: Restored = field(default_factory=Restored, init=False)

    def run(self, scan: Scan, scopes: Sequence[Scope], *, removes: bool, moves: bool, retry: bool = False) -> Changes:
        """Bring the index up to date with the files of some scopes.

        Args:
            scan: the files that are there.
            scopes: what was looked through.
            removes: whether items without a file are removed.
            moves: whether files at new places are recognised by their content.
            retry: look again at skipped files, and take back what was removed on purpose.

        Raises:
            DataError: the disk is full; what is registered stays.
        """
        known, skipped = self._known(scopes)
        plan = make_plan(
            scan, known, skipped, self.hashes, removes=removes, moves=moves, retry=retry, lost=self.lost,
            outdated=self.outdated, is_there=self._is_there,
        )  # fmt: skip
        if self.says_size:
            self._say_size(scan, plan)
        self._settle(plan, skipped)
        self._restore(plan, {item.id: item.hash for item in known.values()})
        self._encode(plan, set(known))
        write_skipped(self.writer)
        dead = [skip for skip in plan.skips if (skip.root, skip.path) in known and not skip.is_unknown]
        changed = sum((seen.root, seen.path) in known for seen in plan.encode)
        again, unread = self._restored.done, sum(skip.is_unknown for skip in self._restored.skips)
        unreadable = len(self._restored.skips) - unread
        gone = {*plan.gone, *(known[skip.root, skip.path].id for skip in dead)}
        return Changes(
            found=scan.found,
            indexed=self._indexed + again,
            moved=sum(one not in self.lost for one, _, _ in plan.moved),
            unchanged=plan.unchanged + sum(one not in self.lost for one, _, _ in plan.touched),
            skipped=len(plan.skips) + self._broken + len(self._restored.skips),
            removed=len(gone) + self._dropped + unreadable,
            replaced=changed - self._dropped - self._outdated,
            ignored=scan.ignored,
            unseen=len(scan.closed),
            images=count_items(self.writer.connection),
            generation=generation(self.writer.connection),
            seconds=round(time.monotonic() - self.started, 3),
            restored=again,
            lost=len(gone & self.lost) + unreadable,
            unreachable=sum(skip.is_unknown for skip in plan.skips) - len(scan.closed) + self._unread + unread,
        )

    def _say_size(self, scan: Scan, plan: Plan) -> None:
        """Say how many files there are, and how large what is to be encoded will be."""
        new, manifest = len(plan.encode), self.writer.manifest
        todo = new + len(plan.restore)
        needed = size_text(todo * bytes_per_image(manifest))
        vectors = f"{manifest.set_size} vector{'s' * (manifest.set_size != 1)} of {manifest.width}"
        size = f"{vectors} each: about {needed} to come"
        self.console.print(
            f"{scan.found:,} picture files: {new:,} to encode, {scan.found - new - len(plan.skips):,} indexed, "
            f"{len(plan.skips):,} skipped; {size if todo else 'nothing to come'}",
            highlight=False,
            soft_wrap=True,
        )

    def _known(self, scopes: Sequence[Scope]) -> tuple[dict[Place, Known], dict[Place, Skip]]:
        """What the catalog holds of the scopes."""
        known, skipped = dict[Place, Known](), dict[Place, Skip]()
        for root in sorted({scope.root for scope in scopes}):
            mine = [scope for scope in scopes if scope.root == root]
            whole = any(not scope.below for scope in mine)
            for path, item in self.writer.known(root).items():
                if whole or any(scope.holds(path) for scope in mine):
                    known[root, path] = item
            for path, skip in self.writer.skips(root).items():
                if whole or any(scope.holds(path) for scope in mine):
                    skipped[root, path] = skip
        return known, skipped

    def _is_there(self, place: Place) -> bool:
        """Whether the system says that there is a file at a place."""
        return os.path.lexists(self._roots[place[0]] / place[1])

    @cached_property
    def _roots(self) -> dict[int, Path]:
        return {root.id: root.path for root in self.writer.roots()}

    def _settle(self, plan: Plan, skipped: dict[Place, Skip]) -> None:
        fresh = [skip for skip in plan.skips if skipped.get((skip.root, skip.path)) != skip]
        encode = {(seen.root, seen.path) for seen in plan.encode}
        self.writer.settle(
            touched=plan.touched,
            moved=plan.moved,
            gone=plan.gone,
            skips=fresh,
            unskip=[place for place in plan.unskip if place not in encode],  # those go with their shard
        )

    def open(self) -> None:
        """Load what encodes, before anything is changed that it is needed for."""
        self._source.open()

    @cached_property
    def _source(self) -> Source:
        """What turns files into batches, opened when something is to be encoded."""
        return self.open_source()

    def _restore(self, plan: Plan, hashes: Mapping[int, str]) -> None:
        """Encode again what lost its vectors; what proves to have changed is encoded with what is new."""
        if plan.restore:
            self._restored = restore_images(self.writer, self._source, dict(plan.restore), hashes, self.console)
            plan.encode += self._restored.changed
            join_small(self.writer)

    def _encode(self, plan: Plan, known: set[Place]) -> None:
        """Encode what is new, and register it shard by shard."""
        if not plan.encode:
            return
        manifest = self.writer.manifest
        require_space(self.writer.folder.path, len(plan.encode) * bytes_per_image(manifest))
        pending, skips = Pending(), list[Skip]()
        saved = time.monotonic()
        with ProgressBar(len(plan.encode), "indexing", "images", self.console) as shown:
            for found in self._source.batches(plan.encode):
                bad = [found] if isinstance(found, Skip) else self._take(pending, found)
                skips += bad
                self._broken += len(bad)
                for skip in bad:
                    was_known = (skip.root, skip.path) in known
                    self._unread += skip.is_unknown
                    self._outdated += was_known and skip.is_unknown
                    self._dropped += was_known and not skip.is_unknown
                shown.advance(1 if isinstance(found, Skip) else len(found.items), self._note())
                if pending.bytes >= manifest.shard_mb * 1e6 or time.monotonic() - saved > self.save_every_s:
                    self._save(pending, skips)
                    pending, skips, saved = Pending(), [], time.monotonic()
            self._save(pending, skips)

    def _take(self, pending: Pending, batch: Batch) -> list[Skip]:
        """Put a batch into the shard under construction; returns what the model gave no numbers for."""
        bad: list[NewItem] = pending.add(batch.items, batch.rows, batch.boxes)
        self._indexed += len(batch.items) - len(bad)
        return [Skip(b.seen.root, b.seen.path, NOT_FINITE, b.seen.size, b.seen.mtime) for b in bad]

    def _save(self, pending: Pending, skips: Sequence[Skip]) -> None:
        if len(pending):
            self.writer.add_shard("image", pending.tensors(), pending.items, skips=skips)
            join_small(self.writer)
        elif skips:
            self.writer.put_skips(skips)

    def _note(self) -> str:
        return f"{self._broken:,} skipped" if self._broken else ""


def write_skipped(writer: Writer) -> None:
    """Write ``skipped.jsonl`` anew from the catalog, where it differs."""
    rows = writer.connection.execute("SELECT path, reason FROM skipped ORDER BY root, path")
    text = "".join(
        json.dumps({"path": show(path), "reason": reason}, ensure_ascii=False) + "\n" for path, reason in rows
    )
    place = writer.folder.skipped
    if not place.is_file() or place.read_text(encoding="utf-8") != text:
        write_whole(place, text)
