"""A model and the images of a split, for benchmarks that bring their own captions and name images by id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console

from patchword.console import ProgressBar
from patchword.data.extras import require_extras, require_finite
from patchword.data.table import Split
from patchword.data.text_files import canonical_id
from patchword.errors import DataError
from patchword.evaluate.benchmark import named
from patchword.evaluate.intra import listed_scores
from patchword.model import Model
from patchword.types import Encoded

_ROWS = 256  # images scored against all captions at a time


@dataclass(frozen=True)
class FoundImages:
    """Images of a benchmark in a split.

    Attributes:
        rows: row in the split of every image that is there, by the name that the benchmark gives it.
        missing: canonical ids of the others.
    """

    rows: dict[str, int]
    missing: tuple[str, ...]

    def warning(self, what: str) -> str:
        """One sentence about the images that are not there."""
        total = len(self.rows) + len(self.missing)
        return (
            f"{len(self.missing):,} of {total:,} images of {what} are not in this split ({named(self.missing)}): their "
            "rows are left out, and the numbers are not comparable with published ones"
        )


@dataclass(frozen=True)
class ModelOnSplit:
    """Scores images of a split, found by id, against any captions.

    Attributes:
        model: loaded.
        split: with images; its captions are not used.
        console: where progress goes.
        batch: items encoded at a time.
    """

    model: Model
    split: Split
    console: Console = field(default_factory=lambda: Console(quiet=True))
    batch: int = 256

    def find(self, names: Sequence[str], what: str) -> FoundImages:
        """Look images up by their ids as they are written, else by their canonical ids.

        Raises:
            DataError: none of them is there, or a name fits several.
        """
        exact = {name: row for row, name in enumerate(self.split.image_ids)}
        alike = defaultdict[str, list[int]](list)
        for row, name in enumerate(self.split.image_ids):
            alike[canonical_id(name)].append(row)
        wanted, rows = list(dict.fromkeys(names)), dict[str, int]()
        for name in wanted:
            fitting = [exact[name]] if name in exact else alike.get(canonical_id(name), [])
            if len(fitting) > 1:
                those = named([self.split.image_ids[row] for row in fitting])
                raise DataError(
                    f"'{name}' of {what} fits {len(fitting)} images of {self.split.dataset}/{self.split.name} "
                    f"({those}). Write the ids as the data do."
                )
            if fitting:
                rows[name] = fitting[0]
        found = FoundImages(rows, tuple(dict.fromkeys(canonical_id(name) for name in wanted if name not in rows)))
        if not found.rows:
            raise DataError(
                f"None of the {len(wanted):,} images of {what} is in {self.split.dataset}/{self.split.name} "
                f"(wanted {named(wanted, most=3)}; found {named(self.split.image_ids, most=3)}). Pass the data folder "
                "and split that hold them."
            )
        return found

    def encode_images(self, rows: Sequence[int]) -> Encoded:
        """Encode some images, in the order given."""
        require_extras(self.split, self.model.method.image_extras, ())
        require_finite(self.split, self.model.method.image_extras, ())
        source = self.split.require_images().select(rows)
        extras = {name: extra.select(rows) for name, extra in self.split.image_extras.items()}
        with ProgressBar(len(rows), "encoding images", "images", self.console) as shown:
            return self.model.encode_images(source, batch=self.batch, extras=extras, progress=shown.advance)

    def encode_captions(self, captions: Sequence[str]) -> Encoded:
        """Encode texts through the model's own tokeniser."""
        with ProgressBar(len(captions), "encoding captions", "captions", self.console) as shown:
            return self.model.encode_captions(captions, batch=self.batch, progress=shown.advance)

    def listed(self, images: Encoded, captions: Encoded, pairs: Sequence[tuple[int, int]]) -> Float[np.ndarray, " P"]:
        """Scores of listed pairs (position of the image, position of the caption)."""
        a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        device = self.model.device
        return listed_scores(self.model.method, images.to(device), captions.to(device), a, b)

    def blocks(self, images: Encoded, captions: Encoded) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores of all images against all captions, some rows at a time, so that no whole matrix is held."""
        with ProgressBar(len(images) * len(captions), "scoring", "pairs", self.console) as shown:
            for start in range(0, len(images), _ROWS):
                part = images.slice(start, start + _ROWS)
                scores: torch.Tensor = self.model.score(part, captions, progress=shown.advance)
                yield slice(start, start + len(part)), scores.numpy()
