import math
from itertools import product

import pytest
import torch
from padded_batches import padded_captions, padded_images
from torch import Tensor

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.methods.base import Step, ranking_loss
from patchword.methods.chan import Chan, ChanConfig
from patchword.types import Captions, Encoded, Images

CODINGS = ("vha", "tha", "vsa")
POOLINGS = ("mean", "max", "sum", "lse", "softmax")
BOTH = list(product(CODINGS, POOLINGS))
CONTEXTS = ("none", "self_attention")
BERT = BertConfig(
    arch={"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
)
REGIONS, WORDS = (5, 1, 3, 2), (4, 1, 2, 6, 3)


def chan(**changes: object) -> Chan:
    """A small CHAN in evaluation mode with settled weights."""
    torch.manual_seed(1)
    base = {
        "joint_dim": 8,
        "heads": 2,
        "image": RegionsConfig(width=5),
        "text": BigruConfig(vocab_size=12, word_dim=6, embedding="xavier"),
    }
    made = Chan(ChanConfig.model_validate({**base, **changes})).eval()
    torch.nn.init.normal_(made.image.fc.bias)  # a zero bias would hide what padded slots do
    return made


def sets(lengths: tuple[int, ...], seed: int, *, scale: float | None = None) -> Encoded:
    """Vector sets of given sizes; unit vectors without ``scale``."""
    vectors = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(seed))
    vectors = vectors / vectors.norm(dim=1, keepdim=True) if scale is None else vectors * scale
    return Encoded(vectors, torch.tensor(lengths))


def images(lengths: tuple[int, ...] = REGIONS, *, extra: int = 0) -> Images:
    return padded_images(lengths, extra=extra)


def captions(lengths: tuple[int, ...] = WORDS, *, extra: int = 0) -> Captions:
    return padded_captions(lengths, extra=extra)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def plain_codes(v: list[list[float]], w: list[list[float]], coding: str, alpha: float) -> list[float]:
    """Codes of one pair, by loops over its real patches and words."""
    if coding == "vha":
        return [max(dot(patch, word) for patch in v) for word in w]
    if coding == "tha":
        return [max(dot(patch, word) for word in w) for patch in v]
    codes = []
    for patch in v:
        powers = [math.exp(dot(patch, word) / alpha) for word in w]
        mixed = [sum(p * word[d] for p, word in zip(powers, w, strict=True)) / sum(powers) for d in range(8)]
        codes.append(dot(patch, mixed) / (math.sqrt(dot(mixed, mixed)) + 1e-8))
    return codes


def plain_pool(codes: list[float], pooling: str, belta: float) -> float:
    """Score of one pair from its codes."""
    powers = [math.exp(z / belta) for z in codes]
    return {
        "mean": sum(codes) / len(codes),
        "max": max(codes),
        "sum": sum(codes),
        "lse": math.log(sum(powers)),
        "softmax": sum(p * z for p, z in zip(powers, codes, strict=True)) / sum(powers),
    }[pooling]


@pytest.mark.parametrize(("coding", "pooling"), BOTH)
@pytest.mark.parametrize(("alpha", "belta"), [(0.1, 0.1), (0.5, 0.3)])
@pytest.mark.parametrize("scale", [None, 0.9])
def test_equal_to_plain_loops_over_pairs(
    coding: str, pooling: str, alpha: float, belta: float, scale: float | None
) -> None:
    method = chan(coding=coding, pooling=pooling, coding_temperature=alpha, pooling_temperature=belta)
    patches, words = sets(REGIONS, 2, scale=scale), sets(WORDS, 3, scale=scale)
    found = method.score(patches, words)
    assert found.shape == (len(REGIONS), len(WORDS))
    for i, j in product(range(len(REGIONS)), range(len(WORDS))):
        v, w = (s.slice(k, k + 1).vectors.tolist() for s, k in ((patches, i), (words, j)))
        expected = plain_pool(plain_codes(v, w, coding, alpha), pooling, belta)
        assert found[i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def scores(method: Chan, a: Images, b: Captions) -> Tensor:
    return method.score(method.encode_images(a), method.encode_captions(b))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("coding", "pooling"), BOTH)
def test_laws(context: str, coding: str, pooling: str) -> None:
    hidden = "reference" if context == "transformer" else "masked"
    method = chan(context=context, coding=coding, pooling=pooling, attention_padding=hidden)
    expected = scores(method, images(), captions())
    assert expected.isfinite().all()

    def same(found: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    same(scores(method, images(extra=3), captions(extra=4)), expected)  # padding
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = Captions(captions().tokens[order], captions().lengths[order])
    same(scores(method, images(), shuffled), expected[:, order])  # permuted captions, permuted columns
    patches, words = method.encode_images(images()), method.encode_captions(captions())
    same(method.score(patches.select(torch.tensor([2, 0])), words), expected[[2, 0]])
    for i, length in enumerate(REGIONS):  # one pair alone
        one = method.encode_images(Images(images().values[i : i + 1, :length], images().lengths[i : i + 1]))
        for j, size in enumerate(WORDS):
            other = Captions(captions().tokens[j : j + 1, :size], captions().lengths[j : j + 1])
            same(method.score(one, method.encode_captions(other)), expected[i : i + 1, j : j + 1])
    parts = [method.encode_images(images()[k : k + 2]) for k in (0, 2)]  # any batch size
    same(method.score(Encoded.concat(parts), words), expected)


@pytest.mark.parametrize(("coding", "pooling"), BOTH)
def test_bert_captions_do_not_depend_on_padding(coding: str, pooling: str) -> None:
    method = chan(text=BERT, coding=coding, pooling=pooling)
    found = scores(method, images((3, 3)), captions(extra=5))
    torch.testing.assert_close(found, scores(method, images((3, 3)), captions()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("coding", "pooling"), BOTH)
@pytest.mark.parametrize("sizes", [((1, 1), (1, 1)), ((1, 4), (1, 5)), ((3, 1), (1, 1))])
def test_single_regions_and_single_words(
    coding: str, pooling: str, sizes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    method = chan(coding=coding, pooling=pooling)
    patches, words = sets(sizes[0], 5), sets(sizes[1], 6)
    found = method.score(patches, words)
    for i, j in product(range(2), range(2)):
        v, w = (s.slice(k, k + 1).vectors.tolist() for s, k in ((patches, i), (words, j)))
        assert found[i, j].item() == pytest.approx(plain_pool(plain_codes(v, w, coding, 0.1), pooling, 0.1), abs=1e-5)


@pytest.mark.parametrize("context", [*CONTEXTS, "transformer"])
@pytest.mark.parametrize(("coding", "pooling"), BOTH)
def test_explained_parts_add_up_to_the_score(context: str, coding: str, pooling: str) -> None:
    method = chan(context=context, coding=coding, pooling=pooling)
    for i, j in ((0, 0), (1, 1), (2, 3)):
        one = Images(images().values[i : i + 1, : REGIONS[i]], images().lengths[i : i + 1])
        other = Captions(captions().tokens[j : j + 1, : WORDS[j]], captions().lengths[j : j + 1])
        why = method.explain(one, other)
        assert why.parts.shape == (WORDS[j], REGIONS[i])
        assert why.score == pytest.approx(scores(method, one, other).item(), abs=1e-5)
        assert why.parts.sum().item() == pytest.approx(why.score, abs=1e-5)


def test_explanations_point_at_the_assigned_patch() -> None:
    for coding, axis in (("vha", 1), ("tha", 0)):
        method = chan(coding=coding, pooling="sum", context="none")
        one, other = images((4,)), captions((5,))
        why = method.explain(one, other)
        s = method.encode_captions(other).vectors @ method.encode_images(one).vectors.T
        assert ((why.parts != 0).sum(axis) == 1).all()
        torch.testing.assert_close(why.parts.sum(axis), s.amax(axis))
        assert torch.equal(why.parts.abs().argmax(axis), s.argmax(axis))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("pooling", ["mean", "max", "sum", "lse"])
def test_the_padding_sentinel_is_equal_for_unit_vectors(coding: str, pooling: str) -> None:
    clean, sentinel = (chan(coding=coding, pooling=pooling, score_padding=p) for p in ("masked", "reference"))
    patches, words = sets(REGIONS, 2), sets(WORDS, 3)
    torch.testing.assert_close(sentinel.score(patches, words), clean.score(patches, words))


@pytest.mark.parametrize("coding", ["vha", "tha"])
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_the_padding_sentinel_differs_below_minus_one(coding: str, pooling: str) -> None:
    clean, sentinel = (chan(coding=coding, pooling=pooling, score_padding=p) for p in ("masked", "reference"))
    lengths = torch.tensor([2, 1])
    patches = Encoded(torch.full((3, 8), -1.0), lengths)
    words = Encoded(torch.ones(3, 8), lengths)  # every similarity is -8: the sentinel -1 wins, and is then ignored
    assert (clean.score(patches, words) < -1).all()
    assert not torch.equal(sentinel.score(patches, words), clean.score(patches, words))
    full = (patches.slice(0, 1), words.slice(0, 1))  # without padding there is no sentinel
    torch.testing.assert_close(sentinel.score(*full), clean.score(*full))


def test_the_sentinel_makes_softmax_pooling_nan_where_there_is_padding() -> None:
    sentinel = chan(coding="vha", pooling="softmax", score_padding="reference")
    found = sentinel.score(sets((3, 3), 1), sets((4, 2), 2))
    assert found[:, 1].isnan().all()
    assert found[:, 0].isfinite().all()
    assert chan(coding="vha", pooling="softmax").score(sets((3, 3), 1), sets((4, 2), 2)).isfinite().all()


def test_attention_over_padding_differs_only_when_there_is_padding() -> None:
    reference, masked = (chan(attention_padding=p) for p in ("reference", "masked"))
    whole = images((4, 4))
    torch.testing.assert_close(reference.encode_images(whole).vectors, masked.encode_images(whole).vectors)
    ragged = images((4, 2))
    a, b = reference.encode_images(ragged), masked.encode_images(ragged)
    torch.testing.assert_close(a.vectors[:4], b.vectors[:4])
    assert (a.vectors[4:] - b.vectors[4:]).abs().max() > 1e-3


def test_the_transformer_context_mixes_images_as_the_authors_code_does() -> None:
    method = chan(context="transformer")
    together, alone = method.encode_images(images((3, 3))), method.encode_images(images((3,)))
    assert (together.vectors[:3] - alone.vectors).abs().max() > 1e-3


def test_vectors_are_unit_unless_asked_otherwise() -> None:
    for flag in (True, False):
        method = chan(unit_patches=flag, unit_words=flag)
        for found in (method.encode_images(images()), method.encode_captions(captions())):
            norms = found.vectors.norm(dim=1)
            assert torch.allclose(norms, torch.ones(()), atol=1e-5) is flag


@pytest.mark.parametrize("context", [*CONTEXTS, "transformer"])
@pytest.mark.parametrize(("coding", "pooling"), BOTH)
def test_gradients_are_finite_from_fresh_weights_with_padding(context: str, coding: str, pooling: str) -> None:
    method = chan(context=context, coding=coding, pooling=pooling).train()
    torch.nn.init.zeros_(method.image.fc.bias)  # as at the start of training: padded slots are exact zeros
    lengths = (4, 2, 3)
    found = scores(method, images(lengths), captions((5, 1, 3)))
    ranking_loss(method.loss, found, Step()).backward()
    grads = {name: p.grad for name, p in method.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in grads.values()), grads.keys()
    assert any((g != 0).any() for n, g in grads.items() if g is not None and n.startswith("image"))


def test_published_dimensions() -> None:
    gru = Chan(ChanConfig(text=BigruConfig(vocab_size=8482, embedding="xavier")))
    shapes = {name: tuple(value.shape) for name, value in gru.state_dict().items()}
    assert shapes["image.fc.weight"] == (1024, 2048)
    assert shapes["image.context.attn.in_proj_weight"] == (3072, 1024)
    assert shapes["text.embed.weight"] == (8482, 300)
    assert shapes["text.rnn.weight_hh_l0_reverse"] == (3072, 1024)
    patches = gru.encode_images(Images(torch.randn(2, 36, 2048), torch.tensor([36, 30])))
    words = gru.encode_captions(Captions(torch.randint(1, 8482, (3, 12)), torch.tensor([12, 5, 9])))
    found = gru.score(patches, words)
    assert found.shape == (2, 3)
    assert (found > 1).all()  # LSE scores lie around 1 / temperature
    with torch.device("meta"):
        bert = Chan(ChanConfig(text=BertConfig(), context="none", pooling="mean"))
    shapes = {name: tuple(value.shape) for name, value in bert.state_dict().items()}
    assert shapes["text.bert.embeddings.word_embeddings.weight"] == (30522, 768)
    assert shapes["text.linear.weight"] == (1024, 768)
    # BERT-base without its pooler, plus the two projections
    pooler, projections = 768 * 769, 1024 * (769 + 2049)
    assert sum(p.numel() for p in bert.parameters()) == 109_482_240 - pooler + projections


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="joint_dim 30 is not a multiple of heads 8"):
        ChanConfig(joint_dim=30)


def test_only_the_transformer_context_mixes_the_batch() -> None:
    text = BigruConfig(vocab_size=9, word_dim=4)
    mixing = {
        context: Chan(
            ChanConfig(joint_dim=8, heads=2, context=context, image=RegionsConfig(width=4), text=text)
        ).mixes_batch
        for context in ("none", "self_attention", "transformer")
    }
    assert mixing == {"none": False, "self_attention": False, "transformer": True}


def test_a_padding_that_the_transformer_context_does_not_hide_is_refused() -> None:
    with pytest.raises(ValueError, match="attention_padding masked hides nothing from context transformer"):
        ChanConfig(context="transformer", attention_padding="masked")
    assert ChanConfig(context="none", attention_padding="masked").heads == 8
