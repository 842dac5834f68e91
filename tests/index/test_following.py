"""An open index follows: a shortlist saved after the last generation, a live collection, another index in its place."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from store_toys import save_pictures, save_pixel_model

from patchword.errors import DataError
from patchword.index import Catalog, build, open_snapshot, remove, sync
from patchword.loading import load
from patchword.model import Model
from patchword.retrieve.engine import Index
from patchword.shortlist import build as saving
from patchword.shortlist.exact import ExactIndex
from patchword.shortlist.view import Shortlist, learn_fit
from patchword.store.layout import IndexFolder


def found(index: Index, k: int = 10) -> list[int]:
    return [hit.id for hit in index.search("red", k, mode="exact").hits]


def test_a_shortlist_that_is_saved_after_the_last_generation_is_opened(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pictures(tmp_path / "p", 4)
    build(tmp_path / "p", tmp_path / "i", model=model)
    with Index.open(tmp_path / "i", model=model) as index:
        save_pictures(tmp_path / "p", 60, first=4)
        update, during = saving.update_shortlist, []

        def first_refreshed(place: IndexFolder) -> bool:
            during.append(index.refresh())
            return update(place, again=True)  # as with many more pictures: directions are learnt anew

        monkeypatch.setattr(saving, "update_shortlist", first_refreshed)
        sync(tmp_path / "i", model=model)
        assert during == [True]
        assert (len(index), len(index.images.shortlist.fresh)) == (64, 60)  # of directions learnt from four
        assert index.refresh()
        shortlist = index.images.shortlist
        assert (len(shortlist.base), len(shortlist.fresh), shortlist.fit.learnt_from) == (64, 0, 64)
        assert not index.refresh()
        assert index.images.shortlist is shortlist


def test_a_saved_shortlist_that_can_not_be_read_is_not_tried_again_and_again(index: Path, model: Model) -> None:
    with Index.open(index, model=model) as opened:
        saving.update_shortlist(index, again=True)
        (state,) = (index / "shortlist").glob("image-*")
        (state / "fit.safetensors").write_bytes(b"half")
        assert opened.refresh()
        assert opened.images.shortlist.saved is None
        made = opened.images.shortlist
        assert not opened.refresh()
        assert opened.images.shortlist is made


@pytest.mark.parametrize("known", [0, 5, 8, 12])
def test_what_a_live_collection_knows_already_is_found_once(index: Path, known: int) -> None:
    """A server's collection holds new items as soon as the writer has sent them: more than when it was opened."""
    snapshot = open_snapshot(index)
    fit = learn_fit(snapshot, "chan", "mean")
    vectors = fit.coordinates(snapshot.pooled())
    ids = snapshot.ids
    live = ExactIndex(np.append(ids, 99), torch.cat([vectors, vectors[:1]]))  # 99 is newer than the snapshot
    fresh = ExactIndex(ids[known:], vectors[known:])
    shortlist = Shortlist(fit, live, ids[:known], fresh, False, ids, None)
    queries = torch.randn(3, fit.width, generator=torch.Generator().manual_seed(0))
    for k in (4, 20):
        expected = ids[(queries @ vectors.T).topk(min(k, 12), dim=1).indices.numpy()]
        for row, right in zip(shortlist.find(queries, k), expected, strict=True):
            if k == 20:
                assert row.tolist() == right.tolist()
            else:  # 99 may have taken the place of one
                assert len(set(row.tolist())) == len(row) >= 3
                assert set(row.tolist()) <= set(right.tolist())


def swapped(link: Path, target: str) -> None:
    fresh = link.with_name("fresh_link")
    os.symlink(target, fresh)
    os.replace(fresh, link)


@pytest.fixture
def two(model: Model, tmp_path: Path) -> Path:
    """A link to one of two indexes of different pictures, of equal generation and with shards of equal names."""
    for name, first in (("a", 0), ("b", 50)):
        build(save_pictures(tmp_path / f"p{name}", 12, first=first), tmp_path / name, model=model)
    (tmp_path / "link").symlink_to("a")
    return tmp_path / "link"


def test_a_link_that_leads_to_another_index_is_followed_at_once_and_whole(two: Path, model: Model) -> None:
    with Index.open(two, model=model) as index, Index.open(two.with_name("b"), model=model) as other:
        before = index.search("red", 12)
        swapped(two, "b")
        assert index.search("red", 12).hits == before.hits  # until it is taken over
        old = index.catalog
        assert index.refresh()
        assert (old.is_replaced(), index.catalog.is_replaced()) == (True, False)
        after, truth = index.search("red", 12).hits, other.search("red", 12).hits
        assert [(hit.id, hit.score, hit.item) for hit in after] == [(hit.id, hit.score, hit.item) for hit in truth]
        assert {hit.item.root for hit in after} == {str(two.with_name("pb"))}
        assert not index.refresh()


def test_no_new_connection_leads_to_another_catalog(two: Path) -> None:
    """Two searches at once need two connections: the second one waits for the first rather than mix two indexes."""
    with Catalog(two) as catalog:
        ids = [item.path for item in catalog.find(range(100)).values()]
        swapped(two, "b")
        inside, done, answers = threading.Event(), threading.Event(), list[list[str]]()

        def second() -> None:
            inside.wait(20)
            answers.append([item.path for item in catalog.find(range(100)).values()])

        other = threading.Thread(target=second)
        other.start()

        def first(_: object) -> None:
            inside.set()
            done.wait(0.2)

        catalog._read(first)
        other.join(20)
        assert answers == [ids]


def test_an_index_that_was_built_anew_at_the_same_place_is_taken_over(two: Path, model: Model) -> None:
    place = two.with_name("a")
    with Index.open(place, model=model) as index:
        catalog = index.catalog
        place.rename(two.with_name("old"))
        with pytest.raises(DataError, match="Is the disk mounted"):
            index.refresh()
        assert len(found(index)) == 10
        two.with_name("b").rename(place)
        assert index.refresh()
        assert index.catalog is not catalog
        assert {hit.item.root for hit in index.search("red", 12).hits} == {str(two.with_name("pb"))}
        remove(place, found(index)[:2])
        assert index.refresh()
        assert len(index) == 10


def test_an_index_of_another_model_is_refused_and_the_old_one_searched_on(
    two: Path, model: Model, tmp_path: Path
) -> None:
    other = load(save_pixel_model(tmp_path / "other", seed=3))
    build(tmp_path / "pa", tmp_path / "c", model=other)
    with Index.open(two, model=model) as index:
        before = found(index)
        swapped(two, "c")
        with pytest.raises(DataError, match="another model"):
            index.refresh()
        assert found(index) == before
        swapped(two, "b")
        assert index.refresh()
