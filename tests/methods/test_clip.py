"""CLIP, SigLIP and SigLIP 2 as a method: the laws of every method, the two interactions, explanations that add up."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_models import CONTEXT, FAMILIES, write_checkpoint
from torch import Tensor

from patchword.encoders.token_shares import attended, image_shares, text_shares
from patchword.errors import ConfigError, ShapeError
from patchword.loading import load
from patchword.methods import METHODS, method_class
from patchword.methods.base import Step
from patchword.methods.clip import Clip, ClipConfig
from patchword.scoring.matrix import pair_scores, score_matrix
from patchword.types import Captions, Encoded, Images

CASES = list(product(FAMILIES, ("global", "patches")))
every = pytest.mark.parametrize(("family", "interaction"), CASES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("checkpoints")
    return {family: write_checkpoint(home / family, family) for family in FAMILIES}


@pytest.fixture
def method(family: str, interaction: Any, folders: dict[str, Path]) -> Clip:
    found = load(folders[family], interaction=interaction).method
    assert isinstance(found, Clip)
    return found


def images_of(method: Clip, count: int = 4, seed: int = 0) -> Images:
    """Random pixels; for NaFlex random patches in grids of different shapes."""
    generator = torch.Generator().manual_seed(seed)
    if method.config.image.kind != "siglip2":
        return Images(torch.randn(count, 3, 16, 16, generator=generator))
    values = torch.randn(count, 21, 48, generator=generator)
    shapes = [(4, 5), (2, 7), (1, 1), (5, 3)]
    for row, shape in zip(values, shapes * count, strict=False):
        row[0] = 0
        row[0, :2] = torch.tensor(shape)
        row[1 + shape[0] * shape[1] :] = 0
    return Images(values)


def captions_of(method: Clip, counts: tuple[int, ...] = (CONTEXT - 2, 1, 4, 0, 7), seed: int = 1) -> Captions:
    """Random words between the checkpoint's marks."""
    generator = torch.Generator().manual_seed(seed)
    size = method.text.backbone.config.vocab_size
    eos = method.text.backbone.config.eos_token_id
    rows = []
    for count in counts:
        words = torch.randint(6, size - 2, (count,), generator=generator).tolist()
        rows.append([size - 2] * method.config.text.start_marks + words + [eos])
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = torch.tensor(row)
    return Captions(tokens, lengths)


def close(found: Tensor, expected: Tensor, atol: float = 2e-6) -> None:
    assert torch.allclose(found, expected, atol=atol, rtol=2e-5), float((found - expected).abs().max())


@every
@torch.no_grad()
def test_company_and_padding_of_images_change_nothing(method: Clip) -> None:
    images = images_of(method)
    together = method.encode_images(images)
    for k in range(len(images)):
        close(method.encode_images(images[k : k + 1]).vectors, together.slice(k, k + 1).vectors)
    if method.config.image.kind == "siglip2":
        wider = torch.cat([images.values, torch.randn(len(images), 5, 48)], dim=1)
        close(method.encode_images(Images(wider)).vectors, together.vectors)
        expected = [1] * 4 if method.is_global else [20, 14, 1, 15]
        assert together.lengths.tolist() == expected


@every
@torch.no_grad()
def test_company_and_padding_of_captions_change_nothing(method: Clip) -> None:
    captions = captions_of(method)
    together = method.encode_captions(captions)
    for k, length in enumerate(captions.lengths.tolist()):
        alone = Captions(captions.tokens[k : k + 1, :length], captions.lengths[k : k + 1])
        close(method.encode_captions(alone).vectors, together.slice(k, k + 1).vectors)
    short = captions_of(method, (2, 5, 3))
    padded = Captions(torch.nn.functional.pad(short.tokens, (0, 6), value=9), short.lengths)
    close(method.encode_captions(padded).vectors, method.encode_captions(short).vectors)


@every
@torch.no_grad()
def test_order_company_and_tiles_change_no_score(method: Clip) -> None:
    images, captions = method.encode_images(images_of(method)), method.encode_captions(captions_of(method))
    scores = method.score(images, captions)
    rows, columns = torch.tensor([2, 0, 3, 1]), torch.tensor([3, 1, 4, 0, 2])
    close(method.score(images.select(rows), captions.select(columns)), scores[rows][:, columns])
    for i in range(len(images)):
        for j in range(len(captions)):
            close(method.score(images.slice(i, i + 1), captions.slice(j, j + 1))[0, 0], scores[i, j])
    close(pair_scores(method, images, captions), scores)
    for tile in ((1, 1), (2, 3), (4, 5), None):
        close(score_matrix(method, images, captions, tile=tile), scores)
    assert float(scores.std(0).min()) > 1e-5


def late_interaction(patches: Tensor, words: Tensor) -> float:
    """Mean over the words of the best patch's cosine, pair by pair."""
    cosine = torch.nn.functional.cosine_similarity
    return sum(max(float(cosine(p, w, dim=0)) for p in patches) for w in words) / len(words)


@pytest.mark.parametrize("interaction", ["patches"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_late_interaction_is_the_plain_loop(method: Clip) -> None:
    images, captions = images_of(method), captions_of(method)
    patches, counts = method.image.patches(images)
    words = method.text.words(captions.tokens, captions.lengths)
    first = method.config.text.start_marks
    scores = method.score(method.encode_images(images), method.encode_captions(captions))
    for i, count in enumerate(counts.tolist()):
        for j, length in enumerate(captions.lengths.tolist()):
            expected = late_interaction(patches[i, :count], words[j, first:length])
            assert float(scores[i, j]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("family", "interaction"), [("clip", "patches")])
@torch.no_grad()
def test_word_and_class_vectors_are_in_the_published_space(method: Clip) -> None:
    """The end mark's word vector is CLIP's caption vector; a class token put through the patches' path its image's."""
    captions, images = captions_of(method), images_of(method)
    words = method.text.words(captions.tokens, captions.lengths)
    pooled = method.text.pooled(captions.tokens, captions.lengths)
    close(words[torch.arange(len(captions)), captions.lengths - 1], pooled)
    hidden = method.image.run(images)[0].last_hidden_state[:, 0]
    close(method.image.projection(method.image.backbone.post_layernorm(hidden)), method.image.pooled(images))


@every
@torch.no_grad()
def test_explanations_add_up(method: Clip) -> None:
    images, captions = images_of(method), captions_of(method)
    scores = method.score(method.encode_images(images), method.encode_captions(captions))
    for i in range(len(images)):
        for j in range(len(captions)):
            length = int(captions.lengths[j])
            one = Captions(captions.tokens[j : j + 1, :length], captions.lengths[j : j + 1])
            found = method.explain(images[i : i + 1], one)
            assert found.score == pytest.approx(float(scores[i, j]), abs=1e-5)
            assert float(found.parts.sum()) == pytest.approx(found.score, abs=1e-5)
            assert found.boxes is not None
            assert found.parts.shape == (length, len(found.boxes))
            assert found.boxes.min() >= 0
            assert found.boxes.max() <= 1
            if not method.is_global:
                assert ((found.parts != 0).sum(1) <= 1).all()
                assert (found.parts[: method.config.text.start_marks] == 0).all()


@pytest.mark.parametrize("interaction", ["global"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_shares_are_those_of_the_pooled_vectors(method: Clip) -> None:
    images, captions = images_of(method), captions_of(method)
    for k in range(len(images)):
        shares = image_shares(method.image, images[k : k + 1])
        close(shares.sum(0), method.image.pooled(images[k : k + 1])[0], 1e-5)
        assert shares[1:].norm(dim=1).min() > 1e-4  # every patch adds something
    for k in range(len(captions)):
        one = captions[k : k + 1]
        close(text_shares(method.text, one).sum(0), method.text.pooled(one.tokens, one.lengths)[0], 1e-5)


@torch.no_grad()
def test_what_attention_brings_is_its_output_without_the_bias() -> None:
    torch.manual_seed(0)
    tokens, heads = torch.randn(5, 8), 2
    attention = torch.nn.MultiheadAttention(8, heads, batch_first=True)
    attention.out_proj.bias.normal_()
    attention.in_proj_bias.normal_()
    (q, k, v), (bq, bk, bv) = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    visible = torch.tensor([True, True, False, True, True])
    found = attended(
        tokens[1] @ q.T + bq, tokens @ k.T + bk, tokens @ v.T + bv, heads, visible, attention.out_proj.weight
    )
    expected = attention(tokens[1:2], tokens, tokens, key_padding_mask=~visible)[0][0] - attention.out_proj.bias
    close(found.sum(0), expected)
    assert (found[2] == 0).all()


@pytest.mark.parametrize(("family", "interaction"), [("clip", "global")])
@torch.no_grad()
def test_a_share_follows_what_its_patch_shows(method: Clip) -> None:
    """A patch that the last layer's attention can not see has a share of nothing."""
    images = images_of(method)
    for layer in method.image.backbone.encoder.layers:
        layer.self_attn.out_proj.weight.zero_()
    shares = image_shares(method.image, images)
    assert shares[1:].abs().max() == 0
    close(shares[0], method.image.pooled(images)[0], 1e-5)


@every
@pytest.mark.parametrize("batch", [2, 3])
def test_a_small_batch_trains(method: Clip, batch: int) -> None:
    method.train()
    images, captions = images_of(method, batch), captions_of(method, (4, 2, 3)[:batch])
    a, b = method.encode_images(images), method.encode_captions(captions)
    losses = method.losses(pair_scores(method, a, b), a, b, Step(image_rows=torch.arange(batch)))
    torch.autograd.backward(losses["total"])
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in grads)
    groups = method.parameter_groups()
    assert {"image_backbone", "text_backbone"} <= set(groups)
    assert all(
        any(p.grad is not None and p.grad.abs().max() > 0 for p in groups[g])
        for g in ("image_backbone", "text_backbone")
    )
    method.freeze_blocks(4)
    assert not any(p.requires_grad for p in method.image.backbone.parameters())


@pytest.mark.parametrize(("family", "interaction"), [("clip", "global")])
def test_what_it_can_not_read_is_refused(method: Clip) -> None:
    with pytest.raises(ShapeError, match="reads raw images, but region features"):
        method.encode_images(Images(torch.zeros(1, 36, 8), torch.tensor([36])))
    long = torch.ones(1, CONTEXT + 1, dtype=torch.long)
    with pytest.raises(ShapeError, match=f"has {CONTEXT + 1} tokens. This model reads at most {CONTEXT}"):
        method.encode_captions(Captions(long, torch.tensor([CONTEXT + 1])))
    config: Any = method.config.model_dump()
    config["image"]["arch"]["hidden_size"] = "wide"
    with pytest.raises(ConfigError, match="`arch` of the clip towers does not describe them"):
        Clip(ClipConfig.model_validate(config))


@every
def test_labels_and_tables(method: Clip, family: str, interaction: str) -> None:
    assert method.label == (family if interaction == "global" else f"{family} patches (ours)")
    assert method.shortlist == ("own" if interaction == "global" else "anchors")
    assert method_class("clip") is Clip
    assert "clip" not in METHODS  # no recipe trains it
    assert isinstance(method.encode_images(images_of(method)), Encoded)
