"""Vectors that stand in for CLIP's where pictures or a CLIP model are out of reach: for AAHR's guide (``guide: clip``).

An image gets the mean of its regions, a sentence the vector of a plain text encoder, both of unit length and padded
with zeros to one width. They are written under the names of CLIP's files, so a note beside them says what they are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from patchword.console import ProgressBar
from patchword.data.clip_features import STAND_INS, Extracted, write_rows
from patchword.data.features import RegionFeatures
from patchword.data.open import open_split, splits_of
from patchword.data.table import Split
from patchword.errors import DataError
from patchword.files import write_whole
from patchword.types import real_slots


@runtime_checkable
class Sentences(Protocol):
    """Gives every sentence a vector of unit length."""

    @property
    def width(self) -> int:
        """Of a vector."""
        ...

    def encode(self, sentences: list[str]) -> Float[Tensor, "N F"]:
        """One row per sentence."""
        ...

    def fingerprint(self) -> str:
        """What tells one model from another."""
        ...


@dataclass(frozen=True)
class StandIns:
    """What the stand-ins of a folder are.

    Attributes:
        images, captions: in words.
        width: of all vectors; shorter ones end in zeros.
    """

    images: str
    captions: str
    width: int

    def sentence(self) -> str:
        """One clause for a table or a report."""
        return f"{self.images} and {self.captions} stand in for CLIP's global vectors"


def mean_regions(features: RegionFeatures, images: range) -> Float[Tensor, "N F"]:
    """The mean of the regions of every image, of unit length; an image of zeros stays zero."""
    read = features.read(images)
    assert read.lengths is not None
    counted = real_slots(read.lengths, read.values.shape[1])[..., None]  # (N, R, 1)
    mean = (read.values * counted).sum(1) / read.lengths.clamp(min=1)[:, None]
    return functional.normalize(mean, dim=-1)


def write_stand_ins(
    data: Path | str,
    sentences: Sentences,
    called: str,
    *,
    name: str | None = None,
    batch: int = 64,
    console: Console | None = None,
) -> tuple[StandIns, list[Extracted]]:
    """Write ``{split}_ims_clip.npy`` and ``{split}_caps_clip.npy`` of every split with features, and the note.

    Args:
        data: data folder with region or grid features.
        sentences: the text encoder.
        called: its name, for the note.
        name: data set name, for folders that hold several.
        batch: images or captions at a time.
        console: where progress goes; quiet by default.

    Raises:
        DataError: no split has features, or CLIP's own vectors are there.
    """
    opened = [open_split(data, split, name=name) for split in splits_of(data, name=name)]
    found = [(split, split.images) for split in opened if isinstance(split.images, RegionFeatures)]
    if not found:
        raise DataError(f"'{data}': no split has features. Expected files such as train_ims.npy beside the captions.")
    for split, features in found:
        _refuse_clip(features.path.parent, split)
    width = max(sentences.width, *(features.width for _, features in found))
    about = StandIns("the mean region or cell", f"sentence vectors of {called}", width)
    for folder in {features.path.parent for _, features in found}:  # first: no stand-in is ever without its note
        write_whole(folder / STAND_INS, json.dumps(vars(about), indent=2) + "\n")
    mark, shown = sentences.fingerprint(), console if console is not None else Console(quiet=True)
    written: list[Extracted] = []
    for split, features in found:

        def of_images(part: range, features: RegionFeatures = features) -> Tensor:
            return _padded(mean_regions(features, part), width)

        def of_captions(part: range, captions: list[str] = split.captions) -> Tensor:
            return _padded(sentences.encode(captions[part.start : part.stop]), width)

        size = features.path.stat()
        inputs = {"ims": f"{size.st_size} {size.st_mtime_ns}", "caps": "\n".join(split.captions)}
        for side, count, compute in (("ims", split.n_images, of_images), ("caps", split.n_captions, of_captions)):
            path = features.path.parent / f"{split.name}_{side}_clip.npy"
            of_inputs = hashlib.sha256(inputs[side].encode()).hexdigest()
            with ProgressBar(count, path.name, "rows", shown) as report:
                written.append(
                    write_rows(
                        path,
                        count,
                        width,
                        compute,
                        batch=batch,
                        fingerprint=mark + of_inputs,
                        progress=report.advance,
                    )
                )
    return about, written


def _padded(vectors: Float[Tensor, "N F"], width: int) -> Float[Tensor, "N W"]:
    return functional.pad(vectors.to(torch.float32), (0, width - vectors.shape[1]))


def _refuse_clip(folder: Path, split: Split) -> None:
    if (folder / STAND_INS).exists():
        return
    for side in ("ims", "caps"):
        path = folder / f"{split.name}_{side}_clip.npy"
        if path.exists():
            raise DataError(
                f"'{path}' holds vectors of CLIP, which stand-ins would replace. "
                "Use them, or move the files *_clip.npy away."
            )


def stand_ins_of(split: Split) -> StandIns | None:
    """What stands in for CLIP's vectors of a split; None where these are CLIP's own, or not there.

    Raises:
        DataError: the note is damaged.
    """
    path = getattr(split.image_extras.get("clip"), "path", None)
    note = None if path is None else Path(path).parent / STAND_INS
    if note is None or not note.is_file():
        return None
    try:
        return StandIns(**json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise DataError(f"'{note}' is damaged. Make the vectors again with: patchword prepare stand-ins") from None
