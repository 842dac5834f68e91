import math

import pytest
import torch
from padded_batches import padded_captions, padded_images
from torch import Tensor, nn

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig, VitConfig
from patchword.encoders.projected import PatchMlp
from patchword.encoders.resnet import ResnetConfig
from patchword.methods.base import Step, ranking_loss
from patchword.methods.vse_inf import VseInfinity, VseInfinityConfig, pool, shares
from patchword.types import Captions, Images

BERT = BertConfig(
    arch={"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
)
GRID = ResnetConfig(layers=(1, 1, 1, 1), base_width=2, image_size=64)
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
REGIONS, WORDS = (5, 1, 3, 2), (4, 1, 2, 6, 3)
POOLINGS = ("gpo", "mean")


def vse(**changes: object) -> VseInfinity:
    """A small VSE-infinity in evaluation mode, its batch statistics settled."""
    torch.manual_seed(1)
    base = {"joint_dim": 8, "image": RegionsConfig(width=5), "text": BigruConfig(vocab_size=12, word_dim=6)}
    made = VseInfinity(VseInfinityConfig.model_validate({**base, **changes})).eval()
    nn.init.normal_(made.image.fc.bias)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return made


def images(lengths: tuple[int, ...] = REGIONS, *, extra: int = 0) -> Images:
    return padded_images(lengths, extra=extra)


def captions(lengths: tuple[int, ...] = WORDS, *, extra: int = 0) -> Captions:
    return padded_captions(lengths, extra=extra)


def scores(method: VseInfinity, a: Images, b: Captions) -> Tensor:
    return method.score(method.encode_images(a), method.encode_captions(b))


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_scores_equal_a_plain_computation_of_every_pair(pooling: str, residual: bool) -> None:
    method = vse(pooling=pooling, residual_mlp=residual)
    found = scores(method, images(), captions())
    for i, length in enumerate(REGIONS):
        rows = images().values[i, :length]
        features = method.image.fc(rows)
        if residual:
            assert method.image.mlp is not None
            norm = method.image.mlp.norm
            hidden = method.image.mlp.first(rows)
            hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
            features = features + method.image.mlp.second(hidden.clamp_min(0))
        v = plain_pool(method.image.pool, features)
        for j, size in enumerate(WORDS):
            tokens = captions().tokens[j : j + 1, :size]
            w = plain_pool(method.text_pool, method.text(tokens, torch.tensor([size]))[0])
            expected = sum(a * b for a, b in zip(v, w, strict=True))
            expected /= math.sqrt(sum(a * a for a in v)) * math.sqrt(sum(b * b for b in w))
            assert found[i, j].item() == pytest.approx(expected, abs=1e-5)


def plain_pool(gpo: nn.Module | None, vectors: Tensor) -> list[float]:
    """Pooled value of every dimension of one set."""
    count = len(vectors)
    weights = [1 / count] * count
    if gpo is not None:
        weights = gpo.weights(torch.tensor([count]))[0].tolist()
    return [
        sum(w * x for w, x in zip(weights, sorted(column, reverse=True), strict=True)) for column in vectors.T.tolist()
    ]


@pytest.mark.parametrize("padding", ["reference", "masked"])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_laws(pooling: str, residual: bool, padding: str) -> None:
    method = vse(pooling=pooling, residual_mlp=residual, mlp_padding=padding)
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
    parts = torch.cat([scores(method, images()[k : k + 3], captions()) for k in (0, 3)])  # any batch size
    same(parts, expected)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("image", [GRID, VIT], ids=["grid", "vit"])
def test_laws_over_pictures_with_bert(image: ResnetConfig | VitConfig, pooling: str) -> None:
    method = vse(image=image, residual_mlp=False, text=BERT, pooling=pooling)
    side = 64 if isinstance(image, ResnetConfig) else 32
    pixels = Images(torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0)))
    expected = scores(method, pixels, captions())
    same(scores(method, pixels, captions(extra=2)), expected)
    same(torch.cat([scores(method, pixels[k : k + 1], captions()) for k in range(3)]), expected)
    assert method.encode_images(pixels).lengths.tolist() == [1, 1, 1]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_explained_parts_add_up_to_the_score(pooling: str, unit: bool, residual: bool) -> None:
    method = vse(pooling=pooling, residual_mlp=residual, unit_images=unit, unit_captions=unit)
    for i, j in ((0, 0), (1, 1), (2, 3), (3, 4)):
        one = images()[i : i + 1]  # padding of the batch may stay
        other = captions()[j : j + 1]
        why = method.explain(one, other)
        assert why.parts.shape == (WORDS[j], REGIONS[i])
        assert why.score == pytest.approx(scores(method, one, other).item(), abs=1e-5)
        assert why.parts.sum().item() == pytest.approx(why.score, abs=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_explained_parts_over_pictures(pooling: str) -> None:
    method = vse(image=VIT, residual_mlp=False, text=BERT, pooling=pooling)
    pixels = Images(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3)))
    why = method.explain(pixels, captions((5,)))
    assert why.parts.shape == (5, 4)
    assert why.score == pytest.approx(scores(method, pixels, captions((5,))).item(), abs=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_vector_gets_the_weight_of_its_rank(pooling: str) -> None:
    gpo = vse(pooling=pooling).text_pool
    vectors = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(2))
    found = shares(gpo, vectors, torch.tensor([5]))  # the sixth is padding
    weights = [1 / 5] * 5 if gpo is None else gpo.weights(torch.tensor([5]))[0].tolist()
    for d, column in enumerate(vectors[0, :5].T.tolist()):
        ranks = [sorted(column, reverse=True).index(value) for value in column]
        expected = [weights[rank] * value for rank, value in zip(ranks, column, strict=True)]
        assert found[:, d].tolist() == pytest.approx(expected, abs=1e-6)


def test_padding_enters_the_training_statistics_in_the_reference_only() -> None:
    whole, ragged = images((4, 4)), images((4, 2))
    for batch, differ in ((whole, False), (ragged, True)):
        reference, masked = (vse(mlp_padding=p).train() for p in ("reference", "masked"))
        a, b = reference.encode_images(batch).vectors, masked.encode_images(batch).vectors
        assert ((a - b).abs().max() > 1e-3).item() is differ
        assert reference.image.mlp is not None
        assert masked.image.mlp is not None
        assert torch.allclose(reference.image.mlp.norm.running_mean, masked.image.mlp.norm.running_mean) is not differ
        same(vse(mlp_padding="reference").encode_images(batch).vectors, vse().encode_images(batch).vectors)


def test_masked_statistics_do_not_depend_on_padding() -> None:
    method = vse(mlp_padding="masked").train()
    a = method.encode_images(images()).vectors
    same(method.encode_images(images(extra=4)).vectors, a)
    method = vse(mlp_padding="reference").train()
    a = method.encode_images(images()).vectors
    assert (method.encode_images(images(extra=4)).vectors - a).abs().max() > 1e-3


def test_uncounted_slots_of_the_mlp_come_out_as_zeros() -> None:
    mlp = PatchMlp(5, 8).train()
    counted = torch.tensor([[True, True, False], [True, False, False]])
    out = mlp(torch.randn(2, 3, 5), counted)
    assert (out[~counted] == 0).all()
    assert (out[counted] != 0).any(1).all()


def test_vectors_are_unit_unless_asked_otherwise() -> None:
    for flag in (True, False):
        method = vse(unit_images=flag, unit_captions=flag)
        for found in (method.encode_images(images()), method.encode_captions(captions())):
            assert found.lengths.tolist() == [1] * len(found)
            assert torch.allclose(found.vectors.norm(dim=1), torch.ones(()), atol=1e-5) is flag


def test_mean_pooling_ignores_padding() -> None:
    vectors = torch.tensor([[[1.0], [3.0], [50.0]], [[2.0], [70.0], [9.0]]])
    assert pool(None, vectors, torch.tensor([2, 1])).tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("residual", [True, False])
def test_gradients_are_finite_from_fresh_weights_with_padding(pooling: str, residual: bool) -> None:
    method = vse(pooling=pooling, residual_mlp=residual).train()
    nn.init.zeros_(method.image.fc.bias)
    found = scores(method, images((4, 1, 3)), captions((5, 1, 3)))
    ranking_loss(method.loss, found, Step()).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_published_dimensions() -> None:
    method = VseInfinity(VseInfinityConfig(text=BigruConfig(vocab_size=11354))).eval()
    shapes = {name: tuple(value.shape) for name, value in method.state_dict().items()}
    assert shapes["image.fc.weight"] == (1024, 2048)
    assert shapes["image.mlp.first.weight"] == (512, 2048)
    assert shapes["image.mlp.second.weight"] == (1024, 512)
    assert shapes["image.pool.gru.weight_ih_l0_reverse"] == (96, 32)
    assert shapes["text_pool.linear.weight"] == (1, 32)
    assert shapes["text.embed.weight"] == (11354, 300)
    regions = Images(torch.randn(2, 36, 2048), torch.tensor([36, 30]))
    found = scores(method, regions, Captions(torch.randint(1, 11354, (3, 12)), torch.tensor([12, 5, 9])))
    assert found.shape == (2, 3)
    assert found.abs().max() <= 1
    with torch.device("meta"):
        grid = VseInfinity(VseInfinityConfig(image=ResnetConfig(), residual_mlp=False, text=BertConfig()))
    shapes = {name: tuple(value.shape) for name, value in grid.state_dict().items()}
    assert shapes["image.patches.backbone.layer3.22.conv3.weight"] == (1024, 256, 1, 1)
    assert shapes["text.bert.encoder.layer.11.output.dense.weight"] == (768, 3072)
    assert "image.mlp.first.weight" not in shapes
