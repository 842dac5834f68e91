"""Ensembles: what is fused, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from patchword.cli import main
from patchword.errors import ScoreError
from patchword.evaluate.ensemble import ensemble, reciprocal_ranks
from patchword.evaluate.result import evaluate_scores
from patchword.evaluate.scores_file import Provenance, SavedScores, caption_digests, load_scores, write_scores

RNG = np.random.default_rng(0)


def member(scores: np.ndarray, path: str = "a", **changes: object) -> SavedScores:
    """Scores with ids, five captions an image."""
    n, m = scores.shape
    ids, digests = tuple(str(i) for i in range(n)), caption_digests([f"caption {j}" for j in range(m)])
    saved = SavedScores(scores, np.arange(m) // (m // n), ids, digests, path=path)
    return replace(saved, **changes)  # type: ignore[arg-type]


def three() -> list[SavedScores]:
    return [member(RNG.random((4, 20)).astype(np.float32), path=name) for name in "abc"]


def test_mean_is_the_plain_mean_in_the_same_dtype() -> None:
    members = three()
    fused = ensemble(members)
    assert fused.scores.dtype == np.float32
    np.testing.assert_array_equal(fused.scores, np.mean([m.scores for m in members], axis=0))
    assert (fused.image_ids, fused.owner.tolist()) == (members[0].image_ids, members[0].owner.tolist())
    assert fused.notes == ("ensemble (mean) of a, b, c",)


def test_weights() -> None:
    a, b, c = three()
    fused = ensemble([a, b, c], weights=[2.0, 1.0, 1.0])
    expected = np.mean([a.scores, a.scores, b.scores, c.scores], axis=0)
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-6)
    assert "weights 2, 1, 1" in fused.notes[0]
    for weights in ([1.0], [1.0, 1.0, -1.0], [1.0, 1.0, np.nan]):
        with pytest.raises(ScoreError, match="one positive number a member"):
            ensemble([a, b, c], weights=weights)


def test_half_precision_members_are_averaged_in_float32() -> None:
    a, b = (member(RNG.random((2, 4)).astype(np.float16), path=p) for p in "ab")
    fused = ensemble([a, b])
    assert fused.scores.dtype == np.float32
    np.testing.assert_array_equal(fused.scores, (a.scores.astype(np.float32) + b.scores.astype(np.float32)) / 2)
    tensors = [replace(m, scores=torch.as_tensor(m.scores).to(torch.bfloat16)) for m in (a, b)]
    assert ensemble(tensors).scores.dtype == np.float32


def test_zscore_and_rank_forget_the_scale() -> None:
    a, b, _ = three()
    scaled = replace(b, scores=b.scores.astype(np.float64) * 64 - 16)
    for how in ("zscore", "rank"):
        plain, changed = ensemble([a, b], how), ensemble([a, scaled], how)
        np.testing.assert_allclose(changed.scores, plain.scores, atol=1e-6)
        assert changed.warnings == ()
    assert ensemble([a, b]).warnings == ()


def test_members_of_different_scales_are_warned_about_wherever_the_result_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[10.0, 0.0], [0.0, 10.0]])  # deviations 0.5 and 5
    a, b = (str(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    for path, scores in ((a, small), (b, large)):
        write_scores(path, member(scores, path))
    expected = (
        f"scales differ: the scores of '{b}' have standard deviation 5, those of '{a}' 0.5, so the mean follows the "
        "former; --fusion zscore (z-scores) or --fusion rank (reciprocal ranks) weigh them alike"
    )
    joined = str(tmp_path / "ab.safetensors")
    for verb in ("ensemble", "evaluate"):
        words = [verb, a, b, "--json", "--save-scores", joined]
        assert main(words) == 0
        shown = capsys.readouterr()
        assert f"warning: {expected}\n" in shown.err
        content = json.loads(shown.out)
        assert expected in content.get("ensemble", content)["warnings"]
        assert main([verb, a, b]) == 0
        shown = capsys.readouterr()
        assert f"warning: {expected}\n" in shown.err  # the table goes to a pipe here
        assert f"warning: {expected}\n" in shown.out + "\n"
        assert main([verb, a, b, "--fusion", "zscore", "--json"]) == 0
        assert "scales differ" not in "".join(capsys.readouterr())
    assert load_scores(joined).warnings == (expected,)
    result = evaluate_scores(load_scores(joined))
    assert expected in result.warnings
    # An ensemble of ensembles knows it of its members, and files of older versions have no warnings.
    again = ensemble([load_scores(joined), member(small, "c")], "rank")
    assert again.warnings == (f"'{joined}': {expected}",)
    with safe_open(joined, framework="numpy") as file:
        header = {key: value for key, value in file.metadata().items() if key != "warnings"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "old.safetensors", header)
    assert load_scores(tmp_path / "old.safetensors").warnings == ()


def test_zscore_equals_its_formula() -> None:
    members = [m.scores.astype(np.float64) for m in three()]
    expected = np.mean([(s - s.mean()) / s.std() for s in members], axis=0)
    np.testing.assert_allclose(ensemble([member(s) for s in members], "zscore").scores, expected, atol=1e-12)


def test_reciprocal_ranks_equal_a_plain_loop_and_keep_ties() -> None:
    scores = RNG.integers(0, 4, (5, 7)).astype(np.float64)
    found = reciprocal_ranks(scores)
    for i in range(5):
        for j in range(7):
            row, column = 1 + (scores[i] > scores[i, j]).sum(), 1 + (scores[:, j] > scores[i, j]).sum()
            assert found[i, j] == pytest.approx((1 / (60 + row) + 1 / (60 + column)) / 2)


def test_a_constant_member_has_no_zscore() -> None:
    with pytest.raises(ScoreError, match="'b' has one score for all pairs"):
        ensemble([member(RNG.random((2, 4))), member(np.full((2, 4), 0.1), path="b")], "zscore")


def test_other_rows_are_refused_naming_the_first_difference() -> None:
    a, b, c = three()
    with pytest.raises(ScoreError, match="image id of row 2 is '2' in 'a' but 'x' in 'b'"):
        ensemble([a, replace(b, image_ids=("0", "1", "x", "y"))])
    assert b.caption_digests is not None
    with pytest.raises(ScoreError, match="caption digest of column 0"):
        ensemble([a, replace(b, caption_digests=b.caption_digests + 1)])
    with pytest.raises(ScoreError, match="image of caption 0 is 0 in 'a' but 3 in 'b'"):
        ensemble([a, replace(b, owner=b.owner[::-1])])
    with pytest.raises(ScoreError, match=r"'a' is \(4, 20\) but 'd' is \(2, 10\)"):
        ensemble([a, member(RNG.random((2, 10)), path="d")])
    bare = replace(a, image_ids=None, caption_digests=None, path="bare")
    with pytest.raises(ScoreError, match="image id of row 0 is '0' in 'b' but 'x' in 'c'"):
        ensemble([bare, b, replace(c, image_ids=("x", "1", "2", "3"))])


def test_missing_ids_are_said() -> None:
    a, b, _ = three()
    bare = replace(a, image_ids=None, caption_digests=None, path="bare")
    fused = ensemble([bare, b])
    assert fused.image_ids == b.image_ids
    assert "only sizes compared, not image ids and captions: 'bare' with 'b'" in fused.notes


def test_non_finite_and_too_few_members_are_refused() -> None:
    a, b, _ = three()
    with pytest.raises(ScoreError, match="at least 2 score matrices, found 1"):
        ensemble([a])
    with pytest.raises(ScoreError, match="Unknown way to fuse 'median'"):
        ensemble([a, b], "median")
    with pytest.raises(ScoreError, match="'b': 80 of 80 scores are not finite"):
        ensemble([a, replace(b, scores=b.scores * np.float32(np.nan))])


def test_provenance_of_the_members() -> None:
    a, b, _ = three()
    a = replace(a, provenance=Provenance("coco", "testall", "chan", "one", "dev", 2.0, 3.0))
    b = replace(b, provenance=Provenance("coco", "testall", "vse_inf", "two", "test", 1.0, None))
    assert ensemble([a, b]).provenance == Provenance(
        "coco", "testall", "chan + vse_inf", "one + two", "dev + test", 3.0, None
    )
