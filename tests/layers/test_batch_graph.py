import math

import pytest
import torch
from torch import Tensor

from patchword.layers import batch_graph
from patchword.layers.batch_graph import (
    GraphConvolution,
    InstanceAttention,
    TopRelation,
    closeness,
    connected,
    cross_similarities,
    divergence,
    joined,
    relation_regulariser,
)

LENGTHS = (7, 2, 5, 1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_pair(
    regions: Tensor, words: Tensor, length: int, top_k: int
) -> tuple[float, float, list[float], list[float]]:
    """Both means and both top lists of one pair, by loops."""

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / max(float(a.norm() * b.norm()), 1e-12))

    selected = min(max(length, top_k), len(words))
    s = [[cosine(word, region) for region in regions] for word in words[:selected]]
    s = [[x if x > 0 else 0.1 * x for x in row] for row in s]
    down = [max(math.sqrt(sum(row[r] ** 2 for row in s)), 1e-12) for r in range(len(regions))]
    across = [max(math.sqrt(sum(x * x for x in row)), 1e-12) for row in s]
    by_word = [max(row[r] / down[r] for r in range(len(regions))) for row in s]
    by_region = [max(s[w][r] / across[w] for w in range(length)) for r in range(len(regions))]

    def top(values: list[float]) -> list[float]:
        best = sorted(values, reverse=True)[:top_k]
        return best + [0.0] * (top_k - len(best))

    return sum(by_word[:length]) / length, sum(by_region) / len(regions), top(by_word), top(by_region)


@pytest.mark.parametrize("top_k", [1, 3, 6, 9])
def test_cross_similarities_equal_plain_loops(top_k: int) -> None:
    regions, words, lengths = random(3, 5, 4), random(4, 7, 4, seed=1), torch.tensor(LENGTHS)
    found = cross_similarities(regions, words, lengths, top_k)
    assert found.i2t_top.shape == (3, 4, top_k)
    for c, length in enumerate(LENGTHS):
        for b in range(3):
            t2i, i2t, t2i_top, i2t_top = plain_pair(regions[b], words[c], length, top_k)
            assert found.t2i[c, b].item() == pytest.approx(t2i, abs=1e-6)
            assert found.i2t[b, c].item() == pytest.approx(i2t, abs=1e-6)
            assert found.t2i_top[c, b].tolist() == pytest.approx(t2i_top, abs=1e-6)
            assert found.i2t_top[b, c].tolist() == pytest.approx(i2t_top, abs=1e-6)


@pytest.mark.parametrize("floats", [1, 3 * 5 * 7 * 2, 1 << 20])
def test_captions_at_a_time_change_nothing(floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = (random(3, 5, 4), random(4, 7, 4, seed=1), torch.tensor(LENGTHS), 3)
    expected = cross_similarities(*inputs)
    monkeypatch.setattr(batch_graph, "CHUNK_FLOATS", floats)
    found = cross_similarities(*inputs)
    for name in ("i2t", "t2i", "i2t_top", "t2i_top"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-6, rtol=0)


def test_a_padded_region_counts_and_a_word_beyond_the_selected_ones_does_not() -> None:
    regions, words, lengths = random(2, 5, 4), random(2, 7, 4, seed=1), torch.tensor([3, 2])
    before = cross_similarities(regions, words, lengths, 4)
    words[:, 4:] += 1.0  # the first max(length, 4) words take part
    after = cross_similarities(regions, words, lengths, 4)
    assert torch.equal(before.t2i, after.t2i)
    assert torch.equal(before.i2t_top, after.i2t_top)
    words[:, 3] += 1.0  # no real word of these captions, but one that the norm is over
    assert not torch.allclose(before.t2i, cross_similarities(regions, words, lengths, 4).t2i)
    regions[:, 4] *= -1.0
    assert not torch.allclose(before.i2t, cross_similarities(regions, words, lengths, 4).i2t)


def test_zero_vectors_give_finite_similarities() -> None:
    found = cross_similarities(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4), torch.tensor([5, 1]), 3)
    for values in (found.i2t, found.t2i, found.i2t_top, found.t2i_top):
        assert (values == 0).all()


def test_connections_are_the_largest_share_of_a_row_with_ties() -> None:
    values = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.5, 0.5, 0.5, 0.1], [9.0, -1.0, 8.0, -2.0]])
    assert connected(values, 0.5).int().tolist() == [[0, 1, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0]]
    assert connected(values, 0.99).int().sum(1).tolist() == [3, 3, 3]
    assert connected(values, 0.01).int().sum(1).tolist() == [1, 3, 1]


def test_joined_has_images_first() -> None:
    i2i, i2t, t2i, t2t = (torch.full((2, 2), float(k)) for k in range(4))
    assert joined(i2i, i2t, t2i, t2t)[::2, ::2].tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_closeness_of_many_rows_has_a_usable_gradient() -> None:
    points = random(40, 8).requires_grad_()
    found = closeness(points, points)
    assert found.diagonal().min() > 0.99
    assert found[0, 1].item() == pytest.approx(math.exp(-float((points[0] - points[1]).detach().norm())), abs=1e-5)
    found.sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()


def test_divergence_equals_its_definition() -> None:
    a, b = random(3, 5), random(3, 5, seed=1)
    p, q = a.softmax(1), b.softmax(1)
    expected = sum(float(q[i, j] * (q[i, j].log() - p[i, j].log())) for i in range(3) for j in range(5)) / 3
    assert divergence(a, b).item() == pytest.approx(expected, abs=1e-6)


def test_the_regulariser_moves_the_relations_only() -> None:
    images, captions = random(4, 6).requires_grad_(), random(4, 6, seed=1).requires_grad_()
    i2t, t2i = random(4, 4, seed=2).requires_grad_(), random(4, 4, seed=3).requires_grad_()
    relation_regulariser(images, captions, i2t, t2i).backward()
    assert images.grad is None
    assert captions.grad is None
    assert i2t.grad is not None
    assert t2i.grad is not None
    guide = closeness(images, captions)
    assert relation_regulariser(images, captions, guide, guide.T).item() == pytest.approx(0.0, abs=1e-6)


def test_both_relations_start_from_the_same_values() -> None:
    relation = TopRelation(3)
    cross = cross_similarities(random(2, 5, 4), random(2, 7, 4, seed=1), torch.tensor([7, 4]), 3)
    i2t, t2i = relation(cross)
    for name, value in relation.t2i.state_dict().items():
        assert torch.equal(value, relation.i2t.state_dict()[name])
    assert (i2t - cross.i2t)[1, 0].item() == pytest.approx(relation.t2i(cross.i2t_top[1, 0]).item(), abs=1e-6)
    assert (t2i - cross.t2i)[0, 1].item() == pytest.approx(relation.t2i(cross.t2i_top[0, 1]).item(), abs=1e-6)


def test_graph_convolution_equals_its_formula() -> None:
    layer = GraphConvolution(3, 0.6).eval()
    torch.nn.init.normal_(layer.bias)
    x, adjacency = random(4, 3), random(4, 4, seed=1)
    rows = adjacency @ x @ layer.weight + layer.bias
    torch.testing.assert_close(layer(x, adjacency), torch.where(rows > 0, rows, 0.2 * rows))
    whole = layer(x, adjacency)
    torch.manual_seed(0)  # of all draws, one in many drops nothing
    assert not torch.equal(layer.train()(x, adjacency), whole)


def test_unconnected_items_do_not_reach_each_other() -> None:
    torch.manual_seed(0)
    attention = InstanceAttention(8, 2, layers=2, dropout=0.0)
    x = random(5, 8)
    mask = torch.zeros(5, 5)
    mask[:2, 2:] = mask[2:, :2] = -torch.inf
    before = attention(x, mask)
    x[2:] += 1.0
    after = attention(x, mask)
    torch.testing.assert_close(after[:2], before[:2])
    assert (after[2:] - before[2:]).abs().max() > 1e-3
    mask[0, 1] = 3.0  # a larger relation draws more attention
    assert (attention(x, mask)[0] - after[0]).abs().max() > 1e-3
