"""What ``export.json`` says: what the graphs read and give, how a score is made of it, how pictures and captions become
inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from patchword.data.pictures import (
    DETECTOR_MEAN_BGR,
    IMAGENET_MEAN,
    IMAGENET_STD,
    DetectorTransform,
    ImagenetTransform,
    VitTransform,
)
from patchword.data.tokenizers import Tokenizer
from patchword.encoders.patches import pixel_transform
from patchword.export.ports import CaptionGraph, ImageGraph, Port
from patchword.methods.base import Method

NEEDS_PATCHWORD = (
    "only the encoders are exported. {why}: compute it with patchword, model.method.score(images, captions) with "
    "Encoded.from_padded(sets, set_lengths) of both graphs"
)
STRETCHED = "bilinear, half-pixel centres, not antialiased (OpenCV's INTER_LINEAR)"
TOKENS = {
    "words": (
        "vocabulary.json",
        "word2idx gives the id of every word of the lower-cased caption, split as NLTK's word_tokenize does; <unk> for "
        "words it does not hold; <start> before and <end> behind them",
    ),
    "pieces": (
        "vocab.txt",
        "BERT's word pieces, the line is the id (from 0), of the caption without what tokenizer_config.json takes off "
        "(capitals, accents); [CLS] before and [SEP] behind them",
    ),
    "transformers": ("tokenizer.json", "read by the package tokenizers; it sets the marks itself"),
}


def how_to_score(method: Method) -> dict[str, Any]:
    """How the score of an image and a caption is made of the two outputs, and whether that needs patchword."""
    formula = method.formula
    if formula.how:
        return {"needs_patchword": False, "how": formula.how, **formula.numbers}
    why = "How a score is made of their vectors is not known"
    if formula.weights:
        why = f"The score of a pair has weights of its own ({formula.weights})"
    return {"needs_patchword": True, "how": NEEDS_PATCHWORD.format(why=why)}


def notes_on(method: Method) -> list[str]:
    """What a user of the graphs must know that the shapes do not tell."""
    found = []
    if getattr(method.config, "short_sets", "own") == "reference":
        found.append(
            "short_sets: an image or caption of a single vector pools its one largest value, and the items behind it "
            "in a batch are not changed by that (in patchword, model.short_sets: reference lets it change them)"
        )
    if method.reads_padding:
        found.append(
            "pool_padding: reference lets padded slots take part, as in patchword: vectors depend on the longest item "
            "of their batch. Encode items of equal length together, or one at a time"
        )
    return [*found, *method.export_notes]


def pixels_of(method: Method) -> dict[str, Any] | None:
    """How a picture becomes pixels; None for region features."""
    image: Any = method.config.image
    if hasattr(image, "pixel_transform"):
        return {"layout": "NCHW, RGB", "transformers": dict(image.transform)}
    transform = pixel_transform(image)
    if isinstance(transform, VitTransform):
        resized, mean, std = "bicubic, as Pillow's resize (antialiased)", transform.mean, transform.std
    elif isinstance(transform, ImagenetTransform):
        resized, mean, std = STRETCHED, IMAGENET_MEAN, IMAGENET_STD
    elif isinstance(transform, DetectorTransform):
        resized, mean, std = STRETCHED, DETECTOR_MEAN_BGR, (1.0, 1.0, 1.0)
    else:
        return None
    return {
        "layout": "NCHW, BGR" if isinstance(transform, DetectorTransform) else "NCHW, RGB",
        "size": [transform.size, transform.size],
        "resize": f"to a square without keeping proportions, {resized}",
        "scale": 1.0 if isinstance(transform, DetectorTransform) else 1 / 255,
        "mean": list(mean),
        "std": list(std),
        "orientation": "turned upright as the EXIF data ask, before anything else",
    }


def tokens_of(tokenizer: Tokenizer | None, max_words: int | None) -> dict[str, Any] | None:
    """How a caption becomes token ids; None for a model without a vocabulary."""
    if tokenizer is None:
        return None
    file, how = TOKENS[tokenizer.kind]
    return {"kind": tokenizer.kind, "file": file, "size": tokenizer.size, "how": how, "max_words": max_words}


def settings_of(method: Method) -> dict[str, Any]:
    """The configuration of a method without the places that weights once came from."""
    config = method.config.model_dump(mode="json")
    for tower in ("image", "text"):
        for key in ("pretrained", "weights", "vectors"):
            config.get(tower, {}).pop(key, None)
    found: dict[str, Any] = config
    return found


def graph_json(graph: ImageGraph | CaptionGraph, shape: Sequence[int | str], opset: int) -> dict[str, Any]:
    """Inputs and outputs of a graph."""
    outputs = (
        Port("sets", "float32", tuple(shape), "the vectors of each item; zeros from its size on"),
        Port("set_lengths", "int64", (graph.items,), "the size of each set"),
    )
    limit = {} if graph.most is None else {"most": {graph.axis: graph.most}}
    inputs = [asdict(port) for port in graph.inputs]
    return {
        "file": graph.file,
        "opset": opset,
        "inputs": inputs,
        "outputs": [asdict(port) for port in outputs],
        **limit,
    }
