"""PMRP: R-precision where every image with (nearly) the same kinds of things is a right answer.

Two images match plausibly when their sets of object categories differ in at most zeta kinds; a caption has the kinds
of its image. COCO's instance annotations say what is in an image.

Source: Chun et al., "Probabilistic Embeddings for Cross-Modal Retrieval" (CVPR 2021): mean over zeta = 0, 1, 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from patchword.data.json_fields import as_list, as_object, field
from patchword.data.text_files import canonical_id, read_json
from patchword.errors import DataError, ScoreError
from patchword.evaluate.answers import columns_of, rows_of
from patchword.evaluate.benchmark import INTERVALS, Benchmark, named, percent
from patchword.evaluate.matrix import ScoreMatrix, check_matrix, refuse_non_finite
from patchword.evaluate.protocols import COCO_TEST
from patchword.evaluate.relevance import Ties
from patchword.evaluate.significance import MeanIntervals, mean_intervals

ZETAS = (0, 1, 2)
WAYS = ("i2t", "t2i")


@dataclass(frozen=True)
class Instances:
    """What lies in the images of a data set.

    Attributes:
        kinds: different object categories of each image.
        counts: number of objects in each image that is listed; a crowd is one.
    """

    kinds: dict[str, frozenset[int]]
    counts: dict[str, int]


def find_instances(folder: Path | None) -> Path | None:
    """``instances_*.json`` (or ``.json.gz``) in a folder or its ``annotations``; None without exactly one."""
    if folder is None:
        return None
    found = [p for place in (folder, folder / "annotations") for p in sorted(place.glob("instances_*.json*"))]
    return found[0] if len(found) == 1 else next((p for p in found if "val2014" in p.name), None)


def require_instances(place: Path) -> Path:
    """The file of instance annotations that a path names, or that lies in the folder that it names.

    Raises:
        DataError: the folder has none.
    """
    path = place if place.is_file() else find_instances(place)
    if path is None:
        raise DataError(f"'{place}' has no 'instances_val2014.json'. Expected COCO's instance annotations.")
    return path


def read_instances(path: Path) -> Instances:
    """Read COCO's ``instances_val2014.json``.

    Raises:
        DataError: missing or of another kind.
    """
    where = f"'{path}'"
    content = as_object(read_json(path), where)
    kinds: dict[str, set[int]] = {}
    listed = as_list(content.get("images", []), f"{where} images")
    each = ((as_object(entry, f"{where} image {number}"), number) for number, entry in enumerate(listed))
    counts = {canonical_id(str(field(row, "id", f"{where} image {number}"))): 0 for row, number in each}
    for number, entry in enumerate(as_list(field(content, "annotations", where), f"{where} annotations")):
        row = as_object(entry, f"{where} annotation {number}")
        image = canonical_id(str(field(row, "image_id", f"{where} annotation {number}")))
        kind = field(row, "category_id", f"{where} annotation {number}")
        if not isinstance(kind, int):
            raise DataError(f"{where} annotation {number}: category_id is {kind!r}. Expected a whole number.")
        kinds.setdefault(image, set()).add(kind)
        counts[image] = counts.get(image, 0) + 1
    return Instances({image: frozenset(found) for image, found in kinds.items()}, counts)


@dataclass(frozen=True)
class PmrpResult:
    """R-precision under plausible matches.

    Attributes:
        r_precision: zeta -> direction -> mean over the queries, as fractions.
        queries: images and captions that are queries.
        without: ids of images without any object: neither queries nor right answers, but candidates.
        sizes: images and captions of the gallery.
        intervals: 95% bootstrap intervals by direction, named by zeta, and ``mean``.
    """

    r_precision: dict[int, dict[str, float]]
    queries: dict[str, int]
    without: tuple[str, ...]
    sizes: tuple[int, int]
    intervals: dict[str, MeanIntervals]

    @property
    def mean(self) -> dict[str, float]:
        """Mean over zeta."""
        return {way: float(np.mean([row[way] for row in self.r_precision.values()])) for way in WAYS}

    def report(self) -> Benchmark:
        """As a table."""
        by_name = {str(zeta): row for zeta, row in sorted(self.r_precision.items())} | {"mean": self.mean}
        rows = []
        for name, row in by_name.items():
            cells = [cell for way in WAYS for cell in (percent(row[way]), self.intervals[way].shown(name, times=100.0))]
            rows.append((name if name == "mean" else f"zeta {name}", *cells))
        warnings = []
        if self.sizes != COCO_TEST:
            warnings.append(
                f"{self.sizes[0]:,} images and {self.sizes[1]:,} captions instead of COCO's {COCO_TEST[0]:,} and "
                f"{COCO_TEST[1]:,}: not comparable with published numbers"
            )
        notes = ["images match plausibly when their object categories differ in at most zeta kinds", INTERVALS]
        if self.without:
            notes.append(
                f"{len(self.without):,} images without any annotated object ({named(self.without)}) and their captions "
                "are neither queries nor right answers; they stay in the gallery"
            )
        return Benchmark(
            name="pmrp" if self.sizes == COCO_TEST else "pmrp (partial)",
            title="plausible-match R-precision (percent)",
            tables=((("", "image -> text", "95% interval", "text -> image", "95% interval"), tuple(rows)),),
            numbers=self.to_json(),
            warnings=tuple(warnings),
            notes=tuple(notes),
        )

    def to_json(self) -> dict[str, Any]:
        """Fractions."""
        by_zeta = {str(zeta): row for zeta, row in self.r_precision.items()}
        sizes = {"n_images": self.sizes[0], "n_captions": self.sizes[1]}
        about = {"queries": self.queries, "images_without_objects": list(self.without)}
        intervals = {way: found.to_json() for way, found in self.intervals.items()}
        return {**sizes, "pmrp": self.mean, "by_zeta": by_zeta, "intervals": intervals, **about}


def kind_distances(ids: Sequence[str], kinds: Mapping[str, frozenset[int]]) -> Int[np.ndarray, "N N"]:
    """Number of categories in which two images differ; -1 where one of them has no category."""
    places = {kind: k for k, kind in enumerate(sorted(set().union(*kinds.values())))} if kinds else {}
    vectors = np.zeros((len(ids), max(1, len(places))), dtype=np.float32)
    for row, name in enumerate(ids):
        vectors[row, [places[kind] for kind in kinds.get(name, ())]] = 1
    sizes = vectors.sum(1)
    distance: np.ndarray = (sizes[:, None] + sizes - 2 * vectors @ vectors.T).astype(np.int16)
    distance[sizes == 0] = -1
    distance[:, sizes == 0] = -1
    return distance


def evaluate_pmrp(
    scores: ScoreMatrix,
    owner: Int[np.ndarray, " captions"],
    image_ids: Sequence[str],
    instances: Instances,
    *,
    zetas: Sequence[int] = ZETAS,
    ties: Ties = "pessimistic",
) -> PmrpResult:
    """Evaluate a score matrix against plausible matches.

    Args:
        scores: ``(N, M)``.
        owner: image of each caption.
        image_ids: N ids, as the instances spell them (COCO numbers).
        instances: what lies in the images.
        zetas: allowed differences; the numbers are averaged.
        ties: side on which wrong answers that tie come.

    Raises:
        ScoreError: scores are not finite, or no image is in the annotations.

    Memory: N x N small integers, and one block of rows.
    """
    n_images, n_captions = check_matrix(scores)
    refuse_non_finite(scores)
    ids = [canonical_id(name) for name in image_ids]
    distance = kind_distances(ids, {name: instances.kinds[name] for name in ids if name in instances.kinds})
    has_kinds = distance.diagonal() >= 0
    if not has_kinds.any():
        raise ScoreError(f"None of the {n_images:,} images has an annotated object. The ids belong to other data.")
    means: dict[int, dict[str, float]] = {zeta: {} for zeta in zetas}
    queries, intervals = {}, {}
    for way, blocks, image_of_query, image_of_candidate in (
        ("i2t", rows_of(scores), np.arange(n_images), owner),
        ("t2i", columns_of(scores), owner, np.arange(n_images)),
    ):
        of_each = np.array(list(_precisions(blocks, image_of_query, image_of_candidate, distance, zetas, ties)))
        by_name = {str(zeta): of_each[:, k] for k, zeta in enumerate(zetas)} | {"mean": of_each.mean(1)}
        intervals[way] = mean_intervals(by_name, image_of_query[has_kinds[image_of_query]])
        queries[way] = len(of_each)
        for zeta in zetas:
            means[zeta][way] = float(by_name[str(zeta)].mean())
    without = tuple(name for name, known in zip(ids, has_kinds, strict=True) if not known)
    return PmrpResult(means, queries, without, (n_images, n_captions), intervals)


def _precisions(
    blocks: Iterator[tuple[slice, np.ndarray]],
    image_of_query: Int[np.ndarray, " Q"],
    image_of_candidate: Int[np.ndarray, " n"],
    distance: Int[np.ndarray, "N N"],
    zetas: Sequence[int],
    ties: Ties,
) -> Iterator[list[float]]:
    """R-precision for every zeta, of every query that has objects; every row is sorted once."""
    for rows, block in blocks:
        for row, image in zip(block, image_of_query[rows], strict=True):
            gaps = distance[image, image_of_candidate]
            if distance[image, image] < 0:
                continue
            ascending = np.sort(row)
            yield [_r_precision(row, ascending, (gaps >= 0) & (gaps <= zeta), ties) for zeta in zetas]


def _r_precision(
    row: Shaped[np.ndarray, " n"], ascending: Shaped[np.ndarray, " n"], is_right: Bool[np.ndarray, " n"], ties: Ties
) -> float:
    """Share of right answers among the first R places; scores that tie at the border are taken from one side."""
    total = int(is_right.sum())
    border = ascending[-total]
    above, level = row > border, row == border
    open_places = total - int(above.sum())
    right_level, wrong_level = int((is_right & level).sum()), int((~is_right & level).sum())
    taken = max(0, open_places - wrong_level) if ties == "pessimistic" else min(open_places, right_level)
    return (int((is_right & above).sum()) + taken) / total
