"""An evaluation opens its data as the training did: captions per image, broken pictures, and COCO's five captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_models import write_checkpoint
from small import recipe, write_pictures, write_precomp

from patchword.cli import main
from patchword.errors import DataError
from patchword.evaluate.members import open_member
from patchword.evaluate.opening import open_for
from patchword.evaluate.run import evaluate
from patchword.evaluate.scores_file import write_scores
from patchword.loading import load
from patchword.train.run import train

ARCH = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
VIT: dict[str, Any] = {"kind": "vit", "arch": {**ARCH, "image_size": 8, "patch_size": 4}}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures with two captions each, of which one test picture is broken."""
    data = write_pictures(tmp_path / "data", {"train": 8, "dev": 4, "test": 4})
    (data / "images" / "test_2.png").write_bytes(b"no picture")
    return data


def test_what_a_recipe_says_of_its_data_holds_for_evaluation(pictures: Path, tmp_path: Path) -> None:
    over = {"train": {"epochs": 1, "batch_size": 4}, "data": {"captions_per_image": 1, "skip_broken": True}}
    train(recipe("chan", pictures, over, image=VIT), tmp_path / "run")
    model = load(tmp_path / "run")
    split = open_for(model, pictures, "test")
    assert (split.n_images, split.n_captions) == (3, 3)
    result = evaluate(tmp_path / "run", pictures)
    assert (result.n_images, result.n_captions) == (3, 3)
    assert any("test_2" in note for note in result.notes)
    assert any("first 1 captions of each image: 4 left out" in note for note in result.notes)


def test_a_broken_picture_stops_the_evaluation_of_others(pictures: Path, tmp_path: Path) -> None:
    train(recipe("chan", pictures, {"train": {"epochs": 1, "batch_size": 4}}, image=VIT), tmp_path / "run")
    with pytest.raises(DataError, match=r"test_2.* --skip-broken in evaluation\.$"):
        evaluate(tmp_path / "run", pictures)
    result = evaluate(tmp_path / "run", pictures, skip_broken=True)
    assert (result.n_images, result.n_captions) == (3, 6)
    assert any("test_2" in note for note in result.notes)


def test_broken_pictures_are_left_out_by_the_verbs(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_checkpoint(tmp_path / "clip")
    words = ["evaluate", str(clip), "--data", str(pictures), "--skip-broken", "--json"]
    for more in ([], ["--ranks", "streamed"]):
        assert main([*words, *more]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["n_images"] == 3
        assert any("test_2" in note for note in shown["notes"])
    assert main(["search", str(clip), "a red ball", "--data", str(pictures), "-k", "9", "--json"]) == 0
    said = capsys.readouterr()
    assert "1 broken pictures left out: test_2" in said.err
    assert len(json.loads(said.out)["a red ball"]) == 3


@pytest.mark.parametrize(("name", "kept"), [("coco", 15), ("mine", 18)])
def test_coco_is_evaluated_with_five_captions_an_image(tmp_path: Path, name: str, kept: int) -> None:
    images = [
        {
            "cocoid": k,
            "filename": f"{k}.jpg",
            "split": "test",
            "sentences": [{"raw": f"caption {j}", "sentid": 10 * k + j} for j in range(5 + k)],
        }
        for k in range(3)
    ]
    (tmp_path / f"dataset_{name}.json").write_text(json.dumps({"images": images}))
    (tmp_path / "images").mkdir()
    for k in range(3):
        (tmp_path / "images" / f"{k}.jpg").write_bytes(b"")
    model = load(write_checkpoint(tmp_path / "clip"))
    split = open_for(model, tmp_path, "test", name=name)
    assert split.n_captions == kept


def test_saved_scores_of_coco_fit_their_own_data(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "coco_precomp")
    captions, ids = ((data / f"test_{what}.txt").read_text("utf-8").splitlines() for what in ("caps", "ids"))
    ids = [ids[k * len(ids) // len(captions)] for k in range(len(captions))]
    (data / "test_caps.txt").write_text("\n".join([*captions[:5], "a sixth one .", *captions[5:]]), "utf-8")
    (data / "test_ids.txt").write_text("\n".join([*ids[:5], ids[0], *ids[5:]]), "utf-8")
    scores = np.random.default_rng(0).random((len(captions) // 5, len(captions) + 1), dtype=np.float32)
    five = np.delete(scores, 5, axis=1)
    for name, matrix, columns in (("five", five, len(captions)), ("all", scores, len(captions) + 1)):
        np.save(tmp_path / f"{name}.npy", matrix)
        member = open_member(tmp_path / f"{name}.npy", data)
        assert member.split is not None
        assert (member.split.n_captions, member.saved.scores.shape[1]) == (columns, columns)
        saved = write_scores(tmp_path / f"{name}.safetensors", member.saved)
        assert open_member(saved, data).saved.owner.tolist() == member.saved.owner.tolist()
