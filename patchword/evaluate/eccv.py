"""ECCV-Caption: COCO's test captions with right answers that people and machines found beyond the listed ones.

1,261 images and 1,332 captions are queries; the gallery stays the whole 5,000 images and 25,000 captions. Three numbers
a direction: recall@1, R-precision and mAP@R. The annotations lie in the package ``eccv_caption`` (read, never run).

Source: Chun et al., "ECCV Caption: Correcting False Negatives by Collecting Machine-and-Human-verified Image-Caption
Associations for MS-COCO" (ECCV 2022).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from patchword.data.json_fields import as_list, as_object
from patchword.data.text_files import read_json
from patchword.errors import DataError
from patchword.evaluate.answers import CUTS, Answers, Blocks, ListRanks, columns_of, rank_answers, rows_of
from patchword.evaluate.benchmark import INTERVALS, Benchmark, Table, named, percent
from patchword.evaluate.cxc_files import Lists
from patchword.evaluate.gallery import Gallery, eccv_folder
from patchword.evaluate.matrix import ScoreMatrix
from patchword.evaluate.protocols import COCO_TEST
from patchword.evaluate.relevance import Ties
from patchword.evaluate.significance import MeanIntervals

DIRECTIONS = {"i2t": "image -> text", "t2i": "text -> image"}


@dataclass(frozen=True)
class EccvAnnotations:
    """Right answers by id, in both directions.

    Attributes:
        i2t, t2i: those of ECCV-Caption.
        cxc_i2t, cxc_t2i: those of CxC, as the package ships them; empty without.
        image_of: image of each caption in COCO itself.
        folder: where they were read.
    """

    i2t: Lists
    t2i: Lists
    cxc_i2t: Lists
    cxc_t2i: Lists
    image_of: dict[str, str]
    folder: Path


def find_eccv(folder: Path | None) -> Path:
    """The folder with ``eccv_image_to_caption.json``: as given, else that of the installed package.

    Raises:
        DataError: it is in neither place.
    """
    for place in (folder, eccv_folder()):
        if place is not None and (place / "eccv_image_to_caption.json").is_file():
            return place
    here = f"'{folder}' and in the installed packages" if folder else "the installed packages"
    raise DataError(
        f"No 'eccv_image_to_caption.json' was found in {here}. Install the annotations: pip install --no-deps "
        "eccv_caption, or pass their folder as --annotations DIR."
    )


def read_eccv(folder: Path | None = None) -> EccvAnnotations:
    """Read the annotations.

    Raises:
        DataError: they are missing or damaged.
    """
    place = find_eccv(folder)
    lists = {}
    for name in ("eccv", "cxc", "original"):
        for way in ("image_to_caption", "caption_to_image"):
            path = place / f"{name}_{way}.json"
            lists[name, way] = _read_lists(path) if name == "eccv" or path.is_file() else {}
    originals = lists["original", "caption_to_image"]
    return EccvAnnotations(
        lists["eccv", "image_to_caption"],
        lists["eccv", "caption_to_image"],
        lists["cxc", "image_to_caption"],
        lists["cxc", "caption_to_image"],
        {caption: images[0] for caption, images in originals.items() if images},
        place,
    )


def _read_lists(path: Path) -> Lists:
    where = f"'{path}'"
    return {
        query: [str(answer) for answer in as_list(answers, f"{where} {query!r}")]
        for query, answers in as_object(read_json(path), where).items()
    }


@dataclass(frozen=True)
class EccvResult:
    """What a model gets on ECCV-Caption.

    Attributes:
        gallery: what was ranked.
        ranks: by name (``eccv``, ``cxc``, ``pmrp``) and direction.
        asked: queries that the annotations hold, by name and direction.
        unreachable: right answers outside the gallery, by name and direction.
        missing: ids of ECCV-Caption's queries that are not in the gallery, by direction.
        notes: choices made.
    """

    gallery: Gallery
    ranks: dict[str, dict[str, ListRanks]]
    asked: dict[str, dict[str, int]]
    unreachable: dict[str, dict[str, int]] = field(default_factory=dict)
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_official(self) -> bool:
        """Whether the gallery is COCO's whole test split."""
        return self.gallery.size == COCO_TEST

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know."""
        found = [
            f"{len(ids):,} of {self.asked['eccv'][way]:,} {DIRECTIONS[way]} queries are not there: {named(ids)}"
            for way, ids in self.missing.items()
            if ids
        ]
        if not self.is_official:
            n, m = self.gallery.size
            found.append(
                f"{n:,} images and {m:,} captions instead of {COCO_TEST[0]:,} and {COCO_TEST[1]:,}: not comparable "
                "with published numbers"
            )
        return tuple(found)

    @cached_property
    def intervals(self) -> dict[str, dict[str, MeanIntervals]]:
        """95% bootstrap intervals by name and direction."""
        images = {"i2t": np.arange(self.gallery.size[0]), "t2i": self.gallery.owner}
        return {
            name: {way: ranks.intervals(images[way]) for way, ranks in by_way.items()}
            for name, by_way in self.ranks.items()
        }

    def report(self) -> Benchmark:
        """As a table."""
        tables: list[Table] = []
        for name, by_way in self.ranks.items():
            head = (name, "R@1", "R@5", "R@10", "R-P", "mAP@R", "queries", "tied")
            rows = [
                (
                    DIRECTIONS[way],
                    *(f"{ranks.recall(k):.1f}" for k in CUTS),
                    *(
                        "-" if part is None else percent(float(part.mean()))
                        for part in (ranks.r_precision, ranks.map_at_r)
                    ),
                    f"{len(ranks.asked):,}",
                    f"{ranks.ranks.tied:,}",
                )
                for way, ranks in by_way.items()
            ]
            tables.append((head, tuple(rows)))
            spread = [
                (
                    DIRECTIONS[way],
                    *(found.shown(f"r{k}") for k in CUTS),
                    *(found.shown(number, times=100.0) for number in ("r_precision", "map_at_r")),
                )
                for way, found in self.intervals[name].items()
            ]
            tables.append(((f"{name}, 95% interval", *head[1:6]), tuple(spread)))
        return Benchmark(
            name="eccv" if self.is_official else "eccv (partial)",
            title="ECCV-Caption (percent)",
            tables=tuple(tables),
            numbers=self.to_json(),
            warnings=self.warnings,
            notes=(*self.notes, INTERVALS),
        )

    def to_json(self) -> dict[str, Any]:
        """Percentages for recalls, fractions for R-precision and mAP@R."""
        n, m = self.gallery.size
        sizes = {"n_images": n, "n_captions": m}
        found = {
            name: {
                way: {
                    **ranks.to_json(),
                    "intervals": self.intervals[name][way].to_json(),
                    "unreachable": self.unreachable[name][way],
                }
                for way, ranks in by_way.items()
            }
            for name, by_way in self.ranks.items()
        }
        return {**sizes, **found, "missing_queries": {way: list(ids) for way, ids in self.missing.items()}}


def evaluate_lists(
    i2t: tuple[Blocks, Answers], t2i: tuple[Blocks, Answers], *, precision: bool = True, ties: Ties = "pessimistic"
) -> dict[str, ListRanks]:
    """Both directions of one set of right answers."""
    return {
        way: rank_answers(blocks, answers, precision=precision, ties=ties, what=f"{DIRECTIONS[way]} scores")
        for way, (blocks, answers) in (("i2t", i2t), ("t2i", t2i))
    }


def evaluate_eccv(
    scores: ScoreMatrix, gallery: Gallery, annotations: EccvAnnotations, *, ties: Ties = "pessimistic"
) -> EccvResult:
    """Evaluate a score matrix on ECCV-Caption, and on the CxC lists that come with it.

    Args:
        scores: ``(N, M)``.
        gallery: ids of rows and columns.
        annotations: right answers.
        ties: side on which wrong answers that tie come, for R-precision and mAP@R.

    Raises:
        ScoreError: no query is in the gallery, or scores are not finite.
    """
    ranks: dict[str, dict[str, ListRanks]] = {}
    asked: dict[str, dict[str, int]] = {}
    unreachable: dict[str, dict[str, int]] = {}
    images, captions = gallery.image_ids, gallery.caption_ids
    for name, i2t, t2i in (
        ("eccv", annotations.i2t, annotations.t2i),
        ("cxc", annotations.cxc_i2t, annotations.cxc_t2i),
    ):
        if not i2t:
            continue
        by_image = Answers.from_ids(i2t, images, captions)
        by_caption = Answers.from_ids(t2i, captions, images)
        pairs = (rows_of(scores), by_image), (columns_of(scores), by_caption)
        ranks[name] = evaluate_lists(*pairs, precision=name == "eccv", ties=ties)
        asked[name] = {"i2t": len(i2t), "t2i": len(t2i)}
        unreachable[name] = {"i2t": int(by_image.unreachable.sum()), "t2i": int(by_caption.unreachable.sum())}
    notes = (
        *gallery.notes,
        f"{unreachable['eccv']['i2t']:,} right captions and {unreachable['eccv']['t2i']:,} right images are not in "
        "the gallery; they stay in R, as in the authors' evaluation",
    )
    missing = {
        way: tuple(name for name in lists if name not in here)
        for way, lists, here in (("i2t", annotations.i2t, set(images)), ("t2i", annotations.t2i, set(captions)))
    }
    return EccvResult(gallery, ranks, asked, unreachable, missing, notes)
