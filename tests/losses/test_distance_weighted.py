import math

import pytest
import torch
from torch import Tensor

from patchword.losses.distance_weighted import distance_weighted, negative_weights

IDS = torch.tensor([0, 1, 2, 3, 0])
SAME = IDS[:, None] == IDS[None, :]


def scores(seed: int = 0, *, scale: float = 0.35) -> Tensor:
    return scale * torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)).clamp(-2.5, 2.5)


def plain_weights(row: list[float], positive: list[bool], cutoff: float) -> list[float]:
    """Probabilities of one row, by loops."""
    logs, kept = [], []
    for s, is_positive in zip(row, positive, strict=True):
        value = 0.0
        distance = max(math.sqrt(2 - 2 * s), 0.5) if s <= 1 else math.nan
        inside = 1 - distance**2 / 4
        if not is_positive and not math.isnan(distance) and inside > 0:
            value = (2 - 512) * math.log(distance) - 509 / 2 * math.log(inside)
        logs.append(value)
        kept.append(not is_positive and distance < cutoff)
    largest = max(logs)
    weights = [math.exp(x - largest) * k for x, k in zip(logs, kept, strict=True)]
    return [w / (sum(weights) + 1e-20) for w in weights]


@pytest.mark.parametrize("cutoff", [1.7, 1.9])
@pytest.mark.parametrize("seed", range(4))
def test_weights_equal_a_plain_computation(cutoff: float, seed: int) -> None:
    s = scores(seed)
    found, _ = negative_weights(s, SAME, cutoff)
    for row, same, weights in zip(s.tolist(), SAME.tolist(), found.tolist(), strict=True):
        assert weights == pytest.approx(plain_weights(row, same, cutoff), abs=1e-4)
    assert (found[SAME] == 0).all()


def test_the_loss_sums_over_every_positive_pair_in_both_directions() -> None:
    s = scores(scale=0.1)
    i2t, t2i = torch.tensor([1, 2, 0, 4, 0, 1, 3]), torch.tensor([3, 1, 0, 0, 2, 2, 1])
    found = distance_weighted(s, SAME, margin=0.2, cutoff=1.7, draws=(i2t, t2i))
    pairs = [(a, p) for a in range(5) for p in range(5) if SAME[a, p]]
    assert len(pairs) == 7
    expected = 0.0
    for (a, p), n, m in zip(pairs, i2t.tolist(), t2i.tolist(), strict=True):
        expected += max(0.0, 0.2 + float(s[a, n] - s[a, p])) + max(0.0, 0.2 + float(s[m, a] - s[p, a]))
    assert found.loss.item() == pytest.approx(expected, abs=1e-6)


def test_gradients_flow_through_the_two_scores_only() -> None:
    s = torch.full((2, 2), 0.1).requires_grad_()
    same = torch.eye(2, dtype=torch.bool)
    distance_weighted(s, same, margin=0.2, cutoff=1.7).loss.backward()
    assert s.grad is not None
    assert s.grad.tolist() == [[-2.0, 2.0], [2.0, -2.0]]  # one negative each, in both directions


def test_draws_follow_torch_generator_and_never_hit_a_positive() -> None:
    s = scores(3)
    for seed in range(20):
        found = []
        for _ in range(2):
            torch.manual_seed(seed)
            found.append(distance_weighted(s, SAME, margin=0.2, cutoff=1.9).loss)
        assert torch.equal(*found)
    s = torch.zeros(5, 5)
    s[SAME] = -5.0  # as a negative, a positive would cost nothing
    torch.manual_seed(0)
    assert distance_weighted(s, SAME, margin=0.2, cutoff=1.9).loss.item() == pytest.approx(2 * 7 * 5.2, abs=1e-4)


def test_draws_have_the_stated_probabilities() -> None:
    row = torch.tensor([[0.0, 0.02, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    same = torch.eye(3, dtype=torch.bool)
    weights, _ = negative_weights(row, same, 1.7)
    counts = torch.zeros(3)
    for seed in range(300):
        torch.manual_seed(seed)
        drawn = torch.multinomial(weights[same.nonzero()[:, 0]], 1)[0, 0]
        torch.manual_seed(seed)
        loss = distance_weighted(row, same, margin=0.0, cutoff=1.7).loss
        assert loss.item() >= (0.02 if drawn == 1 else 0.0) - 1e-6
        counts[drawn] += 1
    assert counts[0] == 0
    assert (counts / 300).tolist() == pytest.approx(weights[0].tolist(), abs=0.09)


def test_one_far_negative_underflows_its_row_and_zeroes_the_direction() -> None:
    s = torch.full((3, 3), 0.2)
    s[0, 1] = -0.65  # beyond the cut-off of 1.7, where the log weight is large again
    same = torch.eye(3, dtype=torch.bool)
    weights, far = negative_weights(s, same, 1.7)
    assert weights.sum(1).tolist() == pytest.approx([0.0, 1.0, 1.0])
    assert far.tolist() == [True, False, False]
    s.requires_grad_()
    torch.manual_seed(0)
    found = distance_weighted(s, same, margin=0.2, cutoff=1.7)
    assert (int(found.zeroed), int(found.far_anchors)) == (2, 2)  # row 0, and column 1
    assert found.loss.item() == 0
    found.loss.backward()
    assert s.grad is not None
    assert (s.grad == 0).all()


def test_only_the_direction_of_the_bad_anchor_is_zeroed() -> None:
    s = torch.full((3, 3), 0.2)
    s[0, 1] = s[0, 2] = -0.65  # image 0 has far negatives only
    s[2, 1] = s[1, 2] = 0.9  # captions 1 and 2 have a hard one, whose weight is larger than that of the far one
    found = distance_weighted(s, torch.eye(3, dtype=torch.bool), margin=0.2, cutoff=1.7)
    assert (int(found.zeroed), int(found.far_anchors)) == (1, 1)
    assert found.loss.item() == pytest.approx(0.2 + 0.9 + 0.9, abs=1e-6)  # caption 0: 0.2; captions 1 and 2: 0.9 each


def test_beyond_coco_cutoff_the_far_negative_takes_nearly_all_draws() -> None:
    s = torch.full((3, 3), 0.2)
    s[0, 1] = -0.65
    weights, far = negative_weights(s, torch.eye(3, dtype=torch.bool), 1.9)
    assert weights[0, 1] > 0.99
    assert far.tolist() == [True, False, False]


def test_a_score_above_one_is_never_drawn() -> None:
    s = torch.full((3, 3), 0.2)
    s[0, 1] = 1.2
    same = torch.eye(3, dtype=torch.bool)
    weights, _ = negative_weights(s, same, 1.7)
    assert weights[0].tolist() == [0.0, 0.0, 1.0]
    found = distance_weighted(s, same, margin=0.2, cutoff=1.7)
    assert found.loss.isfinite()
    assert int(found.above_one) == 2
    assert int(found.zeroed) == 0


def test_a_batch_of_one_image_is_zeroed_not_refused() -> None:
    same = torch.ones(2, 2, dtype=torch.bool)
    found = distance_weighted(torch.zeros(2, 2), same, margin=0.2, cutoff=1.7)
    assert (found.loss.item(), int(found.zeroed)) == (0.0, 2)
