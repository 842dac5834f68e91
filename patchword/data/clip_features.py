"""Global vectors of CLIP for pictures and captions: what AAHR reads beside its regions, made once and kept in files.

Inputs of the CLIP branch are never augmented, so its vectors are constants: computing them ahead replaces four passes
through CLIP in every training step and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from torch import Tensor

from patchword.console import ProgressBar
from patchword.data.clip_files import read_parts
from patchword.data.growing_arrays import GrowingArrays
from patchword.data.open import open_split, require_pictures, require_place
from patchword.data.pictures import Picture, PictureFiles
from patchword.data.precomp import splits_in
from patchword.errors import DataError

Progress = Callable[[int], None]

LAYOUTS = ("precomp", "raw_tree")  # those in whose folder side files are looked for
SAVE_EVERY = 20  # batches between two notes of how far a file is
STAND_INS = "clip_stand_ins.json"  # says that the vectors of a folder are not CLIP's, see ``stand_ins.py``


class ClipEncoder:
    """A CLIP model with its picture transform and its tokeniser; gives vectors that are not normalised.

    Args:
        source: local folder in the form of ``save_pretrained`` (config.json, weights, tokeniser files), or a name that
            transformers downloads. The published AAHR used ``laion/CLIP-ViT-B-32-laion2B-s34B-b79K``.
        device: where it runs.

    Raises:
        CheckpointError: there is no CLIP model, or a part of it is missing.
    """

    def __init__(self, source: str | Path, *, device: str = "cpu") -> None:
        from transformers import CLIPImageProcessorPil

        parts = read_parts(source, families=("clip",))
        self.source = str(source)
        self.tokenizer: Any = parts.tokenizer
        self.model: Any = parts.model.to(device)
        self.transform: Any = CLIPImageProcessorPil(**parts.settings)

    @property
    def width(self) -> int:
        """F, the width of its vectors."""
        return int(self.model.config.projection_dim)

    @property
    def max_tokens(self) -> int:
        """Longest caption, in tokens; longer ones are cut."""
        return int(self.model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Picture]) -> Float[Tensor, "N F"]:
        """Vectors of decoded pictures: shorter side to the model's size (bicubic), centre crop, no augmentation."""
        shown = [Image.fromarray(picture) for picture in pictures]
        pixels = self.transform(shown, return_tensors="pt")["pixel_values"].to(self.model.device)
        vectors: Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return vectors.float().cpu()

    @torch.no_grad()
    def encode_texts(self, sentences: Sequence[str]) -> Float[Tensor, "N F"]:
        """Vectors of sentences, raw but for surrounding blanks.

        This is what a search with a free sentence puts into ``Captions.extra["clip"]``.
        """
        stripped = [sentence.strip() for sentence in sentences]
        tokens = self.tokenizer(
            stripped, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        vectors: Tensor = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return vectors.float().cpu()

    def fingerprint(self) -> str:
        """What tells one model from another: a hash of its weights and of its picture transform."""
        found = hashlib.sha256(json.dumps(self.transform.to_dict(), sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Extracted:
    """One side file.

    Attributes:
        path: the file.
        rows, width: its shape.
        computed: rows that were computed now; fewer than ``rows`` when an earlier run had done some of them.
    """

    path: Path
    rows: int
    width: int
    computed: int


def write_rows(
    path: Path,
    count: int,
    width: int,
    compute: Callable[[range], Float[Tensor, "N F"]],
    *,
    batch: int,
    fingerprint: str,
    progress: Progress | None = None,
) -> Extracted:
    """Fill a float32 ``.npy`` file row by row under a temporary name, and put it in place when it is complete.

    An interrupted run goes on where the last note says that it was, if model, rows and inputs are the same.

    Args:
        path: the file.
        count, width: its shape.
        compute: gives the rows of a range.
        batch: rows computed at a time.
        fingerprint: of everything that the rows depend on.
        progress: called with the number of rows since the last call.
    """
    note = path.with_name(f".{path.name}.partial.json")
    with GrowingArrays({path: (width,)}, note, f"{fingerprint}, {count} rows") as file:
        done = file.rows
        if progress is not None and done:
            progress(done)
        for number, start in enumerate(range(done, count, batch), start=1):
            part = range(start, min(start + batch, count))
            values = compute(part).numpy()
            if not np.isfinite(values).all():
                bad = part[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
                raise DataError(f"the model gives NaN or infinite values for item {bad} of '{path.name}'.")
            file.append(values)
            if number % SAVE_EVERY == 0:
                file.save()
            if progress is not None:
                progress(len(part))
        file.finish()
    return Extracted(path, count, width, count - done)


def extract_clip(
    data: Path | str,
    clip: ClipEncoder | str | Path,
    *,
    splits: Sequence[str] = (),
    name: str | None = None,
    batch: int = 64,
    device: str = "cpu",
    again: bool = False,
    console: Console | None = None,
) -> list[Extracted]:
    """Write ``{split}_ims_clip.npy`` and ``{split}_caps_clip.npy`` beside the features of a data folder.

    One row per image and one per caption, float32, not normalised. Files that are complete are kept; an unfinished one
    goes on.

    Args:
        data: data folder in the precomp or raw-tree layout, with pictures near.
        clip: a loaded CLIP, or where it is.
        splits: which; all that are there by default.
        name: data set name, for folders that hold several.
        batch: pictures or captions at a time.
        device: where CLIP runs.
        again: also make complete files again.
        console: where progress goes; quiet by default.

    Raises:
        DataError: the layout has no place for side files, the pictures of a split are not there, or stand-ins are in
            the place of the vectors.
        CheckpointError: there is no such CLIP.
    """
    place, _ = require_place(Path(data), name, None)
    if place.layout.name not in LAYOUTS:
        raise DataError(
            f"'{data}' has the layout {place.layout.name}, in which side files have no place. "
            f"Expected {' or '.join(LAYOUTS)}: files such as train_caps.txt, train_ids.txt and train_ims.npy."
        )
    chosen = list(splits) or splits_in(place.path)
    opened = {split: open_split(data, split, name=name, layout=place.layout.name) for split in chosen}
    pictures = {split: require_pictures(opened[split], "CLIP") for split in chosen}  # all, before any work is done
    note = place.path / STAND_INS
    if note.exists() and (splits or not again):
        raise DataError(
            f"'{note}' says that stand-ins of CLIP's vectors lie there. "
            "To put CLIP's in their place, use --again, without --splits."
        )
    encoder = clip if isinstance(clip, ClipEncoder) else ClipEncoder(clip, device=device)
    mark = encoder.fingerprint()
    shown = console if console is not None else Console(quiet=True)
    written: list[Extracted] = []
    for split in chosen:
        source, captions = pictures[split], opened[split].captions

        def of_pictures(part: range, source: PictureFiles = source) -> Tensor:
            return encoder.encode_pictures([source.picture(i) for i in part])

        def of_captions(part: range, captions: list[str] = captions) -> Tensor:
            return encoder.encode_texts(captions[part.start : part.stop])

        for side, items, compute in (
            ("ims", [str(path) for path in source.files], of_pictures),
            ("caps", captions, of_captions),
        ):
            path = place.path / f"{split}_{side}_clip.npy"
            if path.exists() and not again:
                written.append(_complete(path, len(items), encoder.width))
                continue
            inputs = hashlib.sha256("\n".join(items).encode()).hexdigest()
            with ProgressBar(len(items), path.name, "rows", shown) as report:
                made = write_rows(
                    path,
                    len(items),
                    encoder.width,
                    compute,
                    batch=batch,
                    fingerprint=mark + inputs,
                    progress=report.advance,
                )
            written.append(made)
    note.unlink(missing_ok=True)
    return written


def _complete(path: Path, rows: int, width: int) -> Extracted:
    """A file that is there already, if it fits.

    Raises:
        DataError: it has another shape.
    """
    try:
        shape = np.load(path, mmap_mode="r").shape
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' is damaged: {error}. Remove it, and run the same command again.") from None
    if shape != (rows, width):
        raise DataError(
            f"'{path}' has shape {shape}. Expected {(rows, width)}. Remove it, or make it again with --again."
        )
    return Extracted(path, rows, width, 0)
