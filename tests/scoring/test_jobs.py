"""Long jobs: killed and gone on with, and shared by two processes. Run as a program, this is one of the two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from condensed_toys import made as condensed
from made_sets import METHODS, OTHERS, chan, owners, sets_for
from pair import group

import patchword
from patchword.errors import ScoreError
from patchword.methods.base import Method
from patchword.scoring import condensed_tiles, hard_screen, hard_tiles, jobs, matrix, regulated, two_way_tiles
from patchword.scoring.jobs import Job, digest
from patchword.scoring.matrix import score_matrix
from patchword.scoring.ranks import ranks
from patchword.scoring.top_k import top_k
from patchword.types import Encoded

CHOSEN = {**{name: METHODS[name] for name in ("chan", "chan lse", "chan tha", "vse_inf")}, **OTHERS}
SMALL: list[tuple[Any, str, Any]] = [
    (hard_tiles, "_PATCHES", 9),
    (hard_tiles, "_WORDS", 12),
    (hard_screen, "_WORTH", 1e9),
    (matrix, "_MOST", (3, 4)),
    (regulated, "_TILE", (3, 16)),
    (two_way_tiles, "_PATCHES", 9),
    (two_way_tiles, "_CAPTIONS", 16),
    (condensed_tiles, "_IMAGES", 4),
    (condensed_tiles, "_CAPTIONS", 16),
]


def everything(folder: Path | None, **how: Any) -> dict[str, np.ndarray]:
    """What the three functions give for a few methods."""
    found: dict[str, np.ndarray] = {}
    for name, method in CHOSEN.items():
        images, captions = sets_for(method, 23, 60)

        def place(what: str, name: str = name) -> Path | None:
            return None if folder is None else folder / f"{name}_{what}"

        for precision in ("float32", "certified") if name in ("chan", "chan lse") else ("float32",):
            how_precise = {**how, "precision": precision}
            ranked = ranks(method, images, captions, owners(23, 60), folder=place(f"ranks_{precision}"), **how_precise)
            best = top_k(method, images, captions, 5, folder=place(f"top_{precision}"), **how_precise)
            found[f"{name} {precision} items"] = best.items.numpy()
            found[f"{name} {precision} scores"] = best.scores.numpy()
            for direction in ("i2t", "t2i"):
                for part in ("greater", "equal", "positives"):
                    found[f"{name} {precision} {direction} {part}"] = getattr(getattr(ranked, direction), part)
        found[f"{name} matrix"] = score_matrix(method, images, captions, folder=place("matrix"), **how).numpy()
    return found


def small_tiles() -> None:
    """Many small units, and a screen although it does not pay."""
    for module, name, value in SMALL:
        setattr(module, name, value)


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].tobytes() == value.tobytes(), name


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """What one process gives."""
    for module, name, _ in SMALL:
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    small_tiles()
    return everything(None)


@pytest.mark.integration
def test_two_processes_give_the_bytes_of_one(tmp_path: Path, alone: dict[str, np.ndarray]) -> None:
    for done in group(*[[sys.executable, __file__, tmp_path]] * 2, folders=[Path(__file__).parent], timeout_s=180):
        assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        for kind in ("plain", "kept"):
            with np.load(tmp_path / f"{kind}{rank}.npz") as kept:
                same({name: kept[name] for name in kept}, alone)
    # Both processes worked, and each unit was written once.
    units = sorted(path.name for path in (tmp_path / "jobs" / "chan_matrix").glob("*.safetensors"))
    assert len(units) > 5
    own = [json.loads((tmp_path / f"units{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert min(own) > 20


def worker(folder: Path) -> None:
    """One of two processes."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    small_tiles()
    np.savez(folder / f"plain{rank}.npz", **everything(None))
    written: list[int] = []
    write = Job._write
    Job._write = lambda self, unit, found: (written.append(unit), write(self, unit, found))[1]  # type: ignore[method-assign]
    np.savez(folder / f"kept{rank}.npz", **everything(folder / "jobs"))
    (folder / f"units{rank}.json").write_text(str(len(written)), encoding="utf-8")
    torch.distributed.destroy_process_group()


def test_a_job_that_is_there_is_not_computed_again(
    tmp_path: Path, alone: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    same(everything(tmp_path), alone)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]

    def never(units: list[int], *_: Any) -> Any:
        assert not units
        yield from ()

    monkeypatch.setattr(jobs, "_on_all_cores", never)
    same(everything(tmp_path), alone)
    counted: list[int] = []
    images, captions = sets_for(METHODS["chan"], 23, 60)
    ranks(
        METHODS["chan"],
        images,
        captions,
        owners(23, 60),
        folder=tmp_path / "chan_ranks_float32",
        progress=counted.append,
    )
    assert sum(counted) == 23 * 60


def test_a_killed_job_goes_on(tmp_path: Path, alone: dict[str, np.ndarray]) -> None:
    program = (
        "import sys, time; sys.path[:0] = sys.argv[2:]\n"
        "import test_jobs; from pathlib import Path\n"
        "from patchword.scoring.jobs import Job\n"
        "test_jobs.small_tiles(); write = Job._write\n"
        "def slow(*words): write(*words); print('unit', flush=True); time.sleep(0.05)\n"
        "Job._write = slow\n"
        "test_jobs.everything(Path(sys.argv[1]))\n"
    )
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "jobs"), str(here), str(here.parent)],
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        for _ in range(30):  # units of several jobs
            assert started.stdout.readline()
        os.kill(started.pid, signal.SIGKILL)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "jobs").rglob("*.safetensors")}
    assert len(written) >= 30
    time.sleep(0.01)
    same(everything(tmp_path / "jobs"), alone)
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("mine", encoding="utf-8")
    images, captions = sets_for(chan(), 5, 9)
    with pytest.raises(ScoreError, match=r"parts' is a file\. Expected the name of a folder"):
        score_matrix(chan(), images, captions, folder=tmp_path / "parts")
    assert (tmp_path / "parts").read_text(encoding="utf-8") == "mine"


def test_the_folder_of_another_job_is_refused(tmp_path: Path) -> None:
    images, captions = sets_for(chan(), 5, 9)
    score_matrix(chan(), images, captions, folder=tmp_path)
    score_matrix(chan(), images, captions, folder=tmp_path)
    other = Encoded(images.vectors + 1e-6, images.lengths)
    tries: list[tuple[Method, Encoded, dict[str, Any], str]] = [
        (chan(), other, {}, "different images"),
        (chan("lse"), images, {}, "different configuration"),
        (METHODS["vse_inf"], images, {}, "different method and configuration"),
        (chan(), images, {"tile": (2, 2)}, "different tile"),
    ]
    for method, sets, more, message in tries:
        with pytest.raises(ScoreError, match=f"holds the parts of another scoring job .{message}.*Give another folder"):
            score_matrix(method, sets, captions, folder=tmp_path, **more)
    with pytest.raises(ScoreError, match="holds the parts of another scoring job"):
        ranks(chan(), images, captions, owners(5, 9), folder=tmp_path)
    ranks(chan(), images, captions, owners(5, 9), folder=tmp_path / "ranks")
    with pytest.raises(ScoreError, match="truth"):
        ranks(chan(), images, captions, owners(5, 9)[::-1].copy(), folder=tmp_path / "ranks")


@pytest.mark.parametrize("queries", ["images", "captions"])
def test_parts_that_another_screen_divided_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: Any
) -> None:
    images, captions = sets_for(chan(), 40, 90)
    monkeypatch.setattr(hard_screen, "_WORTH", 1e9)
    how: dict[str, Any] = {"queries": queries, "precision": "certified", "folder": tmp_path}
    wanted = top_k(chan(), images, captions, 3, queries=queries)
    assert torch.equal(top_k(chan(), images, captions, 3, **how).items, wanted.items)
    monkeypatch.setattr(hard_screen, "_WORTH", 0.0)  # now no screen pays
    with pytest.raises(ScoreError, match=r"another scoring job \(different grid\)"):
        top_k(chan(), images, captions, 3, **how)


def test_parts_of_another_grid_precision_or_version_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, captions = sets_for(chan(), 23, 60)
    calls: dict[str, Any] = {
        "matrix": lambda: score_matrix(chan(), images, captions, folder=tmp_path / "matrix"),
        "ranks": lambda: ranks(chan(), images, captions, owners(23, 60), folder=tmp_path / "ranks"),
        "top": lambda: top_k(chan(), images, captions, 3, folder=tmp_path / "top"),
    }
    changes: list[tuple[str, Any, str, Any]] = [
        ("grid", hard_tiles, "_PATCHES", 9),
        ("patchword", patchword, "__version__", "0.0.0"),
        ("matmul", torch, "get_float32_matmul_precision", lambda: "medium"),
    ]
    for call in calls.values():
        call()
        for name, module, attribute, value in changes:
            with monkeypatch.context() as patch:
                patch.setattr(module, attribute, value)
                with pytest.raises(ScoreError, match=f"another scoring job .different {name}"):
                    call()
        call()


def test_parts_of_another_draw_are_not_taken(tmp_path: Path) -> None:
    method = condensed("scta", width=8, word_head="resample")
    images, captions = sets_for(method, 4, 5)
    with method.variant(1):
        score_matrix(method, images, captions, folder=tmp_path)
    with method.variant(2), pytest.raises(ScoreError, match="different draw"):
        score_matrix(method, images, captions, folder=tmp_path)


def test_a_broken_part_is_named(tmp_path: Path) -> None:
    images, captions = sets_for(chan(), 5, 9)
    score_matrix(chan(), images, captions, folder=tmp_path)
    part = next(tmp_path.glob("scores_*.safetensors"))
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(ScoreError, match=f"{part.name}.* can not be read .*Delete it"):
        score_matrix(chan(), images, captions, folder=tmp_path)


def test_an_error_in_a_unit_ends_the_job_and_gives_the_threads_back() -> None:
    before = torch.get_num_threads()

    def work(unit: int) -> dict[str, torch.Tensor]:
        assert torch.get_num_threads() == 1
        assert not torch.is_grad_enabled()
        if unit == 3:
            raise ZeroDivisionError
        return {"unit": torch.tensor(unit)}

    try:
        torch.set_num_threads(2)
        with pytest.raises(ZeroDivisionError):
            list(Job("test").run(10, work, lambda unit: 1))
        assert torch.get_num_threads() == 2
        assert sorted(unit for unit, _ in Job("test").run(3, work, lambda unit: 1)) == [0, 1, 2]
    finally:
        torch.set_num_threads(before)


def test_digests_know_type_shape_and_bits() -> None:
    one = torch.ones(2, 2)
    others = [one.view(4), one.double(), one.int(), torch.tensor([[1, 1], [1, np.nextafter(np.float32(1), 2)]])]
    assert len({digest(value) for value in [one, *others]}) == 5
    assert digest(one.T.contiguous()) == digest(one)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
