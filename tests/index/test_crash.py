"""Whatever instant a writer is killed at: the index opens, is whole, holds part of the work, and `sync` finishes it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_toys import save_picture, save_pictures, save_pixel_model

from patchword.errors import DataError
from patchword.index import Catalog, compact, open_snapshot, sync, verify
from patchword.index.file_bytes import hash_bytes
from patchword.loading import load
from patchword.model import Model
from patchword.store.catalog import Item
from patchword.store.layout import is_index

pytestmark = pytest.mark.integration
KILLS = {"build": 9, "add": 8, "remove": 6, "sync": 9, "compact": 7, "add_captions": 5}
TINY = 0.002  # MB of a shard: two pictures


class Zygote:
    """Talks to the process that forks."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("store_zygote.py")), str(model)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.say, self.hear = self.process.stdin, self.process.stdout
        assert self.hear.readline() == "ready\n"

    def run(self, action: str, arguments: dict[str, Any], **more: Any) -> tuple[bool, Any]:
        """Do an action in a child; whether it was killed, and what it said."""
        task = {"action": action, "arguments": arguments, "model": action not in ("remove", "compact"), **more}
        self.say.write(json.dumps(task) + "\n")
        self.say.flush()
        done, said = json.loads(self.hear.readline()), json.loads(self.hear.readline())
        assert done["killed"] or done["code"] == 0, said
        return done["killed"], said

    def close(self) -> None:
        self.say.close()
        self.process.wait(20)
        self.hear.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crash")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(save_pixel_model(folder / "model"))


@pytest.fixture(scope="module")
def zygote(model: Model) -> Iterator[Zygote]:
    assert model.path is not None
    made = Zygote(model.path)
    yield made
    made.close()


class World:
    """A picture folder, its index, and everything that must never change about ids."""

    def __init__(self, folder: Path, model: Model, seed: int) -> None:
        self.pictures, self.index, self.model = folder / "pictures", folder / "my.index", model
        self.draw, self.fresh = random.Random(seed), 1000
        self.content: dict[int, str] = {}  # id -> hash of its content, for ever
        self.vectors: dict[str, np.ndarray] = {}  # hash -> its vectors

    def files(self) -> dict[str, str]:
        """Path and hash of every picture on the disk."""
        return {
            path.relative_to(self.pictures).as_posix(): hash_bytes(path.read_bytes())
            for path in sorted(self.pictures.rglob("*.png"))
        }

    def held(self) -> dict[str, str]:
        """Path and hash of every item, after checking ids and vectors."""
        if not is_index(self.index):
            return {}
        found = verify(self.index)
        assert found.is_clean, found.problems
        return {item.path: item.hash for item in self.searchable().values()}

    def searchable(self) -> dict[int, Item]:
        """The items that have vectors, by id, after checking ids and vectors; some may be lost."""
        snapshot = open_snapshot(self.index)
        with Catalog(self.index) as catalog:
            items = catalog.items(snapshot.ids)
        for row, item in enumerate(items):
            assert self.content.setdefault(item.id, item.hash) == item.hash, "an id was used twice"
            vectors = snapshot.sets([row]).vectors.numpy()
            expected = self.vectors.setdefault(item.hash, vectors)
            assert np.allclose(vectors, expected, atol=2e-3), "the vectors of another picture"
        return {item.id: item for item in items}

    def change(self) -> None:
        """Change the folder: new, changed, moved, copied, swapped and deleted pictures."""
        for _ in range(self.draw.randint(2, 5)):
            self.fresh += 1
            paths = sorted(self.pictures.rglob("*.png"))
            one, other = self.draw.choice(paths), self.draw.choice(paths)
            target = self.pictures / self.draw.choice(["a", "b", "d/e"]) / f"n{self.fresh}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            match self.draw.randrange(6):
                case 0 | 1:
                    save_picture(target, self.fresh)
                case 2:
                    save_picture(one, self.fresh)
                case 3:
                    one.rename(target)
                case 4 if one != other:
                    spare = target.with_suffix(".tmp")
                    one.rename(spare)
                    other.rename(one)
                    spare.rename(other)
                case 5 if len(paths) > 6:
                    one.unlink()
                case _:
                    shutil.copy(one, target)


def kills(zygote: Zygote, world: World, action: str, arguments: dict[str, Any], backup: Path) -> Iterator[str]:
    """Kill an action at many places, from the same start each time."""
    known = dict(world.content)
    lines: list[str] = zygote.run(action, arguments, line=-1)[1]
    assert len(lines) > 40, f"{action} executed only {len(lines)} lines"
    distinct, deaths = sorted(set(lines)), 0
    stored = max(k for k, line in enumerate(lines, start=1) if line.startswith("writer.py"))
    for number in range(KILLS[action]):
        restore(world, backup, known)
        if number % 3 == 2:
            deaths += zygote.run(action, arguments, delay_s=world.draw.uniform(0.0, 0.12))[0]
            yield f"{action} by time"
            continue
        if number % 3 == 1:  # at any moment before the shortlist follows
            stop = world.draw.randint(1, stored)
        else:  # at any line of the code, however seldom it runs
            where = world.draw.choice(distinct)
            stop = world.draw.choice([k for k, line in enumerate(lines, start=1) if line == where])
        killed, _ = zygote.run(action, arguments, line=stop)
        deaths += killed
        yield f"{action} at {lines[stop - 1]}" + ("" if killed else " (not reached)")
    assert deaths > KILLS[action] / 2, f"only {deaths} of {KILLS[action]} runs were killed"
    restore(world, backup, known)


def restore(world: World, backup: Path, known: dict[int, str]) -> None:
    """Put the index back as it was, with the ids that were given until then."""
    for path in world.index.parent.glob(f"*{world.index.name}*"):
        shutil.rmtree(path)
    if backup.exists():
        shutil.copytree(backup, world.index)
    world.content = dict(known)


def between(before: dict[str, str], held: dict[str, str], after: dict[str, str]) -> bool:
    """Whether every path has the content it had, or the one it gets, and nothing is lost that stays."""
    known = all(held[path] in (before.get(path), after.get(path)) for path in held)
    return known and all(path in held for path in before if before.get(path) == after.get(path))


def test_a_killed_build_goes_on(zygote: Zygote, model: Model, tmp_path: Path) -> None:
    world = World(tmp_path, model, 1)
    save_pictures(world.pictures, 11)
    arguments = {"folder": str(world.pictures), "out": str(world.index), "shard_mb": TINY, "batch": 2, "threads": 1}
    sizes = set()
    for what in kills(zygote, world, "build", arguments, tmp_path / "none"):
        held = world.held()
        sizes.add(len(held))
        assert between({}, held, world.files()), what
        if is_index(world.index):
            sync(world.index, model=model)
        else:
            zygote.run("build", arguments)
        assert world.held() == world.files(), what
    assert len(sizes) > 2, "every kill came at the same stage"


def test_killed_changes_lose_nothing(zygote: Zygote, model: Model, tmp_path: Path) -> None:
    world = World(tmp_path, model, 2)
    save_pictures(world.pictures, 9)
    start = {"folder": str(world.pictures), "out": str(world.index), "shard_mb": TINY, "batch": 2, "threads": 1}
    zygote.run("build", start)
    index, backup = str(world.index), tmp_path / "backup"
    for action in ("sync", "add", "sync", "compact", "remove"):
        before = world.held()
        if action in ("sync", "add"):
            world.change()
        after = world.files()
        chosen = list(before)[::3]
        arguments: dict[str, Any] = {"index": index}
        if action == "add":
            arguments["paths"] = [str(world.pictures)]
            after |= {path: digest for path, digest in before.items() if path not in after}  # it removes nothing
        elif action == "remove":
            arguments["images"] = [str(world.pictures / path) for path in chosen]
            after = {path: digest for path, digest in before.items() if path not in chosen}
        elif action == "compact":
            after = before
        if action in ("sync", "add"):
            arguments |= {"batch": 2, "threads": 1}
        shutil.rmtree(backup, ignore_errors=True)
        shutil.copytree(world.index, backup)
        for what in kills(zygote, world, action, arguments, backup):
            held = world.held()
            assert between(before, held, after), what
            if action == "remove":
                assert held in (before, after), f"{what}: half of a removal"
            sync(world.index, model=model, batch=2)
            gone = chosen if action == "remove" and held == after else []
            assert world.held() == {p: d for p, d in world.files().items() if p not in gone}, what
        zygote.run(action, arguments)
        sync(world.index, model=model, batch=2)
        world.held()


def test_killed_captions_are_whole(zygote: Zygote, model: Model, tmp_path: Path) -> None:
    world = World(tmp_path, model, 3)
    save_pictures(world.pictures, 3)
    zygote.run("build", {"folder": str(world.pictures), "out": str(world.index), "shard_mb": TINY})
    texts = [f"a {one} and a {other}" for one in ("dog", "cat", "red") for other in ("ball", "tree", "wall")]
    (tmp_path / "captions.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    backup = tmp_path / "backup"
    shutil.copytree(world.index, backup)
    arguments = {"index": str(world.index), "file": str(tmp_path / "captions.txt")}
    for what in kills(zygote, world, "add_captions", arguments, backup):
        world.held()
        zygote.run("add_captions", arguments)
        found = verify(world.index)
        assert found.is_clean, (what, found.problems)
        assert found.captions == len(texts), what


def test_a_killed_restoration_is_finished_by_the_next_sync(zygote: Zygote, model: Model, tmp_path: Path) -> None:
    world = World(tmp_path, model, 4)
    save_pictures(world.pictures, 9)
    zygote.run(
        "build",
        {"folder": str(world.pictures), "out": str(world.index), "shard_mb": TINY, "batch": 2, "threads": 1},
    )
    assert world.held() == world.files()
    ids = open_snapshot(world.index).ids.tolist()
    lost = open_snapshot(world.index).shards[1:3]
    for shard in lost:
        shard.path.unlink()
    gone = {number for shard in lost for number in shard.ids.tolist()}
    backup = tmp_path / "backup"
    shutil.copytree(world.index, backup)
    arguments = {"index": str(world.index), "batch": 2, "threads": 1}
    stages: set[bool | str] = set()
    for what in kills(zygote, world, "sync", arguments, backup):
        try:
            found = set(world.searchable())
        except DataError as error:  # no sync has seen the damage yet
            stages.add("patchword index sync" in str(error))
        else:
            assert set(ids) - gone <= found <= set(ids), what
            stages.add("searchable")
        sync(world.index, model=model, batch=2)
        assert (open_snapshot(world.index).ids.tolist(), world.held()) == (ids, world.files()), what
    assert stages == {True, "searchable"}, "an error that does not say what to do, or every kill at one stage"


def test_files_that_come_back_after_a_killed_restoration_are_not_lost(
    zygote: Zygote, model: Model, tmp_path: Path
) -> None:
    world = World(tmp_path, model, 5)
    save_pictures(world.pictures, 5)
    zygote.run(
        "build",
        {"folder": str(world.pictures), "out": str(world.index), "shard_mb": TINY, "batch": 2, "threads": 1},
    )
    assert world.held() == world.files()
    ids, away, backup = open_snapshot(world.index).ids.tolist(), tmp_path / "away", tmp_path / "backup"
    shutil.move(world.index / "shards", away)
    (world.index / "shards").mkdir()
    shutil.copytree(world.index, backup)
    arguments = {"index": str(world.index), "batch": 2, "threads": 1, "restore": True}
    used = set()
    for what in kills(zygote, world, "sync", arguments, backup):
        shutil.copytree(away, world.index / "shards", dirs_exist_ok=True)  # the disk is there again
        used.add(len(sync(world.index, model=model, batch=2).taken_back))
        assert (open_snapshot(world.index).ids.tolist(), world.held()) == (ids, world.files()), what
        compact(world.index)
        assert (open_snapshot(world.index).ids.tolist(), world.held()) == (ids, world.files()), what
    assert len(used) > 1, "every kill came at the same stage"
