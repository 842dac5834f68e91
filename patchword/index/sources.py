"""Where vector sets come from: pictures, pictures whose regions lie in a feature folder, or such features alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from patchword.data.pictures import Transform
from patchword.index.encode import Encoder
from patchword.index.features import FeatureFolder, Spot
from patchword.index.file_bytes import in_order
from patchword.index.options import EncodeOptions
from patchword.index.pending import Batch, Rows
from patchword.index.plan import Hashed
from patchword.index.reading import Read, quiet_pictures, read_picture
from patchword.index.records import Known, NewItem, Root
from patchword.index.scan import Seen, Skip
from patchword.index.writer import Writer
from patchword.store.shards import Array

NAMES = "--feature-names FILE says where names differ"


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

    def open(self) -> None:
        """Load the model.

        Raises:
            CheckpointError: it is missing or is not the one of the index.
        """
        _ = self.encoder.model

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
                    reason = f"'{self.features.source.root}' has no features of a picture of this name ({NAMES})"
                    yield Skip(found.seen.root, found.seen.path, reason)
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
            rows, boxes, hashes = _encode_spots(self.encoder, self.features, [spot for _, spot in pairs])
            items = [
                NewItem(read.seen, read.hash, read.checked, read.facts, self.features.label(spot), digest)
                for (read, spot), digest in zip(pairs, hashes, strict=True)
            ]
            yield Batch(items, rows, boxes)


@dataclass(frozen=True)
class FeaturesAlone:
    """Region features as the items themselves.

    Attributes:
        encoder: of the index.
        features: where they are.
        root: number of the root that stands for them.
    """

    encoder: Encoder
    features: FeatureFolder
    root: int

    @property
    def spots(self) -> dict[str, Spot]:
        """Where the features are, by the name that stands for a path."""
        return self.features.alone

    def files(self, known: Mapping[str, Known], outdated: Collection[int]) -> list[Seen]:
        """Every image as if it were a file. Those that were compared look as when they were registered.

        Args:
            known: items by path.
            outdated: ids of those whose features have changed.
        """
        found = list[Seen]()
        for seen in self.features.seen(self.root):
            item = known.get(seen.path)
            if item is not None and item.id not in outdated:
                seen = Seen(self.root, item.path, item.size, item.mtime)
            found.append(seen)
        return found

    def open(self) -> None:
        """Load the model.

        Raises:
            CheckpointError: it is missing or is not the one of the index.
        """
        _ = self.encoder.model

    def hashes(self, files: Sequence[Seen]) -> Iterator[Hashed | None]:
        """Hash of each image's features."""
        for seen in files:
            checked = time.time_ns()
            spot = self.spots[seen.path]
            images = self.features.read([spot], self.features.source.extras)
            yield self.features.hash(images, 0, spot), seen, checked

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
                    NewItem(seen, digest, checked, None, label, digest)
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
    hashes = [features.hash(images, row, spot) for row, spot in enumerate(spots)]
    return encoder.encode_images(images), boxes, hashes


def open_pictures(writer: Writer, options: EncodeOptions, features: FeatureFolder | None = None) -> Pictures:
    """The source of an index of picture files; ``features`` are its region features, where they are open already."""
    source = writer.manifest.features
    roots = {root.id: root for root in writer.roots()}
    if source is not None and features is None:
        features = FeatureFolder(source)
    return Pictures(open_encoder(writer, options), roots, options.threads, features)


def open_features(
    writer: Writer, root: int, options: EncodeOptions, features: FeatureFolder | None = None
) -> FeaturesAlone:
    """The source of an index of region features without pictures; ``features``, where they are open already."""
    source = writer.manifest.features
    assert source is not None
    return FeaturesAlone(open_encoder(writer, options), features or FeatureFolder(source), root)


def open_encoder(writer: Writer, options: EncodeOptions) -> Encoder:
    """The model of an index, not loaded yet."""
    return Encoder(writer.manifest, options.model, batch=options.batch, device=options.device)
