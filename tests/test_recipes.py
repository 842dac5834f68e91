"""Every recipe parses, says what to expect and how to run it, builds in miniature and takes one real training step."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.encoders.resnet import ResnetConfig
from patchword.methods import METHODS
from patchword.recipe import load_recipe
from patchword.train.run import train

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
REGION_WIDTH = 12
CLIP_WIDTH = 20
CAPTIONS = ["a red dog runs", "the small dog plays outside", "one dog on grass", "a dog with a ball", "it is a dog"]


@dataclass(frozen=True)
class Toys:
    """Small data in both forms, and a BERT folder, shared by all recipes."""

    features: Path
    pictures: Path
    bert: Path


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    from transformers import BertConfig as HfBertConfig
    from transformers import BertModel

    home = tmp_path_factory.mktemp("toys")
    draw = np.random.default_rng(0)
    features, pictures, bert = home / "features", home / "pictures", home / "bert"
    features.mkdir()
    (pictures / "images").mkdir(parents=True)
    rows = []
    for split, count in (("train", 3), ("dev", 2)):
        np.save(features / f"{split}_ims.npy", draw.random((count, 4, REGION_WIDTH), dtype=np.float32))
        corner = np.random.default_rng(1).random((count, 4, 2))
        np.save(features / f"{split}_boxes.npy", np.concatenate([corner, corner + 0.2], 2).astype(np.float32) / 1.2)
        clip = np.random.default_rng(2).random((count, CLIP_WIDTH), dtype=np.float32)
        np.save(features / f"{split}_ims_clip.npy", clip)
        clip = np.random.default_rng(3).random((count * len(CAPTIONS), CLIP_WIDTH), dtype=np.float32)
        np.save(features / f"{split}_caps_clip.npy", clip)
        (features / f"{split}_ids.txt").write_text("".join(f"{split}{k}\n" for k in range(count)), encoding="utf-8")
        (features / f"{split}_caps.txt").write_text("".join(f"{c}\n" for c in CAPTIONS * count), encoding="utf-8")
        for k in range(count):
            name = f"images/{split}{k}.png"
            Image.fromarray(draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(pictures / name)
            rows.append({"image": name, "split": split, "captions": CAPTIONS})
    (pictures / "captions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    arch = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(HfBertConfig(vocab_size=200, max_position_embeddings=40, **arch)).save_pretrained(bert)
    words = sorted({w for c in CAPTIONS for w in c.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    vocabulary += [f"[unused{k}]" for k in range(200 - len(vocabulary))]
    (bert / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return Toys(features, pictures, bert)


def miniature(recipe: Path, toys: Toys) -> dict[str, Any]:
    """Overrides that make a recipe tiny and point it at the toys; what is published stays as it is."""
    model: Any = load_recipe(recipe).model
    image: dict[str, Any]
    if isinstance(model.image, RegionsConfig):
        image = {"width": REGION_WIDTH}
    elif isinstance(model.image, ResnetConfig):
        image = {"layers": [1, 1, 1, 1], "base_width": 8, "image_size": 64}
    else:
        image = {"arch": dict(TINY_VIT)}
    text = {"kind": "bert", "pretrained": str(toys.bert)} if isinstance(model.text, BertConfig) else {"word_dim": 6}
    root = toys.features if isinstance(model.image, RegionsConfig) else toys.pictures
    small: dict[str, Any] = {"joint_dim": 16, "image": image, "text": text}
    small |= {"levels": 4} if hasattr(model, "levels") else {}
    small |= {"clip_dim": CLIP_WIDTH} if hasattr(model, "clip_dim") else {}
    return {
        "data": {"root": str(root), "limit_train": 3, "min_word_count": 1, "vocabulary": None},
        "model": small,
        "train": {"epochs": 1, "batch_size": 15, "micro_batch": None, "patience": None, "precision": "float32"},
    }


TINY_VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 16,
}


def header(recipe: Path) -> list[str]:
    """The comment lines that a recipe opens with, without their marks."""
    lines = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def test_there_are_recipes_of_every_method() -> None:
    assert {load_recipe(path).method for path in RECIPES} == set(METHODS)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_the_header_says_what_to_expect_and_how_to_run_it(recipe: Path) -> None:
    lines = header(recipe)
    for word in ("Expected", "Selection:"):
        assert any(line.startswith(word) for line in lines), f"no line that starts with '{word}'"
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("patchword train")]
    assert commands, "no command"
    for words in commands:
        name, options = words[2], words[3:]
        assert Path(name).stem == recipe.stem
        load_recipe(recipe, options)  # its dotted options exist


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_the_name_says_the_method(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert recipe.stem.removeprefix("best_").startswith(f"{loaded.method}_")
    if loaded.data.name is not None:
        assert f"_{loaded.data.name}" in recipe.stem


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_no_recipe_names_a_place_on_one_machine(recipe: Path) -> None:
    loaded: Any = load_recipe(recipe)
    assert loaded.data.root is None
    assert loaded.data.vocabulary is None
    for tower in (loaded.model.image, loaded.model.text):
        for key in ("pretrained", "weights", "vectors"):
            assert getattr(tower, key, None) is None


@pytest.mark.parametrize(
    ("name", "batch_size", "weight_decay", "factors"),
    [
        ("vse_inf_f30k_butd_region_bigru", 128, 0.01, {}),
        ("vse_inf_coco_butd_region_bert", 128, 1e-4, {"text_backbone": 0.1}),
        ("vse_inf_coco_butd_grid_bigru", 128, 1e-4, {"image_backbone": 0.01}),
        ("vse_inf_f30k_wsl_grid_bert", 128, 1e-4, {"text_backbone": 0.1, "image_backbone": 0.01}),
        ("vse_inf_f30k_resnet152_grid_bigru", 128, 1e-4, {"image_backbone": 0.1}),
        ("chan_f30k_butd_bigru", 384, 0.01, {}),
        ("chan_coco_butd_bert", 128, 1e-4, {"text_backbone": 0.1}),
    ],
)
def test_published_settings_that_move_the_numbers(
    name: str, batch_size: int, weight_decay: float, factors: Mapping[str, float]
) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    train = recipe.train
    assert (train.batch_size, train.weight_decay, train.lr_factors) == (batch_size, weight_decay, factors)
    assert (train.epochs, train.lr, train.lr_steps, train.clip_norm) == (25, 5e-4, (15,), 2.0)
    assert recipe.data.limit_dev == 1000
    loss: Any = recipe.loss
    assert (loss.margin, loss.warmup_epochs) == (0.05 if recipe.method == "chan" else 0.2, 1)
    is_grid = "grid" in name
    assert (train.drop_last, loss.ramp_epoch) == (not is_grid, 1 if is_grid else None)
    assert train.freeze_backbone == ({0: 4, 1: 0} if is_grid else {})
    if isinstance(recipe.model.text, BigruConfig):  # type: ignore[attr-defined]
        assert recipe.model.text.embedding == ("xavier" if recipe.method == "chan" else "uniform")  # type: ignore[attr-defined]


@pytest.mark.integration
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_a_miniature_takes_one_training_step(recipe: Path, toys: Toys, tmp_path: Path) -> None:
    result = train(recipe, tmp_path / "run", overrides=miniature(recipe, toys))
    assert (result.position.step, result.position.finished) == (1, True)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in logged if line["kind"] == "train")
    assert math.isfinite(step["loss"])
    assert step["grad_norm"] > 0 or load_recipe(recipe).loss.ramp_epoch == 0  # type: ignore[attr-defined]
    assert all(torch.isfinite(p).all() for p in result.model().method.parameters())
