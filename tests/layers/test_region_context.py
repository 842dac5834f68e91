from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from patchword.errors import ShapeError
from patchword.layers.region_context import RegionContext, RegionNorm, slot_counts, unit_or_zero

R, D = 5, 6


def random_values(images: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(images, R, D, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def rows(*counts: int) -> Tensor:
    """Which regions are real in images with these counts."""
    return torch.arange(R) < torch.tensor(counts)[:, None]


# ------------------------------------------------------------------ slots


@pytest.mark.parametrize(
    ("ones", "expected"),
    [
        ([2], [0, 0, 5, 0, 0, 0, 0]),  # alone: all slots are its own
        ([0, 2], [1, 0, 4, 0, 0, 0, 0]),
        ([0, 2, 6], [1, 0, 3, 0, 0, 0, 1]),
        ([0, 1, 2, 3, 4], [1, 1, 1, 1, 1, 0, 0]),
        ([0, 1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 0, 0]),  # too many: itself and the lowest
        ([0, 1, 3, 4, 5, 6], [1, 1, 1, 1, 1, 0, 0]),  # too many, and itself was not among them
        ([3, 6], [0, 0, 3, 1, 0, 0, 1]),  # a row without itself: it still takes what is left
        ([], [0, 0, 5, 0, 0, 0, 0]),
    ],
)
def test_slots_of_a_region(ones: list[int], expected: list[int]) -> None:
    adjacency = torch.zeros(1, 7, 7, dtype=torch.bool)
    adjacency[0, 2, ones] = True
    assert slot_counts(adjacency, 5)[0, 2].tolist() == expected


def test_the_self_is_kept_when_lower_indices_would_fill_all_slots() -> None:
    counts = slot_counts(torch.ones(1, 8, 8, dtype=torch.bool), 5)[0]
    assert counts[7].tolist() == [1, 1, 1, 1, 0, 0, 0, 1]
    assert (counts.sum(1) == 5).all()


# ------------------------------------------------------------------ batch norm over a region index


def test_with_all_regions_it_is_plain_batch_norm() -> None:
    ours, plain, values = RegionNorm(R), nn.BatchNorm1d(R), random_values()
    everything = rows(R, R, R, R)
    assert torch.equal(ours(values, everything), plain(values))
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert torch.equal(ours.eval()(values), plain.eval()(values))


def test_padded_regions_do_not_count() -> None:
    norm, values, real = RegionNorm(R), random_values(), rows(5, 2, 4, 1)
    out = norm(values, real)
    moved = values.masked_fill(~real[..., None], 1e3)
    torch.testing.assert_close(RegionNorm(R)(moved, real)[real], out[real])
    for r in range(R):
        there = values[real[:, r], r]  # (images that have region r, D)
        torch.testing.assert_close(out[real[:, r], r], (there - there.mean()) / (there.var(correction=0) + 1e-5).sqrt())
        assert norm.running_mean is not None
        torch.testing.assert_close(norm.running_mean[r], 0.1 * there.mean())
        assert norm.running_var is not None
        torch.testing.assert_close(norm.running_var[r], 0.9 + 0.1 * there.var())


def test_a_region_that_no_image_has_keeps_its_statistics() -> None:
    norm = RegionNorm(R)
    out = norm(random_values()[:, :3], rows(3, 2, 2, 1)[:, :3])
    assert out.isfinite().all()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert (norm.running_mean[3:] == 0).all()
    assert (norm.running_var[3:] == 1).all()
    assert (norm.running_mean[:3] != 0).all()


def test_in_evaluation_an_index_has_its_own_running_statistics() -> None:
    norm, values = RegionNorm(R), random_values()
    norm(values, rows(5, 5, 5, 5))
    whole = norm.eval()(values)
    torch.testing.assert_close(norm(values[:, :2]), whole[:, :2])


def test_more_regions_than_indices_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"5 regions, but this model normalises 4"):
        RegionNorm(4)(random_values())


def share_of(rank: int) -> slice:
    return slice(0, 3) if rank == 0 else slice(3, 4)


def one_of_two(rank: int, folder: str) -> None:
    """A process with an unequal part of the images; it saves what it found."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    norm, part = RegionNorm(R), share_of(rank)
    values = random_values()[part].requires_grad_()
    out = norm(values, rows(5, 2, 4, 1)[part])
    (out * random_values(seed=1)[part] * rows(5, 2, 4, 1)[part][..., None]).sum().backward()
    torch.save({"out": out.detach(), "grad": values.grad, "state": norm.state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_normalise_over_both(tmp_path: Path) -> None:
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    norm, values, real = RegionNorm(R), random_values().requires_grad_(), rows(5, 2, 4, 1)
    out = norm(values, real)
    (out * random_values(seed=1) * real[..., None]).sum().backward()
    assert values.grad is not None
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        part = share_of(rank)
        torch.testing.assert_close(found["out"][real[part]], out.detach()[part][real[part]])
        torch.testing.assert_close(found["grad"], values.grad[part])
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(found["state"][name], value)


# ------------------------------------------------------------------ the whole context


def context() -> RegionContext:
    torch.manual_seed(0)
    made = RegionContext(D, R, slots=3, dropout=0.0)
    for norm in (made.local_norm, made.overall_norm):
        assert norm.running_mean is not None
        norm.running_mean.normal_(0, 0.3)
    nn.init.normal_(made.common.weight)
    return made.eval()


def test_equal_to_the_formula_slot_by_slot() -> None:
    made = context()
    regions = torch.nn.functional.normalize(random_values(2), dim=2)
    adjacency = torch.eye(R, dtype=torch.bool).repeat(2, 1, 1)
    adjacency[0, 1, 3] = adjacency[0, 1, 4] = adjacency[1, 0, 2] = True
    found = made(regions, torch.tensor([R, R]), adjacency)
    for b in range(2):
        v, e = regions[b], found.logits[b]
        pooled = torch.softmax(e, 0) @ v
        torch.testing.assert_close(found.overall[b], pooled / pooled.norm())
        inputs = [*v]
        for r in range(R):
            ones = adjacency[b, r].nonzero()[:, 0].tolist()
            slots = ones + [r] * (3 - len(ones))
            mean = torch.softmax(e[slots], 0) @ v[slots]
            torch.testing.assert_close(found.neighbours[b, r], mean)
            mixed = torch.nn.functional.leaky_relu(v[r] * mean / found.length[b], 0.1)
            inputs.append(mixed / mixed.norm())
        hidden, states = torch.zeros(1, 1, D), []
        for one in inputs:
            _, hidden = made.rnn(one[None, None], hidden)
            states.append(hidden[0, 0])
        expected = torch.stack(states) + torch.cat([v, v])
        torch.testing.assert_close(found.context[b], expected / expected.norm(dim=1, keepdim=True))


def test_regions_beyond_a_length_do_not_matter() -> None:
    made, regions = context(), random_values(3)
    lengths = torch.tensor([5, 1, 3])
    adjacency = torch.rand(3, R, R, generator=torch.Generator().manual_seed(0)) < 0.5
    found = made(regions, lengths, adjacency)
    assert found.lengths.tolist() == [10, 2, 6]
    for b, n in enumerate(lengths.tolist()):
        alone = made(regions[b : b + 1, :n], torch.tensor([n]), adjacency[b : b + 1, :n, :n])
        torch.testing.assert_close(found.context[b, : 2 * n], alone.context[0])
        torch.testing.assert_close(found.overall[b], alone.overall[0])
        assert (found.context[b, 2 * n :] == 0).all()


def test_zero_regions_have_finite_gradients() -> None:
    made, regions = context().train(), torch.zeros(2, R, D, requires_grad=True)
    found = made(unit_or_zero(regions), torch.tensor([R, R]), torch.eye(R, dtype=torch.bool).repeat(2, 1, 1))
    (found.context.sum() + found.overall.sum()).backward()
    assert regions.grad is not None
    assert (regions.grad == 0).all()
    for name, parameter in made.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_unit_or_zero_passes_gradients_of_other_rows() -> None:
    values = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit_or_zero(values)[:, 0].sum().backward()
    assert values.grad is not None
    assert values.grad[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(values.grad[1], torch.tensor([16.0, -12.0]) / 125)
