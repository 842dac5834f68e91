from itertools import product

import pytest
import torch
from torch import Tensor

from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.losses.triplet import hinge
from patchword.methods.chan import Chan, ChanConfig
from patchword.scoring import hard_assignment
from patchword.scoring.hard_assignment import best_patches, chan_scores, word_slots
from patchword.types import Encoded

EQUAL, UNEQUAL, WORDS = (4,) * 6, (5, 1, 3, 2, 7, 5), (4, 1, 2, 6, 3, 9)
POOLINGS = ("mean", "max", "sum", "lse", "softmax")


def chan(pooling: str = "lse", coding: str = "vha", padding: str = "masked") -> Chan:
    text = BigruConfig(vocab_size=5, word_dim=3)
    values = {"joint_dim": 8, "image": RegionsConfig(width=5), "text": text}
    chosen = {"pooling": pooling, "coding": coding, "score_padding": padding}
    return Chan(ChanConfig.model_validate({**values, **chosen})).eval()


def sets(lengths: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Encoded:
    vectors = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return Encoded((vectors / vectors.norm(dim=1, keepdim=True)).requires_grad_(), torch.tensor(lengths))


@pytest.mark.parametrize("tile", [(1, 1), (7, 5), (9, 1 << 10), (1 << 10, 3)])
@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL])
def test_every_word_gets_its_best_patch(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], tile: tuple[int, int]
) -> None:
    monkeypatch.setattr(hard_assignment, "PATCHES", tile[0])
    monkeypatch.setattr(hard_assignment, "WORDS", tile[1])
    images, captions = sets(lengths, 1), sets(WORDS, 2)
    found = best_patches(images, captions)
    assert found.shape == (6, sum(WORDS))
    for b, t in product(range(6), range(sum(WORDS))):
        patches = images.slice(b, b + 1).vectors.tolist()
        word = captions.vectors[t].tolist()
        expected = max(sum(x * y for x, y in zip(patch, word, strict=True)) for patch in patches)
        assert found[b, t].item() == pytest.approx(expected, abs=1e-6)


def test_word_slots_point_at_the_words_of_a_caption() -> None:
    slots = word_slots(sets((3, 1, 2), 0))
    assert slots.tolist() == [[0, 1, 2], [3, 3, 3], [4, 5, 4]]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL, (1, 1)])
def test_equal_to_the_readable_formula(pooling: str, lengths: tuple[int, ...]) -> None:
    method, images, captions = chan(pooling), sets(lengths, 3), sets(WORDS, 4)
    found = chan_scores(method, images, captions)
    assert found is not None
    torch.testing.assert_close(found, method.score(images, captions), atol=1e-5, rtol=1e-5)


def test_other_codings_have_no_fast_form() -> None:
    images, captions = sets(EQUAL, 1), sets(WORDS, 2)
    for method in (chan(coding="tha"), chan(coding="vsa"), chan(padding="reference")):
        assert chan_scores(method, images, captions) is None


def gradients(scores: Tensor, images: Encoded, captions: Encoded, hardest: int | None) -> tuple[Tensor, ...]:
    return torch.autograd.grad(hinge(scores, 0.3, hardest=hardest), (images.vectors, captions.vectors))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("hardest", [None, 1, 2])
@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL])
def test_sparse_gradients_equal_those_of_the_readable_formula(
    lengths: tuple[int, ...], hardest: int | None, pooling: str
) -> None:
    method, images, captions = chan(pooling), sets(lengths, 5), sets(WORDS, 6)
    fast = chan_scores(method, images, captions)
    assert fast is not None
    found = gradients(fast, images, captions, hardest)
    expected = gradients(method.score(images, captions), images, captions, hardest)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "lse", "softmax"])
@pytest.mark.parametrize("lengths", [(2, 2), (1, 3)])
def test_gradcheck(lengths: tuple[int, ...], pooling: str) -> None:
    method, images, captions = chan(pooling), sets(lengths, 7, torch.float64), sets((2, 3), 8, torch.float64)

    def score(patches: Tensor, words: Tensor) -> Tensor:
        found = chan_scores(method, Encoded(patches, images.lengths), Encoded(words, captions.lengths))
        assert found is not None
        return found

    assert torch.autograd.gradcheck(score, (images.vectors, captions.vectors))


def test_no_gradient_where_nothing_is_asked() -> None:
    images, captions = sets(UNEQUAL, 1), sets(WORDS, 2)
    best_patches(images, captions)[2, 3].backward()
    assert images.vectors.grad is not None
    assert captions.vectors.grad is not None
    rows = images.vectors.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert len(rows) == 1
    assert images.offsets[2] <= rows[0] < images.offsets[3]
    assert captions.vectors.grad.abs().sum(1).nonzero()[:, 0].tolist() == [3]
