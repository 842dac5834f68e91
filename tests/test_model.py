import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small import recipe, same_tensors, weights, write_bert, write_pictures, write_precomp
from transformers import BertConfig, BertModel

from patchword.data.open import open_split
from patchword.errors import CheckpointError, ConfigError, PatchwordError
from patchword.loading import load, without_random_weights
from patchword.model import Model
from patchword.train.run import train
from patchword.train.setup import prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` and an untrained CHAN checkpoint ``chan``."""
    folder = tmp_path_factory.mktemp("made")
    parts = prepare(recipe("chan", write_precomp(folder / "data", {"train": 8, "dev": 4})))
    Model(parts.method, parts.tokenizer, {"selected_on": "none"}, max_words=6).save(folder / "chan")
    return folder


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    return Path(shutil.copytree(made / "chan", tmp_path / "chan"))


def test_loading_draws_no_random_numbers(made: Path) -> None:
    """Weights that a file replaces need no start, and drawing them takes most of the time of a large model."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load(made / "chan")
    assert torch.equal(torch.get_rng_state(), before)
    with without_random_weights():
        BertModel(BertConfig(vocab_size=9, hidden_size=12, num_hidden_layers=1, intermediate_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_leaves_the_compiler_out(made: Path) -> None:
    """torch imports its compiler at the first use, for more than a second, and a search has no need of it."""
    code = "import sys; from patchword.loading import load; load(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, made / "chan"], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (0.5, 2.0), (3.0, 4.0)])
@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_weights_within_bounds_come_to_an_end(bounds: tuple[float, float]) -> None:
    """torch draws again until all lie within; a mean outside of the bounds never would."""
    weight = torch.nn.Parameter(torch.full((5,), 7.0))
    with without_random_weights():
        torch.nn.init.trunc_normal_(weight, a=bounds[0], b=bounds[1])
        layer = torch.nn.Linear(3, 4)
    assert bool(((weight >= bounds[0]) & (weight <= bounds[1])).all())
    assert not layer.weight.any()


def test_what_only_training_needs_starts_anew_in_a_loaded_model(tmp_path: Path) -> None:
    """It is not in the file, so its memory must not be left as it was found."""
    method: Any = prepare(recipe("hrem", write_precomp(tmp_path / "data", {"train": 8, "dev": 4}))).method
    Model(method, None).save(tmp_path / "saved")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load(tmp_path / "saved")
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_saved_model_loads_the_same(made: Path, tmp_path: Path) -> None:
    model = load(made / "chan")
    model.save(tmp_path / "again")
    assert same_tensors(weights(tmp_path / "again"), weights(made / "chan"))
    for name in ("config.json", "vocabulary.json"):
        assert (tmp_path / "again" / name).read_bytes() == (made / "chan" / name).read_bytes()
    assert (model.max_words, model.about["selected_on"], model.method.training) == (6, "none", False)


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_the_batch_changes_no_encoding(batch: int, made: Path) -> None:
    model, split = load(made / "chan"), open_split(made / "data", "train")
    for side, items in (("captions", split.captions), ("images", split.require_images())):
        whole, parts = (getattr(model, f"encode_{side}")(items, batch=size) for size in (64, batch))
        assert torch.equal(whole.lengths, parts.lengths)
        torch.testing.assert_close(whole.vectors, parts.vectors, rtol=1e-5, atol=1e-6)


def test_captions_are_cut_as_in_training_wherever_the_model_goes(made: Path) -> None:
    model = load(made / "chan")
    assert [len(ids) for ids in model.tokenize(["a dog and a cat and a boat"])] == [6]
    assert [len(ids) for ids in model.tokenize(["a dog and a cat and a boat"], max_words=4)] == [4]


def test_a_run_is_loaded_by_its_folder_its_best_and_its_last(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    train(recipe("vse_inf", data, {"train": {"epochs": 1}}), tmp_path / "run")
    for path in (tmp_path / "run", str(tmp_path / "run"), tmp_path / "run" / "best"):
        assert load(path).path == tmp_path / "run" / "best"
    shutil.rmtree(tmp_path / "run" / "best")
    assert load(tmp_path / "run").path == tmp_path / "run" / "last"


@pytest.mark.parametrize("kind", ["bert", "vit", "resnet"])
def test_a_checkpoint_needs_no_file_that_it_was_made_from(kind: str, tmp_path: Path) -> None:
    bert = write_bert(tmp_path / "from" / "bert") if kind == "bert" else None
    if kind == "bert":
        data, image = write_precomp(tmp_path / "from" / "data", {"train": 8, "dev": 4}), None
    else:
        data = write_pictures(tmp_path / "from" / "data", {"train": 8, "dev": 4})
        arch = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        image = {"kind": "vit", "arch": {**arch, "image_size": 16, "patch_size": 8}}
        if kind == "resnet":
            image = {"kind": "resnet", "layers": [1, 1, 1, 1], "base_width": 2, "image_size": 96}
    made = recipe("chan", data, {"train": {"epochs": 1, "batch_size": 8}}, bert=bert, image=image)
    train(made, tmp_path / "run")
    split = open_split(data, "dev", images="auto" if image is None else "pictures")
    before = load(tmp_path / "run").score(*encoded(load(tmp_path / "run"), split))
    (tmp_path / "from").rename(tmp_path / "elsewhere")
    assert str(tmp_path) not in (tmp_path / "run" / "best" / "config.json").read_text(encoding="utf-8")
    split = open_split(tmp_path / "elsewhere" / "data", "dev", images="auto" if image is None else "pictures")
    model = load(tmp_path / "run")
    assert torch.equal(model.score(*encoded(model, split)), before)


def encoded(model: Model, split: Any) -> tuple[Any, Any]:
    return model.encode_images(split.require_images()), model.encode_captions(split.captions)


# ------------------------------------------------------------------ damaged and wrong checkpoints


def test_another_method_is_refused(checkpoint: Path) -> None:
    assert load(checkpoint, method="chan").method.name == "chan"
    with pytest.raises(CheckpointError, match=r"is a checkpoint of 'chan'\. Expected one of 'vse_inf'"):
        load(checkpoint, method="vse_inf")


@pytest.mark.parametrize("path", ["absent", "file", "empty"])
def test_a_place_without_a_checkpoint_is_named(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=path):
        load(tmp_path / path)


@pytest.mark.parametrize("size", [0, 5, 8, 100, -1])
def test_truncated_weights_are_refused(size: int, checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load(checkpoint)


def test_missing_weights_are_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors' is missing"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("image.fc.bias"), "1 tensors differ, the first is `image.fc.bias`"),
        (lambda state: state.update(extra=torch.ones(1)), "1 tensors differ, the first is `extra`"),
        (lambda state: state.update({"image.fc.bias": torch.ones(3)}), r"`image.fc.bias` has shape \(3,\)"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(change: Any, message: str, checkpoint: Path) -> None:
    state = weights(checkpoint)
    change(state)
    save_file(state, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load(checkpoint)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"{}", b"\xff", b'{"method": "chan"}', b"[" * 100000])
def test_a_config_that_is_none_is_refused(text: bytes, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json' is not a checkpoint's config"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("format", 2, CheckpointError),
        ("format", "1", CheckpointError),
        ("method", "clip", ConfigError),
        ("method", ["chan"], CheckpointError),
        ("method", "vse_inf", ConfigError),
        ("model", 3, CheckpointError),
        ("model", {"joint_dim": "wide"}, ConfigError),
        ("model", {"joint_dim": 32}, PatchwordError),
        ("loss", None, CheckpointError),
        ("about", [], CheckpointError),
        ("vocabulary", 3, CheckpointError),
        ("max_words", "six", CheckpointError),
    ],
)
def test_a_config_with_a_wrong_value_is_refused(key: str, value: Any, error: Any, checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises(error):
        load(checkpoint)


def test_a_vocabulary_of_another_size_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "vocabulary.json"
    words = json.loads(path.read_text(encoding="utf-8"))["word2idx"]
    words["zebra"] = len(words)
    path.write_text(json.dumps({"word2idx": words}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="the vocabulary has 21 words, the weights have 20 word rows"):
        load(checkpoint)


def test_a_lost_vocabulary_is_named(checkpoint: Path) -> None:
    (checkpoint / "vocabulary.json").unlink()
    with pytest.raises(CheckpointError, match="lacks the vocabulary"):
        load(checkpoint)


def test_a_folder_whose_name_is_not_utf8_is_to_be_renamed(checkpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        checkpoint.rename(place)
    except OSError:
        pytest.skip("this file system keeps names in UTF-8")
    with pytest.raises(CheckpointError, match=r"caf\\xe9/model\.safetensors': the name is not valid UTF-8\. Rename it"):
        load(place)


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9") / "run"
    for write in (load(checkpoint).save, lambda folder: train("chan_scenes", folder)):
        with pytest.raises(CheckpointError, match=r"caf\\xe9/run': the name is not valid UTF-8\. Rename it\."):
            write(place)
    assert not place.parent.exists()
