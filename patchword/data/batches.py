"""Batches of pairs: which pairs, in which order, and how they become padded tensors.

Everything random is a function of (seed, epoch, pair), so an epoch is the same whatever the number of workers or
processes, and a resumed run continues bit for bit.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from patchword.data.augment import keep_cells_mask, keep_rows, kept_regions, pair_generator, pair_random
from patchword.data.extras import read_extras, require_extras
from patchword.data.graph_words import bind_tokens
from patchword.data.pictures import PictureFiles
from patchword.data.table import ImageSource, Split
from patchword.data.tokenizers import Tokenizer, Units
from patchword.errors import DataError
from patchword.types import Captions, Images


@dataclass(frozen=True)
class Batch:
    """True pairs: image k belongs to caption k.

    Attributes:
        images, captions: inputs of the encoders.
        image_rows: position of each pair's image in the split.
        pairs: position of each pair's caption in the split.
    """

    images: Images
    captions: Captions
    image_rows: Int[Tensor, " B"]
    pairs: Int[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.pairs)


def pad_captions(ids: Sequence[Sequence[int]]) -> Captions:
    """Token ids padded with 0 to the longest caption.

    Example:
        >>> pad_captions([[1, 5, 2], [1, 2]]).tokens.tolist()
        [[1, 5, 2], [1, 2, 0]]
    """
    lengths = torch.tensor([len(one) for one in ids])
    tokens = torch.zeros(len(ids), int(lengths.max()), dtype=torch.long)
    for row, one in zip(tokens, ids, strict=True):
        row[: len(one)] = torch.tensor(one)
    return Captions(tokens, lengths)


@dataclass(frozen=True)
class EpochPlan:
    """Order of the pairs of an epoch, cut into batches over all processes.

    Attributes:
        pairs: number of pairs in the split.
        batch_size: pairs of one loss, over all processes.
        seed: of the order.
        drop_last: leave out the last incomplete batch.
        rank, processes: this process takes a contiguous share of every batch.
    """

    pairs: int
    batch_size: int
    seed: int
    drop_last: bool = True
    rank: int = 0
    processes: int = 1

    def __len__(self) -> int:
        whole, rest = divmod(self.pairs, self.batch_size)
        # A batch of one pair has no negatives, and every process needs a pair.
        return whole + (not self.drop_last and rest >= max(2, self.processes))

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[int]]:
        """This process's share of every batch of an epoch, from batch ``start`` on."""
        order = np.random.default_rng([self.seed, epoch, 0x0DE5]).permutation(self.pairs)
        for k in range(start, len(self)):
            batch = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield np.array_split(batch, self.processes)[self.rank].tolist()


class TrainingPairs:
    """Reads and augments batches of pairs; a top-level class, so that workers may be spawned.

    Args:
        split: the training split, with images.
        tokenizer: cuts captions once, here.
        seed: of the augmentation.
        region_drop, word_drop: rates of the size augmentation of images and captions; 0 is off.
        grid_cells: number of cells of a grid backbone, for its own form of the augmentation; None for regions.
        max_words: cut captions to this many units.
        text_limit: longest caption, in tokens, that the text encoder can read; None has no limit.
        image_extras, caption_extras: names of the side inputs that the method reads.

    Raises:
        DataError: a caption is longer than the text encoder can read.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: Tokenizer,
        *,
        seed: int,
        region_drop: float = 0.0,
        word_drop: float = 0.0,
        grid_cells: int | None = None,
        max_words: int | None = None,
        text_limit: int | None = None,
        image_extras: Sequence[str] = (),
        caption_extras: Sequence[str] = (),
    ) -> None:
        require_extras(split, image_extras, caption_extras)
        self.image_extras = {name: split.image_extras[name] for name in image_extras}
        self.caption_extras = {name: bind_tokens(split.caption_extras[name], tokenizer) for name in caption_extras}
        self.source: ImageSource = split.require_images()
        self.owner = split.owner
        self.tokenizer = tokenizer
        self.units: list[Units] = [cut_units(tokenizer.units(c), max_words) for c in split.captions]
        check_lengths(self.units, text_limit, f"{split.dataset}/{split.name}")
        self.seed, self.region_drop, self.word_drop, self.grid_cells = seed, region_drop, word_drop, grid_cells

    def __len__(self) -> int:
        return len(self.owner)

    def read(self, pairs: Sequence[int], epoch: int) -> Batch:
        """The batch of some pairs as epoch ``epoch`` sees them."""
        image_rows = self.owner[np.asarray(pairs)]
        generators = [pair_generator(self.seed, epoch, pair) for pair in pairs]
        if isinstance(self.source, PictureFiles):
            images = self.source.read(image_rows.tolist(), generators)
            if self.grid_cells is not None and self.region_drop:
                draws = (
                    np.stack([g.random(self.grid_cells) for g in generators]),
                    np.asarray([g.random() for g in generators]),
                )
                images = Images(images.values, None, keep_cells_mask(*draws, rate=self.region_drop))
        else:
            images = self.source.read(image_rows.tolist())
            if self.region_drop and images.lengths is not None:
                images = drop_regions(images, self.region_drop, generators)
        captions = pad_captions(
            [
                self.tokenizer.join(
                    self.units[p], pair_random(self.seed, epoch, p) if self.word_drop else None, self.word_drop or 1.0
                )
                for p in pairs
            ]
        )
        images = replace(images, extra=read_extras(self.image_extras, list(self.image_extras), image_rows.tolist()))
        captions = replace(captions, extra=read_extras(self.caption_extras, list(self.caption_extras), pairs))
        return Batch(images, captions, torch.from_numpy(image_rows), torch.tensor(list(pairs)))

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> Batch:
        """A whole batch at once, as torch's loader asks for it: (epoch, pair) tuples of one epoch."""
        return self.read([pair for _, pair in items], items[0][0])


def drop_regions(images: Images, rate: float, generators: Sequence[np.random.Generator]) -> Images:
    """Drop regions of a padded batch at random, keeping order; the batch is cut to its longest image."""
    assert images.lengths is not None
    keep = np.zeros(images.values.shape[:2], dtype=bool)
    for row, length, generator in zip(keep, images.lengths.tolist(), generators, strict=True):
        row[:length] = kept_regions(length, rate, generator)
    values, lengths = keep_rows(images.values, torch.from_numpy(keep))
    return Images(values, lengths)


def cut_units(units: Units, max_words: int | None) -> Units:
    """The first ``max_words`` units of a caption (None: all)."""
    return units if max_words is None else units[:max_words]


def check_lengths(units: Sequence[Units], limit: int | None, where: str) -> None:
    """Refuse captions that the text encoder can not hold.

    Raises:
        DataError: naming the first such caption.
    """
    if limit is None:
        return
    for k, caption in enumerate(units):
        count = sum(len(unit) for unit in caption) + 2
        if count > limit:
            raise DataError(
                f"{where}: caption {k} has {count} word pieces, but the text encoder reads at most {limit}. "
                f"Shorten it, or cut all captions with --data.max_words {max(1, limit // 2)}"
            )


class _WholeBatch:
    """Collate function: the batch is already whole."""

    def __call__(self, batch: Batch) -> Batch:
        return batch


class _EpochBatches:
    """Batch sampler of one epoch: lists of (epoch, pair)."""

    def __init__(self, plan: EpochPlan, epoch: int, start: int) -> None:
        self.plan, self.epoch, self.start = plan, epoch, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for pairs in self.plan.batches(self.epoch, self.start):
            yield [(self.epoch, pair) for pair in pairs]

    def __len__(self) -> int:
        return len(self.plan) - self.start


def epoch_loader(
    pairs: TrainingPairs, plan: EpochPlan, epoch: int, *, start: int = 0, workers: int = 0
) -> Generator[Batch, None, None]:
    """Batches of an epoch from batch ``start`` on, read in this process or by workers; the same either way.

    Ctrl-C and termination signals do not reach the workers. They end with the iteration, so close it when it is left
    before its end, or with this process.
    """
    sampler = _EpochBatches(plan, epoch, start)
    if workers == 0:
        for items in sampler:
            yield pairs.__getitems__(items)
        return
    loader: DataLoader[Batch] = DataLoader(
        pairs,  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=_WholeBatch(),  # type: ignore[arg-type]  # __getitems__ gives a batch, not a list
        num_workers=workers,
        multiprocessing_context="spawn",
        prefetch_factor=2,
    )
    with _signals_held():
        batches: Any = iter(loader)  # starts the workers
    try:
        yield from batches
    finally:
        batches._shutdown_workers()  # also where a traceback keeps the iterator: they no longer heed torch's SIGTERM
        for worker in batches._workers:
            worker.kill()  # that is still busy after torch's patience


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back for a moment; processes that are started meanwhile never get them.

    A terminal, torchrun and schedulers signal whole groups of processes. Workers have to last until this one has saved.
    """
    resource_tracker.ensure_running()  # starting it lets both signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
