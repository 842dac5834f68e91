import math
from itertools import product
from typing import Any

import pytest
import torch
from small_cefg import BERT, HEADS, WORDS, D, R, captions, cefg, images, scores
from torch import Tensor, nn

from patchword.encoders.bigru import BigruConfig
from patchword.layers.reasoning import GatedPooling
from patchword.methods.base import Step, ranking_loss
from patchword.methods.cefg import Cefg, CefgConfig
from patchword.types import Encoded

# ------------------------------------------------------------------ the equations, one word and one region at a time


def unit(v: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in v)) + 1e-8
    return [x / length for x in v]


def linear(layer: Any, v: list[float]) -> list[float]:
    return [
        sum(w * x for w, x in zip(row, v, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def softmax(v: list[float]) -> list[float]:
    top = max(v)
    powers = [math.exp(x - top) for x in v]
    return [p / sum(powers) for p in powers]


def difference(layer: Any, a: list[float], b: list[float]) -> list[float]:
    return unit(linear(layer, [(x - y) ** 2 for x, y in zip(a, b, strict=True)]))


def sequence(layers: Any, v: list[float]) -> list[float]:
    for layer in layers:
        v = [math.tanh(x) for x in v] if isinstance(layer, nn.Tanh) else linear(layer, v)
    return v


def plain_score(method: Cefg, image: list[list[float]], caption: list[list[float]]) -> float:
    """The score of one pair, written out."""
    part = method.similarity
    v_all, context, t_all, words = image[0], image[1:], caption[0], caption[1:]

    def attend(queries: list[list[float]], sharpness: list[float]) -> list[list[float]]:
        found: list[list[float]] = [[] for _ in queries]
        for c in context:
            s = [sum(x * y for x, y in zip(c, q, strict=True)) for q in queries]
            s = unit([x if x > 0 else 0.1 * x for x in s])  # over the words
            for row, x in zip(found, s, strict=True):
                row.append(x)
        attended = []
        for row, factor in zip(found, sharpness, strict=True):
            a = softmax([factor * x for x in row])
            attended.append(unit([sum(w * c[d] for w, c in zip(a, context, strict=True)) for d in range(D)]))
        return attended

    mask, sharpness = [[1.0] * D for _ in words], [method.config.sharpness] * len(words)
    for regulator in part.regulators:
        queries = [[x * m for x, m in zip(t, one, strict=True)] for t, one in zip(words, mask, strict=True)]
        found = attend(queries, sharpness)
        for j, (c, t) in enumerate(zip(found, words, strict=True)):
            x = difference(part.local, c, t)
            sharpness[j] = max(0.0, sequence(regulator.sharpness, x)[0] + sharpness[j])
            if regulator.modulation is not None:
                moved = sequence(regulator.modulation, x)
                mask[j] = [min(1.0, max(-1.0, a + b)) for a, b in zip(moved, mask[j], strict=True)]
    nodes = [difference(part.overall, v_all, t_all)]
    nodes += [difference(part.local, c, t) for c, t in zip(attend(words, sharpness), words, strict=True)]
    head: Any = part.head
    if isinstance(head, GatedPooling):
        norm: Any = head.norm
        gates = []
        for x in nodes:
            value = (linear(head.gate, x)[0] - float(norm.running_mean)) / math.sqrt(float(norm.running_var) + 1e-5)
            gates.append(1 / (1 + math.exp(-(value * norm.weight.item() + norm.bias.item()))))
        gates = [g / (sum(gates) + 1e-8) for g in gates]
        result = unit([sum(g * x[d] for g, x in zip(gates, nodes, strict=True)) for d in range(len(nodes[0]))])
    else:
        for one in head.steps:
            keys = [linear(one["key"], x) for x in nodes]
            edges = [
                softmax([sum(p * q for p, q in zip(linear(one["query"], x), k, strict=True)) for k in keys])
                for x in nodes
            ]
            mixed = [
                [sum(e * x[d] for e, x in zip(row, nodes, strict=True)) for d in range(len(nodes[0]))] for row in edges
            ]
            nodes = [[max(0.0, x) for x in linear(one["out"], m)] for m in mixed]
        result = nodes[0]
    return 1 / (1 + math.exp(-linear(part.logit, result)[0]))


@pytest.mark.parametrize("refinements", [1, 3])
@pytest.mark.parametrize("head", HEADS)
def test_equal_to_the_equations_written_out(head: str, refinements: int) -> None:
    method = cefg(head=head, refinements=refinements, sharpness=4.0)
    a, b = method.encode_images(images((R, 2, R))), method.encode_captions(captions())
    found = method.score(a, b)
    for i, j in product(range(len(a)), range(len(b))):
        sets = [s.slice(k, k + 1).vectors.tolist() for s, k in ((a, i), (b, j))]
        assert found[i, j].item() == pytest.approx(plain_score(method, *sets), abs=1e-5)
    assert found.std() > 1e-3  # far more than the tolerance


def test_the_pooled_caption() -> None:
    method, batch = cefg(), captions((4, 2))
    found, pool = method.encode_captions(batch), method.text_pool
    for k in range(2):
        rows = found.slice(k, k + 1).vectors
        words, mean = rows[1:], rows[1:].mean(0)
        b = pool.common(torch.tanh(pool.local(words)) * torch.tanh(pool.overall(mean)))[:, 0]
        expected = torch.softmax(b, 0) @ words
        torch.testing.assert_close(rows[0], expected / expected.norm())


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("batch", [2, 3])
def test_everything_but_the_cancelled_biases_learns(head: str, batch: int) -> None:
    method = cefg(head=head, amr="gate").train()
    a = method.encode_images(images((R,) * batch))
    b = method.encode_captions(captions(WORDS[:batch], graphs=(2, 1, 3)[:batch]))
    losses = method.losses(method.score(a, b), a, b, Step())
    torch.autograd.backward(losses["total"])
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith(("common.bias", "key.bias", "gate.bias", "overall.bias")):
            assert parameter.grad.abs().max() > 1e-9, name


@pytest.mark.parametrize("head", HEADS)
def test_a_blank_image_gives_finite_gradients(head: str) -> None:
    method, a = cefg(head=head).train(), images()
    a.values[0] = 0.0
    nn.init.zeros_(method.image.fc.bias)
    score = scores(method, a, captions((3, 2, 4)))
    torch.autograd.backward(ranking_loss(method.loss, score, Step()))
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() < 1e3, name


def test_saf_moves_its_statistics_once_per_caption_in_order() -> None:
    method, plain = cefg(head="saf"), nn.BatchNorm1d(1)
    head = method.similarity.head
    assert isinstance(head, GatedPooling)
    plain.load_state_dict(head.norm.state_dict())
    a, b = method.encode_images(images()), method.encode_captions(captions())
    method.train()
    method.score(a, b)
    for caption in b.vectors.split(b.lengths.tolist()):
        plain(head.gate(method.nodes(a, caption)[0]).reshape(-1, 1))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(head.norm.state_dict()[name], value)
    assert int(plain.num_batches_tracked or 0) == len(WORDS)


def test_dropout_only_in_training() -> None:
    method = cefg()
    assert torch.equal(scores(method, images(), captions()), scores(method, images(), captions()))
    method.train()
    draws = [method.encode_captions(captions()).vectors for _ in range(2)]
    assert not torch.equal(*draws)
    draws = [method.encode_images(images()).vectors for _ in range(2)]
    assert not torch.equal(*draws)


def test_batch_norm_is_announced() -> None:
    method = cefg()
    assert not method.has_batch_statistics
    assert method.train().has_batch_statistics
    assert not method.mixes_batch


def test_the_published_setting_is_the_default() -> None:
    config, loss = CefgConfig(), Cefg.default_loss()
    assert (config.joint_dim, config.sim_dim, config.regions, config.neighbours) == (1024, 256, 36, 5)
    assert (config.head, config.graph_steps, config.refinements, config.sharpness) == ("sgr", 3, 3, 10.0)
    assert (config.adjacency, config.amr, config.dropout, config.word_dropout) == ("released", "none", 0.4, 0.4)
    assert (loss.kind, loss.margin, loss.negatives_after, loss.warmup_epochs) == ("hinge", 0.2, "all", 0)
    s = torch.tensor([[0.9, 0.8, 0.1], [0.5, 0.6, 0.7], [0.2, 0.3, 0.4]])
    by_hand = sum(
        max(0.0, 0.2 + float(s[i, j] - s[k, k])) for i, j in product(range(3), range(3)) if i != j for k in (i, j)
    )
    assert float(ranking_loss(loss, s, Step())) == pytest.approx(by_hand, abs=1e-6)


def test_starting_values() -> None:
    torch.manual_seed(0)
    method = Cefg(CefgConfig.model_validate({"joint_dim": 64, "sim_dim": 32, "text": BigruConfig(vocab_size=50)}))
    assert isinstance(method.text.embed.weight, Tensor)  # type: ignore[union-attr]
    assert 0.09 < method.text.embed.weight.abs().max().item() <= 0.1  # type: ignore[union-attr]
    for layer in (method.image.fc, method.similarity.local, method.text_pool.local, method.image.context.local):
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.9 * bound < layer.weight.abs().max().item() <= bound
        assert (layer.bias == 0).all()
    regulator: Any = method.similarity.regulators[0]
    assert regulator.sharpness[0].bias.abs().max() > 0  # torch's own default
    assert not any(name.startswith("similarity.regulators.2.modulation") for name in method.state_dict())


# ------------------------------------------------------------------ explain


@pytest.mark.parametrize(
    "changes",
    [{}, {"head": "saf"}, {"text": BERT}, {"amr": "concat"}, {"amr": "gate", "head": "saf"}, {"refinements": 1}],
    ids=str,
)
@pytest.mark.parametrize("count", [R, 1, 3])
def test_parts_add_up_to_the_score(changes: dict[str, Any], count: int) -> None:
    method = cefg(**changes)
    graphs = (3,) if changes.get("amr") else None
    a, b = images((count,)), captions((4,), graphs=graphs)
    found = method.explain(a, b)
    assert found.parts.shape == (4, count)
    assert float(found.parts.double().sum()) == pytest.approx(found.score, abs=1e-6)
    assert found.score == pytest.approx(scores(method, a, b).item(), abs=1e-6)
    assert float(found.parts.std()) > 1e-6 or count == 1


@pytest.mark.parametrize("head", HEADS)
def test_a_words_part_goes_where_it_attends(head: str) -> None:
    """What is left of each row after the evenly spread part is in proportion to the final attention."""
    method, a, b = cefg(head=head, sharpness=30.0), images((R,)), captions((4,))
    found = method.explain(a, b)
    _, passes = method.nodes(method.encode_images(a), method.encode_captions(b).vectors)
    attention = passes.attention[0].unflatten(1, (2, R)).sum(1)
    centred = found.parts - found.parts.mean(1, keepdim=True)
    slopes = (centred * (attention - 1 / R)).sum(1) / (attention - 1 / R).pow(2).sum(1)
    torch.testing.assert_close(centred, slopes[:, None] * (attention - 1 / R), atol=1e-6, rtol=1e-4)


def test_encoded_sets_survive_joining_and_picking() -> None:
    method = cefg()
    a, b = method.encode_images(images((R, 2, 4))), method.encode_captions(captions())
    joined = Encoded.concat([a.slice(0, 1), a.slice(1, 3)])
    torch.testing.assert_close(method.score(joined, b), method.score(a, b))
