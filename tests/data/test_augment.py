import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchword.data.augment import (
    DROP_RATE,
    keep_cells_mask,
    keep_rows,
    kept_regions,
    pair_generator,
    pair_random,
)


def test_draws_belong_to_seed_epoch_and_pair() -> None:
    places = [(seed, epoch, pair) for seed in (0, 1, 2022) for epoch in (0, 1, 24) for pair in (0, 1, 500_000)]
    assert len({pair_generator(*p).random() for p in places}) == len(places)
    assert len({pair_random(*p).random() for p in places}) == len(places)
    for p in places:
        assert pair_generator(*p).random() == pair_generator(*p).random()
        assert pair_random(*p).random() == pair_random(*p).random()


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_regions_are_dropped_at_the_rate(rate: float) -> None:
    kept = np.concatenate([kept_regions(36, rate, pair_generator(0, 0, k)) for k in range(1000)])
    spread = (rate * (1 - rate) / kept.size) ** 0.5
    assert abs(1 - kept.mean() - rate) < 5 * spread


def test_one_region_always_stays() -> None:
    for pair in range(500):
        for count in (1, 2):
            assert kept_regions(count, 0.99, pair_generator(0, 0, pair)).any()
    positions = {int(kept_regions(3, 0.9999, pair_generator(0, 0, k)).argmax()) for k in range(100)}
    assert positions == {0, 1, 2}


def test_cells_follow_the_published_rule() -> None:
    draw = np.random.default_rng(0)
    cells, images = draw.random((2000, 16)), draw.random(2000)
    keep = keep_cells_mask(cells, images)
    for row, u1, u2 in zip(keep.tolist(), cells.tolist(), images.tolist(), strict=True):
        assert row == [u2 <= DROP_RATE or u > DROP_RATE * u2 for u in u1]
    untouched = keep.all(1)[torch.from_numpy(images <= DROP_RATE)]
    assert untouched.all()
    assert 0.15 < (images <= DROP_RATE).mean() < 0.25
    dropped = 1 - keep[torch.from_numpy(images > DROP_RATE)].double().mean().item()
    assert dropped == pytest.approx((DROP_RATE + DROP_RATE**2) / 2, abs=0.01)  # uniform in (rate^2, rate)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_keeping_rows_equals_a_plain_loop(data: st.DataObject) -> None:
    count, size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    keep = torch.tensor(data.draw(st.lists(flags, min_size=count, max_size=count)))
    keep[:, data.draw(st.integers(0, size - 1))] = True
    values = torch.arange(count * size * 2, dtype=torch.float32).view(count, size, 2) + 1
    found, lengths = keep_rows(values, keep)
    rows = zip(values.tolist(), keep.tolist(), strict=True)
    chosen = [[v for v, kept in zip(row, real, strict=True) if kept] for row, real in rows]
    longest = max(map(len, chosen))
    assert lengths.tolist() == [len(row) for row in chosen]
    assert found.tolist() == [row + [[0, 0]] * (longest - len(row)) for row in chosen]


def test_gradients_reach_the_kept_rows_only() -> None:
    values = torch.ones(2, 3, 2, requires_grad=True)
    keep = torch.tensor([[True, False, True], [False, True, False]])
    keep_rows(values, keep)[0].sum().backward()
    assert values.grad is not None
    assert values.grad[..., 0].tolist() == keep.float().tolist()


def test_a_tiny_grid_keeps_a_cell() -> None:
    keep = keep_cells_mask(np.zeros((2, 3)), np.asarray([0.9, 0.1]))
    assert keep.sum(1).tolist() == [1, 3]
