"""Evaluation without a score matrix: tiles of scores are counted as they go by, or replaced by proven bounds.

The result is that of the whole matrix, rank by rank and tie by tie (``patchword.scoring.ranks``).
"""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int

from patchword.console import ProgressBar
from patchword.data.table import Split
from patchword.evaluate.encoding import batch_of, encode_split
from patchword.evaluate.folds import fold_parts
from patchword.evaluate.model_notes import model_notes
from patchword.evaluate.one_model import provenance_of
from patchword.evaluate.ranks import Ranks
from patchword.evaluate.result import Evaluation, choose_protocol, evaluation_of, notes_of
from patchword.evaluate.setting import Setting
from patchword.model import Model
from patchword.scoring.bounds import Screened
from patchword.scoring.jobs import process
from patchword.scoring.matrix import open_screen
from patchword.scoring.query_ranks import QueryRanks
from patchword.scoring.ranks import StreamedRanks, ranks
from patchword.types import Encoded


def evaluate_streamed(
    model: Model,
    split: Split,
    *,
    mode: Literal["streamed", "certified"] = "streamed",
    protocol: str = "auto",
    batch: int | None = None,
    setting: Setting | None = None,
) -> Evaluation:
    """Evaluate a model on a split without ever holding its scores.

    Args:
        model: loaded.
        split: with images.
        mode: ``streamed`` scores every pair in float32; ``certified`` scores only those whose bounds touch a rank.
        protocol: named protocol, or ``auto``. The folds of a protocol are ranked one by one.
        batch: items encoded at a time; by default as the setting says.
        setting: memory of the ranking, folder of its finished parts, and where progress goes.

    Raises:
        ScoreError: scores are not finite, the protocol does not fit the split, or the method has no certified mode.
    """
    setting = setting if setting is not None else Setting()
    batch = batch_of(model, setting.eval_batch if batch is None else batch)
    started = time.monotonic()
    where = provenance_of(model, split)
    chosen = choose_protocol(protocol, where, split.n_images, split.n_captions, split.image_ids)
    if mode == "certified":
        refuse_uncertified(model, split)
    images, captions = encode_split(model, split, batch=batch, console=setting.console)
    if mode == "streamed":  # bounds are for the CPU
        images, captions = images.to(model.device), captions.to(model.device)
    encoded = time.monotonic()
    owner = np.asarray(split.owner)
    found: list[StreamedRanks] = []
    parts = fold_parts(owner, split.n_images, chosen.folds)
    pairs = split.n_images * split.n_captions // len(parts) // process()[1]
    with ProgressBar(pairs, "ranking", "pairs", setting.console) as shown:
        for number, (rows, columns) in enumerate(parts):
            found.append(
                ranks(
                    model,
                    images.slice(rows.start, rows.stop),
                    _select(captions, columns),
                    owner[columns] - rows.start,
                    precision="certified" if mode == "certified" else "float32",
                    memory=setting.memory,
                    progress=shown.advance,
                    folder=setting.part(f"fold{number}").resume,
                )
            )
    seconds = (encoded - started, time.monotonic() - encoded)
    each = [_constant(one) for one in found]
    return evaluation_of(
        [Ranks(one.i2t, one.t2i) for one in found],
        owner,
        split.n_images,
        chosen,
        provenance=provenance_of(model, split, *seconds),
        id_check=f"{split.n_images:,} unique image ids of {split.dataset}/{split.name}",
        dtype="float32",
        constant=(sum(rows for rows, _ in each), sum(columns for _, columns in each)),
        notes=(
            *model_notes(model, split, batch),
            *notes_of(split),
            *screening_note([one.screened for one in found if one.screened is not None]),
        ),
        image_ids=split.image_ids,
    )


def refuse_uncertified(model: Model, split: Split) -> None:
    """Try a method's bounds on one pair, so that one without bounds is refused before the split is encoded.

    Raises:
        ScoreError: why the method has none, and what to use instead.
    """
    images, captions = encode_split(model, split.select([0]))
    open_screen(model.method, images, captions, lambda *_: 0.0)


def _select(captions: Encoded, columns: slice | Int[np.ndarray, " m"]) -> Encoded:
    if isinstance(columns, slice):
        return captions.slice(columns.start, columns.stop)
    return captions.select(torch.from_numpy(columns).to(captions.lengths.device))


def _constant(found: StreamedRanks) -> tuple[int, int]:
    """Images and captions whose scores are all alike: as many as there are equal the best right one."""
    return _alike(found.i2t, len(found.t2i)), _alike(found.t2i, len(found.i2t))


def _alike(queries: QueryRanks, gallery: int) -> int:
    return int((queries.equal + queries.positives == gallery).sum()) if gallery > 1 else 0


def screening_note(screened: list[Screened]) -> tuple[str, ...]:
    """How many pairs had to be scored in float32, and where bounds do not pay."""
    notes = []
    bounded, given_up = ([one for one in screened if one.gave_up == gave_up] for gave_up in (False, True))
    if bounded:
        pairs, again = sum(one.pairs for one in bounded), sum(one.again + one.tiled for one in bounded)
        share = again / max(1, pairs)
        notes.append(f"certified ranks: bounds of all pairs ({bounded[0].about}), {share:.1%} scored again")
    if given_up:
        where = f" in {len(given_up)} of {len(screened)} folds" if bounded else ""
        why = given_up[0].about.removeprefix("every pair: ")
        notes.append(f"certified ranks: no bounds{where}, every pair was scored in float32 ({why})")
    return tuple(notes)
