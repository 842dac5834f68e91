"""How runs are opened and scored: which rows of which data, on which device, in how much memory, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from patchword.console import ProgressBar
from patchword.data.adjacency import compat_fold_adjacency
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.opening import open_for
from patchword.model import Model
from patchword.scoring.jobs import process
from patchword.scoring.matrix import MEMORY, score_matrix
from patchword.types import Encoded


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How runs are opened and scored.

    Attributes:
        split: of a data folder.
        name: of the data set, when the folder's name does not say it.
        limit: only the first images.
        device: where the weights of runs go, and their scores are computed.
        memory: bytes that scoring may take besides the vector sets and the scores.
        resume: finished parts of the scoring are kept in this folder, and those that are there are not computed again.
        console: where progress goes.
        skip_broken: pictures that do not decode are left out and listed in the notes.
        eval_batch: images or captions encoded at a time; None: as when the checkpoint was selected.
        compat_fold_adjacency: images get the adjacency that CEFG's authors give them in their 5-fold evaluation, by
            mistake; for methods that read one.
    """

    split: str = "test"
    name: str | None = None
    limit: int | None = None
    device: str = "cpu"
    memory: int = MEMORY
    resume: Path | None = None
    console: Console = field(default_factory=lambda: Console(quiet=True))
    skip_broken: bool = False
    eval_batch: int | None = None
    compat_fold_adjacency: bool = False

    def part(self, name: str) -> Setting:
        """The same, with a folder of its own for the parts of one job of several."""
        return self if self.resume is None else replace(self, resume=self.resume / name)

    def score(self, model: Model, images: Encoded, captions: Encoded) -> Float[Tensor, "N M"]:
        """Scores of all images against all captions, float32 on the CPU.

        Under torchrun every process scores a share of them, and all get the whole matrix.

        Raises:
            ScoreError: the memory is too small, or the folder holds the parts of another job.
        """
        model.method.eval()
        with ProgressBar(len(images) * len(captions) // process()[1], "scoring", "pairs", self.console) as shown:
            return score_matrix(
                model.method,
                images.to(model.device),
                captions.to(model.device),
                memory=self.memory,
                progress=shown.advance,
                folder=self.resume,
            )


def open_with(model: Model, data: Path | str | Split, setting: Setting) -> Split:
    """The split that a setting names, opened for a model; of an open split only the adjacency may change.

    Raises:
        ConfigError: the setting changes the adjacency, and the method reads none.
    """
    how, names = setting, model.method.image_extras
    if how.compat_fold_adjacency and not any(name.startswith("adjacency") for name in names):
        raise ConfigError(
            f"compat_fold_adjacency changes the adjacency of regions, and this {model.method.name} reads none. "
            "Leave it out: it is for cefg."
        )
    opened = (
        data
        if isinstance(data, Split)
        else open_for(model, data, how.split, name=how.name, limit=how.limit, skip_broken=how.skip_broken)
    )
    return compat_fold_adjacency(opened) if how.compat_fold_adjacency else opened
