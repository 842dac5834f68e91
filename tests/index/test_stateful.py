"""Random additions, changes, moves, removals, syncs and compactions against a dictionary of paths and contents."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_toys import save_picture, save_pixel_model

from patchword.data.pictures import PictureFiles
from patchword.index import Catalog, add, build, compact, open_snapshot, remove, sync, verify
from patchword.index.file_bytes import hash_bytes
from patchword.loading import load
from patchword.model import Model

CONTENTS, BROKEN = 7, 7  # pictures, and the number of a file that is none
NAMES = [f"{folder}{name}" for folder in ("", "x/", "x/y/") for name in ("a.png", "b ü.png", "new\nline.png")]
names = st.sampled_from(NAMES)
contents = st.integers(0, BROKEN)


class Shelf:
    """What all runs share: the model, the pictures and their vectors."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="patchword-stateful-"))
        self.model: Model = load(save_pixel_model(self.folder / "model"))
        files = [save_picture(self.folder / f"{k}.png", k) for k in range(CONTENTS)]
        self.raw = [path.read_bytes() for path in files] + [b"no picture at all"]
        self.hashes = [hash_bytes(raw) for raw in self.raw]
        with torch.no_grad():
            self.vectors = self.model.encode_images(PictureFiles(files))


class Machine(RuleBasedStateMachine):
    """Files by path in `disk`, items in `held`; `sticky` are the paths that were taken out on purpose."""

    shelf: Shelf

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=self.shelf.folder))
        self.pictures, self.index = self.place / "pictures", self.place / "my.index"
        self.disk: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.sticky: set[str] = set()
        self.ids: dict[int, str] = {}  # every id ever given, with the hash of its content
        self.clock = itertools.count(1)

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    def write(self, name: str, content: int) -> None:
        path = self.pictures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.shelf.raw[content])
        self.disk[name] = content
        self.stamp(path)

    def stamp(self, path: Path) -> None:
        """A time of change of its own, long ago or just now."""
        tick = next(self.clock)
        if tick % 3:
            os.utime(path, (1e9 + tick, 1e9 + tick))

    @initialize(start=st.dictionaries(names, contents, max_size=4))
    def begin(self, start: dict[str, int]) -> None:
        self.pictures.mkdir()
        for name, content in start.items():
            self.write(name, content)
        build(self.pictures, self.index, model=self.shelf.model, shard_mb=0.002, batch=2, threads=1)
        self.follow(removes=True)

    @rule(name=names, content=contents)
    def put(self, name: str, content: int) -> None:
        self.write(name, content)

    @precondition(lambda self: self.disk)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.disk)))
        (self.pictures / name).unlink()
        del self.disk[name]

    @precondition(lambda self: self.disk)
    @rule(data=st.data(), goal=names)
    def move(self, data: st.DataObject, goal: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.disk)))
        (self.pictures / goal).parent.mkdir(parents=True, exist_ok=True)
        (self.pictures / name).rename(self.pictures / goal)
        self.disk[goal] = self.disk.pop(name)

    @precondition(lambda self: len(self.disk) > 1)
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        one, other = data.draw(st.permutations(sorted(self.disk)))[:2]
        spare = self.place / "spare"
        (self.pictures / one).rename(spare)
        (self.pictures / other).rename(self.pictures / one)
        spare.rename(self.pictures / other)
        self.disk[one], self.disk[other] = self.disk[other], self.disk[one]

    @precondition(lambda self: self.disk)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        self.stamp(self.pictures / data.draw(st.sampled_from(sorted(self.disk))))

    @rule()
    def bring_up_to_date(self) -> None:
        before = self.places()
        changes = sync(self.index, model=self.shelf.model, allow_empty=True, batch=2, threads=1)
        assert changes.found == len(self.disk)
        assert changes.removed <= len(before)
        self.follow(removes=True)
        after = self.places()
        for one, name in before.items():  # what is where it was keeps its id
            if one in after and after[one] != name:
                assert self.ids[one] == self.shelf.hashes[self.disk[after[one]]], "a move changed the content"
            if self.disk.get(name) is not None and self.ids[one] == self.shelf.hashes[self.disk[name]]:
                assert after.get(one) == name, "a file that did not change got another id"

    @rule()
    def sync_again_changes_nothing(self) -> None:
        sync(self.index, model=self.shelf.model, allow_empty=True, batch=2, threads=1)
        self.follow(removes=True)
        with Catalog(self.index) as catalog:
            before = catalog.generation()
        changes = sync(self.index, model=self.shelf.model, allow_empty=True, batch=2, threads=1)
        assert (changes.indexed, changes.moved, changes.removed, changes.generation) == (0, 0, 0, before)

    @precondition(lambda self: self.disk)
    @rule(data=st.data())
    def add_one(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.disk)))
        add(self.index, [self.pictures / name], model=self.shelf.model, batch=2, threads=1)
        self.sticky.discard(name)
        self.settle(name)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), by_id=st.booleans())
    def take_out(self, data: st.DataObject, by_id: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        number = {path: one for one, path in self.places().items()}[name]
        done = remove(self.index, [number if by_id else self.pictures / name])
        assert done.removed == (number,)
        del self.held[name]
        self.sticky.add(name)

    @rule()
    def make_smaller(self) -> None:
        compact(self.index)

    def follow(self, *, removes: bool) -> None:
        """What `sync` must have done."""
        self.sticky &= set(self.disk)  # a file that is gone may come back
        for name in self.disk:
            self.settle(name)
        for name in set(self.held) - set(self.disk):
            del self.held[name]

    def settle(self, name: str) -> None:
        if name in self.sticky:
            return
        if self.disk[name] == BROKEN:
            self.held.pop(name, None)
        else:
            self.held[name] = self.disk[name]

    def places(self) -> dict[int, str]:
        """Id and path of every item."""
        with Catalog(self.index) as catalog:
            return {item.id: item.path for item in catalog.items(catalog.where("id > 0"))}

    @invariant()
    def the_index_is_what_it_should_be(self) -> None:
        if not self.index.exists():
            return
        found = verify(self.index)
        assert found.is_clean, found.problems
        snapshot = open_snapshot(self.index)
        with Catalog(self.index) as catalog:
            items = catalog.items(snapshot.ids)
        assert {item.path: item.hash for item in items} == {n: self.shelf.hashes[c] for n, c in self.held.items()}
        for item in items:
            assert self.ids.setdefault(item.id, item.hash) == item.hash, "an id was used twice"
        if not items:
            return
        order = torch.randperm(len(items)).tolist()
        sets = snapshot.sets(np.asarray(order))
        expected = self.shelf.vectors.select(torch.tensor([self.shelf.hashes.index(items[row].hash) for row in order]))
        assert torch.equal(sets.lengths, expected.lengths)
        assert torch.allclose(sets.vectors, expected.vectors, atol=2e-3)


@pytest.mark.integration
def test_random_sequences_against_a_dictionary() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    Machine.shelf = Shelf()
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=25,
                stateful_step_count=14,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        shutil.rmtree(Machine.shelf.folder)
