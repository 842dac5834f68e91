"""``patchword bench bounds``: the bounds that ESL, SCTA and LAPS have, and the share of pairs that they leave open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from condensed_toys import KINDS, made
from small import refused, write_precomp, write_recipe

from patchword.bench.bounds import convex_bounds, moved_bounds, open_share
from patchword.cli import main
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.methods.esl import Esl, EslConfig
from patchword.train.run import train
from patchword.types import Encoded


def sets(lengths: tuple[int, ...], width: int, seed: int) -> Encoded:
    vectors = torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(seed))
    return Encoded(vectors, torch.tensor(lengths))


@torch.no_grad()
def test_those_of_esl_are_means_of_the_best_cells_and_hold() -> None:
    method = Esl(EslConfig(joint_dim=8, levels=3, image=RegionsConfig(width=5), text=BigruConfig(vocab_size=5))).eval()
    images, captions = sets((4, 1, 7), 14, seed=1), sets((3, 1, 6, 3), 14, seed=2)
    low, high = convex_bounds(method, images, captions)
    scores = method.score(images, captions)
    assert bool(((low - 1e-5 <= scores) & (scores <= high + 1e-5)).all())
    cells = captions.slice(2, 3).vectors @ images.slice(2, 3).vectors.T
    assert float(high[2, 2]) == pytest.approx(float(cells.amax(0).mean() + cells.amax(1).mean()), rel=1e-5)
    assert float(low[2, 2]) == pytest.approx(float(cells.amin(0).mean() + cells.amin(1).mean()), rel=1e-5)
    torch.testing.assert_close(low[1, 1], high[1, 1])  # one patch and one word leave nothing to weigh


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_those_of_scta_hold(kind: str) -> None:
    method = made(kind)
    images, captions = sets((9, 24, 12), 10, seed=3), sets((3, 7, 5, 2, 11), 10, seed=4)
    low, high = moved_bounds(method, images, captions)
    scores = method.score(images, captions)
    assert bool(((low - 1e-5 <= scores) & (scores <= high + 1e-5)).all())
    assert float((high - low).max()) > 0.1


@torch.no_grad()
def test_those_of_scta_are_exact_where_no_patch_is_dropped() -> None:
    method = made("laps", keep_ratio=1.0)
    images, captions = sets((9, 24), 10, seed=3), sets((3, 7, 5), 10, seed=4)
    low, high = moved_bounds(method, images, captions)
    torch.testing.assert_close(low, high, atol=1e-5, rtol=0)
    torch.testing.assert_close(low, method.score(images, captions), atol=1e-5, rtol=0)


def test_a_pair_is_open_where_its_bounds_touch_a_right_score() -> None:
    """Two images, caption 0 of the first, captions 1 and 2 of the second: three wrong pairs."""
    scores = torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.8, 0.7]])
    owner = torch.tensor([0, 1, 1])

    def share(reach: float) -> float:
        return open_share(scores, scores - reach, scores + reach, owner)

    assert share(0.4) == 0
    assert share(0.49) == 0
    assert share(0.55) == pytest.approx(1 / 3)  # 0.3 reaches 0.8, the best of the second image
    assert share(0.65) == 1  # 0.2 reaches 0.8, and 0.1 reaches 0.7, captions 1 and 2
    above = torch.where(scores < 0.5, 5.0, scores)
    assert open_share(scores, above, above, owner) == 0  # certainly above is as good as certainly below


def test_a_trained_model_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_precomp(tmp_path / "data")
    train(
        write_recipe(tmp_path / "my.yaml", "esl", data, {"train": {"epochs": 1}, "model": {"levels": 5}}),
        tmp_path / "run",
    )
    capsys.readouterr()
    asked = ["bench", "bounds", "--run", str(tmp_path / "run"), "--data", str(data), "--images", "7"]
    assert main(asked) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["method"], line["images"], line["captions"], line["scores_outside"]) == ("esl", 7, 35, 0)
    assert 0 < line["share_open"] <= 1
    assert line["mean_width"] > 0


def test_a_method_with_certified_ranks_is_sent_to_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_precomp(tmp_path / "data")
    train(write_recipe(tmp_path / "my.yaml", "chan", data, {"train": {"epochs": 1}}), tmp_path / "run")
    asked: list[str | Path] = ["bench", "bounds", "--run", tmp_path / "run", "--data", data]
    assert "`bench bounds` was asked for chan" in refused(asked, capsys, kind="ConfigError")
