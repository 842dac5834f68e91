"""Building, keeping up to date, ids, writers and readers side by side."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small import same_tensors
from store_toys import JOINT, PATCHES, age, save_picture, save_pictures, save_pixel_model

from patchword.data.pictures import PictureFiles
from patchword.errors import CheckpointError, ConfigError, DataError
from patchword.index import Catalog, add, build, compact, generation, info, open_snapshot, remove, sync, verify
from patchword.index.writer import open_writer
from patchword.model import Model
from patchword.shortlist.pooled import pool_kind
from patchword.store import model_hash as hashing
from patchword.store.layout import open_folder
from patchword.store.lock import writer_lock
from patchword.store.schema import meta


def ids_of(index: Path) -> dict[str, int]:
    with Catalog(index) as catalog:
        return {item.path: item.id for item in catalog.items(catalog.where("id > 0"))}


def files_of(index: Path) -> list[Path]:
    """The picture of each item, in the order of the snapshot."""
    with Catalog(index) as catalog:
        return [file for item in catalog.items(open_snapshot(index).ids) if (file := item.file) is not None]


def test_the_stored_sets_are_what_the_model_gives(model: Model, index: Path) -> None:
    snapshot = open_snapshot(index)
    expected = model.encode_images(PictureFiles(files_of(index)))
    assert len(snapshot.shards) > 1
    found = snapshot.sets(np.arange(len(snapshot)))
    assert torch.equal(found.lengths, expected.lengths)
    assert torch.allclose(found.vectors, expected.vectors, atol=1e-3)
    pool = pool_kind(model)
    assert torch.allclose(snapshot.pooled().float(), pool.pool_images(found), atol=2e-3)
    assert (snapshot.width, snapshot.max_length, snapshot.pooled_width) == (JOINT, PATCHES, pool.pooling.width)


def test_sets_come_in_the_order_asked_for(index: Path) -> None:
    snapshot = open_snapshot(index)
    whole = snapshot.sets(np.arange(len(snapshot)))
    rows = np.asarray([7, 0, 7, 3, 4, 5, 11, 2])
    assert same_tensors(vars(snapshot.sets(rows)), vars(whole.select(torch.from_numpy(rows))))
    assert len(snapshot.sets([])) == 0
    pooled = snapshot.pooled()
    for where, block in snapshot.pooled_blocks():
        assert torch.equal(block, pooled[where])
    with pytest.raises(DataError, match="position 12 of 12 items"):
        snapshot.sets([12])


def test_many_scattered_sets_are_read_by_threads(index: Path) -> None:
    snapshot = open_snapshot(index)
    whole = snapshot.sets(np.arange(len(snapshot)))
    rows = np.random.default_rng(0).integers(0, len(snapshot), 500)
    assert torch.equal(snapshot.sets(rows).vectors, whole.select(torch.from_numpy(rows)).vectors)


def test_positions_are_those_of_the_ids(index: Path) -> None:
    remove(index, [int(open_snapshot(index).ids[4])])
    snapshot = open_snapshot(index)
    assert snapshot.positions(snapshot.ids[::-1]).tolist() == list(range(11))[::-1]
    assert snapshot.known([snapshot.ids[3], 99, snapshot.ids[1]]).tolist() == [1, 3]
    for wrong in (5, 0, -1, 99):
        with pytest.raises(DataError, match=f"image {wrong} is not in the index"):
            snapshot.positions([wrong])


def test_a_move_keeps_the_id_and_loads_no_model(index: Path, pictures: Path) -> None:
    before = ids_of(index)
    (pictures / "a/p001.png").rename(pictures / "b/renamed.png")
    changes = sync(index, model="/no/such/model")  # nothing is encoded, so nobody asks for it
    assert (changes.moved, changes.indexed, changes.removed, changes.unchanged) == (1, 0, 0, 11)
    assert ids_of(index) == {("b/renamed.png" if p == "a/p001.png" else p): i for p, i in before.items()}


def test_changed_content_gets_a_new_id_and_keeps_its_columns(model: Model, index: Path, pictures: Path) -> None:
    (pictures.parent / "tags.csv").write_text("path,tag\na/p001.png,sea\n", encoding="utf-8")
    add(index, columns=pictures.parent / "tags.csv")
    before = ids_of(index)
    save_picture(pictures / "a/p001.png", 77)
    changes = sync(index, model=model)
    assert (changes.indexed, changes.replaced, changes.unchanged) == (1, 1, 11)
    after = ids_of(index)
    assert after.pop("a/p001.png") > max(before.values())
    assert after == {path: one for path, one in before.items() if path != "a/p001.png"}
    with Catalog(index) as catalog:
        assert [item.path for item in catalog.items(catalog.where("tag = 'sea'"))] == ["a/p001.png"]


def test_two_swapped_files_swap_their_ids(index: Path, pictures: Path) -> None:
    before = ids_of(index)
    one, other, spare = pictures / "a/p001.png", pictures / "b/c/p002.png", pictures / "spare"
    one.rename(spare)
    other.rename(one)
    spare.rename(other)
    assert sync(index, model="/no/such/model").moved == 2
    assert ids_of(index) == before | {"a/p001.png": before["b/c/p002.png"], "b/c/p002.png": before["a/p001.png"]}


def test_a_new_time_of_change_alone_is_no_change(index: Path, pictures: Path) -> None:
    before = generation(index)
    age(pictures / "a/p001.png", by_s=50)
    changes = sync(index, model="/no/such/model")
    assert (changes.unchanged, changes.generation) == (12, before)


def test_what_was_removed_stays_out_until_it_is_added(model: Model, index: Path, pictures: Path) -> None:
    before = ids_of(index)
    done = remove(index, [before["a/p001.png"], pictures / "b", "a/p003.png"])
    assert len(done.removed) == 8
    assert set(sync(index, model=model).line().split("; ")) == {
        "found 12 = 0 indexed + 0 moved + 4 unchanged + 8 skipped"
    }
    again = add(index, [pictures / "a/p003.png"], model=model)
    assert (again.found, again.indexed) == (1, 1)
    assert ids_of(index)["a/p003.png"] > max(before.values())
    assert remove(index, where="width >= 26 and path like 'a/%'").removed
    with pytest.raises(DataError, match="'a/nothing' is neither an id nor a path"):
        remove(index, ["a/p005.png", "a/nothing"])
    assert "a/p005.png" in ids_of(index)  # all or nothing
    assert verify(index).is_clean


def test_files_and_folders_can_be_added(model: Model, index: Path, tmp_path: Path) -> None:
    lone, folder = save_picture(tmp_path / "lone" / "one.png", 50), save_pictures(tmp_path / "more", 3, first=60)
    save_picture(tmp_path / "lone" / "ignored.png", 51)
    changes = add(index, [lone, folder], model=model)
    assert (changes.found, changes.indexed, changes.images) == (4, 4, 16)
    assert sync(index, model=model).found == 16  # of the lone file's folder only what was named
    add(index, [tmp_path / "lone"], model=model)
    assert sync(index, model=model).found == 17
    whole = add(index, [tmp_path], model=model)  # a folder that holds all the others takes over
    assert (whole.indexed, whole.unchanged) == (0, 17)
    assert list(info(index).roots.values()) == [17]
    (tmp_path / "lone" / "one.png").unlink()
    assert sync(index, tmp_path / "lone", model=model).removed == 1
    with pytest.raises(ConfigError, match="is no folder of this index"):
        sync(index, tmp_path.parent, model=model)


def test_compaction_drops_what_was_removed_and_joins_shards(index: Path) -> None:
    ids = open_snapshot(index).ids
    remove(index, ids[::2].tolist())
    before = open_snapshot(index)
    sets, pooled = before.sets(np.arange(6)), before.pooled()
    done = compact(index)
    after = open_snapshot(index)
    assert (done.dropped, done.shards_after) == (6, len(after.shards))
    assert done.bytes_after < done.bytes_before
    assert (after.ids == before.ids).all()
    assert same_tensors(vars(after.sets(np.arange(6))), vars(sets))
    assert torch.equal(after.pooled(), pooled)
    assert verify(index).is_clean
    assert info(index).dead == 0


def test_many_small_shards_are_joined(model: Model, tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "p", 1)
    build(pictures, tmp_path / "i", model=model)
    for seed in range(1, 21):
        save_picture(pictures / f"p{seed:03d}.png", seed)
        add(tmp_path / "i", [pictures], model=model)
        assert info(tmp_path / "i").shards <= 9
    snapshot = open_snapshot(tmp_path / "i")
    assert snapshot.ids.tolist() == list(range(1, 22))
    expected = model.encode_images(PictureFiles(files_of(tmp_path / "i")))
    assert torch.allclose(snapshot.sets(np.arange(21)).vectors, expected.vectors, atol=1e-3)
    assert verify(tmp_path / "i").is_clean


def test_a_reader_goes_on_while_shards_are_rewritten(model: Model, index: Path, pictures: Path) -> None:
    snapshot = open_snapshot(index)
    expected = snapshot.sets(np.arange(len(snapshot)))
    stop, faults = threading.Event(), list[str]()

    def read() -> None:
        while not stop.is_set():
            late = open_snapshot(index)  # must never find a missing file
            if len(late.sets(np.arange(len(late)))) != len(late):
                faults.append("sets are missing")
            if not torch.equal(snapshot.sets(np.arange(len(snapshot))).vectors, expected.vectors):
                faults.append("an old snapshot has changed")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for seed in range(100, 106):
            save_picture(pictures / f"a/p{seed}.png", seed)
            sync(index, model=model, batch=2)
            remove(index, [f"a/p{seed}.png"])
            compact(index)
    finally:
        stop.set()
        reader.join()
    assert faults == []
    assert torch.equal(snapshot.sets(np.arange(len(snapshot))).vectors, expected.vectors)


def test_a_second_writer_is_told_who_writes(model: Model, index: Path, pictures: Path) -> None:
    with (
        writer_lock(open_folder(index).lock, "sync"),
        pytest.raises(DataError, match=r"is being written by process \d+ \(sync, since "),
    ):
        remove(index, [1])
    assert len(remove(index, [1]).removed) == 1


def test_what_a_killed_writer_left_is_removed(index: Path) -> None:
    before = open_snapshot(index).ids.tolist()
    with open_writer(index, "test") as writer:
        writer.folder.shard(meta(writer.connection, "next_shard")).write_bytes(b"half of a file")
    assert open_snapshot(index).ids.tolist() == before
    compact(index)
    assert {path.name for path in (index / "shards").iterdir()} == {
        shard.path.name for shard in open_snapshot(index).shards
    }


def test_another_model_is_refused(model: Model, index: Path, pictures: Path, tmp_path: Path) -> None:
    other = save_pixel_model(tmp_path / "other", seed=1)
    save_picture(pictures / "new.png", 90)
    with pytest.raises(CheckpointError, match="is not the model that this index was made with"):
        sync(index, model=other)
    with pytest.raises(ConfigError, match="is already an index, of"):
        build(tmp_path, index, model=model)
    with pytest.raises(CheckpointError, match="is not the model"):
        build(pictures, index, model=other)
    assert model.path is not None
    copy = shutil.copytree(model.path, tmp_path / "copy")
    assert hashing.hash_checkpoint(copy) == hashing.hash_checkpoint(model.path)
    assert sync(index, model=copy).indexed == 1


def test_a_model_that_was_changed_in_place_is_noticed(pictures: Path, tmp_path: Path) -> None:
    place = save_pixel_model(tmp_path / "m")
    build(pictures, tmp_path / "i", model=place)
    save_pixel_model(place, seed=5)
    save_picture(pictures / "new.png", 90)
    with pytest.raises(CheckpointError, match="is not the model"):
        sync(tmp_path / "i")
    assert any("has changed" in problem for problem in verify(tmp_path / "i").problems)


def test_a_build_in_a_taken_place_is_refused(model: Model, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years", encoding="utf-8")
    with pytest.raises(ConfigError, match="is taken and is no index"):
        build(pictures, tmp_path / "taken", model=model)
    assert (tmp_path / "taken" / "thesis.tex").is_file()
    with pytest.raises(DataError, match="is missing"):
        build(tmp_path / "nowhere", tmp_path / "i", model=model)


def test_an_empty_folder_makes_an_empty_index(model: Model, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert build(tmp_path / "p", tmp_path / "i", model=model).found == 0
    snapshot = open_snapshot(tmp_path / "i")
    assert (len(snapshot), len(snapshot.sets([])), len(snapshot.pooled())) == (0, 0, 0)
    assert (verify(tmp_path / "i").is_clean, compact(tmp_path / "i").shards_after) == (True, 0)
    save_picture(tmp_path / "p" / "one.png", 1)
    assert sync(tmp_path / "i", model=model).indexed == 1


def test_too_little_room_is_refused_before_the_start(
    model: Model, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"the index needs about .* kB and .* has 1.0 kB free"):
        build(pictures, tmp_path / "i", model=model)


def test_damage_is_found(index: Path) -> None:
    shard = open_snapshot(index).shards[0].path
    whole = shard.read_bytes()
    for damage, says in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "its content has changed"),
        (whole[:-10], "bytes; "),
        (None, "the file is missing"),
    ):
        shard.write_bytes(damage) if damage is not None else shard.unlink()
        problems = verify(index).problems
        assert any(says in problem for problem in problems), problems
    with pytest.raises(DataError, match=r"is missing\. Restore it, or encode its images again"):
        open_snapshot(index)
    shard.write_bytes(whole)
    assert verify(index).is_clean
    with open_writer(index, "test") as writer:
        writer.connection.execute("DELETE FROM items WHERE id = 1")
        writer.connection.execute("UPDATE meta SET value = 5 WHERE key = 'next_id'")
    problems = " ".join(verify(index).problems)
    assert "1 images with live vectors have no row in the catalog: 1." in problems
    assert "id 12 is in use; the next one to be given is 5." in problems


def test_what_is_no_index_is_refused_in_one_line(index: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        open_snapshot(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"it has no manifest.json"):
        info(tmp_path)
    values = json.loads((index / "manifest.json").read_text(encoding="utf-8"))
    (index / "manifest.json").write_text(json.dumps(values | {"version": 99}), encoding="utf-8")
    with pytest.raises(DataError, match=r"has index version 99\. This version of patchword reads 1"):
        sync(index)
    (index / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
    (index / "catalog.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match="can not be read: file is not a database"):
        open_snapshot(index)
