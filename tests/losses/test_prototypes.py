import math

import pytest
import torch
from torch import Tensor

from patchword.losses.prototypes import prototype_contrast, queue_contrast, sinkhorn


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_sinkhorn(scores: list[list[float]], epsilon: float, rounds: int) -> list[list[float]]:
    """Assignment of items to prototypes, by loops."""
    items, prototypes = len(scores), len(scores[0])
    q = [[math.exp(scores[b][k] / epsilon) for b in range(items)] for k in range(prototypes)]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(rounds):
        q = [[x / sum(row) / prototypes for x in row] for row in q]
        columns = [sum(row[b] for row in q) for b in range(items)]
        q = [[x / columns[b] / items for b, x in enumerate(row)] for row in q]
    return [[q[k][b] * items for k in range(prototypes)] for b in range(items)]


@pytest.mark.parametrize(("items", "prototypes", "rounds"), [(4, 6, 3), (5, 3, 1), (2, 7, 10)])
def test_sinkhorn_equals_a_plain_computation(items: int, prototypes: int, rounds: int) -> None:
    scores = 0.3 * random(items, prototypes)
    found = sinkhorn(scores, 0.1, rounds)
    for row, expected in zip(found.tolist(), plain_sinkhorn(scores.tolist(), 0.1, rounds), strict=True):
        assert row == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(items))


def test_sinkhorn_shares_the_prototypes_evenly_in_the_end() -> None:
    found = sinkhorn(random(8, 4), 0.5, 200)
    torch.testing.assert_close(found.sum(0), torch.full((4,), 2.0), atol=1e-3, rtol=0)


def test_sinkhorn_does_not_overflow() -> None:
    scores = random(4, 3)
    torch.testing.assert_close(sinkhorn(scores + 50.0, 0.1, 3), sinkhorn(scores, 0.1, 3), atol=1e-4, rtol=1e-4)


def test_prototype_contrast_equals_its_formula_and_trains_all_but_the_assignments() -> None:
    images, captions = random(4, 5).requires_grad_(), random(4, 5, seed=1).requires_grad_()
    prototypes = torch.nn.functional.normalize(random(6, 5, seed=2)).requires_grad_()
    loss = prototype_contrast(images, captions, prototypes, temperature=0.2, epsilon=0.1, rounds=3)
    o_i, o_t = images @ prototypes.T, captions @ prototypes.T
    q_i, q_t = sinkhorn(o_i.detach(), 0.1, 3), sinkhorn(o_t.detach(), 0.1, 3)
    expected = -sum(
        float(q[b, k] * (o[b] / 0.2).log_softmax(0)[k].detach())
        for q, o in ((q_t, o_i), (q_i, o_t))
        for b in range(4)
        for k in range(6)
    )
    assert loss.item() == pytest.approx(expected / 4, rel=1e-5)
    loss.backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (images, captions, prototypes))
    p_i = (o_i / 0.2).softmax(1).detach()  # d loss / d o = (softmax - q) / temperature / B
    p_t = (o_t / 0.2).softmax(1).detach()
    wanted = (p_i - q_t) / 0.2 / 4 @ prototypes.detach()
    assert images.grad is not None
    torch.testing.assert_close(images.grad, wanted, atol=1e-5, rtol=1e-4)
    assert captions.grad is not None
    torch.testing.assert_close(captions.grad, (p_t - q_i) / 0.2 / 4 @ prototypes.detach(), atol=1e-5, rtol=1e-4)


def test_chance_levels_of_the_published_sizes() -> None:
    zero, queue = torch.zeros(8, 16), torch.zeros(2048, 16)
    prototypes = torch.nn.functional.normalize(random(384, 16))
    swav = prototype_contrast(zero, zero, prototypes, temperature=0.1, epsilon=0.1, rounds=3)
    assert 0.2 * swav.item() == pytest.approx(2.38, abs=0.01)
    moco = queue_contrast(zero, zero, zero, zero, queue, queue, 0.07)
    assert moco.item() == pytest.approx(15.25, abs=0.01)


def test_queue_contrast_equals_its_formula() -> None:
    tensors = [random(3, 4, seed=k) for k in range(4)] + [random(5, 4, seed=k) for k in (4, 5)]
    images, captions, image_keys, caption_keys, image_queue, caption_queue = tensors
    found = queue_contrast(*tensors, 0.3)

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    expected = 0.0
    for queries, keys, queue in ((images, caption_keys, caption_queue), (captions, image_keys, image_queue)):
        for query, key in zip(queries, keys, strict=True):
            right = math.exp(cosine(query, key) / 0.3)
            wrong = sum(math.exp(cosine(query, other) / 0.3) for other in queue)
            expected -= math.log(right / (right + wrong)) / 3
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_only_queries_get_gradients() -> None:
    tensors = [random(3, 4, seed=k).requires_grad_() for k in range(6)]
    queue_contrast(*tensors, 0.07).backward()
    assert [t.grad is not None for t in tensors] == [True, True, False, False, False, False]
