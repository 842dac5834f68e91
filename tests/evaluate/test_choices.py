"""Small choices: SugarCrepe's files, two-by-two files, strict inequalities, missing images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import toy_model, toy_split
from held import random_model

from patchword.data.open import open_split
from patchword.data.scenes import PRECOMP, write_scenes
from patchword.data.scenes_regions import REGION_WIDTH
from patchword.data.scenes_world import ATTRIBUTES
from patchword.errors import DataError, ScoreError
from patchword.evaluate.choices import (
    SUGARCREPE,
    Choice,
    ChoiceResult,
    captions_beside,
    evaluate_choices,
    read_choices,
    read_negatives,
    read_sugarcrepe,
)
from patchword.evaluate.on_split import FoundImages, ModelOnSplit

SPLIT = toy_split([f"{k:012d}.jpg" for k in range(1, 6)])
SCORER = ModelOnSplit(toy_model(), SPLIT)
NONE_MISSING = FoundImages({"1": 0}, ())


def write_sugarcrepe(folder: Path, rows: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(SUGARCREPE):
        content = {
            str(r): {
                "filename": f"{(k + r) % 6 + 1:012d}.jpg",
                "caption": f"a dog and a {'cat' if r else 'ball'}",
                "negative_caption": "a tree and a car" if r % 2 else "a boat",
            }
            for r in range(rows)
        }
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_sugarcrepe_is_scored_and_missing_images_are_named(tmp_path: Path) -> None:
    items = read_sugarcrepe(write_sugarcrepe(tmp_path))
    assert len(items) == 21
    result = evaluate_choices(SCORER, "sugarcrepe", items)
    assert result.images.missing == ("6",)
    assert len(result.items) < 21
    matrix_texts = sorted({text for item in result.items for text in item.captions})
    images = SCORER.encode_images(range(5))
    scores = SCORER.model.score(images, SCORER.encode_captions(matrix_texts)).numpy()
    right = 0
    for item, found in zip(result.items, result.scores, strict=True):
        row = int(item.images[0][:12]) - 1
        expected = [scores[row, matrix_texts.index(text)] for text in item.captions]
        np.testing.assert_allclose(found[0], expected, atol=1e-6)
        right += expected[0] > expected[1]
    assert result.accuracy("text") == pytest.approx(right / len(result.items))
    report = result.report()
    assert report.name == "sugarcrepe (partial)"
    assert "1 of 6 images of sugarcrepe are not in this split ('6')" in report.table()
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (content["items"], content["missing_images"]) == (21, ["6"])
    assert set(content["groups"]) == set(SUGARCREPE)
    rows = {row[0]: row[1] for row in report.tables[1][1]}
    assert set(rows) == {*SUGARCREPE, "all items", "mean of the groups"}
    for shown, numbers in (("all items", content["all"]), ("mean of the groups", content["mean_of_groups"])):
        low, high = numbers["intervals"]["text"]
        assert 0 <= low < numbers["text"] < high <= 1
        assert rows[shown] == f"{100 * low:.1f} to {100 * high:.1f}"
    for numbers in content["groups"].values():
        low, high = numbers["intervals"]["text"]
        assert low <= numbers["text"] <= high


def choice(images: int, captions: int) -> Choice:
    return Choice("1", "g", ("1",) * images, ("a",) * captions)


def test_images_of_one_name_in_two_folders_are_told_apart() -> None:
    ids = [f"{folder}/{k}.jpg" for folder in ("dogs", "cats") for k in range(3)]
    scorer = ModelOnSplit(toy_model(), toy_split(ids))
    item = Choice("x", "all", ("dogs/1.jpg", "cats/1.jpg"), ("a dog", "a cat"))
    rows = scorer.encode_images([1, 4]), scorer.encode_captions(item.captions)
    (found,) = evaluate_choices(scorer, "x", [item]).scores
    np.testing.assert_allclose(found, scorer.model.score(*rows).numpy(), rtol=1e-5)
    vague = replace(item, images=("1.jpg", "dogs/1.jpg"))
    with pytest.raises(DataError, match=r"'1.jpg' of x fits 2 images of toy/test \('dogs/1.jpg', 'cats/1.jpg'\)"):
        evaluate_choices(scorer, "x", [vague])


def result_of(item: Choice, scores: list[list[float]]) -> ChoiceResult:
    return ChoiceResult("x", (item,), (np.array(scores),), {"g": 1}, NONE_MISSING)


@pytest.mark.parametrize(
    ("scores", "text", "image", "group"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], True, True, True),
        ([[0.9, 0.3], [0.2, 0.1]], False, False, False),
        ([[0.5, 0.1], [0.6, 0.8]], True, False, False),
        ([[0.5, 0.6], [0.1, 0.8]], False, True, False),
        ([[0.5, 0.5], [0.5, 0.5]], False, False, False),
    ],
)
def test_two_by_two(scores: list[list[float]], text: bool, image: bool, group: bool) -> None:
    result = result_of(choice(2, 2), scores)
    assert [result.correct(0, m) for m in ("text", "image", "group")] == [text, image, group]
    assert result.tied(0) == (scores[0] == [0.5, 0.5])


def test_a_tie_is_wrong_whichever_side_is_chosen() -> None:
    text = result_of(choice(1, 2), [[0.3, 0.3]])
    assert (text.accuracy("text"), text.accuracy("image"), text.metrics, text.tied(0)) == (0.0, None, ("text",), True)
    image = result_of(choice(2, 1), [[0.3], [0.3]])
    assert (image.accuracy("image"), image.metrics) == (0.0, ("image",))
    assert result_of(choice(2, 1), [[0.4], [0.3]]).accuracy("image") == 1.0


def test_a_file_of_choices(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    items = [
        {"id": "a", "group": "two", "images": ["1", "2.jpg"], "captions": ["a dog", "a cat"]},
        {"images": ["3"], "captions": ["a ball", "a boat"]},
        {"images": ["4", "5"], "captions": ["a car"]},
    ]
    path.write_text(json.dumps({"name": "mine", "items": items}), encoding="utf-8")
    name, read = read_choices(path)
    assert (name, len(read), read[1].group, read[0].metrics) == ("mine", 3, "all", ("text", "image", "group"))
    table = evaluate_choices(SCORER, name, read).report().table()
    assert "right caption" in table
    assert "everything right" in table
    assert "mean of the groups" in table
    assert "1,000 resamples (seed 0) of the images, each with all its items" in table
    for bad in ({"images": ["1"], "captions": ["a"]}, {"images": ["1", "2", "3"], "captions": ["a", "b"]}):
        path.write_text(json.dumps({"items": [bad]}), encoding="utf-8")
        with pytest.raises(DataError, match=r"item 0 has \d images and \d captions"):
            read_choices(path)
    path.write_text('{"items": []}', encoding="utf-8")
    with pytest.raises(DataError, match="has no items"):
        read_choices(path)


def test_chance_is_what_random_scores_choose_rightly() -> None:
    draw = np.random.default_rng(0)
    for images, captions in ((1, 2), (2, 1), (2, 2)):
        item = choice(images, captions)
        many = ChoiceResult("x", (item,) * 20_000, tuple(draw.random((20_000, images, captions))), {}, NONE_MISSING)
        for metric in item.metrics:
            assert many.accuracy(metric) == pytest.approx(many.chance(metric), abs=0.02)
    both = ChoiceResult("x", (choice(1, 2), choice(2, 2)), (), {}, NONE_MISSING)
    assert both.chance("text") == pytest.approx(3 / 8)
    assert np.isnan(result_of(choice(1, 2), [[0.1, 0.2]]).chance("image"))


def test_the_false_captions_of_scenes_are_choices(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "scenes", train=1, dev=1, test=6, pictures=False)
    path = data / PRECOMP / "test_negatives.jsonl"
    split = open_split(data, "test", images="features")
    name, items = read_choices(path)
    assert (name, len(items)) == ("test_negatives", 30)
    assert {item.group for item in items} <= {*ATTRIBUTES, "relation"}
    assert [item.captions[0] for item in items] == split.captions
    assert all(item.captions[0] != item.captions[1] for item in items)
    assert [item.images[0] for item in items[::5]] == split.image_ids
    models = {kind: random_model(kind, split.captions, width=REGION_WIDTH) for kind in ("vse_inf", "chan")}
    results = [(kind, evaluate_choices(ModelOnSplit(one, split), name, items)) for kind, one in models.items()]
    for kind, result in results:
        scores = (
            models[kind]
            .score(
                models[kind].encode_images(split.require_images()),
                models[kind].encode_captions([caption for item in items for caption in item.captions]),
            )
            .numpy()
        )
        right = [scores[k // 5, 2 * k] > scores[k // 5, 2 * k + 1] for k in range(30)]
        assert result.accuracy("text") == pytest.approx(np.mean(right))
        of_relations = [one for one, item in zip(right, items, strict=True) if item.group == "relation"]
        assert result.accuracy("text", "relation") == pytest.approx(np.mean(of_relations))
        assert result.report().tables[0][1][-1] == ("chance", "50.0", "", "")
    head, rows = captions_beside(results)
    assert (head[0], head[-1], rows[0][0], rows[0][-1]) == ("right caption, %", "all", "chance", "50.0")
    assert [float(row[-1]) for row in rows[1:]] == [round(100 * r.accuracy("text"), 1) for _, r in results]  # type: ignore[operator]


def test_damaged_false_captions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "test_negatives.jsonl"
    good = {"id": "1", "caption": "a dog", "negative": "a cat", "differs": "shape"}
    for line, said in (
        ("{", "line 2 is no JSON object"),
        ("[]", "line 2 is a list"),
        (json.dumps({**good, "negative": " "}), "line 2"),
        (json.dumps({k: v for k, v in good.items() if k != "differs"}), "line 2 has no field 'differs'"),
    ):
        path.write_text(f"{json.dumps(good)}\n{line}\n", encoding="utf-8")
        with pytest.raises(DataError, match=said):
            read_negatives(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="has no lines"):
        read_negatives(path)


def test_nothing_that_can_be_scored_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"None of the 1 images of x is in toy/test \(wanted '99'; found"):
        evaluate_choices(SCORER, "x", [Choice("1", "g", ("99",), ("a", "b"))])
    with pytest.raises(DataError, match="No item of x has all its images"):
        evaluate_choices(SCORER, "x", [Choice("1", "g", ("1", "99"), ("a", "b"))])
    with pytest.raises(DataError, match=r"has no 'add_att\.json'"):
        read_sugarcrepe(tmp_path)


def test_a_diverged_model_is_refused() -> None:
    model = toy_model()
    for parameter in model.method.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ScoreError, match="not finite"):
        evaluate_choices(ModelOnSplit(model, SPLIT), "x", [Choice("1", "g", ("1",), ("a dog", "a cat"))])
