"""How many candidates a fast search scores exactly: what was measured on the index, else a rule."""

from __future__ import annotations

import json
import math
from pathlib import Path

from patchword.store.layout import IndexFolder, write_whole

FILE = "candidates.json"
_LEAST, _MOST = 200, 500


def rule(items: int, k: int = 10) -> int:
    """The number of candidates for so many items when nothing was measured.

    Example:
        >>> rule(1_000), rule(100_000), rule(1_000_000)
        (200, 316, 500)
    """
    return max(10 * k, min(_MOST, max(_LEAST, math.isqrt(items))))


def candidates_for(place: IndexFolder, items: int, k: int) -> int:
    """The number of candidates: the measured one, grown with the collection, else that of the rule."""
    measured = read_candidates(place)
    if measured is None or k > 10:
        return rule(items, k)
    candidates, then = measured
    return max(candidates, round(candidates * math.sqrt(items / max(1, then)))) if items > then else candidates


def read_candidates(place: IndexFolder) -> tuple[int, int] | None:
    """The recommended number, and the number of images it was measured with."""
    try:
        values = json.loads(path_of(place).read_text(encoding="utf-8"))
        return int(values["candidates"]), int(values["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_candidates(place: IndexFolder, candidates: int, images: int) -> None:
    """Remember a measured number."""
    write_whole(path_of(place), json.dumps({"candidates": candidates, "images": images}) + "\n")


def path_of(place: IndexFolder) -> Path:
    """The file that remembers what was measured."""
    return place.path / FILE
