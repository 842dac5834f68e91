from pathlib import Path
from typing import Any

import pytest
from small import recipe_values, write_recipe

from patchword.errors import ConfigError
from patchword.recipe import find_recipe, load_recipe, make_recipe, recipe_folders, to_yaml


@pytest.mark.parametrize("path", sorted(recipe_folders()[-1].glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path).method in path.stem
    assert load_recipe(path.stem).dump() == load_recipe(path).dump()


@pytest.mark.parametrize("method", ["chan", "vse_inf"])
def test_a_dumped_recipe_reads_back_the_same(method: str, tmp_path: Path) -> None:
    first = load_recipe(write_recipe(tmp_path / "a.yaml", method, tmp_path))
    (tmp_path / "b.yaml").write_text(to_yaml(first.dump()), encoding="utf-8")
    assert load_recipe(tmp_path / "b.yaml").dump() == first.dump()


def test_the_loss_of_a_recipe_stands_on_the_published_one_of_its_method() -> None:
    assert make_recipe({"method": "chan"}).loss.margin == 0.05  # type: ignore[attr-defined]
    assert make_recipe({"method": "chan", "loss": {"warmup_epochs": 3}}).loss.margin == 0.05  # type: ignore[attr-defined]
    assert make_recipe({"method": "vse_inf"}).loss.margin == 0.2  # type: ignore[attr-defined]


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "my.yaml", "chan", tmp_path)
    assert load_recipe(path, ["--train.lr", "5e-4", "--model.pooling=max"]).train.lr == 5e-4
    assert load_recipe(path, {"train": {"epochs": 9}}).train.epochs == 9


def test_another_kind_of_tower_drops_the_keys_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    image = "{kind: vit, pretrained: some/vit, class_token: true}"
    path.write_text(f"method: esl\nmodel: {{image: {image}, text: {{word_dim: 12, kind: bigru}}}}\n", encoding="utf-8")
    swin: Any = load_recipe(path, ["--model.image.kind", "swin"]).model
    assert (swin.image.kind, swin.image.pretrained, swin.image.class_token) == ("swin", Path("some/vit"), True)
    resnet: Any = load_recipe(path, ["--model.image.kind", "resnet", "--model.text.kind=bert"]).model
    assert (resnet.image.kind, resnet.text.kind) == ("resnet", "bert")
    shipped: Any = load_recipe("esl_h_f30k_butd_bert", ["--model.image.kind", "resnet", "--data.images", "pictures"])
    assert shipped.model.image.kind == "resnet"
    with pytest.raises(ConfigError, match=r"^option --model\.image\.width: unknown key `model\.image\.width`"):
        load_recipe(path, ["--model.image.kind", "resnet", "--model.image.width", "9"])
    with pytest.raises(ConfigError, match=r"model\.image"):
        load_recipe(path, ["--model.image.kind", "no_such"])


def test_a_wrong_override_is_named_as_an_option_not_as_a_line_of_the_file(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "my.yaml", "chan", tmp_path)
    with pytest.raises(ConfigError, match=r"^option --train\.lr: `train\.lr` is 'fast'"):
        load_recipe(path, ["--train.lr", "fast"])
    with pytest.raises(ConfigError, match=r"^option --train\.lrr: unknown key `train\.lrr`\. Did you mean `train\.lr`"):
        load_recipe(path, ["--train.lrr", "1"])
    with pytest.raises(ConfigError, match=r"^option --trian\.lr: unknown key `trian`"):
        load_recipe(path, ["--trian.lr", "1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"my\.yaml: key `method` is missing\. Methods: vse_inf, chan"),
        ("train: {epochs: 3}\n", "key `method` is missing"),
        ("method: chna\n", r"my\.yaml:1: unknown method 'chna'\. Did you mean `chan`\?"),
        ("method: [chan]\n", "unknown method"),
        ("method: chan\ntrian: {}\n", r"my\.yaml:2: unknown key `trian`\. Did you mean `train`\?"),
        ("method: chan\n3: {}\n", r"my\.yaml:2: unknown key `3`"),
        ("method: chan\ntrain: 3\n", r"my\.yaml:2: `train` is 3\. Expected a mapping of options"),
        ("method: chan\ntrain: [1]\n", r"my\.yaml:2: `train` is \[1\]"),
        ("method: chan\ntrain:\n  epochs: 3\n  lr: fast\n", r"my\.yaml:4: `train\.lr` is 'fast'"),
        ("method: chan\nloss:\n  max_violation: yes\n", r"my\.yaml:3: .*Did you mean `loss\.negatives_after`"),
        ("method: chan\nmodel:\n  image:\n    kind: regions\n    widht: 3\n", "5: unknown key `model.image.widht`"),
        ("method: chan\nmodel: {embed_size: 3}\n", r"my\.yaml:2: .*Did you mean `model\.joint_dim` \(called"),
        ("method: vse_inf\nmodel:\n  coding: vha\n", r"my\.yaml:3: unknown key `model\.coding`"),
        ("method: vse_inf\nmodel:\n  heads: 8\n", r"my\.yaml:3: unknown key `model\.heads`"),
        ("method: chan\nmodel:\n  residual_mlp: true\n", r"my\.yaml:3: unknown key `model\.residual_mlp`"),
        ("method: vse_inf\nmodel:\n  pooling: lse\n", r"my\.yaml:3: `model\.pooling` is 'lse': .*'gpo' or 'mean'"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_with_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_method_that_is_no_name_is_refused_with_another_tower_too(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("method: [chan]\nmodel: {text: {kind: bigru}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown method"):
        load_recipe(path, ["--model.text.kind", "bert"])


def test_an_unknown_name_suggests_the_nearest_recipe() -> None:
    known = sorted(path.stem for path in recipe_folders()[-1].glob("*.yaml"))[0]
    with pytest.raises(ConfigError, match=rf"does not exist\. Did you mean `{known}`\?"):
        find_recipe(known + "x")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(tmp_path)


def test_sections_may_be_empty(tmp_path: Path) -> None:
    values = recipe_values("chan", tmp_path)
    assert make_recipe({**values, "train": None}).train == make_recipe({"method": "chan"}).train


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chan_scene", "Did you mean `chan_scenes`?"),
        (
            "hrem_xyz",
            "Known: hrem_coco_butd_bert, hrem_f30k_butd_bert, hrem_flickr8k_grid36_bigru, "
            "hrem_flickr8k_grid36_minilm, hrem_scenes.",
        ),
        ("xyz", "known ones begin with aahr, best, cefg, chan, esl, hrem, laps, scta, vse; an example is chan_scenes."),
    ],
)
def test_an_unknown_recipe_is_answered_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe '{name}' does not exist") as error:
        find_recipe(name)
    assert str(error.value).endswith(said)
