from itertools import product

import pytest
import torch
from torch import Tensor

from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import ShapeError
from patchword.methods.chan import Chan, ChanConfig
from patchword.methods.vse_inf import VseInfinity, VseInfinityConfig
from patchword.scoring.matrix import pair_scores, score_matrix, tile_sizes
from patchword.types import Encoded

REGIONS, WORDS = (5, 1, 3, 2, 7, 5, 4, 1, 6), (4, 1, 2, 6, 3, 9, 4, 2, 2, 1, 5)
CONFIGS = [*product(("vha", "tha", "vsa"), ("mean", "max", "sum", "lse", "softmax"))]
TEXT = BigruConfig(vocab_size=5, word_dim=3)


def chan(coding: str = "vha", pooling: str = "lse") -> Chan:
    base = {"joint_dim": 8, "image": RegionsConfig(width=5), "text": TEXT, "coding": coding, "pooling": pooling}
    return Chan(ChanConfig.model_validate(base)).eval()


def sets(lengths: tuple[int, ...], seed: int) -> Encoded:
    vectors = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(seed))
    return Encoded(vectors / vectors.norm(dim=1, keepdim=True), torch.tensor(lengths))


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("coding", "pooling"), CONFIGS)
@pytest.mark.parametrize("equal", [True, False])
def test_the_fast_form_equals_the_readable_one(coding: str, pooling: str, equal: bool) -> None:
    method = chan(coding, pooling)
    images, captions = sets((5,) * 6 if equal else REGIONS, 1), sets(WORDS, 2)
    same(pair_scores(method, images, captions), method.score(images, captions))


@pytest.mark.parametrize(("coding", "pooling"), CONFIGS)
def test_the_tiling_changes_nothing(coding: str, pooling: str) -> None:
    method, images, captions = chan(coding, pooling), sets(REGIONS, 1), sets(WORDS, 2)
    expected = method.score(images, captions)
    for tile in (None, (1, 1), (7, 7), (1, 7), (7, 1), (len(REGIONS), len(WORDS)), (100, 100)):
        same(score_matrix(method, images, captions, tile=tile), expected)


def test_a_method_with_one_vector_per_item_needs_no_fast_form() -> None:
    method = VseInfinity(VseInfinityConfig(joint_dim=8, image=RegionsConfig(width=5), text=TEXT)).eval()
    images, captions = sets((1,) * 5, 1), sets((1,) * 7, 2)
    for tile in (None, (1, 1), (2, 3)):
        same(score_matrix(method, images, captions, tile=tile), images.vectors @ captions.vectors.T)


class _Plain(Chan):
    """A method that no table knows: scoring must fall back on its own formula."""

    name = "plain"

    def score(self, images: Encoded, captions: Encoded) -> Tensor:
        return images.lengths[:, None] * 1.0 + captions.lengths[None, :] / 10


def test_unknown_methods_use_their_own_formula() -> None:
    method = _Plain(chan().config)
    images, captions = sets(REGIONS, 1), sets(WORDS, 2)
    expected = torch.tensor(REGIONS)[:, None] + torch.tensor(WORDS)[None] / 10
    same(score_matrix(method, images, captions, tile=(2, 3)), expected)


class _Turned(_Plain):
    """A method whose scores are captions x images, and whose score draws and normalises over the batch."""

    name = "turned"

    def __init__(self, config: ChanConfig) -> None:
        super().__init__(config)
        self.norm = torch.nn.BatchNorm1d(1)
        self.right = False

    def score(self, images: Encoded, captions: Encoded) -> Tensor:
        scores = super().score(images, captions) + torch.rand(())
        scores = self.norm(scores.reshape(-1, 1)).reshape(scores.shape)
        return scores if self.right else scores.T


def test_transposed_scores_are_refused_in_square_batches_too() -> None:
    method = _Turned(chan().config).train()
    images, captions = sets(REGIONS[:4], 1), sets(WORDS[:5], 2)
    with pytest.raises(ShapeError, match=r"`score` of turned gave \(5, 4\), expected images x captions \(4, 5\)"):
        pair_scores(method, images, captions)
    with pytest.raises(ShapeError, match=r"turned gave \(3, 2\), expected images x captions \(2, 3\)"):
        pair_scores(method, images, captions.slice(0, 4))


def test_looking_at_the_shape_of_square_scores_changes_nothing() -> None:
    method = _Turned(chan().config).train()
    method.right, method.text.training = True, False
    images, captions = sets(REGIONS[:4], 1), sets(WORDS[:4], 2)
    found = []
    for _ in range(2):  # only the first time three captions are scored against two images
        torch.manual_seed(3)
        found.append((pair_scores(method, images, captions), torch.rand(())))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert int(method.norm.num_batches_tracked) == 2
    assert method.training
    assert not method.text.training


def test_progress_counts_every_pair_once() -> None:
    counted: list[int] = []
    score_matrix(chan(), sets(REGIONS, 1), sets(WORDS, 2), tile=(4, 3), progress=counted.append)
    assert sum(counted) == len(REGIONS) * len(WORDS)
    assert len(counted) == 3 * 4


def test_scores_are_float32_without_gradients() -> None:
    images = sets(REGIONS, 1)
    images.vectors.requires_grad_()
    for kind in (torch.float32, torch.float64):
        cast = Encoded(images.vectors.to(kind), images.lengths)
        found = score_matrix(chan(), cast, Encoded(sets(WORDS, 2).vectors.to(kind), torch.tensor(WORDS)))
        assert found.dtype == torch.float32
        assert not found.requires_grad


@pytest.mark.parametrize("budget", [1, 10_000, 1 << 20, 1 << 28])
def test_tiles_stay_within_the_budget(budget: int) -> None:
    images, captions = sets((36,) * 50, 1), sets((12,) * 3000, 2)
    rows, columns = tile_sizes(chan(), images, captions, budget)
    assert 1 <= rows <= 50
    assert 1 <= columns <= 3000
    assert rows == 1 or 4 * rows * 36 * columns * 12 <= budget
    assert rows == 50 or 4 * (rows + 1) * 36 * columns * 12 > budget
