"""Words lit on regions: which words of a caption made its score with a picture, and what they looked at.

The numbers are those of ``method.explain``: one part for every word and patch, and all parts add up to the score. Here
they get their words and boxes, and are read word by word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchword.data.clip_pixels import place_boxes
from patchword.data.extras import read_extras, require_extras
from patchword.data.graph_words import bind_tokens
from patchword.data.pictures import PictureFiles
from patchword.data.table import ImageSource, Split
from patchword.data.tokenizers import Tokenizer, require_tokenizer
from patchword.data.vocab import END, START
from patchword.encoders.patches import RegionsConfig
from patchword.errors import DataError
from patchword.model import Model, prepare_source
from patchword.types import Alignment, Captions, Images

SHORTEST = 3  # letters of a word that is drawn on the picture; "a" and "," have a part too, but nothing to show
_MARKS = (START, END, "[CLS]", "[SEP]")


@dataclass(frozen=True)
class LitWord:
    """One row of an alignment.

    Attributes:
        text: the word.
        part: what it adds to the score, over all patches.
        patch: the patch that gave it most (its column).
        is_mark: whether it is a token around the caption and no word of it.
    """

    text: str
    part: float
    patch: int
    is_mark: bool

    @property
    def is_telling(self) -> bool:
        """Whether the word adds to the score and has letters enough to be worth drawing."""
        return self.part > 0 and not self.is_mark and sum(letter.isalnum() for letter in self.text) >= SHORTEST


def light_words(model: Model, split: Split, image: int, caption: int | str) -> Alignment:
    """Explain the score of an image of a split and a caption, with words and boxes filled in.

    Args:
        model: any loaded model.
        split: where the image is; its boxes are those of its regions, so a model that reads pictures has its own cells.
        image: position in the split.
        caption: position in the split, or a text of one's own.

    Returns:
        Parts ``(L, R)`` that add up to the score; L tokens, special ones included.

    Raises:
        DataError: the split has no images, no image at this position, or lacks a side input of the method.
        CheckpointError: the model holds no vocabulary.
    """
    if not 0 <= image < split.n_images:
        raise DataError(f"{split.dataset}/{split.name} has no image {image}. Expected 0..{split.n_images - 1}.")
    source = prepare_source(model.method, split.require_images())
    text = split.captions[caption] if isinstance(caption, int) else caption
    wanted = model.method.caption_extras
    require_extras(split, model.method.image_extras, wanted)
    position = caption if isinstance(caption, int) else position_of(split, caption, image)
    if wanted and position is None:
        raise DataError(
            f"this model also reads `{wanted[0]}` of a caption, which is known for the captions of "
            f"{split.dataset}/{split.name} only, and {text!r} is none of them. Take one of those."
        )
    images = replace(source.read([image]), extra=read_extras(split.image_extras, model.method.image_extras, [image]))
    extra = {}
    if position is not None:
        own = {side: split.caption_extras[side].select([position]) for side in wanted}
        bound = {side: bind_tokens(one, model.require_tokenizer()) for side, one in own.items()}
        extra = read_extras(bound, wanted, [0])
    regions = None if isinstance(source, PictureFiles) else split.boxes
    boxes = None if regions is None else torch.from_numpy(np.array(regions[image], dtype=np.float32))
    return in_picture(explain_pair(model, images, text, boxes=boxes, extra=extra), source, image)


def explain_picture(model: Model, file: Path, caption: str) -> Alignment:
    """Explain a picture file that belongs to no split, for a model that reads pictures."""
    source = prepare_source(model.method, PictureFiles([file]))
    return in_picture(explain_pair(model, source.read([0]), caption), source, 0)


def in_picture(found: Alignment, source: ImageSource, image: int) -> Alignment:
    """Boxes as parts of the whole picture, where a model sees only its middle (CLIP crops)."""
    if found.boxes is None or not isinstance(source, PictureFiles):
        return found
    height, width = source.picture(image).shape[:2]
    return replace(found, boxes=place_boxes(found.boxes, source.transform, height, width))


def position_of(split: Split, caption: str, image: int) -> int | None:
    """Where a text stands among the captions of a split, those of ``image`` first; None when it is none of them."""
    own = [j for j in split.captions_of(image) if split.captions[j] == caption]
    return own[0] if own else split.captions.index(caption) if caption in split.captions else None


def explain_pair(
    model: Model,
    images: Images,
    caption: str,
    *,
    boxes: Float[Tensor, "R 4"] | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> Alignment:
    """Explain one image, as an encoder reads it, and one caption.

    Args:
        model: any loaded model.
        images: a batch of one, with the side inputs that the method asks for.
        caption: its text.
        boxes: x1, y1, x2, y2 in 0..1 of the regions; for pictures, the cells of the encoder's grid are found here.
        extra: side inputs of the caption.
    """
    ids = model.tokenize([caption])[0]
    words = shown_words(require_tokenizer(model.tokenizer, model.label), caption, len(ids))
    tokens = Captions(torch.tensor([ids]), torch.tensor([len(ids)]), extra or {}).to(model.device)
    model.method.eval()
    found = model.method.explain(images.to(model.device), tokens)
    boxes = found.boxes if boxes is None else boxes
    if boxes is None and not isinstance(model.method.config.image, RegionsConfig):
        boxes = grid_boxes(found.parts.shape[1])
    if boxes is not None:
        boxes = boxes[: found.parts.shape[1]] if len(boxes) >= found.parts.shape[1] else None
    words = words[: len(found.parts)]  # SCTA reads the first of them only
    return replace(found, parts=found.parts.cpu(), words=words, boxes=boxes)


def shown_words(tokenizer: Tokenizer, caption: str, count: int) -> tuple[str, ...]:
    """Text of the ``count`` tokens that a model reads; fewer than the caption has where captions are cut."""
    words = tokenizer.shown(caption)
    if len(words) > count and words[-1] == "[SEP]":  # word pieces are cut between their marks
        words = [*words[: count - 1], words[-1]]
    return tuple(words[:count])


def grid_boxes(cells: int) -> Float[Tensor, "R 4"] | None:
    """Boxes of a square grid of patches in row-major order; None when they form no square.

    A class token in front (one more than a square) gets the whole picture.

    Example:
        >>> grid_boxes(4)[1].tolist(), grid_boxes(5)[0].tolist(), grid_boxes(7)
        ([0.5, 0.0, 1.0, 0.5], [0.0, 0.0, 1.0, 1.0], None)
    """
    side = math.isqrt(cells)
    first = cells - side * side
    if first > 1 or side == 0:
        return None
    rows, columns = (t.flatten().float() / side for t in torch.meshgrid([torch.arange(side)] * 2, indexing="ij"))
    boxes = torch.stack([columns, rows, columns + 1 / side, rows + 1 / side], dim=1)
    return torch.cat([torch.tensor([[0.0, 0.0, 1.0, 1.0]]), boxes]) if first else boxes


def lit_words(alignment: Alignment) -> list[LitWord]:
    """The words of an alignment in order; their parts add up to its score.

    Example:
        >>> found = lit_words(Alignment(torch.tensor([[0.1, 0.5], [0.2, 0.1]]), 0.9, ("red", "ball")))
        >>> [(word.text, round(word.part, 1), word.patch) for word in found]
        [('red', 0.6, 1), ('ball', 0.3, 0)]
    """
    parts = alignment.parts
    words = alignment.words or tuple(f"word {k + 1}" for k in range(len(parts)))
    sums, best = parts.sum(1).tolist(), parts.argmax(1).tolist()
    return [LitWord(text, part, patch, text in _MARKS) for text, part, patch in zip(words, sums, best, strict=True)]


def telling_patches(words: list[LitWord], most: int) -> list[int]:
    """The patches that the strongest telling words chose, the strongest first, each once."""
    strongest = sorted((word for word in words if word.is_telling), key=lambda word: -word.part)
    return list(dict.fromkeys(word.patch for word in strongest))[:most]
