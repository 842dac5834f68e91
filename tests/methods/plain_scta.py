"""SCTA and LAPS as plain loops over float64 numbers, for one pair."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.methods.scta import Scta

Array = NDArray[np.float64]


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def mix(shares: list[float], vectors: list[Array]) -> Array:
    return sum((p * v for p, v in zip(shares, vectors, strict=True)), np.zeros_like(vectors[0]))


def unit(v: Array) -> Array:
    return v / max(float(np.linalg.norm(v)), 1e-12)


def weights(module: torch.nn.Module) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def hidden(w: dict[str, Array], x: Array) -> Array:
    normed = (x - x.mean()) / math.sqrt(x.var() + 1e-5) * w["norm.weight"] + w["norm.bias"]
    h = w["fc1.weight"] @ normed + w["fc1.bias"]
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in h])


def plain_score(method: Scta, image: Array, words: Array, head: Array) -> float:
    """The score of one pair, step by step as in the papers."""
    config = method.config
    z, x = ([image[0]], list(image[1:])) if method.has_class_token else ([], list(image))
    c = list(words)
    own, caption = unit(np.mean(x, axis=0)), unit(np.mean(c, axis=0))
    s = [float(own @ unit(v) + caption @ unit(v)) for v in x]
    kept = set(sorted(range(len(x)), key=lambda k: (-s[k], k))[: math.ceil(len(x) * config.keep_ratio)])
    inside, outside = sorted(kept), sorted(set(range(len(x))) - kept)
    w = weights(method.patch_condenser)
    logits = [w["scale"].item() * (w["fc2.weight"] @ hidden(w, x[k])) for k in inside]
    tokens = [mix(softmax([float(row[t]) for row in logits]), [x[k] for k in inside]) for t in range(len(logits[0]))]
    rest = mix(softmax([s[k] for k in outside]), [x[k] for k in outside]) if outside else np.zeros_like(x[0])
    V = [unit(v) for v in (*z, *tokens, rest)]
    if config.word_condenser == "none":
        T = [unit(v) for v in c]
    else:
        w, inner = weights(method.word_condenser), c[1:] or c
        count = max(4, min(int(config.word_ratio * (len(c) - 1)), 100))
        g = [hidden(w, v) for v in inner]
        y = [mix(softmax([w["scale"].item() * float(head[j] @ one) for one in g]), inner) for j in range(count)]
        T = [unit(v) for v in (c[0], *y)]
    cosines = [[float(t @ v) for v in V] for t in T]
    leaky = [[g if g > 0 else 0.1 * g for g in row] for row in cosines]
    return float(np.mean([max(row) for row in leaky]) + np.mean([max(column) for column in zip(*leaky, strict=True)]))
