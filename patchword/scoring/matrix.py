"""Scores of all pairs in bounded memory, and the table of the methods' fast forms.

``pair_scores`` is what training calls: the fast exact form of a method where ``scoring/`` has one, else its own
readable ``score``. ``score_matrix``, ``ranks`` and ``top_k`` compute the same scores tile by tile, on a grid that
nothing but the sets and the method decides (``tiles.py``). All agree (tests/scoring).
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.errors import ScoreError, ShapeError
from patchword.methods.base import Method
from patchword.scoring.bounds import Judge, NoScreen, Screen
from patchword.scoring.jobs import UNITS, Found, Job, Progress, digest, identity_of, open_folder, share
from patchword.scoring.tiles import PairTiles, Tiles, groups_of
from patchword.types import Encoded


@dataclass(frozen=True)
class Forms:
    """Fast exact forms of a method, each as "module:function" and each optional.

    Attributes:
        pairs: function(method, images, captions) -> scores ``(B, C)``, differentiable; what training uses.
        tiles: function(method, images, captions) -> ``Tiles``: for many images and captions, without gradients; by
            default ``pairs`` on a grid of blocks.
        screen: function(method, images, captions, judge) -> ``Screen`` with proven bounds of the scores, or
            ``NoScreen`` when it would not pay for these sets, or a sentence that says why there is none.
        uncertified: why there is no screen.

    A function may give None when the method's configuration has no such form.
    """

    pairs: str | None = None
    tiles: str | None = None
    screen: str | None = None
    uncertified: str = "no bound of its scores is known that costs less than the scores"


_ONE_VECTOR = Forms(
    uncertified="every item is one vector, so a tile of scores is one small matrix product (5,000 x 25,000 in 3.4 s), "
    "and settling near ties would compute most of the tiles anyway"
)

_CONDENSED = Forms(
    pairs="patchword.scoring.condensed:condensed_scores",
    tiles="patchword.scoring.condensed_tiles:condensed_tiles",
    uncertified="the bound that is known leaves 69 to 95 % of the pairs of trained models open, even at its narrowest",
)

# method -> its forms
_FAST: dict[str, Forms] = {
    "chan": Forms(
        pairs="patchword.scoring.hard_assignment:chan_scores",
        tiles="patchword.scoring.hard_tiles:chan_tiles",
        screen="patchword.scoring.hard_screen:chan_screen",
    ),
    "clip": replace(
        _ONE_VECTOR,
        tiles="patchword.scoring.hard_tiles:late_tiles",
        screen="patchword.scoring.hard_screen:late_screen",
    ),
    "vse_inf": _ONE_VECTOR,
    "hrem": _ONE_VECTOR,
    "aahr": _ONE_VECTOR,
    "cefg": Forms(
        pairs="patchword.scoring.regulated:regulated_scores",
        tiles="patchword.scoring.regulated:regulated_tiles",
        uncertified="its only proven bound is one constant for all pairs, which leaves 100 % of them open",
    ),
    "scta": _CONDENSED,
    "laps": _CONDENSED,
    "esl": Forms(
        pairs="patchword.scoring.two_way_attention:esl_scores",
        tiles="patchword.scoring.two_way_tiles:esl_tiles",
        uncertified="the bound that is known leaves 61 to 78 % of the pairs of trained models open",
    ),
}

TILE_BYTES = 256 << 20  # memory of the largest temporary of one tile
MEMORY = 2 << 30  # default budget of a job, besides the sets and the result
_MOST = (256, 1024)  # images and captions of a tile
_ROWS = 32  # rows of tiles, unless they would have more or fewer images than is good


@runtime_checkable
class HasMethod(Protocol):
    """A loaded model."""

    @property
    def method(self) -> Method:
        """What it scores with."""


def method_of(model: Method | HasMethod) -> Method:
    """The method of a model, or the method itself."""
    return model if isinstance(model, Method) else model.method


def _form(method: Method, kind: Literal["pairs", "tiles", "screen"], *arguments: Any) -> Any:
    """What a method's fast form gives; None where it has none."""
    target: str | None = getattr(_FAST.get(method.name), kind, None)
    if target is None:
        return None
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)(method, *arguments)


def pair_scores(method: Method, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
    """Score every image against every caption in one piece; differentiable.

    Raises:
        ShapeError: the method's own ``score`` gives something else than images x captions.
    """
    scores: Tensor | None = _form(method, "pairs", images, captions)
    if scores is not None:
        return scores
    scores = method.score(images, captions)
    require_scores(method, scores, (len(images), len(captions)))
    if method.name not in _FAST and method not in _TRIED and len(images) == len(captions) > 2:
        _TRIED.add(method)
        refuse_transposed(method, images, captions)
    return scores


_TRIED: weakref.WeakSet[Method] = weakref.WeakSet()  # methods whose square scores were looked at once


def require_scores(method: Method, scores: object, expected: tuple[int, int]) -> None:
    """Refuse what a method's ``score`` gave when it is not a matrix of images x captions.

    Raises:
        ShapeError: naming the method and both shapes.
    """
    found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if found != expected:
        raise ShapeError(f"`score` of {method.name} gave {found}, expected images x captions {expected}.")


def refuse_transposed(method: Method, images: Encoded, captions: Encoded) -> None:
    """Refuse a method whose ``score`` gives captions x images, which the shape of a square batch does not tell.

    Two images are scored against three captions, with the random numbers, the mode and the gradients left as they are.
    Whatever else happens then is not judged: the encodings may be of training, and the batch larger by right.

    Raises:
        ShapeError: the scores are 3 x 2.
    """
    modes = [(module, module.training) for module in method.modules()]
    device = images.vectors.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            scores: object = method.eval().score(images.slice(0, 2), captions.slice(0, 3))
        except Exception:  # noqa: BLE001 - a score that needs more than these sets
            return
        finally:
            for module, mode in modes:
                module.training = mode
    if isinstance(scores, Tensor) and tuple(scores.shape) == (3, 2):
        require_scores(method, scores, (2, 3))


def float_sets(images: Encoded, captions: Encoded) -> tuple[Encoded, Encoded]:
    """Both sets in float32, in which everything is scored: in half precision many scores would tie.

    Raises:
        ScoreError: their vectors have different widths.
    """
    widths = images.vectors.shape[1], captions.vectors.shape[1]
    if widths[0] != widths[1]:
        raise ScoreError(
            f"the vectors of the images have width {widths[0]}, those of the captions {widths[1]}. "
            "Expected the same: encode both with one model."
        )
    return images.float(), captions.float()


def open_tiles(method: Method, images: Encoded, captions: Encoded) -> Tiles:
    """The grid of tiles on which a method scores.

    Raises:
        ScoreError: the sets have different widths.
    """
    images, captions = float_sets(images, captions)
    made: Tiles | None = _form(method, "tiles", images, captions)
    if made is not None:
        return made
    sizes = tile_sizes(method, images, captions)
    rows = max(4, -(-len(images) // _ROWS))  # so many tiles below each other keep many cores busy
    sizes = (min(sizes[0], rows, _MOST[0]), min(sizes[1], _MOST[1]))
    memory = sizes[0] * sizes[1] * method.pair_bytes(images, captions)
    return PairTiles(partial(pair_scores, method), images, captions, sizes, memory)


def tile_sizes(method: Method, images: Encoded, captions: Encoded, budget: int = TILE_BYTES) -> tuple[int, int]:
    """Images and captions per tile so that the temporaries of a tile stay within ``budget`` bytes."""
    per_pair = method.pair_bytes(images, captions)
    n_captions = min(len(captions), 1024, max(1, budget // per_pair))
    return max(1, min(len(images), budget // (per_pair * max(1, n_captions)))), max(1, n_captions)


def open_screen(method: Method, images: Encoded, captions: Encoded, judge: Judge) -> Screen | NoScreen:
    """Proven bounds of a method's scores, or why every pair should be scored for these sets.

    Raises:
        ScoreError: in one sentence, why this method has none.
    """
    found: Screen | NoScreen | str | None = _form(method, "screen", images, captions, judge)
    if isinstance(found, Screen | NoScreen):
        return found
    why = found or _FAST.get(method.name, Forms()).uncertified
    raise ScoreError(f"{method.name} has no certified mode: {why}. Use precision float32 (--ranks streamed).")


def require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a word that would be taken for another one.

    Raises:
        ScoreError: it is none of those that are known.
    """
    if value not in known:
        raise ScoreError(f"`{name}` is {value!r}. Expected {' or '.join(map(repr, known))}.")


def check_memory(tiles: Tiles, memory: int, device: torch.device) -> int:
    """How many tiles may be computed at a time: one on a device, which computes a tile with all its cores.

    Warns when that leaves cores without work.

    Raises:
        ScoreError: not even one.
    """
    if tiles.tile_bytes > memory:
        raise ScoreError(
            f"a memory budget of {memory:,} bytes was given. One tile of this method on these sets takes "
            f"{tiles.tile_bytes:,}: give at least that."
        )
    if device.type != "cpu":
        return 1
    at_a_time, cores = memory // max(1, tiles.tile_bytes), torch.get_num_threads()
    if at_a_time < min(cores, tiles.rows):
        all_of_them = math.ceil(cores * tiles.tile_bytes / (1 << 20))
        warnings.warn(
            f"{at_a_time} of {cores} cores are used: a tile takes {tiles.tile_bytes / (1 << 20):,.0f} MiB of the "
            f"{memory / (1 << 20):,.0f} MiB that scoring may take. Give --memory {all_of_them}MiB for all of them.",
            stacklevel=2,
        )
    return at_a_time


@torch.no_grad()
def score_matrix(
    model: Method | HasMethod,
    images: Encoded,
    captions: Encoded,
    *,
    tile: tuple[int, int] | None = None,
    precision: Literal["float32", "certified"] = "float32",
    memory: int = MEMORY,
    progress: Progress | None = None,
    folder: Path | str | None = None,
) -> Float[Tensor, "N M"]:
    """Scores of all images against all captions, float32 on the CPU.

    Args:
        model: a model or a method, in evaluation mode.
        images, captions: vector sets; they are scored in float32.
        tile: images and captions per tile instead of the method's own grid. This changes the rounding of a score, as
            nothing else here does.
        precision: taken as ``ranks`` and ``top_k`` take it, for callers that pass the same to all three. Their
            ``certified`` leaves pairs unscored, so it has no matrix and is refused.
        memory: bytes that may be held besides the sets and the result.
        progress: called with the number of pairs scored since the last call.
        folder: keep finished rows there, and go on with those that are there.

    Under torchrun, called with the same sets on every process, each scores a share and all get the whole matrix.

    Raises:
        ScoreError: ``certified`` was asked for, a tile has no pair, the sets have different widths, the memory is too
            small, or the folder belongs to another job.
    """
    method = method_of(model)
    if precision != "float32":
        raise ScoreError(
            f"a score matrix with precision {precision!r} was asked for. It holds every score, so nothing can be left "
            "out: use precision float32, or ranks(...) and top_k(...), which have a certified mode."
        )
    if tile is not None and min(tile) < 1:
        raise ScoreError(f"tiles of {tile[0]} x {tile[1]} were asked for. Expected at least 1 x 1 (images x captions).")
    images, captions = float_sets(images, captions)
    if tile is None:
        tiles = open_tiles(method, images, captions)
    else:
        tiles = PairTiles(partial(pair_scores, method), images, captions, tile, 0)
    place = open_job(folder, method, images, captions, grid_of(tiles), what="matrix", tile=str(tile))
    job = Job("scores", place, progress)
    job.at_a_time = check_memory(tiles, memory, images.vectors.device)
    scores = torch.zeros(len(images), len(captions))
    units = groups_of(tiles.image_cuts, -(-len(images) // UNITS))

    def work(unit: int) -> Found:
        rows = units[unit]
        first = tiles.image_cuts[rows.start]
        found = torch.empty(tiles.image_cuts[rows.stop] - first, len(captions))
        for column in range(tiles.columns):
            chosen = tiles.captions[tiles.places_of(column)]
            for row in rows:
                block = tiles.images_of(row)
                found[block.start - first : block.stop - first, chosen] = tiles.tile(row, column).cpu()
            job.advance(len(found) * len(chosen))
        return {"scores": found}

    for unit, found in job.run(len(units), work, lambda unit: tiles.count(units[unit]) * len(captions)):
        first = tiles.image_cuts[units[unit].start]
        scores[first : first + len(found["scores"])] = found["scores"]
    share({"scores": scores.view(torch.int32)})
    return scores


def grid_of(tiles: Tiles) -> list[Tensor]:
    """What the division of a job over tiles depends on."""
    return [torch.as_tensor(tiles.image_cuts), torch.as_tensor(tiles.caption_cuts), tiles.captions]


def open_job(
    folder: Path | str | None,
    method: Method,
    images: Encoded,
    captions: Encoded,
    grid: Sequence[Tensor],
    **what: str | int,
) -> Path | None:
    """The folder of a job, made or checked.

    Args:
        folder: None keeps nothing.
        method, images, captions: what scores, and what is scored.
        grid: cuts and orders that decide what lies in which part.
        what: is computed.

    Raises:
        ScoreError: it holds the parts of another job.
    """
    if folder is None:
        return None
    open_folder(Path(folder), identity_of(method, images, captions, **what, grid=digest(*grid)))
    return Path(folder)
