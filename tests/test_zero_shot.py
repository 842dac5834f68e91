"""Zero-shot checkpoints: the vectors are those of transformers, and everything that takes a model takes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clip_models import CONTEXT, FAMILIES, write_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from small import write_bert, write_pictures, write_precomp, write_recipe

from patchword.cli import main
from patchword.data.clip_files import FAMILIES as KNOWN
from patchword.data.clip_files import quiet, read_tokenizer
from patchword.data.clip_pixels import split_shapes
from patchword.data.open import open_split
from patchword.data.pictures import PictureFiles, decode
from patchword.errors import CheckpointError, ConfigError, ScoreError
from patchword.explain.run import explain
from patchword.loading import load
from patchword.model import Model, prepare_source
from patchword.scoring.ranks import ranks
from patchword.search import Searcher
from patchword.types import Encoded
from patchword.zero_shot import fingerprint, is_zero_shot

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:.* captions are longer than:UserWarning")]

SENTENCES = [
    "red",
    "A RED dog, and a cat",
    "a very long sentence about dogs and cats that does not fit",
    "x  y",
    "dog!",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("checkpoints")
    return {family: write_checkpoint(home / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Model]:
    return {family: load(folder) for family, folder in folders.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of several sizes and proportions, smaller and larger than the models read."""
    home, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for k, (height, width) in enumerate([(40, 40), (30, 61), (75, 20), (9, 14), (3, 50)]):
        coarse = Image.fromarray(draw.integers(0, 255, (4, 5, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(home / f"{k}.png")
        paths.append(home / f"{k}.png")
    return paths


def theirs(folder: Path, family: str) -> tuple[Any, Any]:
    """The model and the picture transform, as transformers reads them."""
    with quiet():
        model = getattr(transformers, KNOWN[family].model).from_pretrained(folder)
        return model.eval(), getattr(transformers, KNOWN[family].transform).from_pretrained(folder)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_image_vectors_are_those_of_transformers(
    family: str, folders: dict[str, Path], models: dict[str, Model], pictures: list[Path]
) -> None:
    model, transform = theirs(folders[family], family)
    shown = [Image.fromarray(decode(path)) for path in pictures]
    expected = model.get_image_features(**transform(shown, return_tensors="pt")).pooler_output
    found = models[family].encode_images(PictureFiles(pictures))
    assert found.lengths.tolist() == [1] * len(pictures)
    torch.testing.assert_close(found.vectors, unit(expected), atol=1e-5, rtol=0)
    assert (found.vectors @ found.vectors.T).fill_diagonal_(0).max() < 0.9999  # pictures are told apart


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_caption_vectors_are_those_of_transformers(
    family: str, folders: dict[str, Path], models: dict[str, Model]
) -> None:
    model, _ = theirs(folders[family], family)
    with quiet():
        tokenizer = read_tokenizer(str(folders[family]), family)
    padding = "longest" if family == "clip" else "max_length"
    tokens = tokenizer(SENTENCES, padding=padding, truncation=True, max_length=CONTEXT, return_tensors="pt")
    assert ("attention_mask" in tokens) == (family != "siglip")
    assert tokens["input_ids"].shape[1] == CONTEXT  # one sentence is longer
    expected = model.get_text_features(**tokens).pooler_output
    found = models[family].encode_captions(SENTENCES, batch=2)
    torch.testing.assert_close(found.vectors, unit(expected), atol=1e-5, rtol=0)
    assert (found.vectors @ found.vectors.T).fill_diagonal_(0).max() < 0.9999


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_and_probabilities_are_those_of_transformers(
    family: str, folders: dict[str, Path], models: dict[str, Model], pictures: list[Path]
) -> None:
    model, transform = theirs(folders[family], family)
    with quiet():
        tokenizer = read_tokenizer(str(folders[family]), family)
    tokens = tokenizer(SENTENCES, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt")
    shown = [Image.fromarray(decode(path)) for path in pictures]
    expected = model(**tokens, **transform(shown, return_tensors="pt")).logits_per_image
    ours: Any = models[family]
    scores = ours.score(ours.encode_images(PictureFiles(pictures)), ours.encode_captions(SENTENCES))
    torch.testing.assert_close(ours.method.logits(scores), expected, atol=1e-4, rtol=1e-5)
    probability = ours.method.match_probability(scores)
    assert (probability is None) == (family == "clip")
    if probability is not None:
        torch.testing.assert_close(probability, torch.sigmoid(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_transformers_transform(
    family: str, folders: dict[str, Path], models: dict[str, Model], pictures: list[Path]
) -> None:
    _, transform = theirs(folders[family], family)
    read = prepare_source(models[family].method, PictureFiles(pictures)).read(range(len(pictures))).values
    expected = transform([Image.fromarray(decode(path)) for path in pictures], return_tensors="pt")
    if family == "siglip2":
        read, shapes = split_shapes(read)
        assert torch.equal(shapes, expected["spatial_shapes"])
        assert len({tuple(shape) for shape in shapes.tolist()}) > 2  # pictures keep their proportions
    assert torch.equal(read, expected["pixel_values"].float())


@pytest.mark.parametrize("interaction", ["global", "patches"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_the_same_model(
    family: str, interaction: Any, folders: dict[str, Path], pictures: list[Path], tmp_path: Path
) -> None:
    model = load(folders[family], interaction=interaction)
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.method.config == model.method.config
    assert again.about == {"zero_shot": KNOWN[family].label, "transformers": transformers.__version__}
    assert str(folders[family]) not in (tmp_path / "saved" / "config.json").read_text()
    source = PictureFiles(pictures)
    assert torch.equal(again.encode_images(source).vectors, model.encode_images(source).vectors)
    assert torch.equal(again.encode_captions(SENTENCES).vectors, model.encode_captions(SENTENCES).vectors)
    assert fingerprint(again) == fingerprint(model)
    other = load(tmp_path / "saved", interaction="patches" if interaction == "global" else "global")
    assert other.encode_images(source).max_length != model.encode_images(source).max_length
    assert fingerprint(other) != fingerprint(model)
    shutil.move(folders[family] / "tokenizer.json", tmp_path / "kept")  # a saved model needs no other folder
    try:
        assert len(load(tmp_path / "saved").encode_captions(["red"])) == 1
    finally:
        shutil.move(tmp_path / "kept", folders[family] / "tokenizer.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_existing_verbs_take_a_folder(
    family: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pictures(tmp_path / "data", {"test": 6})
    folder = str(folders[family])
    assert main(["evaluate", folder, "--data", str(data), "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    assert "i2t" in json.dumps(evaluation)
    assert main(["search", folder, "a red wall", "--data", str(data), "-k", "6", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["a red wall"]
    split = open_split(data, "test", images="pictures")
    model = load(folder)
    scores = model.score(model.encode_images(split.require_images()), model.encode_captions(["a red wall"]))[:, 0]
    assert [hit["image_id"] for hit in hits] == [split.image_ids[i] for i in scores.argsort(descending=True)]
    assert Searcher(model, split).by_image("test_2.png", 1)[0].rank == 1
    assert main(["explain", folder, str(split.files[0]), "a red wall", "-o", str(tmp_path / "why.html")]) == 0  # type: ignore[index]
    assert "red" in (tmp_path / "why.html").read_text()


@pytest.mark.parametrize("interaction", ["global", "patches"])
@pytest.mark.parametrize("family", FAMILIES)
def test_explanations_of_a_file_add_up(
    family: str, interaction: Any, folders: dict[str, Path], pictures: list[Path]
) -> None:
    model = load(folders[family], interaction=interaction)
    found = explain(model, pictures[1], "a red dog").alignment
    scores = model.score(model.encode_images(PictureFiles([pictures[1]])), model.encode_captions(["a red dog"]))
    assert found.score == pytest.approx(float(scores), abs=1e-5)
    assert float(found.parts.sum()) == pytest.approx(found.score, abs=1e-5)
    assert found.words[-1] == "<end>"
    assert "red" in found.words
    rows = model.tokenize(["a red dog"])[0]
    assert len(found.words) == len(found.parts) == len(rows)


def test_what_a_name_means(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_zero_shot(folders["clip"])
    assert is_zero_shot(Path("openai/clip-vit-base-patch32"))
    load(folders["clip"]).save(tmp_path / "saved")
    for name in ("saved", "runs", "runs/typo", "../runs/demo", "demo", "/no/such"):
        assert not is_zero_shot(name), name


def test_late_interaction_is_ranked_by_bounds_as_by_scores(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folders["clip"], interaction="patches")
    draw = torch.Generator().manual_seed(0)
    width = model.encode_captions(["a dog"]).vectors.shape[1]
    images, captions = (
        Encoded(torch.nn.functional.normalize(torch.randn(n * size, width, generator=draw)), torch.full((n,), size))
        for n, size in ((30, 5), (90, 4))
    )
    monkeypatch.setattr("patchword.scoring.hard_screen._WORTH", 1e9)  # these sets are too small for it to pay
    owner = torch.arange(90) // 3
    exact, found = ranks(model, images, captions, owner), ranks(model, images, captions, owner, precision="certified")
    assert found.screened is not None
    for side in ("i2t", "t2i"):
        for part in ("greater", "equal", "positives"):
            assert (getattr(getattr(found, side), part) == getattr(getattr(exact, side), part)).all()
    images, captions = (
        Encoded.from_padded(part.padded()[0], torch.ones(len(part), dtype=torch.long)) for part in (images, captions)
    )
    with pytest.raises(ScoreError, match="every item is one vector"):
        ranks(load(folders["clip"]), images, captions, owner, precision="certified")


def test_names_on_the_hub_without_network(folders: dict[str, Path], tmp_path: Path) -> None:
    """The real code of transformers, told to stay offline: a name that the hub gave before works, others are one line.

    The model names the folder that the hub's files lie in, so that an index can be made with it.
    """
    cached = tmp_path / "home" / "hub" / "models--someone--tiny"
    snapshot = cached / "snapshots" / ("0" * 40)
    shutil.copytree(folders["siglip"], snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    code = (
        "import sys, patchword; from patchword.cli import main; model = patchword.load('someone/tiny'); "
        "print(model.label, model.path); print(model.encode_captions(['red']).vectors.sum().item(), flush=True); "
        f"sys.exit(main(['search', 'openai/no-such-clip', 'a dog', '--data', {str(tmp_path)!r}]))"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **offline}, check=False
    )
    assert done.returncode == 2, done.stderr
    said, total = done.stdout.splitlines()
    assert said == f"siglip (someone/tiny) {snapshot}"
    expected = load(folders["siglip"]).encode_captions(["red"]).vectors.sum()
    assert float(total) == pytest.approx(float(expected), abs=1e-5)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    said = "CheckpointError: 'openai/no-such-clip' is no folder here, and the hub can not be reached: "
    assert done.stderr.startswith(said)


def test_pretrained_towers_by_their_names_on_the_hub(tmp_path: Path) -> None:
    """As above: what was fetched before is found without network, anything else is one line."""
    cached = tmp_path / "home" / "hub" / "models--someone--bert"
    write_bert(cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    data = write_precomp(tmp_path / "data")
    recipe = write_recipe(tmp_path / "tiny.yaml", "vse_inf", data, bert=Path("someone/bert"))
    code = (
        "import sys; from patchword.cli import main; "
        f"train = ['train', {str(recipe)!r}, '--train.epochs', '1', '--out']; "
        f"assert main([*train, {str(tmp_path / 'run')!r}]) == 0; "
        f"sys.exit(main([*train, {str(tmp_path / 'other')!r}, '--model.text.pretrained', 'someone/nobody']))"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **offline}, check=False
    )
    assert done.returncode == 2, done.stderr
    assert load(tmp_path / "run").encode_captions(["a red dog"]).vectors.isfinite().all()
    assert "CheckpointError: 'someone/nobody' is no folder here, and the hub can not be reached" in done.stderr


def test_what_can_not_be_loaded_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"describes a 'bert' model\. Expected CLIP or SigLIP or SigLIP 2"):
        load(write_bert(tmp_path / "bert"))
    with pytest.raises(CheckpointError, match=r"is a checkpoint of 'clip'\. Expected one of 'chan'"):
        load(folders["clip"], method="chan")
    cut = tmp_path / "cut"
    shutil.copytree(folders["siglip"], cut)
    weights = load_file(cut / "model.safetensors")
    del weights["vision_model.head.probe"]
    save_file(weights, cut / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights of a SigLIP model.*vision_model\.head\.probe"):
        load(cut)
    (cut / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="holds no SigLIP vocabulary"):
        load(cut)


def test_a_tokeniser_that_pools_the_wrong_word_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(folders["clip"], wrong)
    config = json.loads((wrong / "config.json").read_text())
    config["text_config"]["eos_token_id"] -= 1
    (wrong / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"ends a caption with id \d+, but the text model pools id"):
        load(wrong)
    config["text_config"]["eos_token_id"] = 2  # as in OpenAI's files: the largest id is pooled
    (wrong / "config.json").write_text(json.dumps(config))
    assert torch.equal(
        load(wrong).encode_captions(SENTENCES).vectors, load(folders["clip"]).encode_captions(SENTENCES).vectors
    )


def test_an_interaction_is_for_models_that_have_one(folders: dict[str, Path], tmp_path: Path) -> None:
    from small import recipe, write_precomp

    from patchword.train.run import train

    train(recipe("vse_inf", write_precomp(tmp_path / "data"), {"train": {"epochs": 1}}), tmp_path / "run")
    with pytest.raises(ConfigError, match="is a vse_inf"):
        load(tmp_path / "run", interaction="patches")


def test_a_tokeniser_that_fills_on_the_left_or_lowers_is_heeded(folders: dict[str, Path], tmp_path: Path) -> None:
    changed = tmp_path / "left"
    shutil.copytree(folders["siglip2"], changed)
    path = changed / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "left"}))
    model, _ = theirs(changed, "siglip2")
    with quiet():
        tokens = read_tokenizer(str(changed), "siglip2")(
            SENTENCES, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
        )
    with torch.no_grad():
        expected = unit(model.get_text_features(**tokens).pooler_output)
    torch.testing.assert_close(load(changed).encode_captions(SENTENCES).vectors, expected, atol=1e-5, rtol=0)
    plain = tmp_path / "lower"
    shutil.copytree(folders["siglip"], plain)
    tokenizer = json.loads((plain / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (plain / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert not torch.equal(*load(plain).encode_captions(["RED DOG", "red dog"]).vectors)
    path = plain / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": True}))
    assert torch.equal(*load(plain).encode_captions(["RED DOG", "red dog"]).vectors)


def test_a_folder_whose_name_is_not_utf8_is_to_be_renamed(folders: dict[str, Path], tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        place.symlink_to(folders["clip"])
    except OSError:
        pytest.skip("this file system keeps names in UTF-8")
    with pytest.raises(CheckpointError, match=r"caf\\xe9': the name is not valid UTF-8\. Rename it\."):
        load(place)
