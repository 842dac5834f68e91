"""A disk with vector files that is away for a while: nothing is given up unasked, and nothing whole is thrown away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small import refused
from store_toys import save_picture

from patchword.cli import main
from patchword.errors import CheckpointError, DataError
from patchword.index import Catalog, build, compact, compacting, open_snapshot, remove, restoring, sync, verify
from patchword.index.pending import Batch
from patchword.index.sources import Pictures
from patchword.model import Model

NAMES = [f"{number:06d}.safetensors" for number in (1, 2, 3, 4)]


def names(index: Path) -> list[str]:
    return sorted(path.name for path in (index / "shards").iterdir())


def whole(index: Path) -> tuple[dict[int, str], torch.Tensor]:
    """Path of each image, and all vectors."""
    snapshot = open_snapshot(index)
    with Catalog(index) as catalog:
        paths = {item.id: item.path for item in catalog.items(snapshot.ids)}
    return paths, snapshot.sets(np.arange(len(snapshot))).vectors


def same(one: tuple[dict[int, str], torch.Tensor], other: tuple[dict[int, str], torch.Tensor]) -> bool:
    return one[0] == other[0] and torch.allclose(one[1], other[1], atol=2e-3)


def unmount(index: Path, *gone: str) -> Path:
    """Take vector files away; returns the folder where they are meanwhile."""
    away = index.with_name("away")
    away.mkdir()
    for name in gone or NAMES:
        (index / "shards" / name).rename(away / name)
    return away


def mount(index: Path, away: Path) -> None:
    for path in away.iterdir():
        path.rename(index / "shards" / path.name)
    away.rmdir()


@pytest.mark.parametrize("count", [3, 4])
def test_most_files_missing_is_not_believed(count: int, index: Path, model: Model) -> None:
    before = whole(index)
    away = unmount(index, *NAMES[:count])
    for _ in range(2):
        with pytest.raises(DataError, match=f"{count} of 4 vector files are missing from .* --restore$"):
            sync(index, model=model)
    mount(index, away)
    changes = sync(index, model="/no/such/model")
    assert (changes.unchanged, changes.damage, changes.taken_back) == (12, (), ())
    assert (names(index), same(whole(index), before), verify(index).problems) == (NAMES, True, ())


def test_the_only_file_missing_is_not_believed(pictures: Path, model: Model, tmp_path: Path) -> None:
    build(pictures, tmp_path / "j", model=model)
    away = unmount(tmp_path / "j", NAMES[0])
    with pytest.raises(DataError, match="1 of 1 vector files are missing"):
        build(pictures, tmp_path / "j", model=model)
    mount(tmp_path / "j", away)
    assert sync(tmp_path / "j", model="/no/such/model").unchanged == 12


@pytest.mark.parametrize(("gone", "restore"), [(NAMES, True), (NAMES[:2], False)])
def test_nothing_is_given_up_without_the_model(gone: list[str], restore: bool, index: Path, model: Model) -> None:
    generation = open_snapshot(index).generation
    away = unmount(index, *gone)
    with pytest.raises(CheckpointError, match="no/such/model"):
        sync(index, model="/no/such/model", restore=restore)
    mount(index, away)
    assert sync(index, model="/no/such/model").generation == generation
    assert (names(index), verify(index).problems) == (NAMES, ())


def test_files_that_come_back_in_time_are_used_again(
    index: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole(index)
    away = unmount(index, *NAMES[:3])

    def fail(self: Pictures, files: object) -> list[Batch]:
        raise DataError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(Pictures, "batches", fail)
        with pytest.raises(DataError, match="stopped here"):
            sync(index, model=model, restore=True)
    assert open_snapshot(index).ids.tolist() == [10, 11, 12]
    gone = remove(index, [2, 5]).removed  # meanwhile
    mount(index, away)
    assert len(remove(index, [6]).removed) == 1  # a writer that tidies up when it opens
    (index / "shards" / NAMES[2]).write_bytes((index / "shards" / NAMES[1]).read_bytes())  # not what was written
    assert verify(index).given_up == 3
    assert compact(index).cleared == 0  # all of them are needed
    changes = sync(index, model=model)
    assert changes.taken_back == tuple(NAMES[:2])
    assert (changes.restored, changes.unchanged, changes.images) == (3, 6, 9)
    left = [row for row, one in enumerate(before[0]) if one not in (*gone, 6)]
    vectors = before[1].reshape(12, -1, before[1].shape[1])[left].flatten(0, 1)
    assert same(whole(index), ({one: path for one, path in before[0].items() if one not in (*gone, 6)}, vectors))
    assert verify(index).problems == ()


def test_files_that_come_back_late_are_said_and_cleared(
    index: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    before = whole(index)
    away = unmount(index)
    assert "--restore" in refused(["index", "sync", index], capsys, kind="DataError")
    assert main(["index", "sync", str(index), "--model", str(model.path), "--restore"]) == 0
    assert "12 of the indexed had lost their vectors and keep their ids" in capsys.readouterr().out
    assert (verify(index).given_up, compact(index).cleared) == (0, 0)
    mount(index, away)
    again = sync(index, model="/no/such/model")
    assert (again.unchanged, again.taken_back) == (12, ())
    assert set(NAMES) < set(names(index))  # deleted only when asked for
    assert main(["index", "verify", str(index)]) == 0
    assert "4 vector files that a sync gave up as missing or damaged are still there" in capsys.readouterr().err
    assert main(["index", "compact", str(index)]) == 0
    assert "4 files that had been given up as well." in capsys.readouterr().out
    assert (verify(index).given_up, verify(index).problems) == (0, ())
    assert set(NAMES).isdisjoint(names(index))
    assert same(whole(index), before)


def test_a_damaged_file_is_kept_until_the_index_is_compacted(index: Path, model: Model) -> None:
    path = index / "shards" / NAMES[1]
    path.write_bytes(path.read_bytes()[:-10])
    assert sync(index, model=model).restored == 3
    assert (path.is_file(), verify(index).given_up, verify(index).problems) == (True, 1, ())
    assert (compact(index).cleared, path.is_file(), verify(index).problems) == (1, False, ())


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_a_restoration_that_is_stopped_anywhere_ends_well(
    stop: int, index: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk comes back after some of the images were encoded again: no id has two vectors, and none has none."""
    before = whole(index)
    away = unmount(index)
    monkeypatch.setattr(restoring, "AT_ONCE", 2)
    encode, asked = Pictures.batches, list[int]()

    def batches(self: Pictures, files: list[object]) -> object:
        asked.append(len(files))
        if len(asked) == stop:
            raise DataError("stopped here")
        return encode(self, files)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Pictures, "batches", batches)
        with pytest.raises(DataError, match="stopped here"):
            sync(index, model=model, restore=True)
    assert len(open_snapshot(index)) == 2 * (stop - 1)
    mount(index, away)
    changes = sync(index, model=model)
    done = 2 * (stop - 1)
    untouched = NAMES[-(-done // 3) :]  # those of which no image was encoded again
    assert changes.taken_back == tuple(untouched)
    assert (changes.restored, changes.damage) == (12 - 3 * len(untouched) - done, ())
    assert (same(whole(index), before), verify(index).problems) == (True, ())
    compact(index)
    assert (same(whole(index), before), verify(index).problems, verify(index).given_up) == (True, (), 0)


def test_a_clearing_that_is_killed_is_finished_by_the_next_writer(
    index: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = unmount(index)
    sync(index, model=model, restore=True)
    mount(index, away)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", _stop)
        with pytest.raises(KeyboardInterrupt):
            compact(index)
    assert sync(index, model="/no/such/model").unchanged == 12
    assert set(NAMES).isdisjoint(names(index))
    assert verify(index).problems == ()


def _stop(self: Path, missing_ok: bool = False) -> None:
    raise KeyboardInterrupt


def test_a_compaction_leaves_room_for_what_is_to_be_encoded_again(
    index: Path, pictures: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole(index)
    (index / "shards" / NAMES[1]).unlink()
    assert sync(index, pictures / "b/c", model=model).without_vectors == 3
    manifest = json.loads((index / "manifest.json").read_text(encoding="utf-8"))
    (index / "manifest.json").write_text(json.dumps(manifest | {"shard_mb": 1.0}), encoding="utf-8")
    done = compact(index)
    assert (done.shards_before, done.shards_after) == (3, 2)  # those on either side of the gap
    monkeypatch.setattr(compacting, "MANY", 1)
    changes = sync(index, model=model)
    assert (changes.restored, changes.without_vectors) == (3, 0)
    assert (same(whole(index), before), verify(index).problems) == (True, ())


def test_small_files_are_not_joined_over_a_gap(
    index: Path, pictures: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole(index)
    (index / "shards" / NAMES[1]).unlink()
    manifest = json.loads((index / "manifest.json").read_text(encoding="utf-8"))
    (index / "manifest.json").write_text(json.dumps(manifest | {"shard_mb": 1.0}), encoding="utf-8")
    monkeypatch.setattr(compacting, "MANY", 1)
    save_picture(pictures / "b/c/new.png", 70)
    assert sync(index, pictures / "b/c", model=model).without_vectors == 3
    assert open_snapshot(index).shards[0].ids.tolist() == [1, 2, 3]
    assert len(open_snapshot(index).shards) == 2
    (pictures / "b/c/new.png").unlink()
    assert sync(index, model=model).restored == 3
    assert (same(whole(index), before), verify(index).problems) == (True, ())
