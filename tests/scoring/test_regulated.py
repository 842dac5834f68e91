from typing import Any

import pytest
import torch
from torch import Tensor

from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.layers.reasoning import Similarity
from patchword.methods.cefg import Cefg, CefgConfig
from patchword.scoring import regulated
from patchword.scoring.matrix import open_tiles, pair_scores, score_matrix
from patchword.scoring.regulated import regulated_scores
from patchword.scoring.regulated_inference import FoldedSimilarity
from patchword.types import Encoded

EQUAL, UNEQUAL = (9,) * 4, (9, 3, 5, 7)  # a pooled vector and 2R context vectors
WORDS = (4, 7, 2, 4, 4, 3, 7)


def cefg(head: str, **changes: Any) -> Cefg:
    torch.manual_seed(0)
    text = BigruConfig(vocab_size=5, word_dim=3)
    values = {"joint_dim": 8, "sim_dim": 6, "image": RegionsConfig(width=5), "text": text, "head": head}
    values |= changes
    made = Cefg(CefgConfig.model_validate(values)).eval()
    for regulator in made.similarity.regulators:
        for parameter in regulator.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return made


def sets(lengths: tuple[int, ...], seed: int) -> Encoded:
    vectors = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(seed))
    return Encoded((vectors / vectors.norm(dim=1, keepdim=True)).requires_grad_(), torch.tensor(lengths))


def test_training_and_evaluation_take_it() -> None:
    method, images, captions = cefg("sgr"), sets(EQUAL, 1), sets(WORDS, 2)
    assert torch.equal(pair_scores(method, images, captions), regulated_scores(method, images, captions))


@pytest.mark.parametrize("size", [1, 3000, 1 << 30])
@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("head", ["sgr", "saf"])
def test_equal_to_the_readable_form_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, head: str, lengths: tuple[int, ...], size: int
) -> None:
    monkeypatch.setattr(regulated, "_CACHE_BYTES", size)
    method, images, captions = cefg(head), sets(lengths, 1), sets(WORDS, 2)
    expected = method.score(images, captions)
    torch.testing.assert_close(regulated_scores(method, images, captions), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(score_matrix(method, images, captions, tile=(3, 2)), expected, atol=1e-6, rtol=1e-5)


def step(method: Cefg, images: Encoded, captions: Encoded, *, fast: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Gradients and buffers of one training step from fresh copies of the buffers."""
    method.train().zero_grad()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    for part in (images, captions):
        part.vectors.grad = None
    scores = regulated_scores(method, images, captions) if fast else method.score(images, captions)
    (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
    grads = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    assert images.vectors.grad is not None
    assert captions.vectors.grad is not None
    grads |= {"images": images.vectors.grad, "captions": captions.vectors.grad}
    buffers = {k: v.clone() for k, v in method.state_dict().items() if "running" in k or "batches" in k}
    method.load_state_dict(before)
    return grads, buffers


@pytest.mark.parametrize(("size", "kept"), [(1 << 30, 1 << 30), (3000, 1 << 30), (3000, 0), (1, 0)])
@pytest.mark.parametrize("head", ["sgr", "saf"])
def test_gradients_and_statistics_are_those_of_the_readable_form(
    monkeypatch: pytest.MonkeyPatch, head: str, size: int, kept: int
) -> None:
    monkeypatch.setattr(regulated, "_CACHE_BYTES", size)
    monkeypatch.setattr(regulated, "_KEPT_BYTES", kept)
    method, images, captions = cefg(head), sets(UNEQUAL, 1), sets(WORDS, 2)
    (grads, buffers), (wanted, moved) = (step(method, images, captions, fast=f) for f in (True, False))
    assert set(grads) == set(wanted)
    for name, expected in wanted.items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(grads[name], expected, atol=2e-6 + 1e-5 * scale, rtol=1e-4, msg=name)
    for name, expected in moved.items():
        torch.testing.assert_close(buffers[name], expected, msg=name)
    if head == "saf":
        assert int(buffers["similarity.head.norm.num_batches_tracked"]) == len(WORDS)


def test_nothing_is_kept_for_the_backward_pass_when_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regulated, "_KEPT_BYTES", 0)
    monkeypatch.setattr(regulated, "checkpoint", None)  # calling it would fail
    with torch.no_grad():
        assert regulated_scores(cefg("sgr"), sets(EQUAL, 1), sets(WORDS, 2)).shape == (4, 7)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("head", ["sgr", "saf"])
@pytest.mark.parametrize(("refinements", "graph_steps"), [(1, 1), (2, 3), (4, 2)])
def test_without_gradients_the_numbers_are_the_same(
    head: str, refinements: int, graph_steps: int, lengths: tuple[int, ...]
) -> None:
    method = cefg(head, refinements=refinements, graph_steps=graph_steps)
    for parameter in method.similarity.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))  # biases start at zero, which would hide those left out
    images, captions = sets(lengths, 1), sets(WORDS, 2)
    wanted = method.score(images, captions)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(regulated_scores(method, images, captions), wanted, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_running_statistics_move_without_gradients_too() -> None:
    buffers = []
    for fast in (True, False):
        method = cefg("saf").train()
        score = regulated_scores if fast else Cefg.score
        score(method, sets(EQUAL, 1), sets(WORDS, 2))
        buffers.append(dict(method.named_buffers()))
    for name, expected in buffers[1].items():
        torch.testing.assert_close(buffers[0][name], expected, msg=name)
    assert float(buffers[0]["similarity.head.norm.running_mean"].abs()) > 0


@torch.no_grad()
@pytest.mark.parametrize("head", ["sgr", "saf"])
def test_a_matrix_of_many_tiles_is_that_of_the_readable_form(monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    """The last tiles reach back into those before them, and blocks hold captions of different lengths."""
    monkeypatch.setattr(regulated, "_TILE", (2, 5))
    monkeypatch.setattr(regulated, "_CACHE_BYTES", 4000)
    made: list[Similarity] = []

    class Counted(FoldedSimilarity):
        def __init__(self, similarity: Similarity) -> None:
            made.append(similarity)
            super().__init__(similarity)

    monkeypatch.setattr(regulated, "FoldedSimilarity", Counted)
    method, images, captions = cefg(head), sets(UNEQUAL * 4 + (6,), 1), sets((*WORDS, 19, 2, 5, 1), 2)
    tiles = open_tiles(method, images, captions)
    assert (tiles.rows, tiles.columns) == (9, 3)
    made.clear()
    found = score_matrix(method, images, captions)
    torch.testing.assert_close(found, method.score(images, captions), atol=1e-6, rtol=1e-5)
    assert made == [method.similarity]  # the weights are folded once for all tiles


@pytest.mark.parametrize(
    ("images", "captions", "sizes"),
    [(5000, 25000, (8, 256)), (16, 128, (4, 128)), (5000, 1, (1250, 1)), (1, 300, (1, 150)), (0, 0, (1, 1))],
)
def test_tiles_are_even_and_not_too_small(images: int, captions: int, sizes: tuple[int, int]) -> None:
    a, b = (Encoded(torch.zeros(n, 8), torch.ones(n, dtype=torch.long)) for n in (images, captions))
    tiles = regulated.regulated_tiles(cefg("sgr"), a, b)
    assert (tiles.image_cuts[:2][-1], tiles.caption_cuts[:2][-1]) == (min(images, sizes[0]), min(captions, sizes[1]))


@torch.no_grad()
@pytest.mark.parametrize("head", ["sgr", "saf"])
def test_modulation_and_sharpness_meet_their_bounds(head: str) -> None:
    method, images, captions = cefg(head, refinements=4), sets(EQUAL, 1), sets(WORDS, 2)
    for regulator in method.similarity.regulators:
        for parameter in regulator.parameters():
            parameter.mul_(8)
    lowered, sharpnesses = [], []
    for caption in captions.vectors.split(list(WORDS)):
        _, passes = method.nodes(images, caption)
        lowered += [float(m.min()) for m in passes.modulations if m is not None]
        sharpnesses += [float(s.min()) for s in passes.sharpnesses]
    assert min(lowered) == -1.0
    assert min(sharpnesses) == 0.0
    torch.testing.assert_close(regulated_scores(method, images, captions), method.score(images, captions))


@torch.no_grad()
@pytest.mark.parametrize("head", ["sgr", "saf"])
def test_a_caption_that_is_not_a_number_leaves_its_neighbours(head: str) -> None:
    method, images, captions = cefg(head), sets(EQUAL, 1), sets(WORDS, 2)
    wanted = regulated_scores(method, images, captions)
    captions.vectors[WORDS[0]] = torch.nan  # the first row of the second caption
    captions.vectors[sum(WORDS[:4])] = torch.inf  # and of the fifth
    found = regulated_scores(method, images, captions)
    sound = [0, 2, 3, 5, 6]
    assert torch.equal(found[:, sound], wanted[:, sound])
    assert not bool(found[:, 1].isfinite().any())


@torch.no_grad()
def test_captions_without_words_have_their_pooled_vector() -> None:
    method, images, captions = cefg("sgr"), sets(EQUAL, 1), sets((1, 1), 2)
    torch.testing.assert_close(regulated_scores(method, images, captions), method.score(images, captions))


@torch.no_grad()
def test_tiles_of_a_training_saf_have_the_statistics_of_their_captions() -> None:
    method, images, captions = cefg("saf").train(), sets(EQUAL, 1), sets(WORDS, 2)
    tiles = open_tiles(method, images, captions)
    wanted = method.score(images.slice(0, 1), captions)
    torch.testing.assert_close(tiles.tile(0, 0), wanted[:, tiles.captions], atol=1e-6, rtol=1e-5)
