"""Score matrices of other people's code: repeated rows, captions in any order, captions x images.

The numbers expected are counted by hand: with at most five images and captions R@5 and R@10 are 100, so rsum is 400 and
the two R@1.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from patchword.cli import main
from patchword.data.table import Split
from patchword.errors import ScoreError
from patchword.evaluate.compare import compare
from patchword.evaluate.ensemble import ensemble
from patchword.evaluate.matrix import equal_runs, first_unequal_row
from patchword.evaluate.members import join_members, open_member, open_members
from patchword.evaluate.result import evaluate_scores
from patchword.evaluate.scores_file import SavedScores, caption_digests, load_scores, load_together, write_scores

# Two captions an image, in order. Image 1 ranks caption 0 (0.8) before its own 0.7; every caption finds its image.
EVEN = np.array([[0.9, 0.3, 0.2, 0.1], [0.8, 0.15, 0.7, 0.6]])
EVEN_OWNER, EVEN_RSUM = np.array([0, 0, 1, 1]), 50 + 100 + 400

# Captions in no order, three of image 0. Both images find one of theirs; captions 2 and 3 do not find their image.
ODD = np.array([[0.1, 0.9, 0.2, 0.5, 0.3], [0.6, 0.4, 0.3, 0.2, 0.1]])
ODD_OWNER, ODD_RSUM = np.array([1, 0, 0, 1, 0]), 100 + 60 + 400

# The first four of them, two an image: 100 and 50. Taken to be in order, they would get 50 and 50.
MIXED, MIXED_OWNER, MIXED_RSUM = ODD[:, :4], ODD_OWNER[:4], 100 + 50 + 400


def split_of(owner: np.ndarray) -> Split:
    """Two images whose captions are all different."""
    return Split("toy", "test", ["a", "b"], [f"caption {j}" for j in range(len(owner))], owner)


def known_scores(scores: np.ndarray, owner: np.ndarray) -> SavedScores:
    """The same scores as our own code saves them."""
    split = split_of(owner)
    return SavedScores(scores, owner, tuple(split.image_ids), caption_digests(split.captions), path="known")


def saved_as(path: Path, scores: np.ndarray) -> Path:
    """A plain matrix on disk."""
    np.save(path, scores)
    return path


def rsum_of(path: Path, split: Split | None = None) -> float:
    """As ``patchword evaluate --scores`` gets it."""
    return open_member(path, split).evaluate().headline.rsum


def test_repeated_rows_are_taken_once(tmp_path: Path) -> None:
    path = saved_as(tmp_path / "s.npy", np.repeat(EVEN, 2, axis=0))
    note = "4 rows, equal in runs of 2, for 2 images; the first row of each run is taken"
    for split in (None, split_of(EVEN_OWNER)):
        result = open_member(path, split).evaluate()
        assert (result.n_images, result.n_captions) == (2, 4)
        assert result.headline.rsum == EVEN_RSUM
        assert f"note: a plain matrix: {note}" in result.table()
        assert result.constant == (0, 0)
    assert evaluate_scores(load_scores(path), split_of(EVEN_OWNER)).headline.rsum == EVEN_RSUM
    np.testing.assert_array_equal(load_scores(path).scores, EVEN)


def test_rows_repeated_in_runs_of_another_length_need_the_data(tmp_path: Path) -> None:
    path = saved_as(tmp_path / "s.npy", np.repeat(EVEN, 3, axis=0))  # 6 x 4
    with pytest.raises(ScoreError, match=r"is 6 x 4\. .*; for anything else add --data DIR"):
        load_scores(path)
    assert rsum_of(path, split_of(EVEN_OWNER)) == EVEN_RSUM


def test_rows_that_differ_within_runs_are_images(tmp_path: Path) -> None:
    square = np.repeat(EVEN, 2, axis=0)
    square[1, 3] = 0.12
    path = saved_as(tmp_path / "s.npy", square)
    result = evaluate_scores(load_scores(path))
    # One caption an image: only image 0 finds its caption, and every caption ties between two images.
    assert (result.n_images, result.headline.rsum) == (4, 25 + 0 + 400)
    assert result.notes == ("a plain matrix: no ids; caption j is taken to belong to image j // 1",)
    with pytest.raises(ScoreError, match=r"is 4 x 4, but toy/test has 2 images .* Rows 0 and 1 .* differ.*::2\]"):
        open_member(path, split_of(EVEN_OWNER))


def test_a_collapsed_model_is_not_one_image(tmp_path: Path) -> None:
    path = saved_as(tmp_path / "s.npy", np.repeat(EVEN[:1], 4, axis=0))
    result = evaluate_scores(load_scores(path))
    # Caption 0 is the first answer of every image; no caption tells the images apart.
    assert (result.n_images, result.headline.rsum) == (4, 25 + 0 + 400)
    assert result.constant == (0, 4)
    known = open_member(path, split_of(EVEN_OWNER)).evaluate()  # image 0 finds caption 0; every caption ties
    assert (known.n_images, known.headline.rsum) == (2, 50 + 0 + 400)


@pytest.mark.parametrize(("scores", "owner", "rsum"), [(ODD, ODD_OWNER, ODD_RSUM), (MIXED, MIXED_OWNER, MIXED_RSUM)])
def test_the_data_know_the_image_of_each_caption(
    tmp_path: Path, scores: np.ndarray, owner: np.ndarray, rsum: float
) -> None:
    split = split_of(owner)
    result = open_member(saved_as(tmp_path / "s.npy", scores), split).evaluate()
    assert result.headline.rsum == rsum
    assert result.notes == ("a plain matrix: no ids; the image of each caption is that of toy/test",)
    assert result.id_check.startswith("not checked")
    # One row a caption: row j is the image of caption j.
    repeated = open_member(saved_as(tmp_path / "r.npy", scores[owner]), split).evaluate()
    assert repeated.headline.rsum == rsum
    assert f"{len(owner)} rows, one a caption, for 2 images; one row an image is taken" in repeated.table()
    # Every row so many times, in the order of the images, although the captions are in another.
    assert rsum_of(saved_as(tmp_path / "k.npy", np.repeat(scores, 2, axis=0)), split) == rsum


def test_without_data_the_order_is_assumed_until_it_is_known(tmp_path: Path) -> None:
    path = saved_as(tmp_path / "s.npy", MIXED)
    saved = load_scores(path)
    assert evaluate_scores(saved).headline.rsum == 50 + 50 + 400
    for known in (split_of(MIXED_OWNER), MIXED_OWNER):
        result = evaluate_scores(saved, known)
        assert result.headline.rsum == MIXED_RSUM
        assert not any("taken to belong" in note for note in result.notes)
    assert open_member(saved, split_of(MIXED_OWNER)).owner.tolist() == MIXED_OWNER.tolist()
    assert evaluate_scores(load_scores(path, MIXED_OWNER)).headline.rsum == MIXED_RSUM
    again = load_scores(write_scores(tmp_path / "s.safetensors", saved), split_of(MIXED_OWNER))
    assert evaluate_scores(again).headline.rsum == MIXED_RSUM


def test_uneven_captions_without_data_ask_for_it(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"is 2 x 5\. .* add --data DIR \(in Python, load_scores"):
        load_scores(saved_as(tmp_path / "s.npy", ODD))


@pytest.mark.parametrize(
    ("scores", "split", "message"),
    [
        (EVEN.T, None, r"is 4 x 2\. Expected images x captions; this looks like .* with 2 captions an image"),
        (EVEN.T, split_of(EVEN_OWNER), r"is 4 x 2, but toy/test has 2 images and 4 captions: it is captions x images"),
        (np.repeat(EVEN, 2, axis=0).T, None, r"is 4 x 4\. .* its columns are equal in runs of 2"),
        (ODD.T, None, r"is 5 x 2\. .* If its rows are captions, turn it"),
        (ODD.T, split_of(ODD_OWNER), r"is 5 x 2, but toy/test has 2 images and 5 captions: it is captions x images"),
        (ODD[ODD_OWNER].T, split_of(ODD_OWNER), "captions x images with every image repeated"),
        (np.repeat(EVEN, 3, axis=0).T, split_of(EVEN_OWNER), "captions x images with every image repeated"),
    ],
)
def test_captions_x_images_are_refused_with_the_fix(
    tmp_path: Path, scores: np.ndarray, split: Split | None, message: str
) -> None:
    with pytest.raises(ScoreError, match=f"{message}.*numpy.save\\(FILE, scores.T\\)") as caught:
        open_member(saved_as(tmp_path / "s.npy", scores), split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 5), (3, 4), (1, 4), (4, 3), (3, 6)])
def test_other_sizes_belong_to_another_split(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = saved_as(tmp_path / "s.npy", np.random.default_rng(0).random(shape))
    with pytest.raises(ScoreError, match=f"is {shape[0]} x {shape[1]}, but toy/test has 2 images and 4 captions"):
        open_member(path, split_of(EVEN_OWNER))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("scores", "owner", "rsum"), [(ODD, ODD_OWNER, ODD_RSUM), (MIXED, MIXED_OWNER, MIXED_RSUM)])
def test_scores_that_know_their_captions_tell_the_others(
    tmp_path: Path, scores: np.ndarray, owner: np.ndarray, rsum: float, first: bool
) -> None:
    plain = saved_as(tmp_path / "plain.npy", scores)
    ours = write_scores(tmp_path / "ours.safetensors", known_scores(scores, owner))
    files = [plain, ours] if first else [ours, plain]
    members = open_members(files)
    assert [member.evaluate().headline.rsum for member in members] == [rsum, rsum]
    assert join_members(members).evaluate().headline.rsum == rsum
    found = compare(files)
    assert [one.headline.rsum for one in found.evaluations] == [rsum, rsum]
    assert [saved.owner.tolist() for saved in load_together(files)] == [owner.tolist()] * 2


def test_an_ensemble_assumes_what_its_members_assume(tmp_path: Path) -> None:
    plain = load_scores(saved_as(tmp_path / "a.npy", MIXED))
    repeated = load_scores(saved_as(tmp_path / "b.npy", np.repeat(MIXED, 2, axis=0)))
    fused = ensemble([plain, repeated])
    assert fused.assumed
    assert evaluate_scores(fused).headline.rsum == 50 + 50 + 400
    told = evaluate_scores(fused, split_of(MIXED_OWNER))
    assert told.headline.rsum == MIXED_RSUM
    assert not any("taken to belong" in note for note in told.notes)
    assert any("equal in runs of 2" in note for note in told.notes)
    known = ensemble([plain, known_scores(MIXED, MIXED_OWNER)])
    assert (known.assumed, known.owner.tolist()) == ("", MIXED_OWNER.tolist())


def test_what_a_file_of_ours_says_is_not_replaced() -> None:
    ours = known_scores(EVEN, EVEN_OWNER)
    with pytest.raises(ScoreError, match="image of caption 0"):
        evaluate_scores(ours, replace(split_of(EVEN_OWNER), owner=np.array([1, 1, 0, 0])))


def test_the_commands_print_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    order = np.argsort(ODD_OWNER, kind="stable")  # this layout wants the captions of an image in one run
    (data / "test_ids.txt").write_text("a\na\na\nb\nb\n", encoding="utf-8")
    (data / "test_caps.txt").write_text("".join(f"caption {j}\n" for j in order), encoding="utf-8")
    np.save(data / "test_ims.npy", np.ones((2, 3, 4), dtype=np.float32))
    path = saved_as(tmp_path / "s.npy", ODD[:, order][ODD_OWNER[order]])
    assert main(["evaluate", "--scores", str(path), "--data", str(data), "--name", "odd"]) == 0
    shown = capsys.readouterr().out
    assert f"rsum {ODD_RSUM:.1f} " in shown
    assert "note: a plain matrix: 5 rows, one a caption, for 2 images; one row an image is taken" in shown
    assert "the image of each caption is that of odd/test" in shown
    ours = write_scores(tmp_path / "ours.safetensors", known_scores(ODD, ODD_OWNER))
    assert main(["ensemble", str(saved_as(tmp_path / "p.npy", ODD)), str(ours)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"rsum {ODD_RSUM:.1f}") >= 3
    assert "the image of each caption is that of '" in shown


@pytest.mark.parametrize("chunk_cells", [1, 7, 10**6])
def test_equal_rows_over_any_block(chunk_cells: int) -> None:
    draw = np.random.default_rng(0)
    for runs, expected in (([2, 2, 2], 2), ([4, 2, 6], 2), ([3, 2], 1), ([1, 1, 1], 1), ([6], 6), ([1, 5], 1)):
        scores = np.repeat(draw.random((len(runs), 3)), runs, axis=0)
        assert equal_runs(scores, chunk_cells=chunk_cells) == expected
        group = np.repeat(np.arange(len(runs)), runs)[::-1].copy()
        assert first_unequal_row(scores[::-1].copy(), group, chunk_cells=chunk_cells) is None
    scores = np.repeat(draw.random((3, 3)), 2, axis=0)
    scores[5, 2] += 1e-12
    assert equal_runs(scores, chunk_cells=chunk_cells) == 1
    assert first_unequal_row(scores, np.arange(6) // 2, chunk_cells=chunk_cells) == (4, 5)
    scores[5] = scores[4] = np.nan
    assert equal_runs(scores, chunk_cells=chunk_cells) == 1
