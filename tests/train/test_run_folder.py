import errno
import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small import (
    command,
    one_line,
    recipe,
    refused,
    same_tensors,
    start,
    training_state,
    wait_for,
    write_precomp,
    write_recipe,
)

import patchword
from patchword.checkpoint import find_checkpoint, recover_folder, save_folder
from patchword.errors import CheckpointError, ConfigError
from patchword.train.run import train
from patchword.train.seeds import train_seeds
from patchword.train.state import RunFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, ``tiny.yaml`` (two epochs) and ``run`` (one epoch of it). Copied before it is damaged."""
    folder = tmp_path_factory.mktemp("trained")
    path = write_recipe(folder / "tiny.yaml", "chan", write_precomp(folder / "data"))
    train(path, folder / "run", overrides=["--train.epochs", "1"])
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run of one epoch."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def test_a_run_folder_holds_what_the_documentation_says(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {"best", "last", "config.yaml", "metrics.jsonl", ".lock"}
    best = {path.name for path in (run / "best").iterdir()}
    assert best == {"config.json", "model.safetensors", "vocabulary.json"}
    assert {path.name for path in (run / "last").iterdir()} == best | {"training.pt"}
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kinds == ["train", "train", "dev"]
    text = (run / "config.yaml").read_text(encoding="utf-8")
    assert all(f"{name}:" in text for name in ("recipe", "source", "patchword", "torch", "revision", "seed"))


# ------------------------------------------------------------------ one run at a time


def test_a_folder_in_use_is_refused_until_it_is_free(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run"):
        with pytest.raises(ConfigError, match=r"is in use by process \d+ on .*--out DIR"), RunFolder(tmp_path / "run"):
            pass
        with RunFolder(tmp_path / "other"):
            pass
    with RunFolder(tmp_path / "run"):
        pass


@pytest.mark.parametrize("text", ["", "process 1 on here", "4194304 elsewhere", "\0garbage"])
def test_a_lock_file_that_nobody_holds_is_taken_over(text: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(text, encoding="utf-8")
    with RunFolder(tmp_path):
        pass


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "first"):
        pass
    assert not (tmp_path / "runs").exists()
    with RunFolder(tmp_path / "runs" / "first") as run:
        run.log({"step": 1})
        with RunFolder(tmp_path / "runs" / "second"):
            pass
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["first"]


def test_a_lock_file_that_was_removed_while_it_was_opened_is_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, first = fcntl.flock, RunFolder(tmp_path / "run")
    first.__enter__()

    def late(handle: int, how: int) -> None:
        if first._lock is not None:  # the other run ends between the opening of its lock file and the locking
            first.__exit__(None, None, None)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with RunFolder(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()
        with pytest.raises(ConfigError, match="is in use by process"), RunFolder(tmp_path / "run"):
            pass


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_way_of_the_run_folder_is_named(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match="file"), RunFolder(tmp_path / out):
        pass


@pytest.mark.integration
def test_two_processes_in_one_folder(trained: Path, tmp_path: Path) -> None:
    first = start("train", trained / "tiny.yaml", "--out", tmp_path / "run", "--train.epochs", "100000")
    wait_for((tmp_path / "run" / "last").exists, first)
    second = subprocess.run(
        command("train", trained / "tiny.yaml", "--out", tmp_path / "run"),
        capture_output=True,
        text=True,
        check=False,
    )
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert f"is in use by process {first.pid} " in one_line(second.stderr)
    with RunFolder(tmp_path / "run"):  # the killed process holds it no longer
        pass


# ------------------------------------------------------------------ another recipe, damaged files


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--train.lr", "0.5", r"`train.lr` is 0.01 there, 0.5 now"),
        ("--train.seed", "9", r"`train.seed` is 1 there, 9 now"),
        ("--train.lr_factors", "{text: 0.1}", "`train.lr_factors"),
        ("--train.lr_steps", "[3]", "`train.lr_steps` is [] there, [3] now"),
        ("--loss.margin", "0.1", "`loss.margin` is 0.2 there, 0.1 now"),
        ("--model.joint_dim", "32", "`model.joint_dim` is 16 there, 32 now"),
    ],
)
def test_another_recipe_in_a_folder_is_refused(
    option: str, value: str, message: str, run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = training_state(run)
    said = refused(["train", trained / "tiny.yaml", "--out", run, option, value], capsys, kind="ConfigError")
    assert message in said
    assert same_tensors(training_state(run), before)


def test_a_setting_that_was_taken_away_is_noticed(trained: Path, tmp_path: Path) -> None:
    data = trained / "data"
    factors: dict[str, Any] = {"text": 0.5, "image": 0.5}
    train(recipe("chan", data, {"train": {"epochs": 1, "lr_factors": factors}}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"`train.lr_factors.image` is 0.5 there, None now"):
        train(recipe("chan", data, {"train": {"lr_factors": {"text": 0.5}}}), tmp_path / "run")


def test_how_a_run_is_made_may_change(run: Path, trained: Path) -> None:
    changes = ["--train.eval_batch", "7", "--train.save_every_steps", "4", "--train.on_collapse", "warn"]
    train(trained / "tiny.yaml", run, overrides=changes)


def halve(path: Path) -> None:
    """Cut a file in the middle."""
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def garbage(path: Path) -> None:
    """Overwrite a file with bytes that mean nothing."""
    path.write_bytes(b"\x80\x04\xff not what it was")


@pytest.mark.parametrize("damage", [halve, garbage, Path.unlink], ids=["cut", "garbage", "gone"])
@pytest.mark.parametrize("name", ["last/training.pt", "last/model.safetensors"])
def test_going_on_from_a_damaged_state_is_refused(
    name: str, damage: Any, run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run / name)
    said = refused(["train", trained / "tiny.yaml", "--out", run], capsys, kind="CheckpointError")
    assert name in said
    assert patchword.load(run).method.name == "chan"  # best/ is as it was


@pytest.mark.parametrize("text", [b"\xff\xfe", b"a: [", b"recipe: 3\n", b"3\n", b""])
def test_a_damaged_config_of_a_run_is_named(
    text: bytes, run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.yaml").write_bytes(text)
    said = refused(["train", trained / "tiny.yaml", "--out", run], capsys, kind="ConfigError")
    assert "config.yaml" in said
    assert "damaged" in said


def test_a_pickle_in_place_of_the_state_is_not_run(
    run: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (tmp_path / "ran",)

    torch.save({"optimizer": Payload(), "position": {}}, run / "last" / "training.pt")
    refused(["train", trained / "tiny.yaml", "--out", run], capsys, kind="CheckpointError")
    assert not (tmp_path / "ran").exists()


def test_a_cut_line_of_the_metrics_is_dropped(run: Path, trained: Path) -> None:
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "train", "ste')
    train(trained / "tiny.yaml", run)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 10, 10, 20, 20]


def test_weights_of_another_shape_are_told_from_the_recipe(
    run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(run / "last" / "model.safetensors")
    weights["text.embed.weight"] = torch.zeros(3, 12)
    save_file(weights, run / "last" / "model.safetensors")
    said = refused(["train", trained / "tiny.yaml", "--out", run], capsys, kind="CheckpointError")
    assert "`text.embed.weight` has shape (3, 12); the recipe says (20, 12)" in said
    (run / "last" / "vocabulary.json").unlink()
    said = refused(["train", trained / "tiny.yaml", "--out", run], capsys, kind="CheckpointError")
    assert "lacks its vocabulary" in said


def test_a_loaded_recipe_takes_no_overrides(trained: Path, tmp_path: Path) -> None:
    made = recipe("chan", trained / "data")
    for overrides in ({"train": {"epochs": 1}}, ["--train.epochs", "1"]):
        with pytest.raises(ConfigError, match=r"already loaded \('recipe'\).*load_recipe\(name, overrides\)"):
            train(made, tmp_path / "run", overrides=overrides)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="already loaded"):
            train_seeds(made, tmp_path / "run", seeds=2, overrides=overrides)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ saving


def write_text(folder: Path, text: str) -> None:
    (folder / "vocab.txt").write_text(text, encoding="utf-8")


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    save_folder(tmp_path / "best", lambda folder: write_text(folder, "old"))

    def fails(folder: Path) -> None:
        write_text(folder, "new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match=r"could not be written: No space left.*untouched"):
        save_folder(tmp_path / "best", fails)
    assert (tmp_path / "best" / "vocab.txt").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_between_the_renames_loses_nothing(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(tmp_path / "best", lambda folder: write_text(folder, "old"))
    rename, count = Path.rename, 0

    def dying(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count > renames:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            save_folder(tmp_path / "best", lambda folder: write_text(folder, "new"))
    assert (recover_folder(tmp_path / "best") / "vocab.txt").read_text(encoding="utf-8") == "old"
    save_folder(tmp_path / "best", lambda folder: write_text(folder, "newer"))
    assert (tmp_path / "best" / "vocab.txt").read_text(encoding="utf-8") == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_reader_between_the_renames_finds_the_old_folder_and_renames_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text("{}", encoding="utf-8")

    save_folder(tmp_path / "last", write)
    rename, found = Path.rename, []

    def watched(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if path.name == "last":
            found.extend([find_checkpoint(tmp_path), find_checkpoint(tmp_path / "last")])
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", watched)
        save_folder(tmp_path / "last", write)
    assert found == [tmp_path / ".last.old"] * 2
    assert find_checkpoint(tmp_path) == tmp_path / "last"
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_the_folder_that_an_interrupted_save_left_is_never_removed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(tmp_path / ".best.old", lambda folder: write_text(folder, "only copy"))
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if path.name == ".best.new":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            save_folder(tmp_path / "best", lambda folder: write_text(folder, "new"))
    assert (recover_folder(tmp_path / "best") / "vocab.txt").read_text(encoding="utf-8") == "only copy"


def test_an_interrupted_replacement_of_the_state_is_undone_before_going_on(run: Path, trained: Path) -> None:
    (run / "last").rename(run / ".last.old")
    (run / ".last.new").mkdir()
    again = train(trained / "tiny.yaml", run)
    assert again.position.step == 20
    assert not list(run.glob(".last.*"))


@pytest.mark.parametrize("writer", ["safetensors.torch.save_file", "torch.save"])
def test_a_full_disk_leaves_the_old_checkpoint(
    writer: str, run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = training_state(run)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer, full)
        said = refused(["train", trained / "tiny.yaml", "--out", run], capsys, kind="CheckpointError")
    assert "No space left on device" in said
    after = training_state(run)
    assert same_tensors(after["weights"], before["weights"])
    assert same_tensors(after["optimizer"], before["optimizer"])
    assert train(trained / "tiny.yaml", run).position.step == 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this process may mount one; an ordinary folder elsewhere."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    mount = shutil.which("mount")
    failed = mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode
    yield folder
    if not failed:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_really_full_disk_leaves_the_old_checkpoint(
    small_disk: Path, run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Path(shutil.copytree(run, small_disk / "run"))
    free = shutil.disk_usage(small_disk).free
    if free > 1 << 20:  # no mount: nothing to fill up, so only the ordinary path is walked
        assert train(trained / "tiny.yaml", here).position.step == 20
        return
    before = training_state(here)
    (small_disk / "ballast").write_bytes(b"x" * (free - 12 * 1024))
    said = refused(["train", trained / "tiny.yaml", "--out", here], capsys, kind="CheckpointError")
    assert "could not be written" in said
    assert same_tensors(training_state(here), before)
    (small_disk / "ballast").unlink()
    assert train(trained / "tiny.yaml", here).position.step == 20


@pytest.mark.integration
def test_a_run_of_a_version_with_fewer_settings_goes_on(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    kept = yaml.safe_load(path.read_text(encoding="utf-8"))
    del kept["recipe"]["train"]["start_from"], kept["recipe"]["data"]["columns"]
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")
    assert train(recipe("chan", data, {"train": {"epochs": 2}}), tmp_path / "run").position.epoch == 2
    kept["recipe"]["train"]["no_more"] = 1
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: .*unknown key"):
        train(recipe("chan", data, {"train": {"epochs": 2}}), tmp_path / "run")
