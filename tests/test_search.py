import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import recipe, refused, write_bert, write_pictures, write_precomp

from patchword.cli import main
from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.errors import ConfigError, DataError
from patchword.loading import load
from patchword.model import Model
from patchword.retrieve.inputs import encode_texts
from patchword.search import Searcher, best, query_extras, search, unknown_words
from patchword.train.run import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` and a trained CHAN ``run``."""
    folder = tmp_path_factory.mktemp("trained")
    train(recipe("chan", write_precomp(folder / "data"), {"train": {"epochs": 1}}), folder / "run")
    return folder


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return load(trained / "run")


@pytest.fixture(scope="module")
def split(trained: Path) -> Split:
    return open_split(trained / "data", "test")


def test_text_finds_what_the_score_matrix_says(model: Model, split: Split) -> None:
    queries = ["a dog and a cat.", "a boat", split.captions[3]]
    scores = model.method.score(model.encode_images(split.require_images()), model.encode_captions(queries))
    found = search(model, queries, data=split, k=7)
    for column, query in enumerate(queries):
        expected = torch.argsort(scores[:, column], descending=True, stable=True)[:7].tolist()
        assert [hit.image_id for hit in found[query]] == [split.image_ids[i] for i in expected]
        assert [hit.rank for hit in found[query]] == [1, 2, 3, 4, 5, 6, 7]
        assert [hit.score for hit in found[query]] == pytest.approx(scores[expected, column].tolist(), rel=1e-5)


def test_an_image_finds_captions_by_its_id(model: Model, split: Split) -> None:
    scores = model.method.score(model.encode_images(split.require_images()), model.encode_captions(split.captions))
    hits = search(model, data=split, image="test_4", k=5)["test_4"]
    expected = torch.argsort(scores[4], descending=True, stable=True)[:5].tolist()
    assert [hit.caption for hit in hits] == [split.captions[j] for j in expected]
    assert [hit.image_id for hit in hits] == [split.image_ids[int(split.owner[j])] for j in expected]


def test_the_methods_of_a_loaded_model_give_the_same(model: Model, split: Split) -> None:
    assert model.search("a boat", split, 3) == search(model, ["a boat"], data=split, k=3)["a boat"]
    assert model.search(Path("test_4"), split, 3) == search(model, data=split, image="test_4", k=3)["test_4"]


def test_a_search_by_folder_is_a_search_by_split(trained: Path, model: Model, split: Split) -> None:
    assert search(trained / "run", ["a boat"], data=trained / "data") == search(model, ["a boat"], data=split)


def test_more_results_than_items_are_all_items(model: Model, split: Split) -> None:
    assert len(search(model, ["a boat"], data=split, k=1000)["a boat"]) == split.n_images
    assert len(search(model, data=split, image="test_0", k=1000)["test_0"]) == split.n_captions


def test_equal_scores_come_in_the_order_of_the_collection() -> None:
    assert best(torch.tensor([0.0, 1.0, 1.0, 0.5, 1.0]), 4) == [1, 2, 4, 3]


def test_a_half_known_query_is_answered(model: Model, split: Split) -> None:
    assert len(search(model, ["a zebra beside a dog"], data=split, k=2)["a zebra beside a dog"]) == 2


def test_words_that_the_model_does_not_know_are_named(
    model: Model, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "A zebra beside a dog: zebra, xyzzy!"
    assert unknown_words(model, [query]) == ["zebra", "beside", "xyzzy"]
    assert unknown_words(model, ["a dog."]) == []
    words = ["search", str(trained / "run"), "--data", str(trained / "data"), "-k", "1"]
    assert main([*words, query, "a dog"]) == 0
    said = f"note: the model does not know 'zebra', 'beside', 'xyzzy' in {query!r}: read as an unknown word\n"
    assert capsys.readouterr().err == said
    file = tmp_path / "queries.txt"
    file.write_text(f"a dog\n{query}\nqwertz\n", encoding="utf-8")
    assert main([*words, "--file", str(file), "--json"]) == 2
    printed, told = capsys.readouterr()
    assert json.loads(printed)[query]
    assert told.startswith(said)
    assert told.count("does not know") == 1  # the refused line says it itself


def test_the_image_of_a_found_caption_is_printed(
    trained: Path, split: Split, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", str(trained / "run"), "--data", str(trained / "data"), "--image", "test_4", "-k", "3"]
    assert main(words) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert main([*words, "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["test_4"]
    assert [line.split("  ")[-2:] for line in lines] == [[hit["caption"], f"({hit['image_id']})"] for hit in hits]


@pytest.mark.parametrize("query", ["", "   ", "\n"])
def test_an_empty_query_is_refused(query: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["search", trained / "run", query, "--data", trained / "data"], capsys, kind="DataError")
    assert "the query is empty" in said


def test_half_of_a_character_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a terminal of another encoding gives it."""
    asked = ["search", trained / "run", "a dog \ud83d", "--data", trained / "data"]
    assert "the query holds half of a character" in refused(asked, capsys, kind="DataError")


@pytest.mark.parametrize("query", ["zebra giraffe", "一只狗在跑", "зебра", "🐕"])
def test_a_query_of_unknown_words_is_refused(query: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["search", trained / "run", query, "--data", trained / "data"], capsys, kind="DataError")
    assert f"knows none of the words of {query!r}" in said


def test_a_chinese_query_on_latin_word_pieces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, bert = write_precomp(tmp_path / "data", {"train": 8, "dev": 4}), write_bert(tmp_path / "bert")
    train(recipe("vse_inf", data, {"train": {"epochs": 1}}, bert=bert), tmp_path / "run")
    words = ["search", str(tmp_path / "run"), "--data", str(data), "--split", "dev"]
    said = refused([*words, "一只狗在跑"], capsys, kind="DataError")
    assert "knows none of the words" in said
    assert main([*words, "a dog"]) == 0
    capsys.readouterr()
    with pytest.warns(UserWarning, match="longer than the 64 tokens that the text encoder reads, and were cut to them"):
        assert main([*words, "a dog " * 100]) == 0


def test_a_bad_line_of_a_file_does_not_stop_the_others(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "queries.txt"
    file.write_text("a boat\nqwertz\n\na dog:2\na cat\n", encoding="utf-8")
    words = ["search", str(trained / "run"), "--data", str(trained / "data"), "-k", "2"]
    assert main([*words, "--file", str(file), "--json"]) == 2
    printed, told = capsys.readouterr()
    found = json.loads(printed)
    assert "none of the words" in found["qwertz"]["error"]
    assert "weights need an index" in found["a dog:2"]["error"]
    assert [line.partition(":")[0] for line in told.splitlines()[:2]] == [f"'{file}' line {k}" for k in (2, 4)]
    assert told.splitlines()[2:] == ["2 of 4 queries could not be answered"]
    assert main([*words, "a boat", "a cat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {query: found[query] for query in ("a boat", "a cat")}
    assert main([*words, "--file", str(file)]) == 2
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != " "] == ["a boat", "a cat"]
    file = file.rename(tmp_path / "queries.jsonl")
    file.write_text('"a boat"\n{"parts": [{"text": "a boat"}]}\n', encoding="utf-8")
    assert main([*words, "--file", str(file)]) == 2
    assert "line 2: queries of several parts need an index" in capsys.readouterr().err


@pytest.mark.parametrize("image", ["absent", "absent.jpg", ""])
def test_an_unknown_image_is_refused(image: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", trained / "run", "--image", image, "--data", trained / "data"]
    said = refused(words, capsys, kind="DataError")
    assert "(test_0 ...) nor a file" in said


def test_a_picture_file_can_not_be_asked_of_region_features(model: Model, split: Split, tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(b"x")
    with pytest.raises(DataError, match="region features, which a picture file does not have"):
        Searcher(model, split).by_image(tmp_path / "new.png")


def test_a_raw_image_model_answers_by_id_by_file_and_by_new_file(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", {"train": 8, "dev": 4, "test": 4})
    image = {"kind": "resnet", "layers": [1, 1, 1, 1], "base_width": 2, "image_size": 96}
    train(recipe("vse_inf", data, {"train": {"epochs": 1, "batch_size": 8}}, image=image), tmp_path / "run")
    model = load(tmp_path / "run")
    split = open_split(data, "test", images="pictures")
    searcher = Searcher(model, split)
    assert split.files is not None
    new = tmp_path / "new.png"
    new.write_bytes(split.files[2].read_bytes())
    by_id = searcher.by_image(split.image_ids[2])
    assert searcher.by_image(split.files[2]) == by_id
    assert searcher.by_image(split.files[2].name) == by_id
    assert [hit.caption for hit in searcher.by_image(new)] == [hit.caption for hit in by_id]
    assert searcher.by_text("a red wall")[0].file in [str(path) for path in split.files]
    new.write_bytes(b"not a picture")
    with pytest.raises(DataError, match="not a decodable picture"):
        searcher.by_image(new)


def test_side_inputs_that_a_query_does_not_have_are_refused_alike_everywhere(
    model: Model, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed, kind, says in (("clip", ConfigError, "Name a CLIP folder"), ("graph", DataError, "also reads `graph`")):
        monkeypatch.setattr(type(model.method), "caption_extras", (needed,))
        with pytest.raises(kind, match=says):
            Searcher(model, split).by_text("a boat")
        with pytest.raises(kind, match=says):
            encode_texts(model, ["a boat"], None)
    monkeypatch.setattr(type(model.method), "caption_extras", ())
    assert query_extras(model, ["a boat"], None) == {}


@pytest.mark.parametrize("module", ["patchword.search", "patchword.retrieve.engine", "patchword.web.service"])
def test_searching_loads_no_evaluation(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(m for m in sys.modules if m.startswith('patchword.evaluate.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["patchword.evaluate.opening"]
