"""RoCOCO: COCO's test captions with five altered ones an image added to the gallery, as wrong answers.

Image -> text: recall@K with and without the altered captions, and the false rate, the share of images whose first
caption is an altered one. An altered caption that ties with the best original one counts as first. Text -> image, with
mixed pictures, is `rococo_images`.

Source: Park et al., "RoCOCO: Robustness Benchmark of MS-COCO to Stress-test Image-Text Matching Models".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from patchword.data.json_fields import as_list, as_object, field, text_field
from patchword.data.text_files import read_json, require_caption
from patchword.errors import DataError
from patchword.evaluate.answers import CUTS
from patchword.evaluate.benchmark import INTERVALS, Benchmark, percent
from patchword.evaluate.matrix import refuse_non_finite
from patchword.evaluate.on_split import FoundImages, ModelOnSplit
from patchword.evaluate.recall import recall_at_k
from patchword.evaluate.significance import MeanIntervals, mean_intervals
from patchword.scoring.query_ranks import QueryRanks

FILES = ("rand_voca", "same_concept", "diff_concept", "danger")
ALTERED = 5  # the last captions of every row


@dataclass(frozen=True)
class Attack:
    """One file.

    Attributes:
        name: of the alteration.
        images: name of every row's image.
        captions: all texts, row after row.
        owner: row of each text.
        is_altered: which texts are altered.
    """

    name: str
    images: tuple[str, ...]
    captions: tuple[str, ...]
    owner: Int[np.ndarray, " M"]
    is_altered: Bool[np.ndarray, " M"]

    def select(self, rows: list[int]) -> Attack:
        """Some rows with all their texts."""
        place = {row: k for k, row in enumerate(rows)}
        kept = [j for j, row in enumerate(self.owner.tolist()) if row in place]
        kept.sort(key=lambda j: place[int(self.owner[j])])
        owner = np.array([place[int(self.owner[j])] for j in kept], dtype=np.int64)
        captions = tuple(self.captions[j] for j in kept)
        return Attack(self.name, tuple(self.images[r] for r in rows), captions, owner, self.is_altered[kept])


def find_attacks(place: Path) -> list[Path]:
    """One file, or those of the four alterations that lie in a folder.

    Raises:
        DataError: there is none.
    """
    if place.is_file():
        return [place]
    found = [path for name in FILES for path in (place / f"{name}.json", place / f"{name}.json.gz") if path.is_file()]
    if not found:
        raise DataError(f"'{place}' has none of {', '.join(f'{n}.json' for n in FILES)} (or .json.gz) of RoCOCO.")
    return found


def read_attack(path: Path) -> Attack:
    """Read a file: rows with an image and its captions, the last five of them altered.

    Raises:
        DataError: a row has no original caption.
    """
    images, captions, owner, altered = [], [], [], []
    for number, entry in enumerate(as_list(read_json(path), f"'{path}'")):
        where = f"'{path}' row {number}"
        row = as_object(entry, where)
        texts = [require_caption(text, where) for text in as_list(field(row, "caption", where), f"{where} caption")]
        if len(texts) <= ALTERED:
            raise DataError(f"{where} has {len(texts)} captions. Expected originals and, last, {ALTERED} altered ones.")
        images.append(text_field(row, "image", where))
        captions += texts
        owner += [number] * len(texts)
        altered += [k >= len(texts) - ALTERED for k in range(len(texts))]
    name = path.name.partition(".")[0]
    return Attack(name, tuple(images), tuple(captions), np.array(owner, dtype=np.int64), np.array(altered, dtype=bool))


@dataclass(frozen=True)
class AttackResult:
    """What one alteration does to a model.

    Attributes:
        name: of the alteration.
        clean: ranks among the original captions.
        attacked: ranks with the altered ones in the gallery.
        fooled: images whose first caption is an altered one.
        rows: rows of the file.
        captions: texts in the gallery: original and altered.
        images: which images were found.
        places: row of the split of each query.
    """

    name: str
    clean: QueryRanks
    attacked: QueryRanks
    fooled: Bool[np.ndarray, " N"]
    rows: int
    captions: tuple[int, int]
    images: FoundImages
    places: Int[np.ndarray, " N"]

    @cached_property
    def intervals(self) -> MeanIntervals:
        """95% bootstrap intervals of the recalls, the drop and the false rate, under names such as ``clean r1``."""
        hits = {
            f"{kind} r{k}": 100.0 * (ranks.pessimistic < k)
            for kind, ranks in (("clean", self.clean), ("attacked", self.attacked))
            for k in CUTS
        }
        more = {"r1_drop": hits["clean r1"] - hits["attacked r1"], "false_rate": self.fooled.astype(np.float64)}
        return mean_intervals({**hits, **more}, self.places)

    def to_json(self) -> dict[str, Any]:
        """Percentages for recalls, a fraction for the false rate."""
        clean, attacked = (
            {f"r{k}": recall_at_k(ranks.pessimistic, k) for k in CUTS} for ranks in (self.clean, self.attacked)
        )
        return {
            "clean": clean,
            "attacked": attacked,
            "r1_drop": clean["r1"] - attacked["r1"],
            "false_rate": float(self.fooled.mean()),
            "intervals": self.intervals.to_json(),
            "images": len(self.fooled),
            "rows": self.rows,
            "gallery": {"original": self.captions[0], "altered": self.captions[1]},
            "missing_images": list(self.images.missing),
        }


def evaluate_attack(scorer: ModelOnSplit, attack: Attack) -> AttackResult:
    """Rank the captions of one file for every image of it that is in the split.

    The whole file's texts of these images are the gallery; all pass through the model's own tokeniser.

    Raises:
        DataError: no image is there.
        ScoreError: scores are not finite.
    """
    found = scorer.find(attack.images, attack.name)
    rows = [k for k, image in enumerate(attack.images) if image in found.rows]
    here = attack.select(rows)
    places = [found.rows[image] for image in here.images]
    images = scorer.encode_images(places)
    captions = scorer.encode_captions(here.captions)
    parts = []
    original = ~here.is_altered
    for block_rows, block in scorer.blocks(images, captions):
        refuse_non_finite(block)
        own = here.owner[None, :] == np.arange(block_rows.start, block_rows.stop)[:, None]
        right = own & original
        best = np.where(right, block, -np.inf).max(1, keepdims=True)
        above, level = block > best, block == best
        m = (level & right).sum(1)
        top_original = np.where(original, block, -np.inf).max(1)
        fooled = block[:, here.is_altered].max(1) >= top_original
        clean = (above & original).sum(1), (level & original & ~right).sum(1), m
        parts.append(np.stack([*clean, above.sum(1), (level & ~right).sum(1), m, fooled]))
    c0, c1, c2, a0, a1, a2, fooled = np.concatenate(parts, axis=1)
    sizes = int(original.sum()), int(here.is_altered.sum())
    return AttackResult(
        attack.name,
        QueryRanks(c0, c1, c2),
        QueryRanks(a0, a1, a2),
        fooled.astype(bool),
        len(attack.images),
        sizes,
        found,
        np.array(places),
    )


def rococo_report(results: list[AttackResult]) -> Benchmark:
    """All alterations as one table."""
    rows, spread = [], []
    for one in results:
        numbers = one.to_json()
        cells = [f"{numbers[kind][f'r{k}']:.1f}" for kind in ("clean", "attacked") for k in CUTS]
        between = [one.intervals.shown(f"{kind} r{k}") for kind in ("clean", "attacked") for k in CUTS]
        spread.append((one.name, *between, one.intervals.shown("false_rate", times=100.0)))
        rows.append((one.name, *cells, percent(numbers["false_rate"]), f"{numbers['images']:,}"))
    head = ("image -> text", "R@1", "R@5", "R@10", "altered R@1", "R@5", "R@10", "false rate", "images")
    is_partial = any(one.images.missing for one in results)
    gallery = sorted({one.captions for one in results})
    notes = [f"gallery: {a:,} original and {b:,} altered captions" for a, b in gallery]
    notes.append(INTERVALS)
    notes.append("text -> image with mixed pictures: --protocol rococo-images")
    return Benchmark(
        name="rococo (partial)" if is_partial else "rococo",
        title="altered captions in the gallery; false rate: images whose first caption is an altered one, %",
        tables=((head, tuple(rows)), (("95% interval", *head[1:-1]), tuple(spread))),
        numbers={"attacks": {one.name: one.to_json() for one in results}},
        warnings=tuple(dict.fromkeys(one.images.warning("RoCOCO") for one in results if one.images.missing)),
        notes=tuple(notes),
    )
