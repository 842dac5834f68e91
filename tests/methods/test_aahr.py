import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import ShapeError
from patchword.layers.normalise import unit
from patchword.layers.training_rows import unpack
from patchword.methods.aahr import Aahr, AahrConfig, AahrLoss, GuidedHead
from patchword.methods.base import Step, is_training_only
from patchword.types import Captions, Images

BERT = BertConfig(
    arch={"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
)
REGIONS, WORDS = (5, 2, 3, 4), (4, 2, 3, 6)
IDS = torch.tensor([0, 1, 2, 0])


def aahr(loss: dict[str, Any] | None = None, **changes: object) -> Aahr:
    """A small AAHR in evaluation mode with settled weights."""
    torch.manual_seed(1)
    base = {
        "joint_dim": 8,
        "heads": 2,
        "guide_heads": 3,
        "clip_dim": 6,
        "top_k": 4,
        "dropout": 0.0,
        "convolution_dropout": 0.0,
        "prototypes": 5,
        "queue": 8,
        "image": RegionsConfig(width=5),
        "text": BigruConfig(vocab_size=12, word_dim=6),
    }
    made = Aahr(AahrConfig.model_validate({**base, **changes}), AahrLoss.model_validate(loss or {})).eval()
    with torch.no_grad():
        for name, value in [*made.named_parameters(), *made.named_buffers()]:
            if name.endswith((".bias", "running_mean")):
                torch.nn.init.normal_(value)  # zeros would hide what padded slots do
    return made


def clip(count: int, seed: int) -> dict[str, Tensor]:
    return {"clip": torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))}


def images(lengths: tuple[int, ...] = REGIONS, *, extra: int = 0) -> Images:
    values = torch.zeros(len(lengths), max(lengths) + extra, 5)
    for k, (row, length) in enumerate(zip(values, lengths, strict=True)):
        row[:length] = torch.randn(length, 5, generator=torch.Generator().manual_seed(10 * k + length))
    return Images(values, torch.tensor(lengths), extra=clip(len(lengths), 100))


def captions(lengths: tuple[int, ...] = WORDS, *, extra: int = 0) -> Captions:
    tokens = torch.zeros(len(lengths), max(lengths) + extra, dtype=torch.long)
    for k, (row, length) in enumerate(zip(tokens, lengths, strict=True)):
        row[:length] = torch.randint(1, 12, (length,), generator=torch.Generator().manual_seed(k))
    return Captions(tokens, torch.tensor(lengths), clip(len(lengths), 200))


@torch.no_grad()
def scores(method: Aahr, a: Images, b: Captions) -> Tensor:
    return method.score(method.encode_images(a), method.encode_captions(b))


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def step(number: int = 0, *, epoch: int = 0) -> Step:
    return Step(epoch=epoch, image_rows=IDS, step=number)


def plain_head(head: GuidedHead, fragments: Tensor, guide: Tensor | None) -> Tensor:
    """e of one item without padding, written out."""
    two = fragments.sort(dim=0, descending=True).values[:2].mean(0)
    given = two if guide is None else guide
    c = head.guide_a(given) + head.guide_b(given)
    y = head.graph(fragments[None], torch.tensor([len(fragments)]))[0]
    pooled, width = torch.zeros_like(c), len(c)
    for h in range(head.pool.heads):
        rows = slice(h * width, (h + 1) * width)
        q, k, v = (
            x @ layer.weight[rows].T + layer.bias[rows]
            for layer, x in ((head.pool.query, c), (head.pool.key, y), (head.pool.value, y))
        )
        attention = (k / k.norm(dim=1, keepdim=True) @ (q / q.norm())).softmax(0)
        pooled += attention @ v / head.pool.heads
    v = 0.8 * two + 0.2 * pooled
    v, c = v / v.norm(), c / c.norm()
    z = torch.sigmoid(head.gate.fc(torch.cat([v, c])))
    return z * v + (1 - z) * c


@torch.no_grad()
@pytest.mark.parametrize("guide", ["clip", "pooled"])
def test_scores_equal_a_plain_computation_of_every_pair(guide: str) -> None:
    method = aahr(guide=guide, pool_padding="masked")
    found = scores(method, images(), captions())
    patches, _ = method.image.features(images())
    for i, length in enumerate(REGIONS):
        own = images().extra["clip"][i] if guide == "clip" else None
        e = plain_head(method.image_head, patches[i, :length], own)
        for j, size in enumerate(WORDS):
            words = method.text(captions().tokens[j : j + 1, :size], torch.tensor([size]))[0]
            own = captions().extra["clip"][j] if guide == "clip" else None
            other = plain_head(method.text_head, words, own)
            assert found[i, j].item() == pytest.approx(float(e @ other), abs=1e-5)


@pytest.mark.parametrize("guide", ["clip", "pooled"])
@pytest.mark.parametrize("text", [BigruConfig(vocab_size=12, word_dim=6), BERT], ids=["bigru", "bert"])
def test_laws_of_masked_pooling(text: BigruConfig | BertConfig, guide: str) -> None:
    method = aahr(text=text, guide=guide, pool_padding="masked")
    expected = scores(method, images(), captions())
    same(scores(method, images(extra=3), captions(extra=4)), expected)  # padding
    order = torch.tensor([3, 0, 2, 1])
    extra = {"clip": captions().extra["clip"][order]}
    same(
        scores(method, images(), Captions(captions().tokens[order], captions().lengths[order], extra)),
        expected[:, order],
    )
    for i in range(4):  # one pair alone
        one = images()[i : i + 1]
        one = replace(one, values=one.values[:, : REGIONS[i]])
        for j in range(4):
            other = captions()[j : j + 1]
            other = replace(other, tokens=other.tokens[:, : WORDS[j]])
            same(scores(method, one, other), expected[i : i + 1, j : j + 1])


def test_padding_takes_part_in_the_published_pooling() -> None:
    method = aahr()
    assert (method.reads_padding, aahr(pool_padding="masked").reads_padding) == (True, False)
    before = method.encode_captions(captions()).vectors
    after = method.encode_captions(captions(extra=3)).vectors
    assert (before - after).abs().max() > 1e-3
    whole = replace(images((4, 4, 4, 4)), extra=images().extra)
    masked = aahr(pool_padding="masked")
    same(method.encode_images(whole).vectors, masked.encode_images(whole).vectors)  # nothing is padded


def test_vectors_are_not_normalised_again() -> None:
    lengths = aahr().encode_images(images()).vectors.norm(dim=1)
    assert (lengths < math.sqrt(2)).all()
    assert (lengths - 1).abs().min() > 1e-3


@pytest.mark.parametrize("guide", ["clip", "pooled"])
@pytest.mark.parametrize("is_unit", [True, False])
def test_explained_parts_add_up_to_the_score(guide: str, is_unit: bool) -> None:
    method = aahr(guide=guide, unit_images=is_unit, unit_captions=is_unit)
    for i, j in ((0, 0), (1, 1), (2, 3), (3, 2)):
        one, other = images()[i : i + 1], captions()[j : j + 1]
        alone = replace(one, values=one.values[:, : REGIONS[i]]), replace(other, tokens=other.tokens[:, : WORDS[j]])
        why = method.explain(one, other)
        assert why.parts.shape == (WORDS[j], REGIONS[i])
        assert why.score == pytest.approx(scores(method, *alone).item(), rel=1e-5, abs=1e-5)
        assert why.parts.sum().item() == pytest.approx(why.score, rel=1e-5, abs=1e-5)


def test_side_inputs_are_named_and_checked() -> None:
    method = aahr()
    assert (method.image_extras, method.caption_extras) == (("clip",), ("clip",))
    with pytest.raises(ShapeError, match="CLIP's vectors of the images were not given, the model reads 6"):
        method.encode_images(replace(images(), extra={}))
    with pytest.raises(ShapeError, match="of the captions have width 7, the model reads 6"):
        method.encode_captions(replace(captions(), extra={"clip": torch.zeros(4, 7)}))
    own = aahr(guide="pooled")
    assert (own.image_extras, own.caption_extras) == ((), ())
    assert own.encode_images(replace(images(), extra={})).lengths.tolist() == [1] * 4


def losses(method: Aahr, at: Step, *, seed: int = 0) -> dict[str, Tensor]:
    a, b = method.encode_images(images()), method.encode_captions(captions())
    torch.manual_seed(seed)
    return method.losses(method.score(a, b), a, b, at)


def test_every_part_takes_part_from_its_step_on() -> None:
    method = aahr({"graph_from_step": 3, "swav_from_step": 1, "base": "vse", "graph": "vse"}, queue=8).train()
    seen = []
    for number in range(4):
        method.begin_step(step(number))
        found = losses(method, step(number))
        seen.append(set(found) - {"total", "base"})
        total = sum(
            found.get(k, torch.zeros(())) * w for k, w in (("base", 1), ("graph", 1), ("swav", 0.2), ("moco", 1))
        )
        assert isinstance(total, Tensor)
        assert found["total"].item() == pytest.approx(total.item(), rel=1e-5)  # without the regulariser
    assert seen == [set(), {"swav"}, {"swav", "moco"}, {"swav", "moco", "graph", "regulariser"}]


def test_the_regulariser_is_only_logged() -> None:
    method = aahr({"graph_from_step": 0, "base": "vse", "graph": "vse"}).train()
    found = losses(method, step())
    assert found["regulariser"] > 0
    assert not found["regulariser"].requires_grad


def test_gradients_reach_everything_but_the_key_encoders() -> None:
    method = aahr({"graph_from_step": 0, "swav_from_step": 0, "base": "vse", "graph": "vse"}, queue=4).train()
    for number in range(2):
        method.zero_grad()
        method.begin_step(step(number))
        losses(method, step(number))["total"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("key_"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_a_queue_of_keys_fills_in_training_only() -> None:
    method = aahr(queue=8).train()
    assert method.queue is not None
    method.begin_step(step())
    a, b = method.encode_images(images()), method.encode_captions(captions())
    method.losses(method.score(a, b), a, b, step())
    assert int(method.queue.seen) == 4
    assert torch.equal(method.queue.images[:4], unpack(a, 3).heads[2])
    assert torch.equal(method.queue.captions[:4], unpack(b, 3).heads[2])
    method.eval()
    method.losses(method.score(a, b), a, b, step())
    assert int(method.queue.seen) == 4


def test_queries_of_the_queues_are_local_vectors_and_keys_fused_ones() -> None:
    method = aahr(queue=4).train()
    for number in range(2):
        method.begin_step(step(number))
        before = None if method.queue is None else (method.queue.images.clone(), method.queue.captions.clone())
        a, b = method.encode_images(images()), method.encode_captions(captions())
        found = method.losses(method.score(a, b), a, b, step(number))
    assert before is not None
    total = 0.0
    for query, key, queue in ((a, b, before[1]), (b, a, before[0])):
        q, k = unit(unpack(query, 3).heads[1]), unit(unpack(key, 3).heads[2])
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ unit(queue).T], dim=1).detach() / 0.07
        total -= float(logits.log_softmax(1)[:, 0].mean())
    assert found["moco"].item() == pytest.approx(total, rel=1e-4)


def test_key_encoders_follow() -> None:
    method = aahr(momentum=0.75).train()
    with torch.no_grad():
        method.text_head.gate.fc.bias += 1.0
    method.begin_step(step())  # the first step copies, whatever the momentum
    assert isinstance(method.key_text_head, GuidedHead)
    assert torch.equal(method.key_text_head.gate.fc.bias, method.text_head.gate.fc.bias)
    start = method.text_head.gate.fc.bias.detach().clone()
    with torch.no_grad():
        method.text_head.gate.fc.bias += 1.0
    method.begin_step(step(1))
    same(method.key_text_head.gate.fc.bias, start + 0.25)
    assert not any(p.requires_grad for name, p in method.named_parameters() if name.startswith("key_"))
    grouped = {id(p) for group in method.parameter_groups().values() for p in group}
    assert not any(id(p) in grouped for name, p in method.named_parameters() if name.startswith("key_"))
    assert all(id(p) in grouped for name, p in method.named_parameters() if not name.startswith("key_"))


def test_key_encoders_keep_their_modes() -> None:
    method = aahr(text=BERT, dropout=0.1)
    for mode in (True, False):
        method.train(mode)
        assert method.image.mlp.norm.training is mode
        for name in ("key_image", "key_image_head", "key_text_head"):
            assert all(m.training for m in method.get_submodule(name).modules()), name
        assert not any(m.training for m in method.get_submodule("key_text.bert").modules())
        assert method.get_submodule("key_text.linear").training


def test_keys_are_normalised_over_their_own_batch() -> None:
    method = aahr().train()
    method.begin_step(step())
    rows = unpack(method.encode_images(images()), 3)
    same(rows.heads[2], rows.heads[0])  # the same weights, and batch statistics too
    assert method.get_buffer("key_image.mlp.norm.num_batches_tracked") == 1


def test_prototypes_are_unit_vectors_in_every_step() -> None:
    method = aahr({"swav_from_step": 9}).train()
    assert method.prototypes is not None
    with torch.no_grad():
        method.prototypes *= 3.0
    losses(method, step())
    same(method.prototypes.norm(dim=1), torch.ones(5))


def test_parts_can_be_switched_off() -> None:
    method = aahr({"swav_from_step": 0}, prototypes=0, queue=0).train()
    method.begin_step(step())
    assert set(losses(method, step(9))) >= {"total", "base"}
    assert not any(k.startswith(("key_", "queue.", "prototypes")) for k in method.state_dict())
    assert unpack(method.encode_images(images()), 2).counts.tolist() == list(REGIONS)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_relations_without_a_positive_weight_keep_the_graph_finite(weight: float) -> None:
    method = aahr({"graph_from_step": 0}, threshold=0.4, mask_weight=weight, prototypes=0, queue=0).train()
    a, b = method.encode_images(images()), method.encode_captions(captions())
    parts, graph, _ = method.criterion(method.score(a, b), a, b, step())
    assert graph is not None
    assert not graph.connect.all()
    assert (graph.mask[~graph.connect] == -torch.inf).all()
    torch.autograd.backward(parts["total"])
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_what_only_training_needs_is_left_out_of_checkpoints() -> None:
    method = aahr()
    kept = {k for k in method.state_dict() if not is_training_only(method, k)}
    assert {k.partition(".")[0] for k in kept} == {"image", "image_head", "text", "text_head"}
    left_out = set(method.state_dict()) - kept
    assert {"prototypes", "queue.images", "queue.seen", "key_started", "graph.by_all.weight"} <= left_out


def test_published_dimensions() -> None:
    with torch.device("meta"):
        method = Aahr(AahrConfig())
    shapes = {name: tuple(value.shape) for name, value in method.state_dict().items()}
    assert shapes["image_head.guide_a.weight"] == (1024, 512)
    assert shapes["text_head.pool.key.weight"] == (8 * 1024, 1024)
    assert shapes["image_head.gate.fc.weight"] == (1024, 2048)
    assert shapes["prototypes"] == (384, 1024)
    assert shapes["queue.captions"] == (2048, 1024)
    assert sum(p.numel() for p in method.image_head.pool.parameters()) == 25_190_400
    image = sum(p.numel() for name in ("image", "image_head") for p in method.get_submodule(name).parameters())
    assert image == pytest.approx(38.3e6, rel=0.01)
    loss = method.loss
    assert (loss.graph_from_step, loss.swav_from_step, loss.swav_weight, loss.all_negatives) == (
        8000,
        2201,
        0.2,
        "mean",
    )
