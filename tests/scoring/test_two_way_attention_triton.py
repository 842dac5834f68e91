"""ESL's CUDA kernel: in Triton's interpreter, compiled for a card, and where scoring chooses it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from elsewhere import a_device
from made_sets import esl, sets_for, unit_sets

from patchword.scoring import two_way_attention_triton, two_way_tiles
from patchword.scoring.matrix import open_tiles, pair_scores, score_matrix
from patchword.scoring.ranks import ranks
from patchword.scoring.tiles import PairTiles
from patchword.scoring.two_way_attention import two_way_scores
from patchword.scoring.two_way_attention_triton import PATCHES, WORDS, fused_scores
from patchword.types import Encoded

COMPARE = """
import itertools
import torch
from patchword.methods.esl import split_scores
from patchword.scoring.two_way_attention import two_way_scores
from patchword.scoring.two_way_attention_triton import fused_scores
from patchword.types import Encoded

def sets(sizes, dims, scale, seed):
    vectors = torch.randn(sum(sizes), dims, generator=torch.Generator().manual_seed(seed))
    return Encoded(scale * vectors / dims**0.25, torch.tensor(sizes))

def readable(images, captions, tau):
    (patches, patch_mask), (words, word_mask) = images.padded(), captions.padded()
    s = torch.einsum("cld,brd->bclr", words.double(), patches.double())
    return split_scores(s, word_mask[None], patch_mask[:, None], torch.tensor(tau).double()).sum(dim=(2, 3)).float()

"""
SCORES = """
for patches, words, dims, scale, tau in (
    ((36, 1, 65, 5), (1, 40, 16, 17, 7), 33, 1.0, 14.3),
    ((128, 36), (64, 9), 70, 0.1, 14.3),
    ((1,), (1,), 1, 1.0, 14.3),
    ((3, 36), (12, 2), 62, 1e-3, 14.3),  # cells of about 1e-6, of which a tanh by exponentials alone keeps no digit
    ((3, 36), (12, 2), 62, 1.0, 60.5),
):
    images, captions = sets(patches, dims, scale, 0), sets(words, dims, scale, 1)
    found = fused_scores(images, captions, tau)
    near = {"atol": 1e-5 * min(1, scale * scale), "rtol": 1e-5}
    torch.testing.assert_close(found, two_way_scores(images, captions, torch.tensor(tau)), **near)
    torch.testing.assert_close(found, readable(images, captions, tau), **near)
    alone = fused_scores(images.slice(len(images) - 1, len(images)), captions.slice(0, 1), tau)
    assert torch.equal(found[-1:, :1], alone)  # whatever lies beside them
images, captions = sets((5, 36), 14, 1.0, 0), sets((12, 3), 14, 1.0, 1)
steep = fused_scores(images, captions, 5000.0)  # exp(5000) is infinite
torch.testing.assert_close(steep, readable(images, captions, 5000.0), atol=5e-3, rtol=0)
"""
ODD = """
for value, sign in itertools.product((torch.nan, torch.inf, -torch.inf), (torch.Tensor.abs, torch.Tensor.clone)):
    images, captions = sets((5, 36, 2), 33, 1.0, 0), sets((12, 3, 40), 33, 1.0, 1)
    images, captions = (Encoded(sign(side.vectors), side.lengths) for side in (images, captions))
    images.vectors[7, 2] = value  # of the second image
    captions.vectors[13, 32] = value  # of the second caption
    found, wanted = fused_scores(images, captions, 14.3), two_way_scores(images, captions, torch.tensor(14.3))
    assert found.isfinite().sum() == 4
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5, equal_nan=True)
"""
CARD = """
from patchword.scoring.two_way_tiles import card_tiles
images, captions = sets((5, 129, 36), 14, 1.0, 0), sets((2, 65, 9, 64), 14, 1.0, 1)
tiles = card_tiles(images, captions, torch.tensor(14.3))
found = torch.empty(3, 4)
for column in range(tiles.columns):
    for row in range(tiles.rows):
        found[tiles.images_of(row), tiles.captions[tiles.places_of(column)]] = tiles.tile(row, column)
torch.testing.assert_close(found, readable(images, captions, 14.3), atol=1e-5, rtol=1e-5)
"""
COMPILE = """
import json, subprocess, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from patchword.scoring.two_way_attention_triton import PATCHES, WORDS, _kernel, warps

kernel = _kernel()
constants = {"dims": 1022, "PATCHES": PATCHES, "WORDS": WORDS, "DIMS": 32, "SLOPE": 0.1, "EPS": 1e-8}
kinds = {"columns": "i32", "temperature": "fp32", **dict.fromkeys(constants, "constexpr")}
kinds |= dict.fromkeys(("patches", "words", "scores"), "*fp32")
kinds |= dict.fromkeys(("patch_starts", "images", "word_starts", "captions"), "*i64")
source = ASTSource(kernel, {name: kinds[name] for name in kernel.arg_names}, constants)
made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": warps(PATCHES, WORDS)})
tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
    binary.write(made.asm["cubin"])
    binary.flush()
    used = subprocess.run([tool, "-res-usage", binary.name], capture_output=True, text=True, check=True).stdout
print(json.dumps({"used": used, "shared": made.metadata.shared}))
"""


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kernel_in_the_interpreter() -> None:
    assert run(COMPARE + SCORES + ODD + CARD + "print('equal')", TRITON_INTERPRET="1") == "equal\n"


def test_the_largest_pair_is_compiled_and_stays_in_registers(tmp_path: Path) -> None:
    """With the compiler that Triton brings, which needs no card."""
    made = json.loads(run(COMPILE, TRITON_CACHE_DIR=str(tmp_path)))
    assert re.search(r"STACK:0 .*LOCAL:0 ", made["used"]), made["used"]
    assert made["shared"] <= 48 << 10  # of every card


def test_a_card_takes_the_kernel_and_larger_pairs_the_torch_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself can not run on the device of this test: the torch form stands in, on the pairs it is given."""
    sizes: list[tuple[int, int]] = []

    def fused(images: Encoded, captions: Encoded, temperature: float) -> torch.Tensor:
        sizes.append((images.max_length, captions.max_length))
        return two_way_scores(images, captions, images.vectors.new_tensor(temperature))

    method = esl()
    images, captions = unit_sets([4, PATCHES + 1, 9, PATCHES], 14, 0), unit_sets([5, WORDS, 3, WORDS + 1, 1], 14, 1)
    small = images.select(torch.tensor([0, 2])), captions.select(torch.tensor([0, 2, 4]))
    truth = torch.tensor([0, 1, 2, 3, 0])
    wanted, counts = score_matrix(method, images, captions), ranks(method, images, captions, truth)
    monkeypatch.setattr(two_way_tiles, "has_kernel", lambda *_: True)
    monkeypatch.setattr(two_way_attention_triton, "fused_scores", fused)
    with a_device() as device:
        there = esl().to(device)
        there.load_state_dict(method.state_dict())
        a, b = images.to(device), captions.to(device)
        tiles = open_tiles(there, a, b)
        assert isinstance(tiles, PairTiles)
        torch.testing.assert_close(score_matrix(there, a, b), wanted, atol=2e-6, rtol=2e-5)
        found = ranks(there, a, b, truth)
        assert set(sizes) == {(PATCHES, WORDS)}
        sizes.clear()
        score_matrix(there, *(side.to(device) for side in small))
        assert sizes == [(9, 5)]
        less = open_tiles(there, *(side.to(device) for side in small))
    assert found.t2i.pessimistic.tolist() == counts.t2i.pessimistic.tolist()
    assert less.tile_bytes < 1 << 14 < tiles.tile_bytes  # no cells are held where no pair goes the torch way


def test_training_never_takes_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_way_tiles, "has_kernel", lambda *_: True)
    monkeypatch.setattr(two_way_attention_triton, "fused_scores", lambda *_: pytest.fail("it has no gradient"))
    method = esl()
    images, captions = sets_for(method, 3, 4)
    with a_device() as device:
        there = esl().to(device)
        vectors = images.vectors.to(device).requires_grad_()
        pair_scores(there, Encoded(vectors, images.lengths.to(device)), captions.to(device)).sum().backward()
        assert vectors.grad is not None
    images.vectors.requires_grad_()
    with pytest.raises(AssertionError, match="the kernel has no gradient"):
        fused_scores(images, captions, 1.0)


def test_without_the_kernel_a_device_scores_as_in_training() -> None:
    method = esl()
    images, captions = sets_for(method, 3, 4)
    with a_device() as device:
        assert two_way_tiles.esl_tiles(esl().to(device), images.to(device), captions.to(device)) is None
    assert isinstance(two_way_tiles.esl_tiles(method, images, captions), two_way_tiles.TwoWayTiles)
