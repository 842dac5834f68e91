"""The sets of a trained model's test split, for measurements that depend on what a model has learnt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from patchword.data.extras import require_extras
from patchword.errors import ConfigError
from patchword.evaluate.opening import open_for
from patchword.loading import load
from patchword.methods.base import Method
from patchword.types import Encoded


@dataclass(frozen=True)
class TrainedSets:
    """A method and what it made of a split.

    Attributes:
        method: in evaluation mode.
        images, captions: N and M encoded sets.
        owner: ``(M,)`` image of each caption.
    """

    method: Method
    images: Encoded
    captions: Encoded
    owner: Int[Tensor, " M"]


def require_together(run: Path | None, data: Path | None, dataset: str | None) -> None:
    """Refuse a run without its data, and data that nothing would be read from.

    Raises:
        ConfigError: one was given without the other.
    """
    if run is not None and data is None:
        raise ConfigError(f"'{run}' was given without data. Give --data, the folder whose test split is read.")
    for option, value in (("--data", data), ("--name", dataset)):
        if run is None and value is not None:
            raise ConfigError(
                f"{option} '{value}' was given without a run: made vectors would be measured, and no data. "
                f"Give --run, a model trained on such data, or leave out {option}."
            )


def trained_sets(
    run: Path, data: Path, dataset: str | None = None, *, images: int | None = None, captions: int | None = None
) -> TrainedSets:
    """Encode the test split of a data folder.

    Args:
        run: run or checkpoint folder.
        data: data folder.
        dataset: its name, when the folder does not say it.
        images, captions: how many at most; the images of the captions that are left.

    Raises:
        DataError: the model reads a side input that the folder does not have.
    """
    model = load(run)
    opened = open_for(model, data, "test", name=dataset, limit=images)
    require_extras(opened, model.method.image_extras, model.method.caption_extras)
    a = model.encode_images(opened.require_images(), extras=opened.image_extras)
    b = model.encode_captions(opened.captions, extras=opened.caption_extras)
    owner = torch.as_tensor(opened.owner)
    m = len(b) if captions is None else min(captions, len(b))
    n = int(owner[:m].max()) + 1
    return TrainedSets(model.method, a.slice(0, n), b.slice(0, m), owner[:m])
