import math

import pytest
import torch

from patchword.losses.contrastive import info_nce


def plain_info_nce(
    scores: list[list[float]], tau: float, margin: float, ignore: list[list[bool]] | None = None
) -> float:
    """The definition by loops, for scores that do not overflow."""
    size, total = len(scores), 0.0
    for query in range(size):
        row = column = 1.0
        for other in range(size):
            if other == query:
                continue
            if ignore is None or not ignore[query][other]:
                row += math.exp((scores[query][other] - scores[query][query] + margin) / tau)
            if ignore is None or not ignore[other][query]:
                column += math.exp((scores[other][query] - scores[query][query] + margin) / tau)
        total += (math.log(row) + math.log(column)) / size
    return total


@pytest.mark.parametrize("size", [2, 5, 8])
@pytest.mark.parametrize(("tau", "margin"), [(1.0, 0.0), (0.1, 0.0), (0.1, 0.2), (0.05, 0.5)])
def test_equal_to_a_plain_loop(size: int, tau: float, margin: float) -> None:
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    found = info_nce(scores, tau, margin).item()
    assert found == pytest.approx(plain_info_nce(scores.tolist(), tau, margin), rel=1e-12)


def test_ignored_pairs_are_no_negatives() -> None:
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    images = torch.tensor([0, 1, 0, 1, 2])
    ignore = images[:, None] == images[None, :]
    found = info_nce(scores, 0.1, 0.2, ignore=ignore).item()
    assert found == pytest.approx(plain_info_nce(scores.tolist(), 0.1, 0.2, ignore.tolist()), rel=1e-12)
    assert found < info_nce(scores, 0.1, 0.2).item()


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
@pytest.mark.parametrize("images", [[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])
def test_label_smoothing_equals_cross_entropy_with_smoothed_targets(images: list[int], smoothing: float) -> None:
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    of = torch.tensor(images)
    ignore = of[:, None] == of[None, :]
    expected = 0.0
    for q in range(5):
        counted = [k for k in range(5) if k == q or images[k] != images[q]]
        for line in (scores[q, counted], scores[counted, q]):
            margins = torch.tensor([0.0 if k == q else 0.2 for k in counted], dtype=torch.float64)
            logits = ((line + margins) / 0.1)[None]
            target = torch.tensor([counted.index(q)])
            expected += torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing).item() / 5
    found = info_nce(scores, 0.1, 0.2, label_smoothing=smoothing, ignore=ignore)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_ignoring_all_others_costs_nothing() -> None:
    scores = torch.randn(3, 3, requires_grad=True)
    loss = info_nce(scores, 0.1, 0.2, ignore=torch.ones(3, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 10.0, 1000.0])
def test_small_temperatures_do_not_overflow(scale: float) -> None:
    scores = (scale * torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).requires_grad_()
    loss = info_nce(scores, 0.01, 0.2)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    # with tau -> 0 a direction is the largest positive logit: the hinge over the hardest negative, over tau
    detached = scores.detach()
    gap = detached - detached.diagonal()[:, None] + 0.2
    other = detached - detached.diagonal()[None, :] + 0.2
    hard = [g.fill_diagonal_(0).amax(d).clamp_min(0).mean() for g, d in ((gap, 1), (other, 0))]
    assert loss.item() == pytest.approx(float(sum(hard)) / 0.01, rel=1e-2, abs=math.log(6) * 2)


def test_the_margin_is_not_on_the_positive() -> None:
    assert info_nce(torch.zeros(2, 2), 1.0, 1.0).item() == pytest.approx(2 * math.log(1 + math.e), rel=1e-6)
