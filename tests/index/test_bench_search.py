"""The measurement of search: a real index of made sets, its figures, and the statistics behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_toys import sets_of
from small import write_precomp
from store_toys import save_region_model

from patchword.bench.collection import Resampled, Statistics
from patchword.bench.search import bench_search
from patchword.errors import ConfigError
from patchword.index import verify
from patchword.types import Encoded


def test_the_lines_tell_time_recall_and_size(tmp_path: Path) -> None:
    place = tmp_path / "bench.index"
    lines = list(bench_search(images=1500, queries=4, truths=3, folder=place))
    assert [line["what"] for line in lines] == ["build", "fast", "exact", "recall"]
    build, fast, exact, recall = lines
    assert build["disk_gb"] * 1e9 > 1500 * 36 * 256 * 2
    assert build["images_per_s"] > 0
    for line in (fast, exact):
        assert 0 < line["p50_ms"] <= line["p95_ms"]
        assert line["per_gemm_gflop"] == pytest.approx(line["queries_per_s"] / line["gemm_gflops"], rel=0.05)
    assert fast["candidates"] == 200
    assert recall["recall_at_10"] >= 0.9
    assert verify(place).is_clean
    again = list(bench_search(images=1500, queries=2, truths=2, folder=place, candidates=1500))
    assert [line["what"] for line in again] == ["fast", "exact", "recall"]  # the kept index is used
    assert again[-1]["recall_at_10"] == 1.0


def test_a_run_multiplies_its_own_data(tmp_path: Path) -> None:
    model = save_region_model(tmp_path / "model")
    data = write_precomp(tmp_path / "data", {"test": 60})
    lines = list(bench_search(images=300, run=model, data=data, queries=3, truths=2, folder=tmp_path / "b.index"))
    assert lines[0]["sets"] == str(model)
    assert lines[-1]["recall_by_candidates"][300] == 1.0
    with pytest.raises(ConfigError, match="Give --data"):
        next(bench_search(images=300, run=model))


def test_made_sets_have_the_stored_statistics() -> None:
    maker = Statistics(seed=1)
    images, captions = maker.images(400), maker.captions(50)
    torch.testing.assert_close(images.vectors.norm(dim=1), torch.ones(400 * 36))
    assert captions.lengths.min() >= 8
    scores = (captions.vectors @ images.vectors.T).view(-1, 400, 36).amax(2)
    owner = torch.arange(50).repeat_interleave(captions.lengths)
    means = torch.zeros(50, 400).index_add_(0, owner, scores) / captions.lengths[:, None]
    assert abs(float(means.mean()) - 0.107) < 0.02  # of the trained model
    assert abs(float(means.std(1).mean()) - 0.13) < 0.02


def test_resampled_sets_stay_near_those_they_come_from() -> None:
    same = Encoded(sets_of(40, size=1, width=8).vectors.repeat_interleave(5, dim=0), torch.full((40,), 5))
    made = Resampled(same, sets_of(6, width=8)).images(30)
    nearest = (made.vectors @ same.vectors.T).amax(1)
    assert made.lengths.tolist() == [5] * 30
    assert float(nearest.min()) > 0.8
    assert not np.allclose(nearest.numpy(), 1.0)
