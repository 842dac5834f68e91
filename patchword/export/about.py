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

DOT = "score[i, j] = dot product of vector 0 of image i and vector 0 of caption j"
COSINES = "s[r, l] = dot product of vector r of the image and vector l of the caption"
NEEDS_PATCHWORD = (
    "only the encoders are exported. The score of a pair has weights of its own ({what}): compute it with patchword, "
    "model.method.score(images, captions) with Encoded.from_padded(sets, set_lengths) of both graphs"
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
CODED = {
    "vha": "z[l] = max over r of s, one number for every word",
    "tha": "z[r] = max over l of s, one number for every region",
    "vsa": (
        "p = softmax over l of s / {t:g}, c[r] = sum over l of p * word l, z[r] = dot product of region r and c[r] / "
        "(length of c[r] + 1e-8)"
    ),
}
POOLED = {
    "mean": "the mean of z",
    "max": "the largest z",
    "sum": "the sum of z",
    "lse": "log(sum of exp(z / {t:g}))",
    "softmax": "the sum of softmax(z / {t:g}) * z",
}


def how_to_score(method: Any) -> dict[str, Any]:
    """How the score of an image and a caption is made of the two outputs, and whether that needs patchword."""
    config = method.config
    needs, numbers = None, {}
    if method.name == "chan":
        how = f"{COSINES}; {CODED[config.coding].format(t=config.coding_temperature)}; the score is "
        how += POOLED[config.pooling].format(t=config.pooling_temperature)
    elif method.name == "esl":
        how = (
            f"{COSINES}; p = leaky_relu(tanh(s), 0.1); a = softmax over r of tau * p / (norm over l of p + 1e-8); "
            "b = softmax over l of tau * p / (norm over r of p + 1e-8); the score is the sum over r and l of "
            "a * s / (words of the caption) + b * s / (patches of the image)"
        )
        numbers = {"tau": float(method.temperature.detach())}
    elif method.name == "clip" and method.shortlist != "own":
        how = f"{COSINES}; z[l] = max over r of s; the score is the mean of z"
    elif method.shortlist == "own":
        how = DOT
    else:
        needs = {"cefg": "the refined attention and its reasoning", "scta": "the condensers of patches and words"}.get(
            method.name, "the condenser of patches"
        )
        how = NEEDS_PATCHWORD.format(what=needs)
    return {"needs_patchword": needs is not None, "how": how, **numbers}


def notes_on(method: Any) -> list[str]:
    """What a user of the graphs must know that the shapes do not tell."""
    config, found = method.config, []
    if getattr(config, "short_sets", "own") == "reference":
        found.append(
            "short_sets: an image or caption of a single vector pools its one largest value, and the items behind it "
            "in a batch are not changed by that (in patchword, model.short_sets: reference lets it change them)"
        )
    if method.reads_padding:
        found.append(
            "pool_padding: reference lets padded slots take part, as in patchword: vectors depend on the longest item "
            "of their batch. Encode items of equal length together, or one at a time"
        )
    if method.name == "chan" and config.score_padding == "reference":
        found.append("score_padding: reference takes a z of exactly -1 for padding; `score` leaves that out")
    reads_regions = method.name == "chan" and method.reads == "regions" and config.context == "self_attention"
    if reads_regions and config.attention_padding == "reference":
        found.append(
            "attention_padding: reference lets padded regions act as keys, as in patchword: give the images of a batch "
            "equal numbers of regions"
        )
    if method.name == "cefg":
        found.append(f"at most {config.regions} regions an image (model.regions)")
    return found


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
