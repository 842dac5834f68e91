import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from patchword.layers.normalise import GlobalBatchNorm, unit


def test_unit_divides_by_the_length_plus_eps() -> None:
    vectors = torch.randn(4, 3, 5)
    for found, vector in zip(unit(vectors).view(-1, 5).tolist(), vectors.view(-1, 5).tolist(), strict=True):
        length = math.sqrt(sum(v * v for v in vector)) + 1e-8
        assert found == pytest.approx([v / length for v in vector], abs=1e-6)
    assert unit(torch.tensor([3.0, 4.0]), eps=5.0).tolist() == pytest.approx([0.3, 0.4])


def test_zero_vectors_stay_zero_and_give_no_nan() -> None:
    vectors = torch.zeros(3, 4, requires_grad=True)
    out = unit(vectors)
    assert (out == 0).all()
    out[0].sum().backward(retain_graph=True)  # rows 1 and 2 are padding: nothing asks for them
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()
    assert (vectors.grad[1:] == 0).all()


def test_unit_has_the_right_gradient() -> None:
    assert torch.autograd.gradcheck(unit, (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))


def test_declared_shapes_are_checked_in_this_run() -> None:
    with pytest.raises(TypeCheckError, match="vectors"):
        unit(torch.tensor([[3, 4]]))


def test_one_process_is_plain_batch_norm() -> None:
    torch.manual_seed(0)
    ours, plain, rows = GlobalBatchNorm(4), nn.BatchNorm1d(4), torch.randn(6, 4)
    assert torch.equal(ours(rows), plain(rows))
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert torch.equal(ours.eval()(rows), plain.eval()(rows))


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float64])
def test_statistics_over_processes_are_exact_whatever_the_rows(
    given: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast rows are bf16, whose numbers end at 8 bits: 2 x 1043 rows would be counted as 2080."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda value: value.mul_(2))  # the other process has the same rows
    torch.manual_seed(0)
    exact = torch.float64 if given == torch.float64 else torch.float32
    ours, plain = GlobalBatchNorm(4, dtype=exact), nn.BatchNorm1d(4, dtype=exact)
    rows = (3 + torch.randn(1043, 4, dtype=exact)).to(given).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=given == torch.bfloat16):
        found = ours(rows)
    expected = plain(torch.cat([rows, rows]).to(exact))[:1043]
    assert found.dtype == given  # as in one process
    torch.testing.assert_close(found, expected.to(given))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    weights = torch.randn(1043, 4, dtype=given)
    (gradient,) = torch.autograd.grad((found * weights).sum(), rows)
    wanted = torch.autograd.grad((expected * weights).sum(), rows)[0]
    assert float((gradient - wanted).norm() / wanted.norm()) < (1e-2 if given == torch.bfloat16 else 1e-5)


def joined_rows() -> Tensor:
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(1)) * 2 + 1


def loss_weights() -> Tensor:
    return torch.linspace(-1, 1, 21).view(7, 3)


def share_of(rank: int) -> slice:
    return slice(0, 4) if rank == 0 else slice(4, 7)


def one_of_two(rank: int, folder: str) -> None:
    """A process with an unequal part of the rows; it saves what it found."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    norm, rows = GlobalBatchNorm(3), joined_rows()[share_of(rank)].requires_grad_()
    out = norm(rows)
    (out * loss_weights()[share_of(rank)]).sum().backward()
    torch.save({"out": out.detach(), "grad": rows.grad, "state": norm.state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_normalise_over_both(tmp_path: Path) -> None:
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    plain, rows = nn.BatchNorm1d(3), joined_rows().requires_grad_()
    out = plain(rows)
    (out * loss_weights()).sum().backward()
    assert rows.grad is not None
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["out"], out.detach()[share_of(rank)])
        torch.testing.assert_close(found["grad"], rows.grad[share_of(rank)])
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(found["state"][name], value)
