from typing import Any

import pytest
import torch
from torch import Tensor

from patchword.losses.distance_weighted import distance_weighted
from patchword.losses.matching import Matching, RelationLoss, same_image
from patchword.losses.triplet import hinge

IDS = torch.tensor([0, 1, 2, 0])
SAME = IDS[:, None] == IDS[None, :]


def matching(epoch: int = 0, **changes: Any) -> Matching:
    return Matching(RelationLoss.model_validate(changes), epoch, SAME, None)


def vectors(seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)))


SCORES = vectors(0) @ vectors(1).T


@pytest.mark.parametrize(
    ("epoch", "reduction", "hardest", "divisor"),
    [(0, "sum", None, 1), (0, "mean", None, 4), (1, "sum", 1, 1), (1, "mean", 1, 1)],
)
def test_vse_counts_the_hardest_negatives_from_the_second_epoch_on(
    epoch: int, reduction: str, hardest: int | None, divisor: int
) -> None:
    for others, ignore in (("ignored", SAME), ("negative", None)):
        rule = matching(epoch, all_negatives=reduction, same_image=others, margin=0.3)
        expected = hinge(SCORES, 0.3, hardest=hardest, ignore=ignore) / divisor
        assert rule("vse", SCORES).item() == pytest.approx(expected.item())
        assert rule.events == {}


def test_trip_has_its_own_margin_and_cutoff() -> None:
    rule = matching(margin=0.9, trip_margin=0.25, trip_cutoff=1.9)
    torch.manual_seed(3)
    found = rule("trip", SCORES)
    torch.manual_seed(3)
    assert torch.equal(found, distance_weighted(SCORES, SAME, margin=0.25, cutoff=1.9).loss)


def test_events_add_up_over_the_losses_of_a_step() -> None:
    far = torch.full((4, 4), 0.2)
    far[0, 1] = -0.65
    rule = matching()
    rule("trip", SCORES)
    before = {name: float(value) for name, value in rule.events.items()}
    rule("trip", far)
    assert float(rule.events["trip_zeroed"]) == before["trip_zeroed"] + 2
    assert float(rule.events["trip_far_anchors"]) == before["trip_far_anchors"] + 2
    assert set(rule.events) == {"trip_zeroed", "trip_far_anchors", "trip_above_one"}
    assert len(rule.weights) == 4


def test_without_ids_every_pair_has_its_own_image() -> None:
    assert torch.equal(same_image(None, 4, torch.device("cpu")), torch.eye(4, dtype=torch.bool))
    assert torch.equal(same_image(IDS, 4, torch.device("cpu")), SAME)


@pytest.mark.parametrize("cross", [True, False])
def test_vectors_from_the_graph_meet_the_plain_ones_and_each_other(cross: bool) -> None:
    plain, enhanced = (vectors(0), vectors(1)), torch.cat([vectors(2), vectors(3)]) * 3
    found = matching(1, graph="vse", cross=cross).across(*plain, enhanced)
    pairs = [(plain[0], vectors(3)), (vectors(2), plain[1]), (vectors(2), vectors(3))][0 if cross else 2 :]
    expected = sum(hinge(a @ b.T, 0.2, hardest=1, ignore=SAME).item() for a, b in pairs)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_given_draws_are_used_in_order() -> None:
    draws = [(torch.tensor([1, 2, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 0, 2, 2])) for _ in range(2)]
    draws[1] = (draws[1][1], draws[1][0])
    rule = Matching(RelationLoss(), 0, SAME, iter(draws))
    for one in draws:
        expected = distance_weighted(SCORES, SAME, margin=0.2, cutoff=1.7, draws=one).loss
        assert torch.equal(rule("trip", SCORES), expected)
