"""RoCOCO's mixed pictures: how they are made, and ranks against a plain computation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluate_toys import toy_model, toy_split
from PIL import Image
from small import refused

from patchword.cli import main
from patchword.data.open import open_split
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import VitConfig
from patchword.errors import ConfigError
from patchword.evaluate.benchmarks import evaluate_benchmark
from patchword.evaluate.on_split import ModelOnSplit
from patchword.evaluate.opening import open_for
from patchword.evaluate.rococo_images import GROUP, SIDE, MixedPictures, draw_mixtures, evaluate_mixed
from patchword.methods.chan import Chan, ChanConfig
from patchword.model import Model

ARCH = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32,
        "patch_size": 16}  # fmt: skip


def write_photos(folder: Path, count: int = 6) -> Path:
    draw = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = []
    for k in range(count):
        Image.fromarray(draw.integers(0, 256, (20 + k, 30, 3), dtype=np.uint8)).save(folder / "images" / f"{k}.png")
        lines.append({"image": f"images/{k}.png", "split": "test", "captions": [f"a dog {k % 2}", "the cat"]})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture
def model() -> Model:
    tokenizer = toy_model().tokenizer
    torch.manual_seed(0)
    text = BigruConfig(vocab_size=tokenizer.size, word_dim=8)
    config = ChanConfig(joint_dim=8, image=VitConfig.model_validate({"kind": "vit", "arch": ARCH}), text=text, heads=2)
    return Model(Chan(config).eval(), tokenizer)


def test_partners_come_from_the_same_group_and_boxes_are_shared_by_it() -> None:
    drawn = draw_mixtures(150, "patch", 1)
    assert sorted(one.other for one in drawn) == list(range(150))
    boxes = [one.box for one in drawn]
    assert len(set(boxes)) == 3  # of 64, 64 and 22 pictures
    for box in set(boxes):
        group = {k for k in range(150) if boxes[k] == box}
        assert len(group) <= GROUP
        assert {drawn[k].other for k in group} == group
        assert box is not None
        top, left, bottom, right = box
        assert 0 <= top < bottom <= SIDE
        assert 0 <= left < right <= SIDE
        assert (bottom - top) * (right - left) <= 0.1 * SIDE**2
    assert drawn == draw_mixtures(150, "patch", 1)
    assert drawn != draw_mixtures(150, "patch", 10)
    assert all(one.box is None for one in draw_mixtures(5, "mix", 1))


def test_equals_a_plain_computation(model: Model, tmp_path: Path) -> None:
    split = open_for(model, write_photos(tmp_path), "test", name=None, limit=None)
    scorer = ModelOnSplit(model, split, batch=4)
    found = evaluate_mixed(scorer, seeds=(1, 10))
    captions = model.encode_captions(split.captions)
    source = split.require_images()
    whole = model.score(model.encode_images(source), captions).numpy()
    for result in found.results:
        mixtures = draw_mixtures(split.n_images, result.way, result.seed)
        pixels = []
        for k, mixture in enumerate(mixtures):
            own, other = (
                np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
                for path in (split.files[k], split.files[mixture.other])  # type: ignore[index]
            )
            made = np.rint(0.9 * own + 0.1 * other).astype(np.uint8) if mixture.box is None else own.copy()
            if mixture.box is not None:
                top, left, bottom, right = mixture.box
                made[top:bottom, left:right] = other[top:bottom, left:right]
            target = tmp_path / f"{result.way}{result.seed}_{k}.png"
            Image.fromarray(made).save(target)
            pixels.append(target)
        mixed = model.score(model.encode_images(type(source)(pixels)), captions).numpy()  # type: ignore[call-arg]
        own = whole[split.owner, np.arange(split.n_captions)]
        wrong = np.arange(split.n_images)[:, None] != split.owner
        ranks = ((whole >= own) & wrong).sum(0) + (mixed >= own).sum(0)
        assert result.attacked.pessimistic.tolist() == ranks.tolist()
        assert result.fooled.tolist() == (mixed.max(0) >= whole.max(0)).tolist()
    numbers = found.to_json()
    rates = [numbers["mix"]["seeds"][seed]["false_rate"] for seed in ("1", "10")]
    assert numbers["mix"]["false_rate"] == pytest.approx(np.mean(rates))
    for part, names in (("clean", ("r1", "r5")), ("mix", ("r1", "false_rate")), ("patch", ("r1_drop", "false_rate"))):
        for name in names:
            low, high = numbers[part]["intervals"][name]
            assert low - 1e-9 <= numbers[part][name] <= high + 1e-9
    assert [row[0] for row in found.report().tables[1][1]] == ["mix", "patch"]
    assert "6 whole and 6 mixed pictures; means over the seeds 1, 10" in found.report().table()


def test_a_mixed_picture_that_ties_counts_as_first(model: Model, tmp_path: Path) -> None:
    """A single picture of 384 x 384, mixed with itself, is the same picture."""
    write_photos(tmp_path, 1)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(
        tmp_path / "images" / "0.png"
    )
    split = open_for(model, tmp_path, "test", name=None, limit=None)
    found = evaluate_mixed(ModelOnSplit(model, split), ways=("patch",), seeds=(1,))
    assert found.clean.pessimistic.tolist() == [0, 0]
    assert found.results[0].attacked.pessimistic.tolist() == [1, 1]
    assert found.results[0].fooled.all()


def test_features_can_not_be_mixed(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="has features, and pictures are what is mixed"):
        evaluate_benchmark("rococo-images", toy_model(), toy_split(["1", "2"]))
    data = write_photos(tmp_path / "photos")
    model.save(tmp_path / "run")
    words = ["evaluate", tmp_path / "run", "--data", data, "--protocol", "rococo-images"]
    assert "Leave out --annotations" in refused([*words, "--annotations", tmp_path], capsys, kind="ConfigError")
    assert main([str(word) for word in words]) == 0
    assert "protocol rococo-images: mixed pictures in the gallery" in capsys.readouterr().out
    pictures = open_split(data, "test", images="pictures").require_images()
    some = MixedPictures(pictures.files, whole=pictures, mixtures=draw_mixtures(6, "mix", 1))  # type: ignore[attr-defined, arg-type]
    assert (some.select([4, 2]).picture(0) == some.picture(4)).all()
