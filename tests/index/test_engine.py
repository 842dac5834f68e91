"""The open index against plain scoring of everything: modes, filters, compositions, captions, changes meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from engine_toys import best_ten, picture_index, region_index
from PIL import Image
from store_toys import save_picture, save_pixel_model

from patchword.data.pictures import PictureFiles, decode
from patchword.errors import CheckpointError, ConfigError, DataError
from patchword.index import add, open_snapshot, remove
from patchword.model import Model
from patchword.retrieve.engine import Index
from patchword.retrieve.query import Part, Query, parse_image
from patchword.scoring.matrix import score_matrix
from patchword.shortlist.build import update_shortlist
from patchword.shortlist.pooled import mean_vectors
from patchword.types import Encoded


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    return region_index(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    return picture_index(tmp_path_factory.mktemp("pictures"), captions=True)


def stored(folder: Path) -> tuple[np.ndarray, Encoded]:
    """Ids and sets of all images."""
    snapshot = open_snapshot(folder)
    return snapshot.ids, snapshot.sets(np.arange(len(snapshot)))


def scores_of(folder: Path, model: Model, text: str) -> np.ndarray:
    """Score of every image for a text, by the matrix."""
    return score_matrix(model.method, stored(folder)[1], model.encode_captions([text]))[:, 0].numpy()


@pytest.mark.parametrize("text", ["a dog and a cat.", "boat", "a red wall and a lamp and a shoe and a tree."])
def test_exact_is_the_ranking_of_everything(many: tuple[Path, Model], text: str) -> None:
    folder, model = many
    expected, ids = scores_of(folder, model, text), stored(folder)[0]
    with Index.open(folder, threads=2) as index:
        answer = index.search(text, 10, mode="exact")
    assert [hit.id for hit in answer.hits] == best_ten(expected, ids)
    by_id = dict(zip(ids.tolist(), expected.tolist(), strict=True))
    np.testing.assert_allclose([hit.score for hit in answer.hits], [by_id[h.id] for h in answer.hits], atol=1e-6)
    assert (answer.mode, answer.searched, answer.rescored) == ("exact", 300, 300)
    assert [hit.rank for hit in answer.hits] == list(range(1, 11))
    assert answer.hits[0].item.path
    assert answer.hits[0].probability is None


def test_fast_scores_its_candidates_exactly(many: tuple[Path, Model]) -> None:
    folder, _model = many
    with Index.open(folder) as index:
        for text in ("a dog and a cat.", "a hat.", "lamp and ball"):
            exact, fast = (
                index.search(text, 10, mode="exact"),
                index.search(text, 10, mode="fast", candidates=120),
            )
            assert (fast.mode, fast.searched, fast.rescored) == ("fast", 300, 120)
            same = {hit.id for hit in exact.hits} & {hit.id for hit in fast.hits}
            assert len(same) >= 9
            by_id = {hit.id: hit.score for hit in exact.hits}
            assert all(abs(hit.score - by_id[hit.id]) < 1e-6 for hit in fast.hits if hit.id in by_id)


def test_a_batch_is_its_queries_alone(many: tuple[Path, Model]) -> None:
    queries: list[str | Query] = ["a dog", Query((Part(text="a cat"), Part(text="boat", weight=-0.5))), "a dog"]
    with Index.open(many[0]) as index:
        for mode in ("exact", "fast"):
            together = index.search_batch(queries, 7, mode=mode, candidates=100)  # type: ignore[arg-type]
            for query, answer in zip(queries, together, strict=True):
                alone = index.search(query, 7, mode=mode, candidates=100)  # type: ignore[arg-type]
                assert [hit.id for hit in alone.hits] == [hit.id for hit in answer.hits]
        assert index.search_batch([]) == []
        for one in (queries[0], [queries[0]], iter([queries[0]])):  # a text alone is not its letters
            assert [answer.hits for answer in index.search_batch(one, 7)] == [index.search(queries[0], 7).hits]


def test_filters_hold_before_scoring(many: tuple[Path, Model]) -> None:
    folder, model = many
    expected, ids = scores_of(folder, model, "a dog"), stored(folder)[0]
    with Index.open(folder) as index:
        for mode in ("exact", "fast"):
            answer = index.search("a dog", 10, mode=mode, where="id > 200", candidates=40)  # type: ignore[arg-type]
            kept = ids > 200
            assert answer.searched == kept.sum()
            wanted = best_ten(expected[kept], ids[kept])
            assert all(hit.id > 200 for hit in answer.hits)
            assert len(set(wanted) & {hit.id for hit in answer.hits}) >= (10 if mode == "exact" else 8)
        nothing = index.search("a dog", where="id < 0")
        assert nothing.hits == []
        assert nothing.searched == 0
        with pytest.raises(ConfigError, match="unknown column"):
            index.search("a dog", where="smell = 'sweet'")


def test_the_threshold_cuts_the_list(many: tuple[Path, Model]) -> None:
    folder, model = many
    expected = scores_of(folder, model, "a cup")
    limit = float(np.sort(expected)[-4])
    with Index.open(folder) as index:
        found = index.search("a cup", 10, mode="exact", threshold=limit - 1e-6).hits
        assert len(found) == int((expected >= limit - 1e-6).sum())
        assert index.search("a cup", threshold=99.0).hits == []


def test_a_composition_is_the_weighted_mean_of_its_parts(many: tuple[Path, Model]) -> None:
    folder, model = many
    ids, sets = stored(folder)
    alike = score_matrix(model.method, sets, sets.slice(4, 5))[:, 0].numpy()  # CHAN compares two images itself
    parts = 2 * scores_of(folder, model, "a dog") - 0.5 * scores_of(folder, model, "a tree") + 1.5 * alike
    query = Query(
        (
            Part(text="a dog", weight=2.0),
            Part(text="a tree", weight=-0.5),
            Part(image=int(ids[4]), weight=1.5),
        )
    )
    with Index.open(folder) as index:
        found = index.search(query, 10, mode="exact").hits
        others = np.arange(len(ids)) != 4  # an image that is asked with is no answer
        assert [hit.id for hit in found] == best_ten(parts[others] / 4, ids[others])
        np.testing.assert_allclose(found[0].score, parts[others].max() / 4, atol=1e-5)
        assert all(hit.probability is None for hit in found)
        fast = index.search(query, 10, mode="fast", candidates=120).hits
        assert len({hit.id for hit in fast} & {hit.id for hit in found}) >= 8


def test_similar_leaves_out_the_image_itself(many: tuple[Path, Model]) -> None:
    folder, model = many
    ids, sets = stored(folder)
    alike = score_matrix(model.method, sets, sets.slice(9, 10))[:, 0].numpy()
    others = [one for one in best_ten(alike, ids) if one != ids[9]][:5]
    with Index.open(folder) as index:
        assert [hit.id for hit in index.similar(int(ids[9]), 5, mode="exact").hits] == others
        both = [Query((Part(image=int(ids[9])),)), Query((Part(text="a dog"), Part(image=int(ids[9]), weight=-1)))]
        alike, unlike = index.search_batch(both, 300, mode="exact")
        assert [hit.id for hit in alike.hits[:5]] == others
        assert (len(alike.hits), len(unlike.hits)) == (299, 300)
        assert [hit.rank for hit in alike.hits[:3]] == [1, 2, 3]
        with pytest.raises(DataError, match="not in the index"):
            index.similar(10**9)


def test_methods_without_a_score_of_two_images_take_the_cosine(tmp_path: Path) -> None:
    folder, _ = picture_index(tmp_path, method="vse_inf")
    ids, sets = stored(folder)
    means = mean_vectors(sets)
    with Index.open(folder) as index:
        found = index.search(Query((Part(image=int(ids[2])),)), 10, mode="exact").hits
        others = np.arange(len(ids)) != 2
        assert [hit.id for hit in found] == best_ten((means @ means[2]).numpy()[others], ids[others])
        fast = index.search("a red wall", 3, mode="fast", candidates=8)
        exact = index.search("a red wall", 3, mode="exact")
        assert [hit.id for hit in fast.hits] == [hit.id for hit in exact.hits]
        assert fast.mode == "fast"


def test_a_new_picture_can_be_asked_with(pictures: tuple[Path, Model], tmp_path: Path) -> None:
    folder, model = pictures
    file = save_picture(tmp_path / "new.png", 77)
    ids, sets = stored(folder)
    expected = score_matrix(model.method, sets, model.encode_images(PictureFiles([file])))[:, 0].numpy()
    with Index.open(folder) as index:
        assert index.accepts_pictures
        for image in (file, decode(file)):
            found = index.search(Query((Part(image=image),)), 10, mode="exact").hits
            assert [hit.id for hit in found] == best_ten(expected, ids)
        for odd in (tmp_path / "gone.png", np.zeros((4, 4), np.uint8)):
            with pytest.raises(DataError):
                index.search(Query((Part(image=odd),)))


def test_a_region_model_says_why_it_takes_no_picture(many: tuple[Path, Model], tmp_path: Path) -> None:
    with Index.open(many[0]) as index:
        assert not index.accepts_pictures
        with pytest.raises(DataError, match="region features, which a new picture does not have"):
            index.search(Query((Part(image=save_picture(tmp_path / "p.png", 1)),)))


def test_an_indexed_image_is_known_by_its_names(
    pictures: tuple[Path, Model], many: tuple[Path, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.open(many[0]) as index:
        one = next(id for id, item in index.catalog.find(index.images.snapshot.ids).items() if item.path == "dev_3")
        assert [index.find(name) for name in ("dev_3", "dev/dev_3", "dev/nobody", "")] == [one, one, None, None]
        expected = [hit.id for hit in index.similar(one, 5).hits]
        assert [hit.id for hit in index.search(Query((Part(image="dev/dev_3"),)), 5).hits] == expected
    with Index.open(pictures[0]) as index:
        item = index.item(3)
        assert item.file is not None
        assert [index.find(name) for name in (item.path, item.file, str(item.file))] == [3, 3, 3]
        monkeypatch.chdir(item.file.parent)
        assert index.find(item.file.name) == 3
        monkeypatch.chdir(tmp_path)
        assert index.find(item.file.name) is None
        assert parse_image(f"{item.path}:0.5", index.find) == Part(image=3, weight=0.5)


def test_captions_are_found_for_an_image(pictures: tuple[Path, Model], many: tuple[Path, Model]) -> None:
    folder, model = pictures
    captions = open_snapshot(folder, "caption")
    ids, sets = stored(folder)
    scores = score_matrix(model.method, sets.slice(3, 4), captions.sets(np.arange(len(captions))))[0].numpy()
    with Index.open(folder) as index:
        found = index.captions_for(int(ids[3]), 3)
        assert [one.id for one in found] == best_ten(scores, captions.ids)[:3]
        assert found[0].item.text.startswith("a ")
        assert index.info().has_captions
        fast = index.captions_for(int(ids[3]), 2, mode="fast")
        assert [one.id for one in fast] == [one.id for one in found[:2]]
    with Index.open(many[0]) as index, pytest.raises(DataError, match="no captions are indexed"):
        index.captions_for(1)


@pytest.mark.parametrize("query", ["", "   ", "qwertz", Query((Part(text="a dog"), Part(text="qwertz")))])
def test_an_arbitrary_query_is_refused(many: tuple[Path, Model], query: str | Query) -> None:
    with Index.open(many[0]) as index, pytest.raises(DataError):
        index.search(query)


def test_numbers_that_make_no_sense_are_refused(many: tuple[Path, Model]) -> None:
    with Index.open(many[0]) as index:
        for wanted, telling in (
            ({"k": 0}, "`k` is 0"),
            ({"k": 2.0}, "`k` is 2.0. Expected a whole number"),
            ({"candidates": 0}, "`candidates` is 0"),
            ({"candidates": -4}, "`candidates` is -4. Expected a whole number, 1 or more"),
            ({"threshold": float("nan")}, "`threshold` is nan. Expected a number"),
        ):
            with pytest.raises(ConfigError, match=telling):
                index.search("a dog", **wanted)  # type: ignore[arg-type]


def test_an_empty_index_answers_with_nothing(tmp_path: Path) -> None:
    folder, _ = picture_index(tmp_path, count=0)
    with Index.open(folder) as index:
        assert len(index) == 0
        for mode in ("auto", "exact", "fast"):
            answer = index.search("a red wall", mode=mode)  # type: ignore[arg-type]
            assert answer.hits == []
            assert answer.searched == 0
        with pytest.raises(DataError):
            index.similar(1)


def test_another_model_is_refused(many: tuple[Path, Model], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the model that this index was made with"):
        Index.open(many[0], model=save_pixel_model(tmp_path / "other"))


def test_searches_go_on_while_a_writer_works(tmp_path: Path) -> None:
    folder, model = picture_index(tmp_path, count=6)
    errors: list[BaseException] = []
    stop = threading.Event()
    with Index.open(folder, threads=2) as index:

        def ask() -> None:
            try:
                while not stop.is_set():
                    answer = index.search("a red wall", 50)
                    assert len(answer.hits) >= 5
                    assert len({hit.id for hit in answer.hits}) == len(answer.hits)
            except BaseException as error:  # noqa: BLE001 - of a thread, raised below
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(4):
            added = [save_picture(tmp_path / "more" / f"{turn}_{k}.png", 1000 + 10 * turn + k) for k in range(3)]
            add(folder, [tmp_path / "more"] if turn == 0 else added, model=model)
            if turn == 2:
                update_shortlist(folder)
            assert index.refresh()
            assert not index.refresh()
        remove(folder, [int(index.search("a red wall", 1).hits[0].id)])
        assert index.refresh()
        stop.set()
        for thread in threads:
            thread.join()
        assert not errors, errors[0]
        assert len(index) == 6 + 12 - 1
        with Index.open(folder, model=model) as fresh:
            for mode in ("exact", "fast"):
                ours, theirs = (one.search("a red wall", 9, mode=mode, candidates=9) for one in (index, fresh))  # type: ignore[arg-type]
                assert [hit.id for hit in ours.hits] == [hit.id for hit in theirs.hits]


def test_pictures_never_leave_their_folder(tmp_path: Path) -> None:
    folder, _ = picture_index(tmp_path)
    with Index.open(folder) as index:
        first, second, third = index.search("a red wall", 3).hits
        assert index.picture(first.id) == Path(first.item.root, first.item.path).resolve()
        secret = tmp_path / "secret.png"
        Image.new("RGB", (4, 4)).save(secret)
        place = Path(second.item.root, second.item.path)
        place.unlink()
        place.symlink_to(secret)
        assert index.picture(second.id) is None
        Path(third.item.root, third.item.path).unlink()
        assert index.picture(third.id) is None
        with pytest.raises(DataError, match="is gone"):
            index.explain(third.id, "a red wall")
        with pytest.raises(DataError, match="not in the index"):
            index.picture(10**9)


def test_an_explanation_adds_up(pictures: tuple[Path, Model], many: tuple[Path, Model]) -> None:
    for folder, cells in ((pictures[0], 4), (many[0], 6)):
        with Index.open(folder) as index:
            hit = index.search("a red ball and a dog", 1).hits[0]
            found = index.explain(hit.id, "a red ball and a dog")
            assert found.parts.shape == (len(found.words), cells)
            assert "ball" in found.words
            assert abs(float(found.parts.sum()) - hit.score) < 2e-3  # the index holds half-precision vectors
            assert (found.boxes is not None) == (cells == 4)
            with pytest.raises(DataError, match="none of the words"):
                index.explain(hit.id, "qwertz")


def test_auto_takes_the_time_into_account(many: tuple[Path, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    with Index.open(many[0]) as index:
        assert index.search("a dog").mode == "exact"
        monkeypatch.setattr("patchword.retrieve.searching.EXACT_MS", 0.0)
        assert index.search("a dog").mode == "fast"
        assert index.search("a dog", where="id < 50").mode == "exact"  # fewer than there are candidates


def test_info_counts(pictures: tuple[Path, Model]) -> None:
    with Index.open(pictures[0]) as index:
        info = index.info()
    assert (info.images, info.captions, info.method, info.shortlist, info.backend) == (
        12,
        4,
        "chan",
        "anchors",
        "exact",
    )
    assert info.columns["taken"] == "text"
    assert info.bytes["images"] > 0


def test_scores_that_tie_keep_the_order_of_the_ids(tmp_path: Path) -> None:
    folder, model = picture_index(tmp_path, count=4)
    same = tmp_path / "same"
    for name in ("x", "y", "z"):
        save_picture(same / f"{name}.png", 5)
    add(folder, [same], model=model)
    with Index.open(folder, model=model) as index:
        hits = index.search("a dog", 7, mode="exact").hits
    tied = [hit for hit in hits if hit.item.root.endswith("same")]
    assert len({hit.score for hit in tied}) == 1
    assert [hit.id for hit in tied] == sorted(hit.id for hit in tied)
