import itertools
import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchword.data.augment import pair_generator
from patchword.data.batches import (
    Batch,
    EpochPlan,
    TrainingPairs,
    check_lengths,
    cut_units,
    drop_regions,
    epoch_loader,
    pad_captions,
)
from patchword.data.pictures import PictureFiles
from patchword.data.table import Split
from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.encoders.patches import pixel_transform
from patchword.encoders.resnet import ResnetConfig
from patchword.errors import DataError
from patchword.types import Images

CAPTIONS = [f"a {'very ' * (k % 4)}big dog number {k}" for k in range(22)]


class MemorySource:
    """Ragged features in memory; a top-level class, so that workers can be given it."""

    def __init__(self, images: Sequence[int]) -> None:
        self.images = list(images)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, images: Sequence[int]) -> Images:
        lengths = [3 + self.images[k] % 4 for k in images]
        values = torch.zeros(len(images), max(lengths), 2)
        for row, k, length in zip(values, images, lengths, strict=True):
            row[:length] = torch.arange(1, length + 1)[:, None] + 100 * self.images[k]
        return Images(values, torch.tensor(lengths))

    def select(self, images: Sequence[int]) -> "MemorySource":
        return MemorySource([self.images[k] for k in images])


def split() -> Split:
    owner = np.arange(22) // 2
    return Split("toy", "train", [f"im{k}" for k in range(11)], CAPTIONS, owner, MemorySource(range(11)))


def pairs(**changes: float) -> TrainingPairs:
    tokenizer = WordTokenizer(Vocabulary.build(CAPTIONS, min_count=1))
    return TrainingPairs(split(), tokenizer, seed=5, **changes)  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    assert a.images.lengths is not None
    assert b.images.lengths is not None
    left = (a.images.values, a.images.lengths, a.captions.tokens, a.captions.lengths, a.image_rows, a.pairs)
    right = (b.images.values, b.images.lengths, b.captions.tokens, b.captions.lengths, b.image_rows, b.pairs)
    return all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 50])
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_visits_every_pair_at_most_once(count: int, drop_last: bool) -> None:
    plan = EpochPlan(count, 8, seed=1, drop_last=drop_last)
    batches = list(plan.batches(0))
    assert len(batches) == len(plan)
    seen = list(itertools.chain(*batches))
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(count))
    left_out = count - len(seen)
    if drop_last:
        assert left_out == count % 8
        assert all(len(b) == 8 for b in batches)
    else:
        assert left_out == (1 if count % 8 == 1 else 0)  # a pair alone has no negatives


def test_orders_differ_by_epoch_and_seed_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return list(EpochPlan(100, 10, seed).batches(epoch))

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_the_shares_of_all_processes_are_the_batches_of_one(processes: int, drop_last: bool) -> None:
    whole = EpochPlan(53, 12, seed=3, drop_last=drop_last)
    shares = [
        list(EpochPlan(53, 12, seed=3, drop_last=drop_last, rank=r, processes=processes).batches(2))
        for r in range(processes)
    ]
    joined = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == list(whole.batches(2))
    for parts in zip(*shares, strict=True):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_epoch_can_be_resumed_anywhere() -> None:
    plan = EpochPlan(53, 6, seed=3, rank=1, processes=2)
    batches = list(plan.batches(4))
    for start in range(len(plan) + 1):
        assert list(plan.batches(4, start)) == batches[start:]


def test_reading_pads_and_names_the_pairs() -> None:
    batch = pairs().read([3, 8, 21], epoch=0)
    assert len(batch) == 3
    assert batch.image_rows.tolist() == [1, 4, 10]
    assert batch.pairs.tolist() == [3, 8, 21]
    assert batch.images.lengths is not None
    assert batch.images.lengths.tolist() == [4, 3, 5]
    assert batch.images.values.shape == (3, 5, 2)
    assert (batch.images.values[1, 3:] == 0).all()
    lengths = [len(CAPTIONS[k].split()) + 2 for k in (3, 8, 21)]
    assert batch.captions.lengths.tolist() == lengths
    assert batch.captions.tokens.shape == (3, max(lengths))
    for row, length in zip(batch.captions.tokens.tolist(), lengths, strict=True):
        assert (row[0], row[length - 1]) == (1, 2)
        assert row[length:] == [0] * (max(lengths) - length)


def test_a_batch_is_a_function_of_seed_epoch_and_pair() -> None:
    augmented = pairs(region_drop=0.5, word_drop=0.5)
    both = augmented.read([4, 9], epoch=3)
    assert same(both, pairs(region_drop=0.5, word_drop=0.5).read([4, 9], epoch=3))
    assert not same(both, augmented.read([4, 9], epoch=4))
    alone = augmented.read([9], epoch=3)  # what is drawn for a pair does not depend on its batch
    assert both.images.lengths is not None
    count, size = int(both.images.lengths[1]), int(both.captions.lengths[1])
    assert torch.equal(both.images.values[1, :count], alone.images.values[0])
    assert torch.equal(both.captions.tokens[1, :size], alone.captions.tokens[0])


def test_augmentation_rates_are_those_asked_for() -> None:
    made = pairs(region_drop=0.4, word_drop=0.3)
    plain, changed, total = 0, 0, 0
    for epoch in range(60):
        batch = made.read(range(22), epoch)
        assert batch.images.lengths is not None
        plain += int(sum(3 + k // 2 % 4 for k in range(22)))
        changed += int(batch.images.lengths.sum())
        total += int(batch.captions.lengths.sum())
    assert 1 - changed / plain == pytest.approx(0.4, abs=0.03)
    words = 60 * sum(len(c.split()) + 2 for c in CAPTIONS)
    assert 1 - total / words == pytest.approx(0.3 * 0.4, abs=0.02)  # four in ten touched words are deleted


def test_workers_change_nothing() -> None:
    made, plan = pairs(region_drop=0.2, word_drop=0.2), EpochPlan(22, 6, seed=1)
    alone = list(epoch_loader(made, plan, 2, start=1))
    with_workers = list(epoch_loader(made, plan, 2, start=1, workers=2))
    assert len(alone) == len(with_workers) == 2
    assert all(same(a, b) for a, b in zip(alone, with_workers, strict=True))


def test_workers_last_until_the_iteration_is_closed() -> None:
    """What stops a whole group of processes does not stop them; closing the iteration does."""
    made, plan = pairs(), EpochPlan(22, 2, seed=1)
    others, held = multiprocessing.active_children(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    batches = epoch_loader(made, plan, 0, workers=1)
    found = [next(batches)]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == held
    (worker,) = (one for one in multiprocessing.active_children() if one not in others)
    assert worker.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    found += itertools.islice(batches, 6)  # more than were read ahead
    assert all(same(a, b) for a, b in zip(found, itertools.islice(epoch_loader(made, plan, 0), 7), strict=True))
    assert worker.is_alive()
    batches.close()
    assert not worker.is_alive()


def test_dropped_regions_keep_their_order() -> None:
    images = MemorySource(range(11)).read([0, 3, 7])
    found = drop_regions(images, 0.5, [pair_generator(0, 0, k) for k in range(3)])
    assert found.lengths is not None
    assert found.values.shape[1] == found.lengths.max()
    for row, before, length in zip(found.values, images.values, found.lengths.tolist(), strict=True):
        kept = row[:length, 0].tolist()
        assert kept == sorted(kept)
        assert set(kept) <= set(before[:, 0].tolist()) - {0.0}
        assert (row[length:] == 0).all()


def test_pictures_get_keep_flags_for_their_grid(tmp_path: Path) -> None:
    for k in range(3):
        Image.fromarray(np.full((20, 30, 3), 40 * k, np.uint8)).save(tmp_path / f"{k}.png")
    source = PictureFiles([tmp_path / f"{k}.png" for k in range(3)])
    transform = pixel_transform(ResnetConfig(image_size=64))
    assert transform is not None
    table = Split("toy", "train", ["a", "b", "c"], CAPTIONS[:3], np.arange(3), source.with_transform(transform))
    tokenizer = WordTokenizer(Vocabulary.build(CAPTIONS, min_count=1))
    made = TrainingPairs(table, tokenizer, seed=0, region_drop=0.2, grid_cells=4)
    flags = torch.cat([k for e in range(40) if (k := made.read([0, 1, 2], e).images.keep) is not None])
    assert flags.shape == (120, 4)
    assert flags.any()
    assert not flags.all()
    batch = made.read([0, 1, 2], 0)
    assert batch.images.values.shape == (3, 3, 64, 64)
    assert batch.images.lengths is None
    assert TrainingPairs(table, tokenizer, seed=0, grid_cells=4).read([0, 1], 0).images.keep is None


def test_captions_that_do_not_fit_are_refused_before_training() -> None:
    tokenizer = WordTokenizer(Vocabulary.build(CAPTIONS, min_count=1))
    with pytest.raises(DataError, match=r"toy/train: caption 1 has 10 word pieces, .* at most 9"):
        TrainingPairs(split(), tokenizer, seed=0, text_limit=9)
    TrainingPairs(split(), tokenizer, seed=0, text_limit=12)
    TrainingPairs(split(), tokenizer, seed=0, text_limit=9, max_words=7)
    check_lengths([[[1]] * 1000], None, "x")


def test_cutting_keeps_whole_words() -> None:
    units = [[1], [2, 3], [4]]
    assert cut_units(units, 2) == [[1], [2, 3]]
    assert cut_units(units, None) is units


def test_padding_captions() -> None:
    made = pad_captions([[5], [1, 2, 3]])
    assert made.tokens.tolist() == [[5, 0, 0], [1, 2, 3]]
    assert made.lengths.tolist() == [1, 3]


def test_no_process_is_left_without_a_pair() -> None:
    plans = [EpochPlan(22, 20, seed=1, drop_last=False, rank=rank, processes=4) for rank in range(4)]
    assert [len(plan) for plan in plans] == [1, 1, 1, 1]
    assert len(EpochPlan(24, 20, seed=1, drop_last=False, processes=4)) == 2
