"""Equal images and equal captions score equally, bit for bit, wherever they lie and whatever lies beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from patchword.encoders.all_tokens import ClassVitConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.methods.base import Method
from patchword.methods.esl import Esl, EslConfig
from patchword.methods.scta import Laps, LapsConfig, Scta, SctaConfig
from patchword.scoring import condensed_tiles
from patchword.scoring.condensed_tiles import ImageSide
from patchword.scoring.matrix import open_tiles, score_matrix
from patchword.scoring.ranks import ranks
from patchword.types import Encoded

pytestmark = pytest.mark.integration

WIDTH = 62  # the rows of an ESL with levels of 32, 16, 8, 4 and 2; not a multiple of a register, as 1022 is not
BASE: dict[str, Any] = {"image": RegionsConfig(width=5), "text": BigruConfig(vocab_size=5, word_dim=3)}
VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}


def made(name: str) -> Method:
    torch.manual_seed(5)
    if name == "esl":
        return Esl(EslConfig(joint_dim=32, levels=5, **BASE)).eval()
    base = {**BASE, "joint_dim": WIDTH, "patches": 49}
    if name == "class token":
        base["image"] = ClassVitConfig(arch={**VIT, "intermediate_size": 8})
    method = Laps(LapsConfig(**base)) if name == "laps" else Scta(SctaConfig(**base))
    with torch.no_grad():
        for parameter in method.patch_condenser.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        if name == "steep":
            method.patch_condenser.scale.mul_(1000)
    return method.eval()


def sets(lengths: torch.Tensor, seed: int) -> Encoded:
    vectors = torch.randn(int(lengths.sum()), WIDTH, generator=torch.Generator().manual_seed(seed))
    return Encoded(vectors / vectors.norm(dim=1, keepdim=True), lengths)


def with_twins(items: Encoded, places: list[list[int]]) -> Encoded:
    """The first item of each list at all places of that list."""
    order = torch.arange(len(items))
    for group in places:
        order[group] = order[group[0]].clone()
    return items.select(order)


@pytest.mark.parametrize("name", ["esl", "scta", "laps", "class token", "steep"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("images", "captions"), [(41, 190), (33, 1025)])
def test_wherever_they_lie(name: str, ragged: bool, images: int, captions: int) -> None:
    """Copies lie in the first, in an inner and in the last tile, which holds a single image or caption."""
    draw = torch.Generator().manual_seed(images)
    sizes = torch.randint(9, 50, (images,), generator=draw) if ragged else torch.full((images,), 49)
    words = torch.randint(2, 18, (captions,), generator=draw)
    words[captions // 2] = 40
    last = [captions - 1, 0, 7, captions // 3, captions // 2 - 1]
    if captions > 1024:
        words[-1] = 41  # alone in the last column, its copies in the one before
    image_twins = [[0, 1, 9, images // 2, images - 2, images - 1]]
    caption_twins = [last, [3, 4, 60, 111, 150, captions - 3], [12, captions // 2, captions - 2]]
    method = made(name)
    a, b = with_twins(sets(sizes, 1), image_twins), with_twins(sets(words, 2), caption_twins)
    tiles = open_tiles(method, a, b)
    assert tiles.rows > 1
    assert (tiles.columns > 1) == (captions > 1024)
    if isinstance(method, Scta):
        side = ImageSide.of(a.vectors[1:9], method.patch_condenser(a.vectors[1:9]))
        assert (side is None) == (name == "steep")  # so that both ways of comparing are looked at
    scores = score_matrix(method, a, b)
    for group in image_twins:
        assert bool((scores[group] == scores[group[0]]).all())
    for group in caption_twins:
        assert bool((scores[:, group] == scores[:, group[:1]]).all())


@pytest.mark.parametrize("name", ["esl", "scta", "laps"])
def test_whatever_lies_beside_them(name: str) -> None:
    """The same images and captions among others, shorter and longer ones."""
    method = made(name)
    few = sets(torch.tensor([49, 36, 49]), 1), sets(torch.tensor([5, 5, 9, 14]), 2)
    many = sets(torch.tensor([36] * 20 + [49] * 30), 3), sets(torch.arange(2, 102).clamp(max=30), 4)
    a, b = (Encoded.concat([more, own, more]) for own, more in zip(few, many, strict=True))
    alone = Encoded.concat([few[0]] * 5), Encoded.concat([few[1]] * 5)
    among = score_matrix(method, a, b)[len(many[0]) :, len(many[1]) :][: len(few[0]), : len(few[1])]
    assert torch.equal(among, score_matrix(method, *alone)[: len(few[0]), : len(few[1])])


@pytest.mark.parametrize("name", ["esl", "scta", "laps"])
def test_so_equal_wrong_answers_are_ties(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of an image is level with it for all of its captions, never above and never below."""
    monkeypatch.setattr(condensed_tiles, "_IMAGES", 8)
    a = with_twins(sets(torch.full((37,), 36), 1), [[k, 36 - k] for k in range(18)])
    found = ranks(made(name), a, sets(torch.arange(74) % 11 + 3, 2), torch.arange(74) // 2)
    assert found.t2i.equal[[*range(36), *range(38, 74)]].min() >= 1


@pytest.mark.parametrize("name", ["esl", "scta"])
@pytest.mark.parametrize(("images", "captions"), [(1, 1), (2, 3)])
def test_collections_smaller_than_a_product(name: str, images: int, captions: int) -> None:
    method = made(name)
    a, b = sets(torch.arange(images) + 1, 1), sets(torch.arange(captions) + 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(score_matrix(method, a, b), method.score(a, b), atol=2e-6, rtol=2e-6)
