import math

import pytest
import torch
from torch import Tensor

from patchword.layers.fragment_graph import (
    FragmentGraph,
    Gate,
    GuidedPooling,
    counted_largest,
    mean_of_largest,
    mean_of_real,
    real_slots,
    shares_of_largest,
)

LENGTHS = (4, 1, 6, 2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("short_sets", ["reference", "own"])
def test_mean_of_largest_equals_a_plain_loop(k: int, short_sets: str) -> None:
    vectors, lengths = random(4, 6, 3), torch.tensor(LENGTHS)
    found = mean_of_largest(vectors, lengths, k, short_sets)  # type: ignore[arg-type]
    limit = k
    for row, length in enumerate(LENGTHS):
        limit = min(limit, length) if short_sets == "reference" else min(k, length)
        for d in range(3):
            best = sorted(vectors[row, :length, d].tolist(), reverse=True)[:limit]
            assert found[row, d].item() == pytest.approx(sum(best) / limit, abs=1e-6)


def test_a_short_set_shortens_the_later_ones_in_the_reference_only() -> None:
    lengths = torch.tensor([5, 1, 5])
    assert counted_largest(lengths, 2, "reference").tolist() == [2, 1, 1]
    assert counted_largest(lengths, 2, "own").tolist() == [2, 1, 2]


def test_shares_add_up_to_the_mean_of_the_largest() -> None:
    for n in (1, 2, 5):
        vectors = random(n, 3, seed=n)
        shares = shares_of_largest(vectors)
        torch.testing.assert_close(shares.sum(0), mean_of_largest(vectors[None], torch.tensor([n]))[0])
        assert (shares != 0).sum(0).tolist() == [min(n, 2)] * 3


def test_mean_of_real_ignores_padding() -> None:
    vectors = torch.tensor([[[1.0], [3.0], [torch.nan]]])
    assert mean_of_real(vectors, torch.tensor([2])).tolist() == [[2.0]]


def test_padding_does_not_reach_the_real_fragments() -> None:
    torch.manual_seed(0)
    graph = FragmentGraph(8, 2, 0.0)
    vectors, lengths = random(4, 6, 8), torch.tensor(LENGTHS)
    for mode in (True, False):
        graph.train(mode)
        with torch.set_grad_enabled(mode):
            before = graph(vectors, lengths)
            changed = torch.where(real_slots(lengths, 6)[..., None], vectors, vectors + 5.0)
            after = graph(changed, lengths)
        for row, length in enumerate(LENGTHS):
            torch.testing.assert_close(after[row, :length], before[row, :length])
            alone = graph(vectors[row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(alone[0], before[row, :length], atol=1e-6, rtol=1e-5)
        assert (before[1, 1:] != 0).any()  # padded slots come out as something


def test_the_fragment_layer_has_the_authors_form() -> None:
    layer = FragmentGraph(8, 2, 0.1).layer
    assert (layer.linear1.out_features, layer.norm_first, layer.self_attn.batch_first) == (8, False, False)
    assert layer.activation is torch.nn.functional.relu
    assert [m.p for m in (layer.dropout, layer.dropout1, layer.dropout2)] == [0.1] * 3


def plain_guided(pool: GuidedPooling, guide: Tensor, rows: Tensor) -> tuple[list[list[float]], Tensor]:
    """Attention of every head and the pooled vector of one item, head by head."""
    width = guide.shape[0]
    attention, total = [], torch.zeros(width)
    for h in range(pool.heads):
        part = slice(h * width, (h + 1) * width)

        def apply(layer: torch.nn.Linear, x: Tensor, part: slice = part) -> Tensor:
            return x @ layer.weight[part].T + layer.bias[part]

        query = apply(pool.query, guide)
        query = query / query.norm()
        logits = [float(query @ (key / key.norm())) for key in apply(pool.key, rows)]
        powers = [math.exp(x) for x in logits]
        attention.append([p / sum(powers) for p in powers])
        total += sum(a * v for a, v in zip(attention[-1], apply(pool.value, rows), strict=True)) / pool.heads
    return attention, total


def test_guided_pooling_equals_a_plain_computation_of_every_head() -> None:
    torch.manual_seed(0)
    pool = GuidedPooling(5, 3).requires_grad_(False)
    guides, rows, lengths = random(4, 5), random(4, 6, 5, seed=1), torch.tensor(LENGTHS)
    for counted in (None, real_slots(lengths, 6)):
        weights, pooled = pool.weights(guides, rows, counted), pool(guides, rows, counted)
        for item, length in enumerate(LENGTHS):
            size = 6 if counted is None else length
            attention, expected = plain_guided(pool, guides[item], rows[item, :size])
            for h in range(3):
                assert weights[item, h, :size].tolist() == pytest.approx(attention[h], abs=1e-6)
            assert weights[item, :, size:].abs().sum().item() == 0
            torch.testing.assert_close(pooled[item], expected, atol=1e-5, rtol=1e-5)
    assert float(pool.weights(guides, rows, None).max() / pool.weights(guides, rows, None).min()) < math.e**2


def test_guided_shares_add_up() -> None:
    torch.manual_seed(0)
    pool = GuidedPooling(5, 3)
    guide, rows = random(1, 5), random(1, 6, 5, seed=1)
    shares = pool.shares(guide, rows)
    assert shares.shape == (6, 5)
    torch.testing.assert_close(shares.sum(0), pool(guide, rows, None)[0], atol=1e-6, rtol=1e-5)


def test_the_gate_mixes_every_dimension_on_its_own() -> None:
    gate = Gate(2)
    with torch.no_grad():
        gate.fc.weight.zero_()
        gate.fc.weight[0, 0] = 1.0  # dimension 0 opens with a[0]
        gate.fc.bias.copy_(torch.tensor([0.0, -100.0]))
    a, b = torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]])
    z = 1 / (1 + math.exp(-2.0))
    assert gate(a, b)[0].tolist() == pytest.approx([2 * z + 5 * (1 - z), 7.0])
