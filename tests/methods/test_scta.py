"""SCTA and LAPS against plain loops, and the laws that every method keeps."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from padded_batches import padded_captions, padded_images
from plain_scta import plain_score
from torch import Tensor

from patchword.encoders.all_tokens import ClassVitConfig, SwinPatchConfig, patch_count
from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.layers.condense import draw_heads, image_shares, keep_highest, patch_scores, word_bank, word_counts
from patchword.methods.base import Method, Step, ranking_loss
from patchword.methods.scta import Laps, LapsConfig, Scta, SctaConfig, SctaLoss
from patchword.scoring.matrix import pair_scores, score_matrix
from patchword.types import Captions, Encoded, Images

REGIONS, WORDS = (9, 4, 7, 1), (4, 1, 2, 11, 6)
D = 10
VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 12,
    "patch_size": 4,
}
BERT = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
KINDS = ("scta", "laps", "scta_vit", "laps_vit")


def made(kind: str, **changes: Any) -> Scta:
    """A small model in evaluation mode whose condensers are far from flat."""
    torch.manual_seed(1)
    base: dict[str, Any] = {"joint_dim": D, "patches": 20, "text": BigruConfig(vocab_size=12, word_dim=6)}
    base["image"] = ClassVitConfig(arch=VIT) if kind.endswith("vit") else RegionsConfig(width=5)
    base |= changes
    method = Laps(LapsConfig(**base)) if kind.startswith("laps") else Scta(SctaConfig(**base))
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if "condenser" in name:
                parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.7 if parameter.ndim < 2 else 1.5)
        if hasattr(method, "bank"):
            method.bank.mul_(6)
    return method.eval()


def images(kind: str, *, extra: int = 0) -> Images:
    if kind.endswith("vit"):
        return Images(torch.randn(len(REGIONS), 3, 12, 12, generator=torch.Generator().manual_seed(3)))
    return padded_images(REGIONS, extra=extra)


def captions(lengths: tuple[int, ...] = WORDS, *, extra: int = 0) -> Captions:
    return padded_captions(lengths, extra=extra)


def encoded(method: Method, kind: str) -> tuple[Encoded, Encoded]:
    with torch.no_grad():
        return method.encode_images(images(kind)), method.encode_captions(captions())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_ratio", [0.5, 0.8, 1.0])
def test_equal_to_plain_loops_over_pairs(kind: str, keep_ratio: float) -> None:
    method = made(kind, keep_ratio=keep_ratio, patch_ratio=0.4)
    a, b = encoded(method, kind)
    found = method.score(a, b)
    assert found.shape == (len(REGIONS), len(WORDS))
    assert found.std() > 0.01
    head = method.bank.double().numpy() if kind.startswith("scta") else np.zeros(0)
    for i, j in product(range(len(a)), range(len(b))):
        rows, words = (s.slice(k, k + 1).vectors.double().numpy() for s, k in ((a, i), (b, j)))
        assert found[i, j].item() == pytest.approx(plain_score(method, rows, words, head), abs=2e-6)


def test_the_score_depends_on_every_part() -> None:
    method = made("scta_vit")
    a, b = encoded(method, "scta_vit")
    before = method.score(a, b)
    for name, parameter in method.named_parameters():
        if "condenser" in name:
            kept = parameter.data.clone()
            parameter.data = kept + 0.3 * torch.linspace(-1, 1, kept.numel()).view(kept.shape) + 0.2
            assert (method.score(a, b) - before).abs().max() > 1e-5, name
            parameter.data = kept


@pytest.mark.parametrize("kind", KINDS)
def test_laws(kind: str) -> None:
    method = made(kind)
    expected = method.score(*encoded(method, kind))

    def same(found: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    with torch.no_grad():
        patches, words = encoded(method, kind)
        padded = method.encode_images(images(kind, extra=3)), method.encode_captions(captions(extra=4))
        same(method.score(*padded), expected)
        order = torch.tensor([3, 0, 4, 2, 1])
        shuffled = Captions(captions().tokens[order], captions().lengths[order])
        same(method.score(patches, method.encode_captions(shuffled)), expected[:, order])
        same(method.score(patches.select(torch.tensor([2, 0])), words), expected[[2, 0]])
        for i, j in product(range(len(REGIONS)), range(len(WORDS))):  # one pair alone
            one = Captions(captions().tokens[j : j + 1, : WORDS[j]], captions().lengths[j : j + 1])
            same(method.score(patches.slice(i, i + 1), method.encode_captions(one)), expected[i : i + 1, j : j + 1])
        parts = [method.encode_images(images(kind)[k : k + 3]) for k in (0, 3)]
        same(method.score(Encoded.concat(parts), words), expected)
        for tile in ((1, 1), (2, 3), (9, 9)):  # any shard size
            same(score_matrix(method, patches, words, tile=tile), expected)


def test_bert_captions_do_not_depend_on_padding() -> None:
    method = made("scta", text=BertConfig(arch=BERT))
    with torch.no_grad():
        rows = method.encode_images(images("scta"))
        alone = method.score(rows, method.encode_captions(captions()))
        padded = method.score(rows, method.encode_captions(captions(extra=5)))
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- choosing and drawing


def test_the_highest_are_kept_and_ties_go_to_the_first() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0, 3.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert keep_highest(scores, 3).int().tolist() == [[0, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert keep_highest(scores, 5).all()


def test_the_token_of_the_dropped_patches_is_zero_when_none_is_dropped() -> None:
    shares = image_shares(torch.randn(5, 2), torch.randn(3, 5), 5)
    assert shares.shape == (3, 3, 5)
    assert shares[:, 2].abs().sum() == 0
    torch.testing.assert_close(shares[:, :2].sum(2), torch.ones(3, 2))


def test_heads_are_the_layers_that_torch_draws() -> None:
    counts = torch.tensor([4, 9, 4, 31])
    torch.manual_seed(8)
    layers = [torch.nn.Linear(7, count) for count in counts.tolist()]
    torch.manual_seed(8)
    for layer, (weight, bias) in zip(layers, draw_heads(counts, 7), strict=True):
        assert torch.equal(layer.weight, weight)
        assert torch.equal(layer.bias, bias)


def test_number_of_mixtures_of_captions() -> None:
    lengths = torch.tensor([1, 2, 5, 6, 7, 8, 12, 17, 134, 135, 136, 500])
    expected = [max(4, min(int(0.75 * (n - 1)), 100)) for n in lengths.tolist()]
    assert word_counts(lengths, 0.75).tolist() == expected


def test_the_bank_makes_evaluation_repeatable_and_training_draws() -> None:
    method = made("scta")
    a, b = encoded(method, "scta")
    assert torch.equal(method.score(a, b), method.score(a, b))
    assert method.heads(torch.tensor([4, 6])).tolist() == [method.bank[:6].tolist()] * 2
    method.train()
    torch.manual_seed(3)
    first, second = method.score(a, b), method.score(a, b)
    torch.manual_seed(3)
    assert torch.equal(first, pair_scores(method, a, b))  # the same draws in the form that training uses
    assert not torch.allclose(first, second, atol=1e-4)
    laps = made("laps").train()
    assert torch.equal(laps.score(*encoded(laps, "laps")), laps.score(*encoded(laps, "laps")))


def test_resample_draws_in_evaluation_too_and_trained_never_draws() -> None:
    a, b = encoded(made("scta"), "scta")
    method = made("scta", word_head="resample")
    assert not torch.allclose(method.score(a, b), method.score(a, b), atol=1e-5)
    trained = made("scta", word_head="trained").train()
    assert torch.equal(trained.score(a, b), trained.score(a, b))
    trained.score(a, b).sum().backward()
    assert trained.bank.grad is not None
    assert trained.bank.grad.abs().max() > 0
    assert (trained.label, method.label, made("laps").label) == ("scta with a trained word head", "scta", "laps")


@pytest.mark.parametrize(("key", "value"), [("word_head", "trained"), ("word_ratio", 0.5), ("bank_seed", 7)])
def test_options_of_the_mixtures_of_words_are_refused_without_them(key: str, value: object) -> None:
    for kind in ("laps", "scta"):
        with pytest.raises(ValueError, match=f"{key} {value} is of the mixtures of words"):
            made(kind, word_condenser="none", **{key: value})


def test_the_weights_of_a_score_are_those_of_its_condensers() -> None:
    kinds = (made("scta"), made("scta", word_condenser="none"), made("laps"))
    both, one = "the condensers of patches and words", "the condenser of patches"
    assert [(method.formula.how, method.formula.weights) for method in kinds] == [("", both), ("", one), ("", one)]


def test_the_bank_is_stored_and_never_trained() -> None:
    method = Scta(SctaConfig(joint_dim=20, image=RegionsConfig(width=5), text=BigruConfig(vocab_size=9), bank_seed=4))
    assert "bank" in method.state_dict()
    assert "bank" not in dict(method.named_parameters())
    assert torch.equal(method.bank, word_bank(4, 4))
    assert method.bank.shape == (100, 4)
    assert method.bank.abs().max() <= 0.5
    assert not torch.equal(word_bank(4, 4), word_bank(4, 5))


def test_a_variant_is_another_bank_for_a_while() -> None:
    method = made("scta")
    a, b = encoded(method, "scta")
    before = method.score(a, b)
    with method.variant(7):
        other = method.score(a, b)
        assert torch.equal(method.bank, word_bank(2, 7))
    assert not torch.allclose(other, before, atol=1e-4)
    assert torch.equal(method.score(a, b), before)
    assert [made(kind).has_variants for kind in ("scta", "laps")] == [True, False]
    with made("laps").variant(7):
        pass


# ---------------------------------------------------------------- towers and configurations


def test_published_sizes() -> None:
    with torch.device("meta"):
        shapes = {
            kind: {name: tuple(value.shape) for name, value in model.state_dict().items()}
            for kind, model in (
                ("scta", Scta(SctaConfig())),
                ("laps", Laps(LapsConfig())),
                ("swin", Scta(SctaConfig(image=SwinPatchConfig(), keep_ratio=0.8, patch_ratio=0.6))),
            )
        }
    assert shapes["scta"]["patch_condenser.fc1.weight"] == (102, 512)
    assert shapes["scta"]["patch_condenser.fc2.weight"] == (29, 102)
    assert shapes["laps"]["patch_condenser.fc2.weight"] == (39, 102)
    assert shapes["scta"]["word_condenser.fc1.weight"] == (102, 512)
    assert shapes["scta"]["bank"] == (100, 102)
    assert shapes["scta"]["image.fc.weight"] == (512, 768)
    assert shapes["scta"]["image.patches.backbone.embeddings.position_embeddings"] == (1, 197, 768)
    assert not any(name.startswith(("word_condenser", "bank")) for name in shapes["laps"])
    assert "patch_condenser.fc2.bias" not in shapes["scta"]
    assert shapes["swin"]["patch_condenser.fc2.weight"] == (23, 102)
    assert patch_count(SwinPatchConfig()) == 49


def test_the_class_token_follows_its_flag_and_not_the_number_of_tokens() -> None:
    found = {}
    for flag in (True, False):
        method = made("scta", image=ClassVitConfig(arch=VIT, class_token=flag))
        rows = method.encode_images(images("vit"))
        found[flag] = (method.has_class_token, rows.lengths.tolist())
    assert found == {True: (True, [10] * 4), False: (False, [9] * 4)}
    assert not made("scta").has_class_token
    assert SwinPatchConfig(class_token=False) == SwinPatchConfig()
    with pytest.raises(ValueError, match="a swin has no class token"):
        SctaConfig.model_validate({"image": {"kind": "swin", "class_token": True}})


def test_towers_of_the_joint_width_have_no_projection() -> None:
    method = made("scta_vit", joint_dim=8, text=BertConfig(arch=BERT))
    names = set(method.state_dict())
    assert not any(name.startswith(("image.fc.", "text.linear.")) for name in names)
    assert method.score(*encoded(method, "scta_vit")).isfinite().all()
    features = made("scta", image=RegionsConfig(width=D))
    assert any(name.startswith("image.fc.") for name in features.state_dict())  # nothing else could learn there


def test_long_captions_are_cut_after_encoding_and_only_in_evaluation() -> None:
    method = made("scta", word_limit=5)
    whole = made("scta")
    cut = method.encode_captions(captions())
    assert cut.lengths.tolist() == [4, 1, 2, 5, 5]
    torch.testing.assert_close(cut.vectors, whole.encode_captions(captions()).select(torch.arange(5)).vectors[
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22]
    ])  # fmt: skip
    assert method.train().encode_captions(captions()).lengths.tolist() == list(WORDS)


# ---------------------------------------------------------------- loss


def scored(method: Scta, kind: str = "scta") -> tuple[Tensor, Encoded, Encoded]:
    a, b = method.encode_images(images(kind)), method.encode_captions(captions((4, 3, 2, 11)))
    return pair_scores(method, a, b), a, b


def test_the_first_epoch_counts_all_negatives_under_a_ramp() -> None:
    method = made("scta")
    scores, a, b = scored(method)
    ids = torch.tensor([7, 3, 7, 1])
    plain = method.loss.model_copy(update={"ramp_epoch": None})

    def total(**where: Any) -> float:
        return method.losses(scores, a, b, Step(image_rows=ids, **where))["base"].item()

    every = ranking_loss(plain, scores, Step(epoch=0, image_rows=ids)).item()
    hardest = ranking_loss(plain, scores, Step(epoch=1, image_rows=ids)).item()
    assert 0 < hardest < every
    assert total(epoch=0, iteration=0, iterations=8) == 0
    assert total(epoch=0, iteration=6, iterations=8) == pytest.approx(0.75 * every)
    assert total(epoch=1, iteration=0, iterations=8) == pytest.approx(hardest)
    others = Step(epoch=1, image_rows=torch.arange(4))
    assert ranking_loss(plain, scores, others).item() > hardest  # another caption of the image is no negative


def test_the_monitor_is_a_constant_of_the_share_that_is_kept() -> None:
    method = made("scta", keep_ratio=0.8)
    scores, a, b = scored(method)
    kept = sum(math.ceil(0.8 * n) for n in REGIONS)
    expected = 2.0 * (kept / sum(REGIONS) - 0.8) ** 2
    found = method.losses(scores, a, b, Step())
    assert found["monitor"].item() == pytest.approx(expected, rel=1e-5)
    assert found["total"].item() == pytest.approx(found["base"].item() + expected, rel=1e-5)
    assert not found["monitor"].requires_grad
    vit = made("scta_vit")
    scores, a, b = scored(vit, "scta_vit")
    assert vit.losses(scores, a, b, Step())["monitor"].item() == pytest.approx(2.0 * (5 / 9 - 0.5) ** 2, rel=1e-5)


def test_a_loss_that_is_not_finite_is_left_out_or_kept() -> None:
    method = made("scta").train()
    scores, a, b = scored(method)
    broken = scores * torch.tensor(float("nan"))
    found = method.losses(broken, a, b, Step(epoch=1))
    found["total"].backward()
    assert (found["total"].item(), found["base"].isnan().item()) == (0.0, True)
    assert all(parameter.grad is None for parameter in method.parameters())
    stopping = Scta(method.config, SctaLoss(non_finite="stop"))
    assert stopping.losses(broken, a, b, Step(epoch=1))["total"].isnan()


def test_no_gradient_goes_through_the_choice_of_patches() -> None:
    patches, means = torch.randn(6, D, requires_grad=True), torch.randn(3, D, requires_grad=True)
    assert not patch_scores(patches, means).requires_grad
    method = made("scta")
    words, _ = method.caption_tokens(Encoded(torch.randn(5, D, requires_grad=True), torch.tensor([5])))
    assert (words.means.requires_grad, words.tokens.requires_grad) == (False, True)


# ---------------------------------------------------------------- explanation


@pytest.mark.parametrize("kind", [*KINDS, "scta_trained"])
@pytest.mark.parametrize("keep_ratio", [0.5, 1.0])
def test_explained_parts_add_up_to_the_score(kind: str, keep_ratio: float) -> None:
    method = made(kind, keep_ratio=keep_ratio, **({"word_head": "trained"} if kind == "scta_trained" else {}))
    a, b = encoded(method, kind)
    expected = method.score(a, b)
    for i, j in product(range(len(a)), range(len(b))):
        image = images(kind)[i : i + 1]
        if image.lengths is not None:
            image = Images(image.values[:, : REGIONS[i]], image.lengths)
        found = method.explain(image, Captions(captions().tokens[j : j + 1, : WORDS[j]], captions().lengths[j : j + 1]))
        assert found.parts.shape == (WORDS[j], int(a.lengths[i]) - method.has_class_token)
        assert found.score == pytest.approx(expected[i, j].item(), abs=1e-5)
        assert float(found.parts.double().sum()) == pytest.approx(found.score, abs=1e-5)


def test_what_the_class_token_brings_is_spread_evenly() -> None:
    method = made("laps_vit")
    axes = torch.eye(D)
    rows = torch.cat([2 * axes[:1], 3 * axes[3:9]])  # a class token like the first word; patches like no word
    method.image.forward = lambda images: (rows[None], torch.tensor([7]))  # type: ignore[method-assign, assignment]
    method.text.forward = lambda tokens, lengths: axes[None, :2]  # type: ignore[method-assign, assignment]
    found = method.explain(images("laps_vit")[0:1], captions((2,)))
    # tokens: the first word finds the class token, of 1 + 4 + 1 or so image tokens one is found by a word
    mixtures = method.patch_condenser.fc2.out_features
    expected = (1 / 2 + 1 / (mixtures + 2)) / 6
    torch.testing.assert_close(found.parts[0], torch.full((6,), expected))
    torch.testing.assert_close(found.parts[1], torch.zeros(6))


def test_the_token_of_the_dropped_patches_is_given_to_them() -> None:
    method = made("laps", joint_dim=D)
    axes = torch.eye(D)
    # the first two patches are like the image as a whole and are kept; the word sees the third, which is dropped
    rows = torch.stack([axes[0], axes[0] + 0.1 * axes[1], 0.5 * axes[2]])
    method.image.forward = lambda images: (rows[None], torch.tensor([3]))  # type: ignore[method-assign, assignment]
    method.text.forward = lambda tokens, lengths: (0.4 * axes[2] + axes[5])[None, None]  # type: ignore[method-assign, assignment]
    found = method.explain(images("laps")[0:1], captions((1,)))
    assert found.parts[0, 2] > 0.1
    torch.testing.assert_close(found.parts[0, :2], torch.zeros(2))
    assert float(found.parts.sum()) == pytest.approx(found.score, abs=1e-6)
