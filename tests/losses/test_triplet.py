import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchword.losses.triplet import hinge, violations


def plain_hinge(
    scores: list[list[float]], margin: float, hardest: int | None, ignore: list[list[bool]] | None = None
) -> float:
    """The loss by loops: every query, both directions, its largest violations."""
    size, total = len(scores), 0.0
    for query in range(size):
        rows, columns = [], []
        for other in range(size):
            if other == query:
                continue
            if ignore is None or not ignore[query][other]:
                rows.append(max(0.0, margin + scores[query][other] - scores[query][query]))
            if ignore is None or not ignore[other][query]:
                columns.append(max(0.0, margin + scores[other][query] - scores[query][query]))
        for found in (rows, columns):
            total += sum(sorted(found, reverse=True)[:hardest])
    return total


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("hardest", [None, 1, 2, 3, 50])
@pytest.mark.parametrize("margin", [0.0, 0.2, 2.0])
def test_equal_to_a_plain_triple_loop(size: int, hardest: int | None, margin: float) -> None:
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    found = hinge(scores, margin, hardest=hardest)
    assert found.item() == pytest.approx(plain_hinge(scores.tolist(), margin, hardest), abs=1e-12)


@pytest.mark.parametrize("hardest", [None, 1, 3])
def test_ignored_pairs_are_no_negatives(hardest: int | None) -> None:
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    images = torch.tensor([0, 1, 0, 2, 1, 0])
    ignore = images[:, None] == images[None, :]
    found = hinge(scores, 0.3, hardest=hardest, ignore=ignore)
    assert found.item() == pytest.approx(plain_hinge(scores.tolist(), 0.3, hardest, ignore.tolist()), abs=1e-12)
    assert found.item() != pytest.approx(plain_hinge(scores.tolist(), 0.3, hardest), abs=1e-3)


def test_ignoring_everything_leaves_nothing() -> None:
    everything = torch.ones(3, 3, dtype=torch.bool)
    scores = torch.randn(3, 3, requires_grad=True)
    loss = hinge(scores, 0.2, hardest=1, ignore=everything)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000), st.floats(0, 1))
def test_laws(size: int, seed: int, margin: float) -> None:
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    everything, one = hinge(scores, margin), hinge(scores, margin, hardest=1)
    assert 0 <= one <= everything
    assert hinge(scores, margin, hardest=size).item() == pytest.approx(everything.item())
    torch.testing.assert_close(hinge(scores + 3.0, margin), everything)  # only differences count
    torch.testing.assert_close(hinge(scores.T.contiguous(), margin, hardest=1), one)  # both directions alike
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(hinge(scores[order][:, order], margin, hardest=1), one)


def test_separated_pairs_cost_nothing() -> None:
    assert hinge(torch.eye(5), 0.9).item() == 0


def test_gradient_of_the_hardest_reaches_one_negative_per_query() -> None:
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    hinge(scores, 5.0, hardest=1).backward()
    grad = scores.grad
    assert grad is not None
    assert grad.diagonal().tolist() == [-2.0] * 5
    assert grad.sum().item() == 0
    assert (grad.fill_diagonal_(0) > 0).sum().item() <= 10


def test_violations_are_zero_on_the_diagonal() -> None:
    by_image, by_caption = violations(torch.zeros(3, 3), 0.2)
    expected = 0.2 * (1 - torch.eye(3))
    assert torch.equal(by_image, expected)
    assert torch.equal(by_caption, expected)
