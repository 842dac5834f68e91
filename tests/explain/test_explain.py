"""Explanations of any method: parts add up to the score, three kinds of files are written, bad input is one line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from small import REGIONS, THINGS, WIDTH, one_line, refused, write_precomp
from torch import Tensor

import patchword
from patchword.cli import main
from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import ConfigError, DataError
from patchword.explain.heat import WARM, draw_png, heat_map, warmed, wrapped
from patchword.explain.lit_words import light_words, lit_words, shown_words
from patchword.explain.run import Explanation, explain
from patchword.loading import load
from patchword.methods import METHODS, method_class
from patchword.model import Model
from patchword.search import find_image
from patchword.types import Alignment

TEXT = "a red dog and a small <ball>"
TINY: dict[str, dict[str, Any]] = {  # what a method needs to be small
    "chan": {"heads": 2},
    "cefg": {"sim_dim": 8, "regions": REGIONS, "neighbours": 2},
    "hrem": {"heads": 2},
    "aahr": {"heads": 2, "guide_heads": 2, "clip_dim": 5, "prototypes": 4, "queue": 8},
    "esl": {"levels": 4},
}
VIT = {
    "kind": "vit",
    "arch": {
        "image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16,
    },
}  # fmt: skip


class Side:
    """A side input held in memory."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def read(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Rows of a batch."""
        return {name: value[list(items)] for name, value in self.values.items()}

    def select(self, items: Sequence[int]) -> Side:
        """Rows of a subset."""
        return Side(self.read(items))


def side(name: str, count: int) -> Side:
    """Side input ``name`` of so many items."""
    if name.startswith("adjacency"):
        return Side({name: torch.rand(count, REGIONS, REGIONS) > 0.4})
    if name == "graph":
        return Side({"graph": torch.randint(1, 5, (count, 3)), "graph_lengths": torch.full((count,), 3)})
    return Side({name: torch.randn(count, 5)})


def tokenizer() -> WordTokenizer:
    return WordTokenizer(Vocabulary.build([TEXT, " ".join(THINGS), "and a ."], min_count=1))


def a_model(method: str, image: Any = None, **changes: Any) -> Model:
    """A tiny model of any method with random weights."""
    torch.manual_seed(2)
    words = tokenizer()
    values: dict[str, Any] = {
        "joint_dim": 16,
        "image": image if image is not None else RegionsConfig(width=WIDTH),
        "text": BigruConfig(vocab_size=words.size, word_dim=6),
    }
    cls: Any = method_class(method)
    made = cls(cls.Config.model_validate(values | TINY.get(method, {}) | changes)).eval()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return Model(made, words)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SCAN folder with boxes."""
    folder: Path = write_precomp(tmp_path_factory.mktemp("why") / "toy", {"test": 3})
    corners = np.random.default_rng(0).random((3, REGIONS, 2)) * 0.5
    np.save(folder / "test_boxes.npy", np.concatenate([corners, corners + 0.3], axis=2).astype(np.float32))
    return folder


def split_for(model: Model, data: Path) -> Split:
    """The split with whatever the method wants beside the features."""
    split = open_split(data, "test", images="features")
    torch.manual_seed(0)
    return replace(
        split,
        image_extras={name: side(name, split.n_images) for name in model.method.image_extras},
        caption_extras={name: side(name, split.n_captions) for name in model.method.caption_extras},
    )


def score_of(model: Model, split: Split, image: int, caption: int) -> float:
    """The score of one pair as evaluation computes it, from a batch of one."""
    extras = {name: extra.select([caption]) for name, extra in split.caption_extras.items()}
    images = model.encode_images(split.require_images(), extras=split.image_extras).slice(image, image + 1)
    return float(model.score(images, model.encode_captions([split.captions[caption]], extras=extras))[0, 0])


@pytest.mark.parametrize("method", METHODS)
def test_the_parts_add_up_to_the_score_of_every_method(method: str, data: Path) -> None:
    model = a_model(method)
    split = split_for(model, data)
    for image, caption in ((0, 1), (2, 0), (1, 7)):
        found = explain(model, image, split.captions[caption], data=split)
        assert found.alignment.parts.dtype in (torch.float32, torch.float64)
        assert float(found.alignment.parts.double().sum()) == pytest.approx(found.alignment.score, abs=1e-5)
        assert found.alignment.score == pytest.approx(score_of(model, split, image, caption), abs=1e-5)
        assert found.alignment.words == tuple(tokenizer().shown(split.captions[caption]))
        assert found.alignment.parts.shape == (len(found.alignment.words), REGIONS)
        assert found.alignment.boxes is not None
        np.testing.assert_allclose(found.alignment.boxes.numpy(), np.load(data / "test_boxes.npy")[image])
        assert sum(word["part"] for word in found.to_json()["words"]) == pytest.approx(found.alignment.score, abs=1e-5)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "cefg"])
def test_raw_images_are_explained_on_the_cells_of_their_grid(method: str, tmp_path: Path) -> None:
    path = tmp_path / "a dog.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    changes = {"guide": "pooled"} if method == "aahr" else {}
    found = explain(a_model(method, VIT, **changes), path, TEXT)
    assert float(found.alignment.parts.double().sum()) == pytest.approx(found.alignment.score, abs=1e-5)
    assert found.picture == path
    boxes = found.alignment.boxes
    assert boxes is not None
    assert len(boxes) == found.alignment.parts.shape[1]
    assert boxes[-4:].tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]


def test_side_inputs_must_be_there(data: Path) -> None:
    for method, what in (("cefg", "adjacency_released"), ("aahr", "clip")):
        model = a_model(method)
        whole = split_for(model, data)
        with pytest.raises(DataError, match=what):
            explain(model, 0, whole.captions[0], data=replace(whole, image_extras={}))
    with pytest.raises(DataError, match=r"also reads `clip` of a caption.* is none of them"):
        explain(model, 0, "a dog", data=whole)


# ------------------------------------------------------------------ what is written


def an_explanation(*, boxes: bool = True, picture: Path | None = None) -> Explanation:
    """Three words (one with signs that HTML would read) and two marks over four patches."""
    parts = torch.tensor(
        [[0.0, 0.0, 0.1, 0.0], [0.9, 0.0, 0.0, 0.0], [0.0, 0.8, 0.0, -0.5], [0.0, 0.0, 0.7, 0.0], [0.1, 0.1, 0.1, 0.1]]
    )
    corners = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.5, 0.5]])
    found = Alignment(
        parts,
        float(parts.sum()),
        ("<start>", "dog", "<b>ball", "grass", "<end>"),
        torch.cat([corners, corners + 0.5], dim=1) if boxes else None,
    )
    return Explanation(found, "dog <b>ball grass", "x & y", "chan", picture)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (90, 60), (120, 120, 120)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_heat_is_the_sum_of_the_parts_that_cover_a_point() -> None:
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0], [-3.0, 0.0, 0.01, 0.01], [2.0, 2.0, 3.0, 3.0]])
    heat = heat_map(np.array([1.0, 2.0, 4.0, 8.0]), boxes, 4, 2)
    assert heat.tolist() == [[5, 1, 1, 1], [1, 1, 3, 11]]  # a box without area, or outside, still covers a point
    assert heat_map(np.array([1.0]), np.array([[np.nan, 0, np.nan, 1]]), 2, 1).tolist() == [[1, 0]]


def test_heat_colours_a_picture() -> None:
    grey = np.full((1, 3, 3), 100, dtype=np.uint8)
    found = warmed(grey, np.array([[2.0, 0.0, -2.0]]), 2.0)
    assert found[0, 1].tolist() == [100, 100, 100]
    assert found[0, 0, 0] > 150 > found[0, 0, 2]  # orange
    assert found[0, 2, 2] > 150 > found[0, 2, 0]  # blue
    assert warmed(grey, np.zeros((1, 3)), 0.0).tolist() == grey.tolist()


def test_the_picture_shows_the_heat_where_the_patch_is(tmp_path: Path, photo: Path) -> None:
    found = an_explanation(picture=photo)
    path = found.save(tmp_path / "out" / "why.png")
    drawing = Image.open(path)
    assert drawing.format == "PNG"
    pixels = np.asarray(drawing.convert("RGB")).astype(int)
    warm = np.abs(pixels - np.array(WARM)).sum(2) < 120
    assert warm.any()
    cold = draw_png(replace(found.alignment, parts=torch.zeros(5, 4)), None, "x", "y")
    pixels = np.asarray(cold).astype(int)
    assert not (np.abs(pixels - np.array(WARM)).sum(2) < 120).any()
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("with_picture", [True, False])
def test_every_file_is_written_whatever_is_known(tmp_path: Path, photo: Path, boxes: bool, with_picture: bool) -> None:
    found = an_explanation(boxes=boxes, picture=photo if with_picture else None)
    for suffix in (".png", ".html", ".json", ".PNG"):
        assert found.save(tmp_path / f"why{suffix}").stat().st_size > 300
    told = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    assert told["score"] == pytest.approx(2.4)
    assert told["sum_of_parts"] == pytest.approx(2.4)
    assert [word["text"] for word in told["words"]] == ["<start>", "dog", "<b>ball", "grass", "<end>"]
    assert np.array(told["parts"]).shape == (5, 4)
    assert (told["boxes"] is not None) is boxes


def test_the_page_is_one_file_with_a_table(tmp_path: Path, photo: Path) -> None:
    html = an_explanation(picture=photo).save(tmp_path / "why.html").read_text(encoding="utf-8")
    assert "<b>ball" not in html
    assert "&lt;b&gt;ball" in html
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html)
    assert "<script" not in html
    rows = re.findall(r"<tr.*?</tr>", html, flags=re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    assert ["dog", "+0.90000", "37.5 %", "0", "+0.90000", "0, 0, 50, 50"] in cells
    assert next(row for row in cells if row[0] == "all words")[1:3] == ["+2.40000", "100.0 %"]
    assert html.count('class="warm"') == 8  # parts above 2 % of the largest: one, one, one, one and four
    assert html.count('class="cold"') == 1


def test_no_text_of_the_picture_is_cut_off(tmp_path: Path) -> None:
    found = replace(an_explanation(boxes=False), model="chan (" + "a/long/folder/" * 6 + ")", notes=("w" * 200,))
    note = " ".join(found.facts())
    for text, size in ((note, 14), ("W" * 300 + " and more", 22), ("a dog", 22)):
        lines = wrapped(text, size, 940)
        assert max(ImageFont.load_default(size).getlength(line) for line in lines) <= 940
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(wrapped("word " * 400, 22, 940, most=6)) == 6
    longer, shorter = (draw_png(found.alignment, None, "x", text) for text in (note, "y"))
    assert longer.height > shorter.height


def test_a_score_of_zero_and_negative_parts_are_drawn(tmp_path: Path) -> None:
    parts = torch.tensor([[1.0, -2.0], [0.0, 1.0]])
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    for alignment in (Alignment(parts, 0.0, ("a", "b"), boxes), Alignment(parts * 0, 0.0, ("a", "b"), boxes)):
        for suffix in (".png", ".html", ".json"):
            Explanation(alignment, "a b", "x", "chan").save(tmp_path / f"why{suffix}")


def test_captions_that_are_cut_keep_their_words(data: Path) -> None:
    model = a_model("chan")
    model.max_words = 4
    found = light_words(model, split_for(model, data), 0, TEXT)
    assert found.words == ("<start>", "a", "red", "dog")

    class Pieces(WordTokenizer):
        """Marks that are added after cutting."""

        def shown(self, caption: str) -> list[str]:
            return ["[CLS]", *caption.split(), "[SEP]"]

    pieces = Pieces(tokenizer().vocabulary)
    assert shown_words(pieces, "a red dog", 4) == ("[CLS]", "a", "red", "[SEP]")
    assert shown_words(pieces, "a red dog", 5) == ("[CLS]", "a", "red", "dog", "[SEP]")


def test_images_are_found_by_id_file_and_position(data: Path) -> None:
    split = split_for(a_model("chan"), data)
    assert [find_image(split, wanted) for wanted in ("test_1", 2, "2", "test_9", "9", 3)] == [1, 2, 2, None, None, None]
    files = [Path(f"/pictures/{name}.jpg") for name in ("a", "b", "0")]
    named = replace(split, files=files)
    assert [find_image(named, wanted) for wanted in ("/pictures/b.jpg", "a.jpg", Path("0.jpg"))] == [1, 0, 2]
    assert [find_image(named, wanted) for wanted in ("b", "0")] == [1, 2]  # a name without its ending


# ------------------------------------------------------------------ the verb


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint over region features."""
    folder = tmp_path_factory.mktemp("run") / "esl"
    a_model("esl").save(folder)
    return folder


def test_the_verb_writes_and_prints(run: Path, data: Path, tmp_path: Path, photo: Path, capsys: Any) -> None:
    text = "a dog and a cat"
    for suffix in ("png", "html", "json"):
        out = tmp_path / f"ü why.{suffix}"
        assert (
            main(["explain", str(run), "test_1", text, "--data", str(data), "-o", str(out), "--picture", str(photo)])
            == 0
        )
        said = capsys.readouterr()
        assert f"wrote '{out}'" in said.out
        assert out.is_file()
        assert said.err == ""
    assert main(["explain", str(run), "test_1", text, "--data", str(data), "--json"]) == 0
    printed, written = json.loads(capsys.readouterr().out), json.loads((tmp_path / "ü why.json").read_text())
    assert printed["parts"] == written["parts"]
    model = load(run)
    expected = score_of(model, replace(split_for(model, data), captions=[text] * 15), 1, 0)
    assert printed["score"] == pytest.approx(expected, abs=1e-5)
    assert patchword.load(run).method.name == "esl"


def test_bad_input_is_one_line(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some, where = "a dog", ["--data", data]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    for arguments, kind, said in (
        ([run, "test_1", some], "DataError", "reads region features"),
        ([run, "test_9", some, *where], "DataError", r"image 'test_9' is not in .*Expected an id \(test_0"),
        ([run, str(bad), some, *where], "DataError", "has no region features"),
        ([run, "test_1", " ", *where], "DataError", "the query is empty"),
        ([run, "test_1", "xyzzy", *where], "DataError", "knows none of the words"),
        ([run, "test_1", some, *where, "-o", tmp_path / "why.gif"], "ConfigError", r"ends in '\.gif'.*\.png, \.html"),
        ([run, "test_1", some, *where, "-o", tmp_path / "why"], "ConfigError", "Expected a file that ends in"),
        ([run, "test_1", some, *where, "--picture", tmp_path / "no.jpg"], "DataError", "is missing"),
        ([run, "test_1", some, *where, "--picture", bad, "-o", tmp_path / "a.png"], "DataError", "not a decodable"),
        ([run, "test_1", some, *where, "--split", "nowhere"], "DataError", "nowhere"),
        ([tmp_path / "norun", "test_1", some, *where], "CheckpointError", "norun"),
        ([run, "test_1"], "ConfigError", "a sentence"),
    ):
        line = refused(["explain", *arguments], capsys, kind=kind)
        assert re.search(said, line, flags=re.IGNORECASE), line
    assert not (tmp_path / "a.png").exists()
    assert not list(tmp_path.glob(".*"))


def test_models_over_raw_images_say_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_model("chan", VIT).save(tmp_path / "run")
    line = refused(["explain", tmp_path / "run", tmp_path / "no.jpg", "a dog"], capsys, kind="DataError")
    assert "no.jpg' is missing. Expected a picture file, or --data DIR" in line
    a_model("aahr", VIT).save(tmp_path / "guided")
    line = refused(["explain", tmp_path / "guided", tmp_path / "no.jpg", "a dog"], capsys, kind="DataError")
    assert "reads `clip`, which comes with a split only" in line
    (tmp_path / "x.png").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        an_explanation().save(tmp_path / "x.png")


def test_the_words_of_an_explanation_are_those_that_were_scored(run: Path, data: Path) -> None:
    found = explain(run, "test_0", "a dog and a cat", data=data)
    assert [word.text for word in lit_words(found.alignment)] == ["<start>", "a", "dog", "and", "a", "cat", "<end>"]
    assert one_line(found.facts()[0]).startswith("Image test_0, scored")
