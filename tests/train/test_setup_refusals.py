"""Settings that would be ignored, or train on something wrong, are refused before a step is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import REGIONS, recipe, refused, write_pictures, write_precomp, write_recipe

from patchword.config import merge
from patchword.errors import CollapseError, ConfigError
from patchword.methods.cefg import Cefg
from patchword.recipe import load_recipe, recipe_folders
from patchword.train.run import train
from patchword.train.setup import check_region_drop, prepare

SIZES = {"train": 12, "dev": 4}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
IMAGES: dict[str, dict[str, Any]] = {
    "resnet": {"kind": "resnet", "layers": [1, 1, 1, 1], "base_width": 8, "image_size": 64},
    "vit": {"kind": "vit", "arch": {**VIT, "image_size": 32, "patch_size": 16}},
}
CEFG = {"model": {"sim_dim": 6, "regions": REGIONS, "adjacency": "precomputed"}, "train": {"epochs": 1}}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Region features with a neighbourhood of every region, and pictures."""
    folder = tmp_path_factory.mktemp("data")
    features = write_precomp(folder / "features", SIZES)
    for split, count in SIZES.items():
        np.save(features / f"{split}_ims_adjacency.npy", np.eye(REGIONS, dtype=bool)[None].repeat(count, 0))
    return {"features": features, "pictures": write_pictures(folder / "pictures", {"train": 12, "dev": 4})}


# ------------------------------------------------------------------ dropped regions


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_regions_with_neighbours_are_not_dropped(
    rate: float, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch shows the loss of regions only when all of its images lost some; the neighbours are wrong always."""
    path = write_recipe(
        tmp_path / "cefg.yaml", "cefg", places["features"], merge(CEFG, {"data": {"region_drop": rate}})
    )
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="ConfigError")
    assert f"`data.region_drop` is {rate}, but this cefg reads `adjacency`" in said
    assert not (tmp_path / "run" / "last").exists()


def test_regions_with_neighbours_are_trained_on_whole(places: dict[str, Path], tmp_path: Path) -> None:
    made = recipe("cefg", places["features"], merge(CEFG, {"data": {"region_drop": 0}}))
    assert train(made, tmp_path / "run").position.finished


def test_a_broken_graph_of_the_dev_split_shows_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_precomp(tmp_path / "data", SIZES)
    for split, count in SIZES.items():
        (data / f"{split}_amr.penman").write_text("(d / dog)\n\n" * (5 * count))
        np.save(data / f"{split}_ims_adjacency.npy", np.eye(REGIONS, dtype=bool)[None].repeat(count, 0))
    (data / "dev_amr.penman").write_text("(d / dog)\n\n" * 7 + "(broken")
    with_graphs = merge(CEFG, {"data": {"region_drop": 0}, "model": {"amr": "concat"}})
    path = write_recipe(tmp_path / "cefg.yaml", "cefg", data, with_graphs)
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="DataError")
    assert "dev_amr.penman' line" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_every_recipe_that_reads_neighbours_may_be_trained() -> None:
    recipes = [load_recipe(path) for folder in recipe_folders()[:1] for path in sorted(folder.glob("*cefg*.yaml"))]
    assert len(recipes) > 10
    method = object.__new__(Cefg)
    for one in recipes:
        object.__setattr__(method, "config", one.model)
        check_region_drop(one.data, method)


# ------------------------------------------------------------------ freezing


@pytest.mark.parametrize(
    ("image", "stages", "said"),
    [
        ("vit", 2, r"freezes 2 stages from epoch 1 on, .*kind vit can not do\. Expected 0 or 4 \(all of it\)"),
        ("resnet", 5, r"freezes 5 stages .*kind resnet can not do\. Expected 0, 1, 2, 3 or 4 \(all of it\)"),
        ("resnet", -1, "freezes -1 stages"),
        ("regions", 4, "kind regions can not do. It has no backbone: leave train.freeze_backbone out"),
    ],
)
def test_a_freezing_that_would_do_nothing_is_refused(
    image: str, stages: int, said: str, places: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare(frozen(image, {0: 0, 1: stages}, places))


@pytest.mark.parametrize(("image", "stages"), [("vit", 4), ("resnet", 3), ("resnet", 4), ("regions", 0)])
def test_a_freezing_that_the_backbone_can_do(image: str, stages: int, places: dict[str, Path]) -> None:
    method: Any = prepare(frozen(image, {0: stages, 1: 0}, places)).method
    method.freeze_blocks(stages)
    assert any(not p.requires_grad for p in method.parameters()) == (stages > 0)


def frozen(image: str, schedule: dict[int, int], places: dict[str, Path]) -> Any:
    """A VSE-infinity over a kind of images that freezes its backbone."""
    place = places["features" if image == "regions" else "pictures"]
    return recipe("vse_inf", place, {"train": {"freeze_backbone": schedule}}, image=IMAGES.get(image))


# ------------------------------------------------------------------ the first step


def test_a_first_step_that_can_not_be_made_is_no_matter_of_the_rate(tmp_path: Path) -> None:
    """Padded regions of this ESL are zero vectors, whose lengths divide."""
    data = write_precomp(tmp_path / "data", SIZES)
    model = {"levels": 3, "residual_mlp": False, "padding": "reference"}
    made = recipe("esl", data, {"model": model, "data": {"region_drop": 0.4}})
    with pytest.raises(CollapseError, match=r"at step 1 .*No update has been made yet.* patchword doctor data") as one:
        train(made, tmp_path / "run")
    assert "train.lr" not in str(one.value)
    assert "\n" not in str(one.value)


def test_a_later_step_may_have_too_large_a_rate(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", SIZES)
    with pytest.raises(CollapseError, match=r"at step [2-9].*Try a smaller --train\.lr"):
        train(recipe("chan", data, {"train": {"lr": 1e30, "clip_norm": None, "epochs": 3}}), tmp_path / "run")
