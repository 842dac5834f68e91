"""CxC: its files, its choices, and its numbers from small hand-made annotations."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import noisy_scores, write_lines

from patchword.errors import DataError, ScoreError
from patchword.evaluate.cxc import co_captions, evaluate_cxc
from patchword.evaluate.cxc_files import annotations_of, caption_id, read_cxc, read_rated
from patchword.evaluate.gallery import Gallery
from patchword.evaluate.intra import MatrixScores

N, M = 6, 12
IMAGES = tuple(str(100 + k) for k in range(N))
CAPTIONS = tuple(str(1000 + k) for k in range(M))
OWNER = np.arange(M) // 2
GALLERY = Gallery(IMAGES, CAPTIONS, OWNER)


def image(k: int) -> str:
    return f"COCO_val2014_{int(IMAGES[k]):012d}.jpg"


def caption(k: int) -> str:
    return f"COCO_val2014:sentid:{CAPTIONS[k]}"


def write_cxc(folder: Path, split: str = "test", *, packed: bool = False) -> Path:
    """All originals rated 4 but caption 5 (2.9), two more right pairs, and pairs of images in both orders."""
    sits = [f"{caption(k)},{image(k // 2)},{2.9 if k == 5 else 4.0},c2i_original" for k in range(M)]
    sits += [f"{caption(0)},{image(3)},3.0,c2i_intrasim", f"{caption(1)},{image(4)},2.99,c2i_intrasim"]
    sts = [f"{caption(2 * k)},{caption(2 * k + 1)},2.0,c2c_cocaption" for k in range(N)]
    sts += [f"{caption(0)},{caption(7)},3.0,c2c_isim", f"{caption(2)},{caption(9)},1.0,c2c_isim"]
    sis = [f"{image(0)},{image(1)},2.6,i2i_csim", f"{image(1)},{image(0)},2.0,i2i_csim"]  # mean 2.3, larger 2.6
    sis += [f"{image(2)},{image(3)},2.5,i2i_csim", f"{image(3)},{image(4)},1.5,i2i_csim", f"{image(5)},{image(0)},3,i"]
    sis += [f"{image(4)},{image(5)},2.4,i2i_csim"]
    folder.mkdir(parents=True, exist_ok=True)
    for task, columns, rows in (
        ("sits", "caption,image", sits), ("sts", "caption1,caption2", sts), ("sis", "image1,image2", sis),
    ):  # fmt: skip
        lines = [f"{columns},agg_score,sampling_method", *rows]
        if packed:
            content = gzip.compress("".join(f"{line}\n" for line in lines).encode())
            (folder / f"{task}_{split}.csv.gz").write_bytes(content)
        else:
            write_lines(folder / f"{task}_{split}.csv", lines)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_files_become_lists(tmp_path: Path, packed: bool) -> None:
    found = read_cxc(write_cxc(tmp_path, packed=packed), images=[image(0)])
    assert found.t2i[CAPTIONS[0]] == [IMAGES[0], IMAGES[3]]
    assert CAPTIONS[5] not in found.t2i  # rated below 3, although COCO lists it
    assert found.i2t[IMAGES[3]] == [CAPTIONS[6], CAPTIONS[7], CAPTIONS[0]]
    assert found.i2i == {"102": ["103"], "103": ["102"], "105": ["100"], "100": ["105"]}
    assert found.t2t == {CAPTIONS[0]: [CAPTIONS[7]], CAPTIONS[7]: [CAPTIONS[0]]}
    assert found.image_of[CAPTIONS[11]] == IMAGES[5]
    assert "1 pairs of images were rated in both orders; the mean rating counts" in found.notes
    assert "1 pairs that COCO lists were rated below 3.0 and do not count as right" in found.notes


def test_choices_about_both_orders_and_originals(tmp_path: Path) -> None:
    folder = write_cxc(tmp_path)
    largest = read_cxc(folder, images=[IMAGES[0]], both_orders="max")
    assert set(largest.i2i["100"]) == {"101", "105"}
    assert largest.i2i["101"] == ["100"]
    listed = read_cxc(folder, images=[IMAGES[0]], both_orders="listed")
    assert listed.i2i == {"100": ["101"], "102": ["103"], "105": ["100"]}
    kept = read_cxc(folder, images=[IMAGES[0]], keep_originals=True)
    assert kept.t2i[CAPTIONS[5]] == [IMAGES[2]]


def test_the_split_follows_from_the_gallery(tmp_path: Path) -> None:
    write_cxc(tmp_path, "val")
    other = tmp_path / "sits_test.csv"
    write_lines(other, ["caption,image,agg_score,sampling_method", "a:1,COCO_val2014_000000000009.jpg,4,c2i_original"])
    for task, columns in (("sts", "caption1,caption2"), ("sis", "image1,image2")):
        write_lines(tmp_path / f"{task}_test.csv", [f"{columns},agg_score,sampling_method"])
    assert read_cxc(tmp_path, images=["103"]).notes[0].startswith("CxC val")
    assert read_cxc(tmp_path, images=["9"]).notes[0].startswith("CxC test")
    with pytest.raises(DataError, match="none of the 1 images of the gallery is rated in test or val"):
        read_cxc(tmp_path, images=["77"])


def test_damaged_files_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no 'sits_test\.csv'"):
        read_cxc(tmp_path, images=["1"])
    path = write_lines(tmp_path / "sts_test.csv", ["caption,image,agg_score,sampling_method"])
    with pytest.raises(DataError, match="Expected caption1,caption2,agg_score"):
        read_rated(path, "sts")
    head = "caption1,caption2,agg_score,sampling_method"
    for row in ("a:1,b:2,5.1,x", "a:1,,3,x", "a:1,b:2,high,x", "a:1"):
        with pytest.raises(DataError, match="line 2: "):
            read_rated(write_lines(path, [head, row]), "sts")
    assert caption_id("COCO_val2014:sentid:7") == "7"


def brute_recall(
    scores: np.ndarray, lists: dict[str, list[str]], queries: tuple[str, ...], pool: tuple[str, ...]
) -> list[float]:
    """R@1, 5, 10 over the queries with an answer, by sorting; a query is no candidate for itself."""
    ranks = []
    for row, name in zip(scores, queries, strict=True):
        right = [pool.index(answer) for answer in lists.get(name, []) if answer in pool]
        if right:
            order = [c for c in np.argsort(-row).tolist() if pool is not queries or pool[c] != name]
            ranks.append(min(order.index(c) for c in right))
    return [100 * float(np.mean([rank < k for rank in ranks])) for k in (1, 5, 10)]


def test_retrieval_and_correlation_equal_a_plain_computation(tmp_path: Path) -> None:
    lists = read_cxc(write_cxc(tmp_path), images=IMAGES)
    scores = noisy_scores(OWNER, N, strength=0.5)
    draw = np.random.default_rng(1)
    among_images, among_captions = draw.normal(size=(N, N)), draw.normal(size=(M, M))
    result = evaluate_cxc(
        scores, GALLERY, lists, among_images=MatrixScores(among_images), among_captions=MatrixScores(among_captions),
        rounds=20,
    )  # fmt: skip
    t2t = {c: [CAPTIONS[k ^ 1], *lists.t2t.get(c, [])] for k, c in enumerate(CAPTIONS)}  # two captions an image
    for way, matrix, answers, queries, pool in (
        ("i2t", scores, lists.i2t, IMAGES, CAPTIONS),
        ("t2i", scores.T, lists.t2i, CAPTIONS, IMAGES),
        ("i2i", among_images, lists.i2i, IMAGES, IMAGES),
        ("t2t", among_captions, t2t, CAPTIONS, CAPTIONS),
    ):
        expected = brute_recall(matrix, answers, queries, pool)
        assert [result.retrieval[way].recall(k) for k in (1, 5, 10)] == pytest.approx(expected), way
    assert result.without == {"t2i": 1, "i2t": 0, "t2t": 0, "i2i": 2}
    assert set(result.correlation) == {"sts", "sis", "sits"}
    assert result.left_out == {"sts": 0, "sis": 0, "sits": 0}
    rows = lists.ratings["sits"]
    model = [scores[IMAGES.index(i), CAPTIONS.index(c)] for c, i in zip(rows.first, rows.second, strict=True)]
    from scipy.stats import spearmanr

    assert result.correlation["sits"].all_rows == pytest.approx(float(spearmanr(model, rows.rating).statistic))
    report = result.report()
    assert report.name == "cxc (partial)"
    assert "6 images and 12 captions instead of 5,000 and 25,000" in report.table()
    assert "the same, 1 without an answer missed" in report.table()
    content = json.loads(json.dumps(report.to_json()))
    assert content["retrieval"]["t2i"]["queries"] == 11
    missed = content["retrieval"]["t2i"]["unanswered_as_misses"]
    assert missed["queries"] == 12
    for way, numbers in (*content["retrieval"].items(), ("t2i missed", missed)):
        for k in (1, 5, 10):
            low, high = numbers["intervals"][f"r{k}"]
            assert 0 <= low <= numbers[f"r{k}"] <= high <= 100
            assert f"{low:.1f} to {high:.1f}" in report.table(), way
    answered = content["retrieval"]["t2i"]["intervals"]
    assert missed["intervals"]["r10"][0] < answered["r10"][0] == 100  # caption 5 has no answer, its image is drawn
    assert "95% intervals over queries: 1,000 resamples (seed 0)" in report.notes[-1]


def test_a_score_matrix_alone_gives_what_it_can(tmp_path: Path) -> None:
    result = evaluate_cxc(noisy_scores(OWNER, N), GALLERY, read_cxc(write_cxc(tmp_path), images=IMAGES), rounds=5)
    assert set(result.retrieval) == {"t2i", "i2t"}
    assert set(result.correlation) == {"sits"}
    assert "text -> text, image -> image, STS and SIS left out" in result.report().table()


def test_items_outside_the_gallery_are_counted_and_named(tmp_path: Path) -> None:
    part = Gallery(IMAGES[:4], CAPTIONS[:8], OWNER[:8])
    result = evaluate_cxc(noisy_scores(OWNER[:8], 4), part, read_cxc(write_cxc(tmp_path), images=IMAGES[:4]), rounds=5)
    assert result.missing == {"images": ("104", "105"), "captions": ("1008", "1009", "1010", "1011")}
    assert result.left_out["sits"] == 5
    table = result.report().table()
    assert "2 rated images are not in the gallery: '104', '105'" in table
    with pytest.raises(ScoreError, match="none of the 2 queries has a right answer"):
        evaluate_cxc(
            np.eye(2), Gallery(("1", "2"), ("3", "4"), np.arange(2)), read_cxc(tmp_path, images=IMAGES), rounds=5
        )


def test_constant_scores_are_reported_and_nan_is_refused(tmp_path: Path) -> None:
    lists = read_cxc(write_cxc(tmp_path), images=IMAGES)
    result = evaluate_cxc(np.zeros((N, M)), GALLERY, lists, rounds=5)
    assert result.retrieval["i2t"].recall(5) == 0.0
    assert "SITS: scores are constant within a round, so rho is not defined" in result.report().table()
    content = json.dumps(result.report().to_json(), allow_nan=False)
    assert json.loads(content)["correlation"]["sits"]["rho"] is None
    bad = noisy_scores(OWNER, N)
    bad[OWNER, np.arange(M)] = np.nan
    with pytest.raises(ScoreError, match=r"text -> image scores: 12 of 72 scores of a block are not finite"):
        evaluate_cxc(bad, GALLERY, lists, rounds=5)


def test_vse_infinitys_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "cxc_it.json").write_text('{"i2t": {"100": [["1000", 3.2]]}, "t2i": {"1000": [["100", 1.0]]}}')
    (tmp_path / "cxc_i2i.json").write_text('{"100": [["101", 2.4], ["102", 2.5]]}')
    (tmp_path / "cxc_t2t.json").write_text('{"1000": [["1001", 2.9]]}')
    found = read_cxc(tmp_path, images=["100"])
    assert (found.t2i, found.i2i, found.t2t) == ({"1000": ["100"]}, {"100": ["102"]}, {"1000": []})
    assert found.image_of == {}
    write_lines(tmp_path / "testall_ids.txt", ["100", "100"])
    write_lines(tmp_path / "testall_capids.txt", ["1000", "1001"])
    assert read_cxc(tmp_path, images=["100"]).image_of == {"1000": "100", "1001": "100"}
    (tmp_path / "cxc_i2i.json").write_text('{"100": ["101"]}')
    with pytest.raises(DataError, match=r"i2i '100': '101'\. Expected \[id, rating\]"):
        read_cxc(tmp_path, images=["100"])


def test_co_captions_of_uneven_images() -> None:
    found = co_captions(np.array([1, 0, 1, 1]))
    assert list(zip(found.queries.tolist(), found.candidates.tolist(), strict=True)) == [
        (0, 2), (0, 3), (2, 0), (2, 3), (3, 0), (3, 2),
    ]  # fmt: skip


def test_annotations_of_ratings_in_memory(tmp_path: Path) -> None:
    ratings = read_cxc(write_cxc(tmp_path), images=IMAGES).ratings
    stricter = {**ratings, "sits": replace(ratings["sits"], rating=ratings["sits"].rating - 1.5)}
    assert annotations_of(stricter).t2i == {}
