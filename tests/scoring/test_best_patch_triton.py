"""The CUDA kernel, in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import torch
from patchword.scoring.best_patch_triton import best_patch
generator = torch.Generator().manual_seed(0)
for sizes, words, dims in (((36, 36), 70, 40), ((1, 5, 36, 65), 130, 33), ((3,), 1, 1), ((17, 16), 64, 32)):
    patches = torch.randn(sum(sizes), dims, generator=generator)
    others = torch.randn(words, dims, generator=generator)
    if words == 130:
        others[7, 3] = torch.nan
        patches[6, 2] = torch.inf
    starts = torch.tensor([0, *sizes]).cumsum(0)
    wanted = torch.stack([(part @ others.T).amax(0) for part in patches.split(sizes)])
    torch.testing.assert_close(best_patch(patches, starts, others), wanted, atol=1e-5, rtol=1e-5, equal_nan=True)
print("equal")
"""


def test_the_kernel_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr
