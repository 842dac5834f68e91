"""Shards that are missing or damaged: a sync sees what lost its vectors and encodes it again, under the same ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small import refused
from store_toys import age, save_picture, save_region_model, write_precomp

from patchword.cli import main
from patchword.errors import DataError
from patchword.index import Catalog, add_captions, build, compact, open_snapshot, restoring, sync, verify
from patchword.index.pending import Pending
from patchword.index.sources import Pictures
from patchword.loading import load
from patchword.model import Model
from patchword.retrieve.engine import Index

CAPTIONS = ("a red dog", "a blue ball", "a green tree and a car")


def shards_of(index: Path) -> list[Path]:
    """The files of the shards, in the order of their ids."""
    return [shard.path for shard in open_snapshot(index).shards]


def paths_of(index: Path) -> dict[int, str]:
    """The path of each image in the catalog."""
    with Catalog(index) as catalog:
        return {item.id: item.path for item in catalog.items(catalog.where("id > 0"))}


def found_in(index: Path, model: Model) -> list[tuple[int, float]]:
    """What a search finds, and the scores."""
    with Index.open(index, model=model) as reader:
        return [(hit.id, hit.score) for hit in reader.search("a red dog", 20, mode="exact").hits]


def vectors_of(index: Path) -> torch.Tensor:
    """All stored vectors, in the order of the ids."""
    snapshot = open_snapshot(index)
    return snapshot.sets(np.arange(len(snapshot))).vectors


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def spoil_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])


def flip(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


@pytest.mark.parametrize("damage", [Path.unlink, cut, spoil_header])
@pytest.mark.parametrize("which", [[0], [1], [3], [1, 2], [0, 1, 2, 3]])
def test_a_sync_encodes_again_what_was_lost(
    damage: Callable[[Path], None], which: list[int], index: Path, model: Model
) -> None:
    before, found, vectors = paths_of(index), found_in(index, model), vectors_of(index)
    shards = shards_of(index)
    for k in which:
        damage(shards[k])
    assert not verify(index).is_clean
    changes = sync(index, model=model, restore=damage is Path.unlink and len(which) > 2)
    lost = 3 * len(which)
    assert (changes.restored, changes.indexed, changes.unchanged) == (lost, lost, 12 - lost)
    assert (changes.lost, changes.removed, changes.without_vectors, changes.images) == (0, 0, 0, 12)
    assert [reason.partition(":")[0] for reason in changes.damage] == [shards[k].name for k in which]
    assert f"{lost} of the indexed had lost their vectors and keep their ids" in changes.line()
    assert verify(index).problems == ()
    assert paths_of(index) == before
    assert torch.equal(vectors_of(index), vectors)
    assert found_in(index, model) == found
    again = sync(index, model="/no/such/model")
    assert (again.unchanged, again.damage, again.generation) == (12, (), changes.generation)


def test_damage_within_a_shard_is_seen_by_reading_it(index: Path, model: Model) -> None:
    before, vectors = paths_of(index), vectors_of(index)
    flip(shards_of(index)[2])
    assert sync(index, model="/no/such/model").unchanged == 12  # nobody has read it
    changes = sync(index, model=model, verify=True)
    assert changes.restored == 3
    assert changes.damage == ("000003.safetensors: its content has changed since it was written.",)
    assert verify(index).is_clean
    assert (paths_of(index), torch.equal(vectors_of(index), vectors)) == (before, True)


def test_what_changed_meanwhile_is_told_apart(index: Path, pictures: Path, model: Model) -> None:
    before = paths_of(index)
    ids = {path: one for one, path in before.items()}
    gone, moved, changed, broken, touched = (before[one] for one in (1, 2, 4, 5, 6))
    for shard in shards_of(index)[:2]:
        shard.unlink()
    (pictures / gone).unlink()
    (pictures / moved).rename(pictures / "moved.png")
    save_picture(pictures / changed, 77)
    (pictures / broken).write_bytes(b"no picture")
    age(pictures / touched, by_s=50)
    changes = sync(index, model=model)
    assert (changes.restored, changes.lost, changes.removed) == (3, 1, 2)  # the broken one has a file
    assert (changes.moved, changes.indexed, changes.replaced, changes.skipped, changes.unchanged) == (0, 4, 1, 1, 6)
    assert "1 of the removed are lost: neither vectors nor files are left" in changes.line()
    after = {path: one for one, path in paths_of(index).items()}
    assert after.pop(changed) > 12
    kept = {path: one for path, one in ids.items() if path not in (gone, moved, changed, broken)}
    assert after == kept | {"moved.png": ids[moved]}
    assert verify(index).problems == ()


def test_a_file_that_is_broken_unseen_is_skipped(index: Path, pictures: Path, model: Model) -> None:
    """Its size and time say that it is as it was, so that only encoding it again shows what it is."""
    before = paths_of(index)
    shards_of(index)[0].unlink()
    for one, content in ((1, b""), (2, (pictures / before[7]).read_bytes())):
        file = pictures / before[one]
        about = file.stat()
        file.write_bytes(content[: about.st_size].ljust(about.st_size, b"\0"))
        age(file, by_s=(file.stat().st_mtime_ns - about.st_mtime_ns) / 1e9)
        with_size_of(index, before[one], file)
    changes = sync(index, model=model)
    assert (changes.found, changes.restored, changes.skipped, changes.removed) == (12, 1, 1, 1)
    assert (changes.indexed, changes.replaced, changes.unchanged) == (2, 1, 9)
    after = {path: one for one, path in paths_of(index).items()}
    assert before[1] not in after
    assert after[before[2]] > 12  # other content is another image
    assert after[before[3]] == 3
    assert verify(index).problems == ()


def with_size_of(index: Path, path: str, file: Path) -> None:
    """Let the catalog believe that it has seen a file as it is now."""
    import sqlite3

    about = file.stat()
    with sqlite3.connect(index / "catalog.sqlite") as connection:
        values = (about.st_size, about.st_mtime_ns, about.st_mtime_ns + 10**10, path)
        connection.execute("UPDATE items SET size = ?, mtime = ?, checked = ? WHERE path = ?", values)
    connection.close()


def test_a_restoration_that_is_interrupted_is_finished_by_the_next_sync(
    index: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, vectors = paths_of(index), vectors_of(index)
    for shard in shards_of(index)[1:3]:
        shard.unlink()
    monkeypatch.setattr(restoring, "AT_ONCE", 2)
    whole, asked = Pictures.batches, list[int]()

    def batches(self: Pictures, files: list[object]) -> object:
        asked.append(len(files))
        if len(asked) == 2:
            raise DataError("stopped here")
        return whole(self, files)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Pictures, "batches", batches)
        with pytest.raises(DataError, match="stopped here"):
            sync(index, model=model)
    assert open_snapshot(index).ids.tolist() == [1, 2, 3, 4, 5, 10, 11, 12]  # what is left can be searched
    assert verify(index).problems == ("4 images of the catalog have no live vectors: 6, 7, 8, 9.",)
    changes = sync(index, model=model)
    assert (changes.restored, changes.unchanged, changes.damage) == (4, 8, ())
    assert verify(index).problems == ()
    assert (paths_of(index), torch.equal(vectors_of(index), vectors)) == (before, True)
    compact(index)
    assert (verify(index).problems, torch.equal(vectors_of(index), vectors)) == ((), True)


def test_a_part_of_the_folders_restores_its_part(index: Path, pictures: Path, model: Model) -> None:
    before, vectors = paths_of(index), vectors_of(index)
    for shard in shards_of(index)[1:3]:  # one of each folder
        shard.unlink()
    changes = sync(index, pictures / "a", model=model)
    assert (changes.restored, changes.without_vectors) == (3, 3)
    sync(index, model=model)
    assert verify(index).problems == ()
    assert (paths_of(index), torch.equal(vectors_of(index), vectors)) == (before, True)


def test_captions_are_encoded_again_from_the_catalog(index: Path, model: Model, tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("".join(f"{text}\n" for text in CAPTIONS), encoding="utf-8")
    add_captions(index, file, model=model)
    before = open_snapshot(index, "caption")
    expected = before.sets(np.arange(3)).vectors
    before.shards[0].path.unlink()
    changes = sync(index, model=model)
    assert (changes.restored, changes.restored_captions, changes.lost_captions) == (0, 3, 0)
    after = open_snapshot(index, "caption")
    assert after.ids.tolist() == before.ids.tolist()
    assert torch.allclose(after.sets(np.arange(3)).vectors, expected, atol=1e-3)
    assert verify(index).problems == ()


@pytest.mark.parametrize("alone", [True, False])
def test_features_are_read_again_with_their_boxes(alone: bool, tmp_path: Path) -> None:
    model, data = load(save_region_model(tmp_path / "m")), write_precomp(tmp_path / "data")
    boxes = np.sort(np.random.default_rng(0).random((20, 6, 2, 2)).astype(np.float32), axis=2).reshape(20, 6, 4)
    np.save(data / "test_boxes.npy", boxes)
    pictures = tmp_path / "p"
    for name in ("test_5", "test_3", "dev_4", "dev_2", "test_1", "dev_1"):
        age(save_picture(pictures / f"{name}.png", 1))
    build(None if alone else pictures, tmp_path / "i", model=model, features=data, shard_mb=0.001)
    before, paths, vectors = open_snapshot(tmp_path / "i"), paths_of(tmp_path / "i"), vectors_of(tmp_path / "i")
    had = [before.boxes(row) for row in range(len(before))]
    assert alone or sum(one is not None for one in had) == 3
    for shard in shards_of(tmp_path / "i"):
        shard.unlink()
    assert sync(tmp_path / "i", model=model, restore=True).restored == len(before)
    after = open_snapshot(tmp_path / "i")
    assert (paths_of(tmp_path / "i"), torch.equal(vectors_of(tmp_path / "i"), vectors)) == (paths, True)
    for old, new in zip(had, (after.boxes(row) for row in range(len(after))), strict=True):
        assert (old is None) == (new is None)
        assert old is None or np.array_equal(old, new)
    assert verify(tmp_path / "i").problems == ()


def test_a_shard_that_the_system_does_not_let_be_read_is_not_given_up(
    index: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchword.index import damage

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(damage, "open_shard", refuse)
    with pytest.raises(DataError, match=r"000001.safetensors' can not be read: Permission denied"):
        sync(index, model=model)
    monkeypatch.undo()
    assert verify(index).is_clean


def test_the_command_line_says_what_was_lost_and_what_to_do(
    index: Path, pictures: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    shard, before = shards_of(index)[0], paths_of(index)
    shard.unlink()
    (pictures / before[1]).unlink()
    assert main(["index", "verify", str(index)]) == 1
    printed, told = capsys.readouterr()
    assert "000001.safetensors: the file is missing." in printed
    assert told == f"to encode again what is in damaged files: patchword index sync {index} --verify\n"
    assert f"patchword index sync {index}" in refused(["search", index, "a dog"], capsys, kind="DataError")
    assert f"patchword index sync {index}" in refused(["index", "remove", index, "1"], capsys, kind="DataError")
    words = ["index", "sync", str(index), "--model", str(model.path)]
    assert main(words) == 0
    printed, told = capsys.readouterr()
    assert "2 of the indexed had lost their vectors and keep their ids; 1 of the removed are lost" in printed
    assert "damaged: 000001.safetensors: the file is missing." in told.splitlines()
    flip(shards_of(index)[0])
    assert main([*words, "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["restored"] == 2
    assert main(["index", "verify", str(index)]) == 0


def test_chosen_items_keep_their_vectors_and_boxes() -> None:
    draw = np.random.default_rng(0)
    pending, sets, boxes = Pending(), list[np.ndarray](), list[np.ndarray]()
    for count in (2, 0, 3):  # batches
        lengths = draw.integers(1, 4, count).astype(np.int32)
        mine = [draw.random((size, 2)).astype(np.float16) for size in lengths]
        pending.items += range(len(sets), len(sets) + count)
        pending.vectors.append(np.concatenate([np.zeros((0, 2), np.float16), *mine]))
        pending.lengths.append(lengths)
        pending.pooled.append(draw.random((count, 3)).astype(np.float16))
        sets += mine
        for k in range(count):
            known = draw.random((k, 4)).astype(np.float16)  # the first of each batch has none
            pending.box_counts.append(k)
            boxes.append(known)
            pending.boxes += [known] if k else []
    chosen = pending.chosen([4, 0, 3])
    assert chosen.items == [4, 0, 3]
    tensors = {name: np.concatenate(pieces) for name, pieces in chosen.tensors().items()}
    assert np.array_equal(tensors["vectors"], np.concatenate([sets[k] for k in (4, 0, 3)]))
    assert tensors["lengths"].tolist() == [len(sets[k]) for k in (4, 0, 3)]
    assert np.array_equal(tensors["pooled"], np.concatenate(pending.pooled)[[4, 0, 3]])
    assert np.array_equal(tensors["boxes"], np.concatenate([boxes[k] for k in (4, 0, 3)]))
    assert tensors["box_counts"].tolist() == [len(boxes[k]) for k in (4, 0, 3)]
