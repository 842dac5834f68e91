"""ESL: equal to plain loops over one pair at a time, and what padding, precision and options change."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from padded_batches import padded_captions, padded_images
from torch import Tensor

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig, VitConfig
from patchword.encoders.resnet import ResnetConfig
from patchword.layers.pyramid import AdaptivePyramid, HeuristicPyramid, LevelForms, level_widths
from patchword.methods.base import Step, ranking_loss
from patchword.methods.esl import Esl, EslConfig, attention
from patchword.types import Captions, Images

KINDS = ("heuristic", "adaptive")
REGIONS, WORDS = (5, 1, 3, 2), (4, 1, 2, 6, 3)
BERT = BertConfig(
    arch={"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
)


def esl(**changes: object) -> Esl:
    """A small ESL in evaluation mode with weights as after some training."""
    torch.manual_seed(1)
    text = BigruConfig(vocab_size=12, word_dim=6)
    base = {"joint_dim": 13, "levels": 3, "image": RegionsConfig(width=5), "text": text}
    made = Esl(EslConfig.model_validate({**base, **changes})).eval()
    with torch.no_grad():
        made.image.fc.bias.normal_()
        made.forms.weights.copy_(torch.linspace(-0.3, 0.4, len(made.forms.weights)))
        for gain, shift in zip(made.forms.gains, made.forms.shifts, strict=True):
            gain.normal_()
            shift.normal_()
        if made.forms.threshold is not None:
            made.forms.threshold.fill_(0.3)
        for name, buffer in made.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    return made


def images(lengths: tuple[int, ...] = REGIONS, *, extra: int = 0) -> Images:
    return padded_images(lengths, extra=extra)


def one_image(k: int) -> Images:
    """An image alone, without padding."""
    return Images(images().values[k : k + 1, : REGIONS[k]], torch.tensor([REGIONS[k]]))


def captions(lengths: tuple[int, ...] = WORDS, *, extra: int = 0) -> Captions:
    return padded_captions(lengths, extra=extra)


def scores(method: Esl, a: Images, b: Captions) -> Tensor:
    return method.score(method.encode_images(a), method.encode_captions(b))


# ------------------------------------------------------------------ the equations, in lists of floats


def norm(x: list[float]) -> float:
    return math.sqrt(sum(v * v for v in x))


def shorten(x: list[float]) -> list[float]:
    return [v / (norm(x) + 1e-8) for v in x]


def plain_map(method: Esl, side: str, level: int, x: list[float]) -> list[float]:
    """One level of a pyramid."""
    pyramid = method.image_pyramid if side == "image" else method.text_pyramid
    k, width = method.config.kernel_size, len(x) // method.config.kernel_size
    if isinstance(pyramid, HeuristicPyramid):
        kernels = pyramid.filters[level - 1].tolist()  # channels x 1 x taps
        return [sum(kernels[c][0][t] * x[k * j + t] for c in range(4) for t in range(k)) for j in range(width)]
    assert isinstance(pyramid, AdaptivePyramid)
    made = []
    for row in pyramid.masks[level - 1].tolist():
        row = shorten(row)
        threshold = sorted(row, reverse=True)[min(2, len(row)) - 1]
        made.append(sum(m * v for m, v in zip(row, x, strict=True) if m >= threshold))
    return made


def plain_levels(method: Esl, side: str, x: list[float]) -> list[list[float]]:
    levels = [x]
    chained = x
    for level in range(1, method.config.levels):
        reduced = plain_map(method, side, level, chained)
        levels.append(shorten(reduced))
        chained = levels[-1] if side == "image" else reduced
    return levels


def plain_form(method: Esl, level: int) -> list[list[float]]:
    """b W of a level."""
    forms = method.forms
    p = forms.weights.tolist()
    b = p[level]
    if method.config.pyramid == "heuristic":
        assert forms.threshold is not None
        assert forms.sharpness is not None
        small, large = min(map(abs, p)), max(map(abs, p))
        t = small + forms.threshold.item() * (large - small)
        b = b * math.exp(math.exp(forms.sharpness.item()) * (abs(b) - t))
    m = forms.matrices[level].tolist()
    flat = [v for row in m for v in row]
    mean = sum(flat) / len(flat)
    var = sum((v - mean) ** 2 for v in flat) / len(flat)
    gain, shift = forms.gains[level].tolist(), forms.shifts[level].tolist()
    size = range(len(m))
    return [[b * ((m[i][j] - mean) / math.sqrt(var + 1e-8) * gain[i][j] + shift[i][j]) for j in size] for i in size]


def plain_score(method: Esl, patches: list[list[float]], words: list[list[float]]) -> float:
    """Score of one pair from its level-0 vectors."""
    by_patch = [plain_levels(method, "image", v) for v in patches]
    by_word = [plain_levels(method, "text", w) for w in words]
    forms = [plain_form(method, level) for level in range(method.config.levels)]
    s = [
        [
            sum(
                w[level][i] * form[i][j] * v[level][j]
                for level, form in enumerate(forms)
                for i, j in product(range(len(form)), repeat=2)
            )
            for v in by_patch
        ]
        for w in by_word
    ]
    n, r = range(len(words)), range(len(patches))
    p = [[t if (t := math.tanh(s[w][k])) > 0 else 0.1 * t for k in r] for w in n]
    tau = method.temperature.item()
    first = second = 0.0
    for w in n:
        powers = [math.exp(tau * p[w][k] / (norm([p[x][k] for x in n]) + 1e-8)) for k in r]
        first += sum(e * s[w][k] for k, e in zip(r, powers, strict=True)) / sum(powers) / len(words)
    for k in r:
        powers = [math.exp(tau * p[w][k] / (norm(p[w]) + 1e-8)) for w in n]
        second += sum(e * s[w][k] for w, e in zip(n, powers, strict=True)) / sum(powers) / len(patches)
    return first + second


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [{}, {"kernel_size": 3, "levels": 2}, {"joint_dim": 8, "levels": 4}, {"levels": 1}])
@pytest.mark.parametrize("is_unit", [True, False])
def test_equal_to_plain_loops_over_pairs(kind: str, sizes: dict[str, int], is_unit: bool) -> None:
    method = esl(pyramid=kind, unit_patches=is_unit, unit_words=is_unit, **sizes).double()
    a, b = images(), captions()
    a = Images(a.values.double(), a.lengths)
    found = scores(method, a, b)
    assert found.shape == (len(REGIONS), len(WORDS))
    with torch.no_grad():
        patches, words = method.image(a)[0], method.text(b.tokens, b.lengths)
    for i, j in product(range(len(REGIONS)), range(len(WORDS))):
        v = [x.tolist() for x in patches[i, : REGIONS[i]]]
        w = [x.tolist() for x in words[j, : WORDS[j]]]
        if is_unit:
            v, w = [shorten(x) for x in v], [shorten(x) for x in w]
        assert found[i, j].item() == pytest.approx(plain_score(method, v, w), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [None, BERT])
def test_laws(kind: str, text: BertConfig | None) -> None:
    method = esl(pyramid=kind, **({} if text is None else {"text": text}))
    expected = scores(method, images(), captions())
    assert expected.isfinite().all()

    def same(found: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    same(scores(method, images(extra=3), captions(extra=4)), expected)  # padding
    order = torch.tensor([3, 0, 4, 2, 1])
    same(scores(method, images(), Captions(captions().tokens[order], captions().lengths[order])), expected[:, order])
    for i in range(len(REGIONS)):  # one pair alone
        one = one_image(i)
        for j, size in enumerate(WORDS):
            other = Captions(captions().tokens[j : j + 1, :size], captions().lengths[j : j + 1])
            same(scores(method, one, other), expected[i : i + 1, j : j + 1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["reference", "masked"])
def test_padding_in_training(kind: str, padding: str) -> None:
    """Only ``reference`` lets zero-padded slots into batch statistics and scores, as the authors' code does."""
    method = esl(pyramid=kind, padding=padding)
    a, b = images((3, 2)), captions((4, 2))
    found = []
    for extra in (0, 2):
        method.train()
        before = {k: v.clone() for k, v in method.state_dict().items()}
        sets = method.encode_images(images((3, 2), extra=extra))
        assert sets.lengths.tolist() == ([3 + extra] * 2 if padding == "reference" else [3, 2])
        found.append(method.score(sets, method.encode_captions(b)).detach())
        method.load_state_dict(before)
    assert torch.allclose(found[0], found[1], atol=1e-5) is (padding == "masked")
    method.eval()
    assert method.encode_images(a).lengths.tolist() == [3, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["reference", "masked"])
def test_gradients_are_finite_from_fresh_weights(kind: str, padding: str) -> None:
    torch.manual_seed(0)
    text = BigruConfig(vocab_size=12, word_dim=6)
    config = EslConfig.model_validate(
        {
            "pyramid": kind,
            "joint_dim": 16,
            "levels": 5,
            "image": RegionsConfig(width=5),
            "text": text,
            "padding": padding,
        }
    )
    method = Esl(config).train()
    total = ranking_loss(method.loss, scores(method, images((4, 2, 3)), captions((5, 1, 3))), Step())
    total.backward()
    grads = {name: p.grad for name, p in method.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in grads.values()), grads.keys()
    assert all((g != 0).any() for n, g in grads.items() if g is not None and n.startswith(("forms.w", "log_t")))


def test_grids_are_masked_and_their_gradient_is_finite() -> None:
    """In the authors' code a dropped cell is a zero row in training, whose normalisation has no gradient (NaN)."""
    grid = ResnetConfig(layers=(1, 1, 1, 1), base_width=8, image_size=64)
    method = esl(image=grid, residual_mlp=False).train()
    torch.nn.init.zeros_(method.image.fc.bias)
    keep = torch.ones(2, 4, dtype=torch.bool)
    keep[1, 2:] = False
    pixels = Images(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), None, keep)
    sets = method.encode_images(pixels)
    assert sets.lengths.tolist() == [4, 2]
    method.score(sets, method.encode_captions(captions((4, 2)))).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    method.freeze_blocks(4)
    assert not any(p.requires_grad for n, p in method.named_parameters() if ".backbone." in n)
    assert {"image", "image_backbone", "text", "matching"} == set(method.parameter_groups())


@pytest.mark.parametrize("kind", KINDS)
def test_explained_parts_add_up_to_the_score(kind: str) -> None:
    method = esl(pyramid=kind)
    for i, j in ((0, 0), (1, 1), (2, 3)):
        one = one_image(i)
        other = Captions(captions().tokens[j : j + 1, : WORDS[j]], captions().lengths[j : j + 1])
        why = method.explain(one, other)
        assert why.parts.shape == (WORDS[j], REGIONS[i])
        assert why.parts.sum().item() == pytest.approx(why.score, abs=1e-9)
        assert why.score == pytest.approx(scores(method, one, other).item(), abs=1e-5)


def test_attention_weights_add_up_to_one_over_what_is_real() -> None:
    s = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    words, patches = torch.tensor([[4], [2], [1]]), torch.tensor([[5], [3]])
    word_mask, patch_mask = torch.arange(4) < words, torch.arange(5) < patches
    by_word, by_patch = attention(s, word_mask[None], patch_mask[:, None], torch.tensor(14.0))
    real = (word_mask[None, :, :, None] & patch_mask[:, None, None, :]).expand_as(s)
    assert (by_word[~patch_mask[:, None, None, :].expand_as(s)] == 0).all()
    assert (by_patch[~word_mask[None, :, :, None].expand_as(s)] == 0).all()
    for weights, dim in ((by_word, 3), (by_patch, 2)):
        sums = (weights * real).sum(dim)
        torch.testing.assert_close(sums[real.any(dim)], torch.ones(int(real.any(dim).sum())))


def test_the_two_chains_differ_by_the_epsilon_of_short_vectors() -> None:
    pyramid = HeuristicPyramid([8, 4, 2], 2)
    with torch.no_grad():
        for one in pyramid.filters:
            one.mul_(1e-6)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    normalised, raw = (pyramid(x, renormalise=flag) for flag in (True, False))
    torch.testing.assert_close(normalised[1], raw[1])
    assert normalised[2].norm(dim=1).min() > 0.9
    assert raw[2].norm(dim=1).max() < 0.5  # 1e-12 against an epsilon of 1e-8


def test_ties_at_the_threshold_all_stay_and_signs_count() -> None:
    pyramid = AdaptivePyramid([4, 2])
    with torch.no_grad():
        pyramid.masks[0].copy_(torch.tensor([[-9.0, 1.0, 1.0, 1.0], [3.0, 0.0, 4.0, -5.0]]))
    found = pyramid.sparse(1).detach()
    assert (found != 0).tolist() == [[False, True, True, True], [True, False, True, False]]
    torch.testing.assert_close(found[1], torch.tensor([3.0, 0.0, 4.0, 0.0]) / math.sqrt(50))  # of the full row


def test_tied_level_weights_share_the_gradient_of_their_range() -> None:
    forms = LevelForms([4, 2], sparsified=True)
    assert forms.threshold is not None
    with torch.no_grad():
        forms.threshold.fill_(0.5)
    forms.level_weights()[0].backward()
    grad = forms.weights.grad
    assert grad is not None
    sharp = math.exp(3.0)  # b_0 = p_0 exp(sharp (p_0 - (min + 0.5 (max - min)))), min and max shared by both
    share = 0.5 * 0.5 + 0.5 * 0.5
    torch.testing.assert_close(grad, torch.tensor([1 + 0.1 * sharp * (1 - share), -0.1 * sharp * share]))


def test_published_dimensions() -> None:
    """Parameter counts of the method's specification, the dead ones left out."""
    with torch.device("meta"):
        heuristic, adaptive = (Esl(EslConfig.model_validate({"pyramid": kind})) for kind in KINDS)
    assert heuristic.config.widths == [512, 256, 128, 64, 32, 16, 8, 4, 2]

    def count(method: Esl, *prefixes: str) -> int:
        return sum(p.numel() for n, p in method.named_parameters() if n.startswith(prefixes))

    similarity = ("forms.", "image_pyramid.", "text_pyramid.", "log_temperature")
    assert count(heuristic, *similarity) == 1_048_712
    assert count(adaptive, *similarity) == 1_398_104 - 2  # sigma and rho, which are multiplied by 0
    assert count(heuristic, "image.") == 1_706_752 - 1_024  # a batch norm that is never applied
    assert count(heuristic, "text.linear.") == 512 * 769
    assert heuristic.loss.margin == 0.2
    assert heuristic.has_batch_statistics
    assert not heuristic.mixes_batch


def test_level_widths_and_their_limits() -> None:
    assert level_widths(512, 9, 2)[-1] == 2
    assert EslConfig(joint_dim=256).widths[-1] == 1
    with pytest.raises(
        ValueError, match=r"joint_dim 128 is too narrow for 9 levels.*at least 256, or at most 8 levels"
    ):
        EslConfig(joint_dim=128)
    with pytest.raises(ValueError, match=r"joint_dim 8 .* kernel_size 3.*at least 9, or at most 2 levels"):
        EslConfig(joint_dim=8, levels=3, kernel_size=3)
    assert EslConfig(joint_dim=9, levels=3, kernel_size=3).widths == [9, 3, 1]


def test_scores_are_float32_under_autocast() -> None:
    method = esl()
    plain = method.encode_images(images()).vectors
    with torch.autocast("cpu", torch.bfloat16):
        a, b = method.encode_images(images()), method.encode_captions(captions())
    assert a.vectors.dtype == b.vectors.dtype == torch.float32
    assert not torch.equal(a.vectors, plain)  # the projection was in bf16
    torch.testing.assert_close(a.vectors, plain, atol=0.1, rtol=0.1)


def test_other_patches_fit() -> None:
    arch = {
        "image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16,
    }  # fmt: skip
    method = esl(image=VitConfig(arch=arch), residual_mlp=False)
    sets = method.encode_images(Images(torch.randn(2, 3, 32, 32)))
    assert sets.lengths.tolist() == [4, 4]
    assert sets.vectors.shape == (8, 13 + 6 + 3)
