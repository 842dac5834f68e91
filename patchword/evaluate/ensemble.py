"""Combining the score matrices of several models, after checking that they score the same rows and columns.

The published ensembles are plain means of raw scores, so a member with a larger scale weighs more. That stays the
default; z-scores and rank fusion are there for members that do not share a scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Shaped

from patchword.errors import ConfigError, ScoreError
from patchword.evaluate.matrix import CHUNK_CELLS, ScoreMatrix, as_array, refuse_non_finite, row_blocks
from patchword.evaluate.scores_file import Provenance, SavedScores, share_owner

# Members whose standard deviations differ by more than this factor are warned about.
SCALE_GAP = 3.0

# Reciprocal rank fusion adds 1 / (60 + rank). Source: Cormack, Clarke, Buettcher, SIGIR 2009.
RRF_CONSTANT = 60


def ensemble(
    members: Sequence[SavedScores], fusion: str = "mean", weights: Sequence[float] | None = None
) -> SavedScores:
    """Fuse score matrices into one.

    mean:    fused = sum_i w_i * S_i / sum_i w_i
    zscore:  the same of (S_i - mean(S_i)) / std(S_i)
    rank:    the same of (1 / (60 + row rank) + 1 / (60 + column rank)) / 2, ranks from 1, equal scores sharing the best

    Args:
        members: two or more matrices of the same images and captions in the same order.
        fusion: ``mean``, ``zscore`` or ``rank``; one matrix serves both directions in each case.
        weights: one positive weight a member; equal by default.

    Returns:
        The fused scores with the ids of the first member that has them, notes (the members, which ids could not be
        checked), and for ``mean`` a warning where the members' scales differ by more than a factor of 3. ``mean`` keeps
        the members' dtype.

    Raises:
        ScoreError: fewer than two members, different ids or sizes, a value that is not finite, or bad weights.

    Example:
        >>> owner = np.array([0, 1])
        >>> a, b = (SavedScores(np.array(s), owner) for s in ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [2.0, 3.0]]))
        >>> ensemble([a, b]).scores.tolist()
        [[0.5, 0.5], [1.0, 2.0]]
    """
    share = _normalised(weights, len(members))
    if fusion not in ("mean", "zscore", "rank"):
        raise ScoreError(f"Unknown way to fuse '{fusion}'. Expected mean, zscore or rank.")
    members = share_owner(members)
    notes = [note for other in members[1:] for note in check_same_rows(members[0], other)]
    for first, other in pairwise(m for m in members if m.image_ids is not None):
        check_same_rows(first, other)
    warnings = [f"'{member.path}': {text}" for member in members for text in member.warnings]
    for member in members:
        _refuse_unfinished(member)
    moments = [_moments(member.scores) for member in members]
    if fusion == "mean":
        fused = _mean(members, weights, share)
        warnings += _scale_warning(members, [std for _, std in moments])
    else:
        fused = np.zeros(tuple(members[0].scores.shape))
        for member, weight, (mean, std) in zip(members, share, moments, strict=True):
            if fusion == "zscore":
                _add_standardised(fused, member, weight, mean, std)
            else:
                fused += weight * reciprocal_ranks(as_array(member.scores))
    names = ", ".join(member.path for member in members)
    plain = "" if weights is None else f", weights {', '.join(f'{w:g}' for w in weights)}"
    known = next((m for m in members if m.image_ids is not None), members[0])
    digests = next((m.caption_digests for m in members if m.caption_digests is not None), None)
    theirs = [f"'{member.path}': {note}" for member in members for note in member.notes]
    notes = [f"ensemble ({fusion}{plain}) of {names}", *theirs, *notes]
    where = _joined(members)
    said = tuple(dict.fromkeys(warnings))
    return SavedScores(
        fused, known.owner, known.image_ids, digests, where, tuple(notes), "ensemble", said, known.assumed
    )


def check_fusion(count: int, fusion: str, weights: Sequence[float] | None) -> None:
    """Refuse a way to fuse where there is nothing to fuse.

    Args:
        count: runs and score files that were given.
        fusion, weights: of ``ensemble``.

    Raises:
        ConfigError: one was given, and another ``fusion`` than the default, or weights.
    """
    if count > 1:
        return
    if weights is not None:
        shown = " ".join(f"{weight:g}" for weight in weights)
        raise ConfigError(f"weights {shown} for one run. Weights are for several: leave them out, or add runs.")
    if fusion != "mean":
        raise ConfigError(f"fusion {fusion!r} for one run. It says how several are fused: leave it out, or add runs.")


def check_same_rows(first: SavedScores, other: SavedScores) -> tuple[str, ...]:
    """Refuse two matrices that do not score the same images and captions in the same order.

    Returns:
        A note when one of them has no ids, so that only the sizes could be compared.

    Raises:
        ScoreError: names the first difference.
    """
    sizes = [tuple(m.scores.shape) for m in (first, other)]
    if sizes[0] != sizes[1]:
        raise ScoreError(f"'{first.path}' is {sizes[0]} but '{other.path}' is {sizes[1]}. Expected equal sizes.")
    _same("image of caption", first.owner.tolist(), other.owner.tolist(), first, other)
    unchecked = []
    if first.image_ids is not None and other.image_ids is not None:
        _same("image id of row", first.image_ids, other.image_ids, first, other)
    else:
        unchecked.append("image ids")
    if first.caption_digests is not None and other.caption_digests is not None:
        _same("caption digest of column", first.caption_digests.tolist(), other.caption_digests.tolist(), first, other)
    else:
        unchecked.append("captions")
    if not unchecked:
        return ()
    return (f"only sizes compared, not {' and '.join(unchecked)}: '{first.path}' with '{other.path}'",)


def reciprocal_ranks(scores: Shaped[np.ndarray, "N M"]) -> Float[np.ndarray, "N M"]:
    """Mean of 1 / (60 + rank) within the row (image -> text) and within the column (text -> image).

    Ranks start at 1, and equal scores share the best of their ranks, so ties stay ties. Sorts every row and column.

    Example:
        >>> (1 / reciprocal_ranks(np.array([[0.9, 0.1]]))).round(2).tolist()
        [[61.0, 61.5]]
    """
    fused = np.empty(scores.shape)
    for row, line in enumerate(scores):
        fused[row] = 0.5 / (RRF_CONSTANT + _descending_ranks(line))
    for column in range(scores.shape[1]):
        fused[:, column] += 0.5 / (RRF_CONSTANT + _descending_ranks(np.ascontiguousarray(scores[:, column])))
    return fused


def _descending_ranks(line: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """1 + number of strictly larger values."""
    return 1 + len(line) - np.searchsorted(np.sort(line), line, side="right")


def _same(what: str, a: Sequence[object], b: Sequence[object], first: SavedScores, other: SavedScores) -> None:
    """Refuse two lists that differ, naming the first difference."""
    for position, (x, y) in enumerate(zip(a, b, strict=True)):
        if x != y:
            raise ScoreError(
                f"Different data: {what} {position} is {x!r} in '{first.path}' but {y!r} in '{other.path}'. Expected "
                "the same images and captions in the same order."
            )


def _normalised(weights: Sequence[float] | None, members: int) -> list[float]:
    """Weights that add up to 1."""
    if members < 2:
        raise ScoreError(f"An ensemble needs at least 2 score matrices, found {members}.")
    if weights is None:
        return [1 / members] * members
    if len(weights) != members or not all(np.isfinite(w) and w > 0 for w in weights):
        raise ScoreError(f"Weights {list(weights)} for {members} members. Expected one positive number a member.")
    return [w / sum(weights) for w in weights]


def _refuse_unfinished(member: SavedScores) -> None:
    try:
        refuse_non_finite(member.scores)
    except ScoreError as error:
        raise ScoreError(f"'{member.path}': {error}") from None


def _moments(scores: ScoreMatrix) -> tuple[float, float]:
    """Mean and standard deviation over all cells, summed in float64 around the first cell."""
    origin, total, squares, count = None, 0.0, 0.0, 0
    for _, block in row_blocks(scores, CHUNK_CELLS):
        wide = block.astype(np.float64)
        origin = float(wide[0, 0]) if origin is None else origin
        wide -= origin
        total, squares, count = total + float(wide.sum()), squares + float(np.square(wide).sum()), count + wide.size
    mean = total / count
    return mean + (origin or 0.0), float(np.sqrt(max(squares / count - mean * mean, 0.0)))


def _mean(members: Sequence[SavedScores], weights: Sequence[float] | None, share: Sequence[float]) -> np.ndarray:
    """Mean in the widest floating dtype of the members."""
    arrays = [as_array(member.scores) for member in members]
    kind = np.result_type(np.float32, *arrays)
    fused = np.zeros(arrays[0].shape, kind)
    for array, weight in zip(arrays, share, strict=True):
        fused += array if weights is None else array * kind.type(weight)
    return fused / kind.type(len(arrays)) if weights is None else fused


def _add_standardised(fused: np.ndarray, member: SavedScores, weight: float, mean: float, std: float) -> None:
    """Add one member's z-scores in place."""
    if std == 0:
        raise ScoreError(f"'{member.path}' has one score for all pairs, so it has no z-score. Leave this member out.")
    for rows, block in row_blocks(member.scores, CHUNK_CELLS):
        fused[rows] += (block - mean) * (weight / std)


def _scale_warning(members: Sequence[SavedScores], stds: Sequence[float]) -> Iterator[str]:
    """A warning when the plain mean is dominated by one member."""
    low, high = int(np.argmin(stds)), int(np.argmax(stds))
    if stds[high] > SCALE_GAP * stds[low]:
        yield (
            f"scales differ: the scores of '{members[high].path}' have standard deviation {stds[high]:.3g}, those of "
            f"'{members[low].path}' {stds[low]:.3g}, so the mean follows the former; --fusion zscore (z-scores) or "
            "--fusion rank (reciprocal ranks) weigh them alike"
        )


def _joined(members: Sequence[SavedScores]) -> Provenance:
    """What all members say alike; methods and checkpoints are listed, times added up."""
    parts = [member.provenance for member in members]

    def common(values: Sequence[str]) -> str:
        return values[0] if len(set(values)) == 1 else ""

    def total(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return sum(known) if len(known) == len(values) else None

    selections = sorted({p.selected_on or "?" for p in parts})
    return Provenance(
        dataset=common([p.dataset for p in parts]),
        split=common([p.split for p in parts]),
        method=" + ".join(p.method or "?" for p in parts) if any(p.method for p in parts) else "",
        checkpoint=" + ".join(p.checkpoint or "?" for p in parts) if any(p.checkpoint for p in parts) else "",
        selected_on="" if selections == ["?"] else " + ".join(selections),
        encode_s=total([p.encode_s for p in parts]),
        score_s=total([p.score_s for p in parts]),
        trained_on=" + ".join(sorted({p.trained_on for p in parts} - {""})),
    )
