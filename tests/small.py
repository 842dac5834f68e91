"""Tiny data sets, recipes and checks that several test files share. Everything is learnable within seconds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from patchword.config import merge
from patchword.recipe import Recipe, make_recipe, to_yaml

THINGS = ("dog", "cat", "ball", "tree", "car", "boat", "hat", "cup", "bird", "shoe", "lamp", "book")
SIZES = {"train": 40, "dev": 20, "test": 20}
WIDTH, REGIONS = 8, 6


def write_precomp(folder: Path, sizes: Mapping[str, int] = SIZES, *, seed: int = 0) -> Path:
    """A SCAN folder whose captions name the things in the regions: three of twelve things, two regions each."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    looks = draw.normal(size=(len(THINGS), WIDTH))
    for split, count in sizes.items():
        shown = np.stack([draw.choice(len(THINGS), 3, replace=False) for _ in range(count)])  # (N, 3)
        regions = looks[np.repeat(shown, 2, axis=1)] + 0.1 * draw.normal(size=(count, REGIONS, WIDTH))
        np.save(folder / f"{split}_ims.npy", regions.astype(np.float32))
        captions = [caption(draw.permutation(things), draw) for things in shown for _ in range(5)]
        (folder / f"{split}_caps.txt").write_text("".join(f"{text}\n" for text in captions), encoding="utf-8")
        names = "".join(f"{split}_{k}\n" for k in range(count))
        (folder / f"{split}_ids.txt").write_text(names, encoding="utf-8")
    return folder


def caption(things: np.ndarray, draw: np.random.Generator) -> str:
    """A sentence of two or three things, so that lengths differ."""
    words = [THINGS[k] for k in things[: draw.integers(2, 4)]]
    return "a " + " and a ".join(words) + "."


def write_pictures(folder: Path, sizes: Mapping[str, int], *, side: int = 40) -> Path:
    """A raw-image tree: one colour per picture, and captions that name it."""
    colours = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (30, 30, 220), "white": (250, 250, 250)}
    draw = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for split, count in sizes.items():
        names, captions = [], []
        for k in range(count):
            colour = list(colours)[k % len(colours)]
            pixels = np.full((side, side, 3), colours[colour]) + draw.integers(0, 6, (side, side, 3)) - k
            names.append(f"{split}_{k}.png")
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / names[-1])
            captions += [f"a {colour} wall", f"{colour} everywhere"]
        (folder / f"{split}_ids.txt").write_text("".join(f"{n}\n" for n in names for _ in range(2)), encoding="utf-8")
        (folder / f"{split}_caps.txt").write_text("".join(f"{c}\n" for c in captions), encoding="utf-8")
    return folder


def write_bert(folder: Path, *, dropout: float = 0.1, positions: int = 64) -> Path:
    """A tiny random BERT with its vocabulary."""
    import transformers

    folder.mkdir(parents=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "and", ".", *THINGS]
    tokens += [f"filler{k}" for k in range(110 - len(tokens))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def recipe_values(
    method: str,
    data: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    bert: Path | None = None,
    image: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Plain values of a tiny recipe: region features or ``image``, a BiGRU or the BERT of a folder."""
    model: dict[str, Any] = {"joint_dim": 16, "image": dict(image or {"kind": "regions", "width": WIDTH})}
    model["text"] = {"kind": "bigru", "word_dim": 12} if bert is None else {"kind": "bert", "pretrained": str(bert)}
    if method == "chan":
        model |= {"heads": 2, "pooling": "mean"}
    values = {
        "method": method,
        "data": {"root": str(data), "min_word_count": 1},
        "model": model,
        "loss": {"margin": 0.2, "warmup_epochs": 2},
        "train": {"epochs": 2, "batch_size": 20, "lr": 0.01, "lr_steps": [], "seed": 1},
    }
    return merge(values, changes or {})


def recipe(
    method: str,
    data: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    bert: Path | None = None,
    image: Mapping[str, Any] | None = None,
) -> Recipe:
    """A checked tiny recipe."""
    return make_recipe(recipe_values(method, data, changes, bert=bert, image=image))


def write_recipe(
    path: Path, method: str, data: Path, changes: Mapping[str, Any] | None = None, *, bert: Path | None = None
) -> Path:
    """A tiny recipe as a file."""
    path.write_text(to_yaml(recipe_values(method, data, changes, bert=bert)), encoding="utf-8")
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint folder."""
    return load_file(folder / "model.safetensors")


def effective(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that scores depend on.

    A softmax cancels the bias of attention's keys, a batch norm the bias before it (which its running mean follows):
    their gradients are rounding, which AdamW makes large.
    """
    free = ("mlp.first.bias", "mlp.norm.running_mean")
    kept = {name: value for name, value in weights.items() if not name.endswith(free)}
    for name in kept:
        if name.endswith("attn.in_proj_bias"):
            query, _, value = kept[name].chunk(3)
            kept[name] = torch.cat([query, value])
    return kept


def same_tensors(a: Any, b: Any) -> bool:
    """Whether two nested structures are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and set(a) == set(b) and all(same_tensors(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_tensors(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def training_state(run: Path) -> dict[str, Any]:
    """Weights, optimiser state and position of ``last/``."""
    state = torch.load(run / "last" / "training.pt", weights_only=True)
    return {"weights": weights(run / "last"), "best": weights(run / "best"), **state}


def one_line(error: str) -> str:
    """The single line of an error stream."""
    lines = error.splitlines()
    assert len(lines) == 1, f"expected one line, found {len(lines)}:\n{error}"
    assert "Traceback" not in error
    return lines[0]


def refused(arguments: list[str | Path], capsys: pytest.CaptureFixture[str], *, kind: str, code: int = 2) -> str:
    """Run the command line in this process: it must fail with one line on the error stream, which is returned."""
    from patchword.cli import main

    capsys.readouterr()
    found = main([str(word) for word in arguments])
    said = one_line(capsys.readouterr().err)
    assert (found, said.partition(":")[0]) == (code, kind), said
    return said


def command(*arguments: str | Path) -> list[str]:
    """The command line as a program."""
    return [sys.executable, "-m", "patchword", *map(str, arguments)]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command line as a process of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), stdout=pipe, stderr=pipe, text=True)


def wait_for(fact: Callable[[], bool], process: subprocess.Popen[str], *, limit_s: float = 60) -> None:
    """Wait until something is true while a process runs."""
    end = time.monotonic() + limit_s
    while not fact():
        assert process.poll() is None, f"the process ended first: {process.communicate()}"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
