"""The verb `index`: what it prints, its exit codes, and that an unchanged folder costs next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from small import command, refused, write_pictures
from store_toys import JOINT, age, save_picture, save_pictures, save_pixel_model

from patchword.cli import INDEX_ACTIONS, main
from patchword.index import build, export, open_snapshot, sync
from patchword.index.file_bytes import hash_bytes
from patchword.index.records import NewItem
from patchword.index.scan import Seen
from patchword.index.writer import open_writer
from patchword.loading import load
from patchword.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixel_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def index(model: Path, tmp_path: Path) -> Path:
    build(save_pictures(tmp_path / "p", 6), tmp_path / "i", model=model)
    return tmp_path / "i"


def says(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["index", *map(str, words)]) == code
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    return json.loads(says(capsys, *words, "--json"))


def test_an_index_lives(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, place = save_pictures(tmp_path / "p", 5), tmp_path / "my.index"
    out = says(capsys, "build", pictures, "-o", place, "--model", model)
    assert out.startswith(f"found 5 = 5 indexed + 0 moved + 0 unchanged + 0 skipped. '{place}' holds 5 images (")
    save_picture(pictures / "new.png", 50)
    (pictures / "bad.png").write_bytes(b"")
    assert "found 7 = 1 indexed + 0 moved + 5 unchanged + 1 skipped" in says(capsys, "sync", place)
    assert told(capsys, "add", place, save_picture(tmp_path / "lone.png", 51))["images"] == 7
    (tmp_path / "tags.csv").write_text("path,tag\nnew.png,sea\n", encoding="utf-8")
    assert told(capsys, "add", place, "--columns", tmp_path / "tags.csv")["found"] == 0
    assert told(capsys, "remove", place, "--where", "tag = 'sea'")["images"] == 6
    assert "removed 1 images" in says(capsys, "remove", place, "a/p001.png")
    assert told(capsys, "compact", place)["dropped"] == 2
    (tmp_path / "c.txt").write_text("a dog\n", encoding="utf-8")
    assert "found 1 = 1 indexed" in says(capsys, "captions", place, tmp_path / "c.txt")
    about = told(capsys, "info", place)
    assert (about["images"], about["captions"], about["dead"], about["skipped"]) == (5, 1, 0, 3)
    assert "images      5" in says(capsys, "info", place)
    assert "0 problems in 2 vector files" in says(capsys, "verify", place)
    assert "wrote 5 items" in says(capsys, "export", place, "-o", tmp_path / "out.npz")


def test_damage_makes_verify_fail(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((index / "shards").iterdir()).unlink()
    out = says(capsys, "verify", index, code=1)
    assert "000001.safetensors: the file is missing." in out


@pytest.mark.parametrize("kind", ["image", "caption"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_export_is_what_the_index_holds(suffix: str, kind: str, index: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("a dog\na cat and a tree\n", encoding="utf-8")
    from patchword.index import add_captions

    add_captions(index, tmp_path / "c.txt")
    done = export(index, tmp_path / f"out{suffix}", kind=kind)
    arrays = load_file(done.vectors) if suffix == ".safetensors" else dict(np.load(done.vectors))
    snapshot = open_snapshot(index, kind)
    whole = snapshot.sets(np.arange(len(snapshot)))
    assert (arrays["ids"] == snapshot.ids).all()
    assert (arrays["lengths"] == whole.lengths.numpy()).all()
    assert (arrays["vectors"].astype(np.float32) == whole.vectors.numpy()).all()
    assert (arrays["pooled"] == snapshot.pooled().numpy()).all()
    lines = [json.loads(line) for line in Path(done.metadata).read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == snapshot.ids.tolist()
    assert all(line["path" if kind == "image" else "text"] for line in lines)


def test_an_export_can_be_a_part(index: Path, tmp_path: Path) -> None:
    done = export(index, tmp_path / "out.npz", where="path like 'a/%'")
    arrays = np.load(done.vectors)
    assert (done.items, len(arrays["ids"]), arrays["vectors"].shape[1]) == (3, 3, JOINT)


def test_an_index_of_nothing_says_so(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes.txt").write_text("no picture", encoding="utf-8")
    place = tmp_path / "my.index"
    words = ["index", "build", str(tmp_path / "p"), "-o", str(place), "--model", str(model)]
    assert main(words) == 2
    printed, told = capsys.readouterr()
    assert printed.startswith(f"found 0 = 0 indexed + 0 moved + 0 unchanged + 0 skipped. '{place}' holds 0 images")
    assert told.splitlines()[-1] == (
        f"there are no picture files below '{tmp_path / 'p'}' (.jpg, .png, .webp ...; 1 other files). '{place}' is an "
        f"empty index. Add pictures with: patchword index add {place} FOLDER"
    )
    (tmp_path / "p" / "bad.png").write_bytes(b"")
    assert main([*words, "--json"]) == 2
    printed, told = capsys.readouterr()
    assert json.loads(printed)["skipped"] == 1
    assert f"none of the 1 picture files below '{tmp_path / 'p'}' could be indexed. The first one: bad.png: " in told
    assert f". '{place}' is an empty index" in told
    save_picture(tmp_path / "p" / "good.png", 1)
    assert main(words) == 0
    assert "empty index" not in capsys.readouterr().err


def test_a_build_counts_before_as_it_counts_after(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, place = save_pictures(tmp_path / "p", 4), tmp_path / "my.index"
    (pictures / "phone.heic").write_bytes(b"x")
    age(pictures / "phone.heic")
    (pictures / "broken.png").write_bytes(b"")
    words = ["index", "build", str(pictures), "-o", str(place), "--model", str(model)]

    def said() -> tuple[str, str]:
        assert main(words) == 0
        printed, told = capsys.readouterr()
        return told.splitlines()[0], printed

    before, after = said()
    assert before.startswith("6 picture files: 5 to encode, 0 indexed, 1 skipped; 4 vectors of 8 each: about ")
    assert after.startswith("found 6 = 4 indexed + 0 moved + 0 unchanged + 2 skipped")
    before, after = said()
    assert before == "6 picture files: 0 to encode, 4 indexed, 2 skipped; nothing to come"
    assert after.startswith("found 6 = 0 indexed + 0 moved + 4 unchanged + 2 skipped")
    main(["index", "add", str(place), str(save_picture(tmp_path / "other" / "z.png", 50).parent)])
    capsys.readouterr()
    save_picture(pictures / "new.png", 51)
    before, after = said()  # of all folders of the index
    assert before.startswith("8 picture files: 1 to encode, 5 indexed, 2 skipped; 4 vectors of 8 each: about ")
    assert after.startswith("found 8 = 1 indexed + 0 moved + 5 unchanged + 2 skipped")


def test_names_that_belong_to_other_verbs_lead_there(capsys: pytest.CaptureFixture[str]) -> None:
    for action in INDEX_ACTIONS:
        assert f"It is an action: patchword index {action}." in refused([action, "x"], capsys, kind="ConfigError")
        assert "usage" in says(capsys, action, "--help")  # there is such an action
    assert main(["bench", "load", "--help"]) == 0
    assert "bench service" in capsys.readouterr().out
    assert main(["bench", "service", "--help"]) == 0


def test_mistakes_are_one_line(index: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, kind, part in (
        (["build", tmp_path / "p"], "ConfigError", "`index build` lacks -o INDEX"),
        (["build", tmp_path / "p", "-o", tmp_path / "x"], "ConfigError", "lacks --model"),
        (["build", tmp_path / "no", "-o", tmp_path / "x", "--model", model], "DataError", "is missing"),
        (["sync", tmp_path / "no"], "DataError", "there is no such folder"),
        (["remove", index], "ConfigError", "nothing to remove"),
        (["remove", index, "99"], "DataError", "'99' is neither an id nor a path"),
        (["remove", index, "--where", "widht > 1"], "ConfigError", "Did you mean `width`"),
        (["add", index], "ConfigError", "nothing to add"),
        (["export", index], "ConfigError", "lacks -o FILE"),
        (["export", index, "-o", "x.csv"], "ConfigError", "ends in '.csv'"),
        (["captions", index, tmp_path / "no.txt"], "DataError", "is missing"),
        (["sync", index, "--batch", "0"], "ConfigError", "`batch` is 0"),
        (["forget", index], "ConfigError", "forget"),
    ):
        assert part in refused(["index", *words], capsys, kind=kind)


def test_two_processes_do_not_write_at_once(index: Path, tmp_path: Path) -> None:
    from patchword.store.layout import open_folder
    from patchword.store.lock import writer_lock

    with writer_lock(open_folder(index).lock, "build"):
        done = subprocess.run(command("index", "remove", index, "1"), capture_output=True, text=True, check=False)
    assert (done.returncode, "is being written by process" in done.stderr) == (2, True), done.stderr


def test_an_unchanged_folder_of_ten_thousand_files_costs_little(model: Path, tmp_path: Path) -> None:
    """The floor is 2 s of work; the copies are hard links, so that making them is quick."""
    loaded: Model = load(model)
    pictures = tmp_path / "p"
    build(save_pictures(pictures, 1), tmp_path / "i", model=loaded)
    one = next(pictures.rglob("*.png"))
    for k in range(10_000):
        (pictures / f"{k % 20:02d}").mkdir(exist_ok=True)
        (pictures / f"{k % 20:02d}" / f"{k:05d}.png").hardlink_to(one)
    seen, snapshot = one.stat(), open_snapshot(tmp_path / "i")
    files = [Seen(1, f"{k % 20:02d}/{k:05d}.png", seen.st_size, seen.st_mtime_ns) for k in range(10_000)]
    checked, digest = time.time_ns(), hash_bytes(one.read_bytes())
    vectors, pooled = snapshot.sets([0]).vectors.half().numpy(), snapshot.pooled().numpy()
    with open_writer(tmp_path / "i", "test") as writer:  # as if all had been encoded
        lengths = np.full(10_000, len(vectors), dtype=np.int32)
        tensors = {"vectors": [vectors] * 10_000, "lengths": [lengths], "pooled": [pooled] * 10_000}
        writer.add_shard("image", tensors, [NewItem(file, digest, checked) for file in files])
    age(one, by_s=0)
    started = time.process_time()  # of work: the machine may be shared
    changes = sync(tmp_path / "i", model="/no/such/model")
    took = time.process_time() - started
    assert (changes.unchanged, changes.indexed) == (10_001, 0)
    assert took < 2.0


@pytest.mark.parametrize("is_touched", [False, True])
def test_a_sync_that_encodes_nothing_imports_no_torch(is_touched: bool, model: Path, tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "p", 4)
    build(pictures, tmp_path / "i", model=load(model))
    if is_touched:
        age(pictures / "a" / "p001.png", by_s=50)
    code = (
        "import sys\n"
        "from patchword.cli import main\n"
        "assert main(['index', 'sync', sys.argv[1]]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "i")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 indexed + 0 moved + 4 unchanged" in done.stdout


def test_info_measures_the_recall_of_the_shortlist(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.txt").write_text("a dog and a ball\na red wall\na tree\n", encoding="utf-8")
    found = told(capsys, "info", index, "--recall", "--queries", tmp_path / "q.txt")["recall"]
    assert (found["images"], found["rows"][-1]["recall"]) == (6, 1.0)  # all six are candidates
    assert "recall@6 of the shortlist (anchors, exact)" in says(capsys, "info", index, "--recall")
    assert "--recall" in refused(["index", "info", index, "--queries", "q.txt"], capsys, kind="ConfigError")


def test_calibrate_comes_to_the_fit(index: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Random weights have nothing to fit, and that is what it says."""
    data = write_pictures(tmp_path / "data", {"train": 4, "dev": 12})
    said = refused(["index", "calibrate", index, data, "--split", "dev"], capsys, kind="DataError")
    assert "do not score higher than wrong ones" in said
