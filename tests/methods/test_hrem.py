import math
from typing import Any

import pytest
import torch
from padded_batches import padded_captions, padded_images
from pydantic import ValidationError
from torch import Tensor

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig, VitConfig
from patchword.layers.training_rows import unpack
from patchword.methods.base import Step, is_training_only
from patchword.methods.hrem import Hrem, HremConfig, HremLoss
from patchword.types import Captions, Images

BERT = BertConfig(
    arch={"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
)
VIT = VitConfig(
    arch={
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 32,
        "patch_size": 16,
    }
)
REGIONS, WORDS = (5, 2, 3, 4, 6), (4, 2, 3, 6, 3)
IDS = torch.tensor([0, 1, 2, 3, 0])


def hrem(loss: dict[str, Any] | None = None, **changes: object) -> Hrem:
    """A small HREM in evaluation mode with settled weights."""
    torch.manual_seed(1)
    base = {
        "joint_dim": 8,
        "heads": 2,
        "top_k": 4,
        "dropout": 0.0,
        "image": RegionsConfig(width=5),
        "text": BigruConfig(vocab_size=12, word_dim=6),
    }
    made = Hrem(HremConfig.model_validate({**base, **changes}), HremLoss.model_validate(loss or {})).eval()
    with torch.no_grad():
        for name, value in [*made.named_parameters(), *made.named_buffers()]:
            if name.endswith((".bias", "running_mean")):
                torch.nn.init.normal_(value)  # zeros would hide what padded slots do
    return made


def images(lengths: tuple[int, ...] = REGIONS, *, extra: int = 0) -> Images:
    return padded_images(lengths, extra=extra)


def captions(lengths: tuple[int, ...] = WORDS, *, extra: int = 0) -> Captions:
    return padded_captions(lengths, extra=extra)


def scores(method: Hrem, a: Images, b: Captions) -> Tensor:
    with torch.no_grad():
        return method.score(method.encode_images(a), method.encode_captions(b))


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def step(number: int = 0, *, epoch: int = 0) -> Step:
    return Step(epoch=epoch, image_rows=IDS, step=number)


def plain_pool(fragments: Tensor, enhanced: Tensor) -> list[float]:
    """0.8 * mean of the two largest values + 0.2 * mean, of every dimension, divided by the length of the result."""
    vector = []
    for before, after in zip(fragments.T.tolist(), enhanced.T.tolist(), strict=True):
        best = sorted(before, reverse=True)[:2]
        vector.append(0.8 * sum(best) / len(best) + 0.2 * sum(after) / len(after))
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def plain_layer(layer: torch.nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
    """A post-norm transformer layer over one sequence, written out."""
    width, heads = x.shape[1], layer.self_attn.num_heads
    q, k, v = (x @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, dim=1)
    mixed = []
    for h in range(heads):
        part = slice(h * width // heads, (h + 1) * width // heads)
        attention = (q[:, part] @ k[:, part].T / math.sqrt(width / heads)).softmax(1)
        mixed.append(attention @ v[:, part])
    x = layer.norm1(x + layer.self_attn.out_proj(torch.cat(mixed, dim=1)))
    return layer.norm2(x + layer.linear2(layer.linear1(x).clamp_min(0)))


@torch.no_grad()
def test_scores_equal_a_plain_computation_of_every_pair() -> None:
    method = hrem()
    found = scores(method, images(), captions())
    for i, length in enumerate(REGIONS):
        rows = images().values[i, :length]
        norm = method.image.mlp.norm
        hidden = method.image.mlp.first(rows)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        patches = method.image.fc(rows) + method.image.mlp.second(hidden.clamp_min(0))
        v = plain_pool(patches, plain_layer(method.image_pool.graph.layer, patches))
        for j, size in enumerate(WORDS):
            words = method.text(captions().tokens[j : j + 1, :size], torch.tensor([size]))[0]
            w = plain_pool(words, plain_layer(method.text_pool.graph.layer, words))
            assert found[i, j].item() == pytest.approx(sum(a * b for a, b in zip(v, w, strict=True)), abs=1e-5)


@pytest.mark.parametrize("text", [BigruConfig(vocab_size=12, word_dim=6), BERT], ids=["bigru", "bert"])
def test_laws(text: BigruConfig | BertConfig) -> None:
    method = hrem(text=text)
    expected = scores(method, images(), captions())
    same(scores(method, images(extra=3), captions(extra=4)), expected)  # padding
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = Captions(captions().tokens[order], captions().lengths[order])
    same(scores(method, images(), shuffled), expected[:, order])
    for i, length in enumerate(REGIONS):  # one pair alone
        one = Images(images().values[i : i + 1, :length], images().lengths[i : i + 1])
        for j, size in enumerate(WORDS):
            other = Captions(captions().tokens[j : j + 1, :size], captions().lengths[j : j + 1])
            same(scores(method, one, other), expected[i : i + 1, j : j + 1])
    same(torch.cat([scores(method, images()[k : k + 3], captions()) for k in (0, 3)]), expected)  # any batch size


def test_an_image_of_one_region_changes_later_ones_in_the_reference_only() -> None:
    batch = images((5, 1, 4))
    for short_sets, differs in (("reference", True), ("own", False)):
        method = hrem(short_sets=short_sets)
        whole = method.encode_images(batch).vectors
        alone = torch.cat([method.encode_images(batch[k : k + 1]).vectors for k in range(3)])
        same(whole[:2], alone[:2])
        assert ((whole[2] - alone[2]).abs().max() > 1e-3).item() is differs


def test_laws_over_pictures() -> None:
    method = hrem(image=VIT)
    pixels = Images(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    expected = scores(method, pixels, captions())
    same(torch.cat([scores(method, pixels[k : k + 1], captions()) for k in range(3)]), expected)
    why = method.explain(pixels[1:2], captions()[0:1])
    assert why.parts.shape == (WORDS[0], 4)
    assert why.parts.sum().item() == pytest.approx(expected[1, 0].item(), abs=1e-5)


@pytest.mark.parametrize("unit", [True, False])
def test_explained_parts_add_up_to_the_score(unit: bool) -> None:
    method = hrem(unit_images=unit, unit_captions=unit)
    found = scores(method, images(), captions())
    for i, j in ((0, 0), (1, 1), (2, 3), (4, 4)):
        why = method.explain(images()[i : i + 1], captions()[j : j + 1])  # padding of the batch may stay
        assert why.parts.shape == (WORDS[j], REGIONS[i])
        assert why.score == pytest.approx(found[i, j].item(), abs=1e-5)
        assert why.parts.sum().item() == pytest.approx(why.score, abs=1e-5)
    one = method.explain(images((1,)), captions((1,)))
    assert one.parts.shape == (1, 1)


def test_training_sets_hold_the_plain_vector_first() -> None:
    method = hrem().train()
    a, b = method.encode_images(images()), method.encode_captions(captions())
    assert a.lengths.tolist() == [3 + max(REGIONS)] * 5
    assert b.lengths.tolist() == [3 + max(WORDS)] * 5
    rows = unpack(b, 2)
    assert rows.counts.tolist() == list(WORDS)
    same(rows.heads[0], rows.heads[1] / rows.heads[1].norm(dim=1, keepdim=True))
    same(method.score(a, b), unpack(a, 2).heads[0] @ rows.heads[0].T)
    assert method.eval().encode_images(images()).lengths.tolist() == [1] * 5
    assert method.train().has_batch_statistics  # so that a part of a batch is refused


def losses(method: Hrem, at: Step, *, seed: int = 0) -> dict[str, Tensor]:
    a, b = method.encode_images(images()), method.encode_captions(captions())
    torch.manual_seed(seed)
    return method.losses(method.score(a, b), a, b, at)


@pytest.mark.parametrize("base", ["trip", "vse"])
@pytest.mark.parametrize("graph", ["trip", "vse"])
def test_the_graph_takes_part_from_its_step_on(base: str, graph: str) -> None:
    method = hrem({"graph_from_step": 5, "base": base, "graph": graph}).train()
    before, after = losses(method, step(4)), losses(method, step(5))
    assert set(before) - {"trip_zeroed", "trip_far_anchors", "trip_above_one"} == {"total", "base"}
    assert before["total"].item() == before["base"].item()
    total = after["base"] + after["graph"] + 10 * after["regulariser"]
    assert after["total"].item() == pytest.approx(total.item(), rel=1e-6)
    assert after["graph"] > 0
    assert ("trip_zeroed" in before) is (base == "trip")
    assert ("trip_zeroed" in after) is ("trip" in (base, graph))
    assert after["base"].grad_fn is None  # only the total is to be optimised


def test_gradients_reach_everything_from_the_graph_on() -> None:
    method = hrem({"graph_from_step": 1, "base": "vse", "graph": "vse"}).train()
    losses(method, step(0))["total"].backward()
    assert all(p.grad is None for name, p in method.named_parameters() if name.startswith("graph."))
    losses(method, step(1))["total"].backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert not name.startswith("graph.") or parameter.grad.abs().sum() > 0, name


def test_the_regulariser_trains_the_relations() -> None:
    gradients = []
    for weight in (0.0, 10.0):
        method = hrem({"graph_from_step": 0, "base": "vse", "graph": "vse", "regulariser": weight}).train()
        losses(method, step())["total"].backward()
        gradients.append(method.graph.relation.i2t[2].weight.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-4


def test_the_graph_reads_unit_vectors_unless_asked_for_raw_ones() -> None:
    found = []
    for inputs in ("unit", "raw"):
        method = hrem({"graph_from_step": 0, "base": "vse", "graph": "vse"}, graph_input=inputs).train()
        a, b = method.encode_images(images()), method.encode_captions(captions())
        _, graph, _ = method.criterion(method.score(a, b), a, b, step())
        assert graph is not None
        found.append(graph)
    assert torch.equal(found[0].mask, found[1].mask)
    assert (found[0].enhanced - found[1].enhanced).abs().max() > 1e-3


def test_connections_and_relations_of_a_batch() -> None:
    method = hrem({"graph_from_step": 0}, threshold=0.4, mask_weight=1.5).train()
    a, b = method.encode_images(images()), method.encode_captions(captions())
    _, graph, _ = method.criterion(method.score(a, b), a, b, step())
    assert graph is not None
    assert (graph.connect[:, :5].sum(1) >= 2).all()  # int(5 * 0.4) of each modality, ties on top
    assert graph.connect.diagonal().all()
    assert (graph.mask[~graph.connect] == -torch.inf).all()
    same(graph.mask[graph.connect], 1.5 * graph.relation[graph.connect])
    e = unpack(a, 2).heads[0]
    same(graph.relation[:5, :5], torch.exp(-(e[:, None] - e[None]).norm(dim=2)))


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_relations_without_a_positive_weight_keep_the_graph_finite(weight: float) -> None:
    method = hrem({"graph_from_step": 0}, threshold=0.4, mask_weight=weight).train()
    a, b = method.encode_images(images()), method.encode_captions(captions())
    parts, graph, _ = method.criterion(method.score(a, b), a, b, step())
    assert graph is not None
    assert (graph.mask[~graph.connect] == -torch.inf).all()
    same(graph.mask[graph.connect], weight * graph.relation[graph.connect])
    torch.autograd.backward(parts["total"])
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_only_the_graph_is_left_out_of_checkpoints() -> None:
    method = hrem()
    left_out = {k for k in method.state_dict() if is_training_only(method, k)}
    assert left_out == {k for k in method.state_dict() if k.startswith("graph.")}
    assert {"graph.attention.layers.0.linear1.weight", "graph.relation.t2i.0.weight"} <= left_out


def test_groups_follow_the_towers() -> None:
    groups = hrem(text=BERT).parameter_groups()
    names = {id(p): name for name, p in hrem(text=BERT).named_parameters()}
    assert set(groups) == {"image", "text", "text_backbone", "matching"}
    assert sum(map(len, groups.values())) == len(names)


def test_padding_enters_the_training_statistics_in_the_reference_only() -> None:
    results = []
    for padding in ("reference", "masked"):
        method = hrem(mlp_padding=padding).train()
        a, b = (unpack(method.encode_images(images(extra=k)), 2).heads[0].detach() for k in (0, 3))
        results.append(float((a - b).abs().max()))
    assert results[0] > 1e-3
    assert results[1] < 1e-5


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValidationError, match="joint_dim 10 is not a multiple of heads 4"):
        HremConfig(joint_dim=10, heads=4)


def test_published_dimensions() -> None:
    with torch.device("meta"):
        method = Hrem(HremConfig())
    shapes = {name: tuple(value.shape) for name, value in method.state_dict().items()}
    assert shapes["image.fc.weight"] == (1024, 2048)
    assert shapes["image.mlp.first.weight"] == (512, 2048)
    assert shapes["image_pool.graph.layer.self_attn.in_proj_weight"] == (3072, 1024)
    assert shapes["text_pool.graph.layer.linear1.weight"] == (1024, 1024)
    assert shapes["text.linear.weight"] == (1024, 768)
    assert shapes["graph.relation.i2t.0.weight"] == (10, 10)
    assert method.image_pool.graph.layer.self_attn.num_heads == 16
    loss = method.loss
    assert (loss.graph_from_step, loss.regulariser, loss.trip_cutoff, loss.base) == (8000, 10.0, 1.7, "trip")
