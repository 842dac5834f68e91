"""The encoders as ONNX files: the numbers of the model for any batch, a description that suffices, clear refusals."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from clip_models import TOWER, write_checkpoint
from small import refused

import patchword
from patchword.cli import main
from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.encoders.text import build_text
from patchword.errors import ConfigError, ExportError
from patchword.export import graph as writing
from patchword.export import verify
from patchword.export.about import how_to_score, notes_on
from patchword.export.ports import CaptionGraph, ImageGraph
from patchword.loading import load
from patchword.methods import METHODS, method_class
from patchword.methods.base import Method
from patchword.methods.chan import ChanConfig, ImageTower
from patchword.methods.formula import Formula
from patchword.model import Model
from patchword.types import Alignment, Captions, Encoded, Images

pytestmark = pytest.mark.integration

CAPTIONS = ["a red ball left of a box", "two dogs", "a cat on the box"]
WORDS = WordTokenizer(Vocabulary.build(CAPTIONS, min_count=1))
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
REGIONS = {"kind": "regions", "width": 5}
VIT = {"kind": "vit", "arch": {**SIZES, "image_size": 8, "patch_size": 4}}
RESNET = {"kind": "resnet", "layers": (1, 1, 1, 1), "base_width": 4, "image_size": 32}
GRU = {"kind": "bigru", "vocab_size": WORDS.size, "word_dim": 6}
BERT = {"kind": "bert", "arch": {**SIZES, "vocab_size": 30, "max_position_embeddings": 40}}
CASES: dict[str, dict[str, Any]] = {
    "vse_inf": {"image": VIT, "text": BERT},
    "chan": {"image": REGIONS, "text": {**GRU, "layers": 2}, "heads": 2, "pooling": "mean"},
    "cefg": {"image": REGIONS, "text": GRU, "regions": 12, "sim_dim": 6},
    "hrem": {"image": REGIONS, "text": BERT, "heads": 2},
    "aahr": {"image": REGIONS, "text": GRU, "heads": 2, "guide_heads": 2, "clip_dim": 3, "prototypes": 0, "queue": 0},
    "scta": {"image": VIT, "text": BERT, "word_limit": 8},
    "laps": {"image": RESNET, "text": GRU},
    "esl": {"image": REGIONS, "text": GRU, "pyramid": "adaptive", "levels": 3},
}
# A set of one comes last: before others it would change them in HREM and AAHR, which the files leave out.
BATCHES = ((1,), (2, 12, 5, 1), (9, 9))


def model(name: str, **changes: Any) -> Model:
    """A tiny model with random weights and moved batch statistics."""
    torch.manual_seed(5)
    cls = method_class(name)
    method = cls(cls.Config.model_validate({"joint_dim": 16, **CASES[name], **changes})).eval()
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return Model(method, WORDS if method.config.text.kind == "bigru" else None)


def opened(path: Path) -> onnxruntime.InferenceSession:
    """A file, ready to run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(
    session: onnxruntime.InferenceSession, graph: ImageGraph | CaptionGraph, inputs: list[torch.Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """What a file gives."""
    sets, sizes = session.run(None, {port.name: x.numpy() for port, x in zip(graph.inputs, inputs, strict=True)})
    return sets, sizes


def export_saved(made: Model, folder: Path, *words: str) -> str:
    """Save a model as ``folder/run`` and export that to ``folder/out`` by the command; what it prints."""
    made.save(folder / "run")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(folder / "run"), "-o", str(folder / "out"), *words]) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def chan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path, str]:
    """A model, its exported folder, and what the command printed."""
    made, folder = model("chan", context="none", text=GRU), tmp_path_factory.mktemp("chan")
    said = export_saved(made, folder)
    return made, folder / "out", said


@pytest.fixture(scope="module")
def esl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path, str, str]:
    """A model, its folder, and what was printed and remarked: over an earlier export, and without onnxruntime."""
    made, folder = model("esl", pyramid="heuristic"), tmp_path_factory.mktemp("esl")
    (folder / "out").mkdir()
    (folder / "out" / "export.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as remarked:
        patch.setattr(verify, "find_spec", lambda name: None)
        said = export_saved(made, folder, "--json")
    return made, folder / "out", said, remarked.getvalue()


@torch.no_grad()
def check(folder: Path, method: Any, batches: Sequence[tuple[int, ...]] = BATCHES) -> float:
    """Both files against the model on batches of other sizes than those that were traced; the largest difference."""
    largest = 0.0
    for graph in (ImageGraph(method), CaptionGraph(method)):
        session = opened(folder / graph.file)
        for lengths in batches:
            inputs = graph.draw(lengths, seed=7)
            batch: Any = graph.batch(*inputs)
            encode: Any = method.encode_images if isinstance(graph, ImageGraph) else method.encode_captions
            expected = encode(batch)
            sets, sizes = run(session, graph, inputs)
            assert np.array_equal(sizes, expected.lengths.numpy())
            padded = expected.padded()[0].numpy()
            assert not sets[:, padded.shape[1] :].any()
            found = float(np.abs(sets[:, : padded.shape[1]] - padded).max())
            largest = max(largest, found / max(1.0, float(np.abs(padded).max())))
    return largest


@pytest.mark.parametrize("name", CASES)
def test_the_files_give_the_numbers_of_the_model(name: str, tmp_path: Path) -> None:
    made = model(name)
    found = patchword.export(made, tmp_path / "out")
    assert found.runtime == onnxruntime.__version__
    assert max(found.differences.values()) < 1e-5
    assert check(tmp_path / "out", made.method) < 1e-5
    for path in (tmp_path / "out").iterdir():
        assert str(Path(patchword.__file__).parent).encode() not in path.read_bytes()  # no place of this machine
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["score"]["needs_patchword"] == (name in ("cefg", "scta", "laps"))
    assert (about["pixels"] is not None) == (made.method.reads == "pictures")
    assert (about["tokens"] is not None) == (made.tokenizer is not None)


@pytest.mark.parametrize("interaction", ["global", "patches"])
def test_clip_is_exported(interaction: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOWER, "num_hidden_layers", 1)  # a second one adds no operator
    made = load(write_checkpoint(tmp_path / "clip"), interaction=interaction)
    patchword.export(made, tmp_path / "out")
    assert check(tmp_path / "out", made.method, [(2,), (3, 9, 2)]) < 1e-5


def test_a_caption_is_scored_with_onnxruntime_alone(chan: tuple[Model, Path, str]) -> None:
    made, out, said = chan
    assert "images.onnx (" in said
    assert "largest difference from the model on a random batch: images " in said

    about = json.loads((out / "export.json").read_text())
    assert about["method"] == "chan"
    assert about["patchword"] == patchword.__version__
    assert about["config"]["pooling"] == "mean"
    assert "pretrained" not in about["config"]["text"]
    assert about["images"]["inputs"][0]["shape"] == ["images", "regions", 5]
    assert about["images"]["outputs"][0]["shape"] == ["images", "regions", 16]
    assert about["captions"]["outputs"][0]["shape"] == ["captions", "words", 16]
    assert about["score"]["how"].endswith(
        "z[l] = max over r of s, one number for every word; the score is the mean of z"
    )
    assert about["verified"]["onnxruntime"] == onnxruntime.__version__

    sessions = {kind: onnxruntime.InferenceSession(out / about[kind]["file"]) for kind in ("images", "captions")}
    for kind, session in sessions.items():
        for given, described in zip(session.get_inputs(), about[kind]["inputs"], strict=True):
            assert (given.name, given.shape) == (described["name"], described["shape"])
    ids = json.loads((out / about["tokens"]["file"]).read_text())["word2idx"]
    words = ["<start>", *["a", "cat", "on", "a", "unicorn"], "<end>"]
    tokens = np.array([[ids.get(word, ids["<unk>"]) for word in words]])
    features = np.random.default_rng(0).standard_normal((3, 4, 5), dtype=np.float32)
    lengths = np.full(3, 4)
    words_of = sessions["captions"].run(["sets"], {"tokens": tokens, "lengths": np.array([len(words)])})[0][0]
    regions = sessions["images"].run(["sets"], {"features": features, "lengths": lengths})[0]
    scores = (regions @ words_of.T).max(axis=1).mean(axis=1)

    images = made.method.encode_images(
        ImageGraph(made.method).batch(torch.from_numpy(features), torch.from_numpy(lengths))
    )
    expected = made.score(images, made.encode_captions(["a cat on a unicorn"]))[:, 0]
    assert np.allclose(scores, expected.numpy(), atol=1e-6)


@torch.no_grad()
def test_esl_is_scored_as_its_file_says(esl: tuple[Model, Path, str, str]) -> None:
    method: Any = esl[0].method
    out = esl[1]
    assert check(out, method) < 1e-5
    about = json.loads((out / "export.json").read_text())
    graphs: list[Any] = [ImageGraph(method), CaptionGraph(method)]
    inputs = [graph.draw((4,), 2) for graph in graphs]
    (image,), (caption,) = (run(opened(out / g.file), g, x)[0] for g, x in zip(graphs, inputs, strict=True))
    s = caption @ image.T  # (L, R)
    p = np.where(np.tanh(s) > 0, 1, 0.1) * np.tanh(s)

    def weights(axis: int) -> Any:
        a = about["score"]["tau"] * p / (np.linalg.norm(p, axis=1 - axis, keepdims=True) + 1e-8)
        return np.exp(a) / np.exp(a).sum(axis, keepdims=True)

    score = (weights(1) * s / len(caption) + weights(0) * s / len(image)).sum()
    encoded: Any = [graph.batch(*x) for graph, x in zip(graphs, inputs, strict=True)]
    expected = method.score(method.encode_images(encoded[0]), method.encode_captions(encoded[1]))
    assert score == pytest.approx(float(expected), abs=1e-5)


def test_a_region_of_zeros_stays_zero(chan: tuple[Model, Path, str]) -> None:
    """The 1e-8 beside a length must be in the file: without it, zero vectors become 0 / 0."""
    made, out, _ = chan
    sets, _ = run(opened(out / "images.onnx"), ImageGraph(made.method), [torch.zeros(2, 3, 5), torch.tensor([3, 2])])
    assert not sets.any()
    assert np.isfinite(sets).all()


def test_a_file_with_other_numbers_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model("chan", context="none").save(tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("{}")  # an earlier one
    monkeypatch.setattr(verify, "TOLERANCE", -1.0)
    said = refused(["export", tmp_path / "run", "-o", out], capsys, kind="ExportError")
    assert "'images.onnx' differs from the model by" in said
    assert [path.name for path in out.iterdir()] == ["export.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_without_onnxruntime_nothing_is_verified(esl: tuple[Model, Path, str, str]) -> None:
    _, out, said, remarked = esl
    assert "not verified: pip install onnxruntime" in remarked
    assert json.loads(said)["differences"] == {}
    assert json.loads((out / "export.json").read_text())["verified"] is None


def test_what_can_not_be_exported_is_refused_by_name(tmp_path: Path) -> None:
    for made, reason in (
        (model("chan", context="transformer"), "chan can not be exported: its images see the others of their batch"),
        (model("cefg", amr="concat"), "cefg can not be exported: the graph of every caption"),
        (load(write_checkpoint(tmp_path / "n", "siglip2")), "can not be exported: NaFlex resizes"),
    ):
        with pytest.raises(ExportError, match=reason):
            patchword.export(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Own(Method):
    """A method that is not ours: projected regions and words, and nothing said about export."""

    name = "own"
    Config = ChanConfig

    def __init__(self, config: Any, loss: Any = None) -> None:
        super().__init__(config, loss)
        self.image = ImageTower(config)
        self.text = build_text(config.text, config.joint_dim)

    def encode_images(self, images: Images) -> Encoded:
        return Encoded.from_padded(*self.image(images))

    def encode_captions(self, captions: Captions) -> Encoded:
        return Encoded.from_padded(self.text(captions.tokens, captions.lengths), captions.lengths)

    def score(self, images: Encoded, captions: Encoded) -> torch.Tensor:
        return torch.einsum("brd,cld->bc", images.padded()[0], captions.padded()[0])

    def explain(self, images: Images, captions: Captions) -> Alignment:
        raise NotImplementedError


class OwnFormula(Own):
    name = "own_formula"

    @property
    def formula(self) -> Formula:
        return Formula("the sum of all dot products, times scale", {"scale": 1.0})

    @property
    def export_notes(self) -> tuple[str, ...]:
        return ("mine",)


class OwnSets(Own):
    name = "own_sets"

    def encode_images(self, images: Images) -> Encoded:
        found = super().encode_images(images)
        return Encoded(found.vectors, found.lengths)


def test_a_method_that_is_not_ours_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Own, OwnFormula):
        monkeypatch.setitem(METHODS, cls.name, f"{__name__}:{cls.__name__}")
        monkeypatch.setitem(CASES, cls.name, {"image": REGIONS, "text": GRU, "context": "none"})
    made = model("own_formula")
    patchword.export(made, tmp_path / "out")
    assert check(tmp_path / "out", made.method) < 1e-5
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    how = "the sum of all dot products, times scale"
    assert about["score"] == {"needs_patchword": False, "how": how, "scale": 1.0}
    assert about["notes"] == ["mine"]
    silent = model("own").method  # the same encoders, of which it says nothing
    assert how_to_score(silent)["needs_patchword"]
    assert "How a score is made of their vectors is not known: compute it with patchword" in how_to_score(silent)["how"]
    assert notes_on(silent) == []


def test_sets_that_lost_their_padding_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "own_sets", f"{__name__}:OwnSets")
    monkeypatch.setitem(CASES, "own_sets", {"image": REGIONS, "text": GRU, "context": "none"})
    with pytest.raises(
        ExportError, match=r"own_sets can not be exported: its sets do not come from Encoded\.from_padded"
    ):
        patchword.export(model("own_sets"), tmp_path / "out")
    monkeypatch.setattr(OwnSets, "caption_extras", ("graph",))
    with pytest.raises(ExportError, match="it reads `graph` beside them"):
        patchword.export(model("own_sets"), tmp_path / "out")


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text("damaged")
    (tmp_path / "index" / "catalog.sqlite").touch()
    where = tmp_path / "out"
    for words, kind, part in (
        (["none", "-o", where], "CheckpointError", "does not exist"),
        (["none", "-o", tmp_path / "notes"], "ExportError", "holds 'mine.txt', which a new export would replace"),
        (["none", "-o", tmp_path / "notes" / "mine.txt"], "ExportError", "is a file"),
        (["none"], "ConfigError", "out"),
    ):
        assert part in refused(["export", *words], capsys, kind=kind)
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    said = refused(["export", "none", "-o", where], capsys, kind="ConfigError")
    assert said == "ConfigError: onnx is not installed. In a clone of patchword: pip install '.[export]'"
    with pytest.raises(ConfigError, match="pip install"):
        patchword.export("none", where)
