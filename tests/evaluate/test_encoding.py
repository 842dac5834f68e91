"""Encoding that is shared: every process makes whole batches of those that one process makes."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cefg_models import cefg_model
from evaluate_toys import toy_model, toy_split
from small import REGIONS, refused, write_precomp

from patchword.cli import main
from patchword.data.open import open_split
from patchword.evaluate import encoding
from patchword.evaluate.encoding import encode_split
from patchword.model import Model
from patchword.types import Encoded


class Threads:
    """Threads that stand for processes: each has its number, and what they share is added up."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.here = threading.local()
        self.shown: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
        self.meeting = threading.Barrier(count)

    def process(self) -> tuple[int, int]:
        """Number of this thread, and how many there are."""
        return self.here.rank, self.count

    def share(self, totals: dict[str, torch.Tensor]) -> None:
        """Add up what all threads bring."""
        self.shown[self.here.rank] = {name: value.clone() for name, value in totals.items()}
        self.meeting.wait()
        for name, value in totals.items():
            value.copy_(torch.stack([one[name] for one in self.shown]).sum(0))
        self.meeting.wait()

    def run(self, model: Model, split: Any, batch: int) -> list[tuple[Encoded, Encoded]]:
        """The sets that every thread gets."""

        def one(rank: int) -> tuple[Encoded, Encoded]:
            self.here.rank = rank
            return encode_split(model, split, batch=batch)

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(one, range(self.count)))


@pytest.mark.parametrize("reads_padding", [False, True])
@pytest.mark.parametrize(("count", "batch"), [(2, 4), (3, 5), (3, 64)])
def test_the_batches_and_the_sets_are_those_of_one_process(
    count: int, batch: int, reads_padding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, split = toy_model("chan"), toy_split([str(k) for k in range(11)], each=3)
    monkeypatch.setattr(type(model.method), "reads_padding", reads_padding)
    batches: list[Any] = []
    encode = type(model.method).encode_captions

    def noting(method: Any, captions: Any) -> Encoded:
        batches.append((tuple(captions.tokens.shape), tuple(captions.tokens.reshape(-1).tolist())))
        return encode(method, captions)

    monkeypatch.setattr(type(model.method), "encode_captions", noting)
    wanted = encode_split(model, split, batch=batch)
    alone = Counter(batches)
    batches.clear()
    threads = Threads(count)
    monkeypatch.setattr(encoding, "process", threads.process)
    monkeypatch.setattr(encoding, "share", threads.share)
    for found in threads.run(model, split, batch):
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours.lengths, theirs.lengths)
            assert ours.vectors.numpy().tobytes() == theirs.vectors.numpy().tobytes()
    assert Counter(batches) == alone


def test_boxes_that_are_no_numbers_are_refused_before_anything_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_precomp(tmp_path / "toy", {"test": 4})
    corners = np.random.default_rng(0).random((4, REGIONS, 2)) * 0.5
    boxes = np.concatenate([corners, corners + 0.3], axis=2).astype(np.float32)
    np.save(data / "test_boxes.npy", boxes)
    cefg_model([*open_split(data, "test").captions]).save(tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--data", str(data)]
    assert main(words) == 0
    boxes[2, 1, 0] = np.nan
    np.save(data / "test_boxes.npy", boxes)
    for more in ([], ["--ranks", "streamed"]):
        line = refused([*words, *more], capsys, kind="DataError")
        assert f"'{data / 'test_boxes.npy'}' row 2 holds NaN" in line
        assert "image 'test_2'" in line
