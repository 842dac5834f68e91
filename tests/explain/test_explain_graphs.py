"""A CEFG that reads graphs is explained from the graph file of its data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cefg_models import cefg_model
from small import REGIONS, write_precomp

from patchword.cli import main
from patchword.data.open import open_split


@pytest.fixture(params=["amr_caps.txt", "amr.penman"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A split with boxes and one graph for each caption: a thing and a dog."""
    folder = write_precomp(tmp_path / "toy", {"test": 3})
    corners = np.random.default_rng(0).random((3, REGIONS, 2)) * 0.5
    np.save(folder / "test_boxes.npy", np.concatenate([corners, corners + 0.3], axis=2).astype(np.float32))
    things = [line.split()[1] for line in (folder / "test_caps.txt").read_text().splitlines()]
    texts = {
        "amr_caps.txt": "".join(f"{thing} dog\n" for thing in things),
        "amr.penman": "\n\n".join(f"(x / {thing} :mod (y / dog))" for thing in things) + "\n",
    }
    (folder / f"test_{request.param}").write_text(texts[request.param])
    return folder


@pytest.mark.parametrize("amr", ["concat", "gate"])
def test_the_graph_of_a_caption_takes_part(
    amr: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = open_split(data, "test", images="features")
    model = cefg_model([*split.captions, "dog"], amr=amr)
    model.save(tmp_path / "run")
    images = model.encode_images(split.require_images(), extras=split.image_extras)
    scores = model.score(images, model.encode_captions(split.captions, extras=split.caption_extras))
    for image, caption in ((0, 1), (2, 7)):
        asked = ["explain", str(tmp_path / "run"), f"test_{image}", split.captions[caption], "--data", str(data)]
        assert main([*asked, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["score"] == pytest.approx(float(scores[image, caption]), abs=1e-5)
        assert told["sum_of_parts"] == pytest.approx(told["score"], abs=1e-5)
        assert [word["text"] for word in told["words"]] == model.require_tokenizer().shown(split.captions[caption])
