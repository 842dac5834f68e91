"""MUVERA's encodings against plain loops over the paper's definition."""

from __future__ import annotations

import torch
from engine_toys import sets_of

from patchword.shortlist.fde import FixedEncoding
from patchword.types import Encoded


def by_hand(encoding: FixedEncoding, sets: Encoded, *, of_images: bool) -> torch.Tensor:
    """The encodings before the final projection, cell by cell."""
    planes, signs, _, _ = encoding._drawn
    rows = []
    for n in range(len(sets)):
        vectors = sets.slice(n, n + 1).vectors
        parts = []
        for turn in range(encoding.repetitions):
            bits = (vectors @ planes[turn] > 0).long()
            inner = vectors if signs is None else vectors @ signs[turn]
            for cell in range(1 << encoding.bits):
                wanted = torch.tensor([cell >> k & 1 for k in range(encoding.bits)])
                apart = (bits != wanted).sum(1)
                inside = inner[apart == 0]
                if not of_images:
                    parts.append(inside.sum(0))
                elif len(inside):
                    parts.append(inside.mean(0))
                else:
                    parts.append(inner[int(apart.argmin())])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def test_cells_are_filled_as_the_paper_says() -> None:
    sets = sets_of(7)
    for inner in (4, 16):
        encoding = FixedEncoding(16, bits=3, repetitions=2, inner=inner, width=0, seed=3)
        assert encoding.full_width == 2 * 8 * inner
        torch.testing.assert_close(encoding.images(sets), by_hand(encoding, sets, of_images=True))
        torch.testing.assert_close(encoding.captions(sets), by_hand(encoding, sets, of_images=False))


def test_the_final_projection_adds_signed_numbers() -> None:
    sets = sets_of(3)
    whole = FixedEncoding(16, bits=2, repetitions=3, inner=8, width=0, seed=1)
    small = FixedEncoding(16, bits=2, repetitions=3, inner=8, width=20, seed=1)
    _, _, places, flips = small._drawn
    expected = torch.zeros(3, 20).index_add_(1, places, whole.images(sets) * flips)
    torch.testing.assert_close(small.images(sets), expected)
    assert small.final_width == 20


def test_blocks_change_nothing() -> None:
    sets = sets_of(50)
    encoding = FixedEncoding(16, bits=3, repetitions=2, inner=8, seed=0)
    alone = torch.cat([encoding.images(sets.slice(n, n + 1)) for n in range(50)])
    torch.testing.assert_close(encoding.images(sets), alone)


def test_the_product_follows_the_sum_of_best_patches() -> None:
    images, captions = sets_of(60, seed=1), sets_of(20, seed=2)
    exact = torch.stack(
        [
            torch.stack([
                (captions.slice(c, c + 1).vectors @ images.slice(b, b + 1).vectors.T).amax(1).sum() for c in range(20)
            ])
            for b in range(60)
        ]
    )  # fmt: skip
    encoding = FixedEncoding(16, bits=3, repetitions=20, inner=16, width=0, seed=0)
    found = encoding.images(images) @ encoding.captions(captions).T / 20
    centred = torch.stack([exact - exact.mean(0), found - found.mean(0)]).flatten(1)
    assert torch.corrcoef(centred)[0, 1] > 0.85
