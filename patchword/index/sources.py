"""Where vector sets come from: pictures, pictures whose regions lie in a feature folder, or such features alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Protocol, runtime_checkable

from patchword.data.pictures import Transform
from patchword.index.encode import Encoder, Rows
from patchword.index.features import FeatureFolder, Spot
from patchword.index.plan import Hashed
from patchword.index.reading import Read, hash_file, in_order, quiet_pictures, read_picture
from patchword.index.scan import Seen, Skip
from patchword.index.shards import Array
from patchword.index.writer import NewItem, Root


@dataclass(frozen=True)
class Batch:
    """Some encoded items.

    Attributes:
        items: to be registered.
        rows: their vector sets.
        boxes: of the patches of each item, where they are known.
    """

    items: list[NewItem]
    rows: Rows
    boxes: list[Array | None] | None = None


@runtime_checkable
class Source(Protocol):
    """What turns files into batches."""

    def hashes(self, files: Sequence[Seen]) -> Iterable[Hashed | None]:
        """Hash of each file, in order; None for one that can not be read."""
        ...

    def batches(self, files: Sequence[Seen]) -> Iterator[Batch | Skip]:
        """Encode files; those that can not be indexed come out as skips."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Picture files for a model over pixels, or over regions that are found by the pictures' names.

    Attributes:
        encoder: of the index.
        roots: by number.
        threads: that read and decode.
        features: where the regions are; None for a model over pixels.
    """

    encoder: Encoder
    roots: Mapping[int, Root]
    threads: int
    features: FeatureFolder | None = None

    def hashes(self, files: Sequence[Seen]) -> Iterator[Hashed | None]:
        """Hash of each file."""
        return in_order(self._hash, files, threads=self.threads, ahead=4 * self.threads)

    def _hash(self, seen: Seen) -> Hashed | None:
        root = self.roots[seen.root]
        return hash_file(root.path, seen, follow=root.follow)

    def _read(self, seen: Seen, transform: Transform | None) -> Read | Skip:
        root = self.roots[seen.root]
        return read_picture(root.path, seen, transform, follow=root.follow)

    def batches(self, files: Sequence[Seen]) -> Iterator[Batch | Skip]:
        """Decode in threads, encode here."""
        if not files:
            return
        transform = self.encoder.transform if self.features is None else None
        batch = self.encoder.batch
        read: Callable[[Seen], Read | Skip] = partial(self._read, transform=transform)
        waiting = list[Read]()
        with quiet_pictures():
            for found in in_order(read, files, threads=self.threads, ahead=batch + 2 * self.threads):
                if isinstance(found, Skip):
                    yield found
                    continue
                if self.features is not None and self.features.find(found.seen.path) is None:
                    root = self.features.source.root
                    yield Skip(found.seen.root, found.seen.path, f"'{root}' has no features of a picture of this name")
                    continue
                waiting.append(found)
                if len(waiting) >= batch:
                    yield from self._encode(waiting)
                    waiting = []
            yield from self._encode(waiting)

    def _encode(self, reads: Sequence[Read]) -> Iterator[Batch]:
        if not reads:
            return
        if self.features is None:
            rows = self.encoder.encode_pixels([read.pixels for read in reads if read.pixels is not None])
            yield Batch([NewItem(read.seen, read.hash, read.checked, read.facts) for read in reads], rows)
            return
        spots = [(read, self.features.find(read.seen.path)) for read in reads]
        known = sorted(((read, spot) for read, spot in spots if spot is not None), key=lambda pair: pair[1])
        for _, group in groupby(known, key=lambda pair: pair[1].split):
            pairs = list(group)
            rows, boxes, _ = _encode_spots(self.encoder, self.features, [spot for _, spot in pairs])
            items = [
                NewItem(read.seen, read.hash, read.checked, read.facts, self.features.label(spot))
                for read, spot in pairs
            ]
            yield Batch(items, rows, boxes)


@dataclass(frozen=True)
class FeaturesAlone:
    """Region features as the items themselves.

    Attributes:
        encoder: of the index.
        features: where they are.
        spots: by the name that stands for a path.
    """

    encoder: Encoder
    features: FeatureFolder
    spots: Mapping[str, Spot]

    def hashes(self, files: Sequence[Seen]) -> Iterator[Hashed | None]:
        """Hash of each image's features."""
        for seen in files:
            checked = time.time_ns()
            yield self.features.hash(self.features.read([self.spots[seen.path]], ()), 0), seen, checked

    def batches(self, files: Sequence[Seen]) -> Iterator[Batch | Skip]:
        """Encode features in batches of one split each."""
        ordered = sorted(files, key=lambda seen: self.spots[seen.path])
        for _, group in groupby(ordered, key=lambda seen: self.spots[seen.path].split):
            chosen = list(group)
            for start in range(0, len(chosen), self.encoder.batch):
                part, checked = chosen[start : start + self.encoder.batch], time.time_ns()
                spots = [self.spots[seen.path] for seen in part]
                rows, boxes, hashes = _encode_spots(self.encoder, self.features, spots)
                labels = [self.features.label(spot) for spot in spots]
                items = [
                    NewItem(seen, digest, checked, None, label)
                    for seen, digest, label in zip(part, hashes, labels, strict=True)
                ]
                yield Batch(items, rows, boxes)


def _encode_spots(
    encoder: Encoder, features: FeatureFolder, spots: Sequence[Spot]
) -> tuple[Rows, list[Array | None], list[str]]:
    """Vector sets, boxes and content hashes of images of one split."""
    images = features.read(spots, encoder.model.method.image_extras)
    counts = [images.values.shape[1]] * len(spots) if images.lengths is None else images.lengths.tolist()
    boxes = [features.boxes(spot, count) for spot, count in zip(spots, counts, strict=True)]
    hashes = [features.hash(images, row) for row in range(len(spots))]
    return encoder.encode_images(images), boxes, hashes
