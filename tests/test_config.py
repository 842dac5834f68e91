from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import refused

from patchword.config import DataConfig, Source, TrainConfig, merge, parse_overrides, read_yaml, validate
from patchword.errors import ConfigError
from patchword.methods.chan import ChanConfig


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_come_as_plain_python_with_their_lines(tmp_path: Path) -> None:
    values, source = read_yaml(yaml_file(tmp_path, "method: chan\ntrain:\n  lr_steps: [3, 4]\n  lr: 1e-4\n"))
    assert values == {"method": "chan", "train": {"lr_steps": [3, 4], "lr": "1e-4"}}
    assert source.place(["train", "lr"]).endswith("my.yaml:4")
    assert source.place(["train", "absent"]).endswith("my.yaml:2")
    assert source.place(["absent"]).endswith("my.yaml")


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert read_yaml(yaml_file(tmp_path, "# nothing\n"))[0] == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"my\.yaml:3: key `a` is given twice \(first in line 1\)"),
        ("t:\n  a: 1\n  a: 3\n", r"my\.yaml:3: key `t\.a` is given twice \(first in line 2\)"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']\n", r"my\.yaml:2: tag .* is not allowed"),
        ("a: !!set {x}\n", r"my\.yaml:1: tag .* is not allowed"),
        ("a: !!python/name:os.system x\n", r"my\.yaml:1: tag .* is not allowed"),
        ("a: !secret x\n", r"my\.yaml:1: tag '!secret' is not allowed"),
        ("a:\n\tb: 1\n", r"my\.yaml:2: not valid YAML"),
        ("a: [1, 2\nb: 3\n", r"my\.yaml:\d: not valid YAML"),
        ("a: 1\n---\nb: 2\n", r"my\.yaml:2: not valid YAML"),
        ("a: \0\n", "not valid YAML"),
        ("- a\n- b\n", "expected a mapping such as 'method: chan', found a list"),
        ("just words\n", "expected a mapping .* found a str"),
        ("? [a, b]\n: 1\n", r"my\.yaml:1: a key must be a plain word"),
        ("a: &x [1]\nb: *x\n", r"my\.yaml:2: aliases \(\*x\) are not allowed"),
        ("a: 1\nb: 2024-13-45\n", r"my\.yaml:2: '2024-13-45' looks like a date or a number, but is none"),
        ("a: &x [*x]\n", r"my\.yaml:1: aliases"),
        ("a: " + "[" * 600 + "]" * 600 + "\n", "nests its values too deeply"),
    ],
)
def test_unusual_yaml_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_yaml(yaml_file(tmp_path, text))


def test_a_python_tag_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(ConfigError):
        read_yaml(yaml_file(tmp_path, f"a: !!python/object/apply:os.mkdir ['{mark}']\n"))
    assert not mark.exists()


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(ConfigError, match="can not be read"):
        read_yaml(path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "chan_f30k.yaml").write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"does not exist\. Did you mean `chan_f30k`\?"):
        read_yaml(tmp_path / "chan_f3k.yaml")


# ------------------------------------------------------------------ values


def test_numbers_that_yaml_reads_as_text_are_converted() -> None:
    made = validate(TrainConfig, {"lr": "5e-4", "epochs": "3"}, Source("x", {}))
    assert (made.lr, made.epochs) == (5e-4, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": "fast"}, r"my\.yaml:7: `train\.lr` is 'fast': input should be a valid number"),
        ({"lr": 0}, r"my\.yaml:7: `train\.lr` is 0: input should be greater than 0"),
        ({"lr": float("nan")}, "finite"),
        ({"lr": True}, r"^my\.yaml:7: `train`: `lr` is not something that can be true or false\.$"),
        ({"epochs": False}, r"^my\.yaml:3: `train`: `epochs` is not something that can be true or false\.$"),
        ({"select_on": "none", "patience": 2}, "`train`: patience 2 counts epochs .* with select_on none no epoch is"),
        ({"epochs": 1.5}, r"`train\.epochs` is 1\.5"),
        ({"precision": "fp16"}, "'float32' or 'bf16'"),
        ({"select_on": "tset"}, "'dev', 'test' or 'none'"),
        ({"lr_steps": [1, "x"]}, r"`train\.lr_steps\.1` is 'x'"),
        ({"freeze_backbone": {"first": 4}}, "freeze_backbone"),
        ({"batch_size": 1}, "greater than 1"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_line(values: dict[str, Any], message: str) -> None:
    source = Source("my.yaml", {("train",): 3, ("train", "lr"): 7})
    with pytest.raises(ConfigError, match=message):
        validate(TrainConfig, values, source, ("train",))


def test_a_pair_of_values_is_refused_where_they_were_written() -> None:
    """Of all the values of the section only those that the message names are told."""
    lines: dict[tuple[str | int, ...], int] = {("model",): 2, ("model", "joint_dim"): 3, ("model", "heads"): 4}
    model = {"joint_dim": 30, "heads": 4, "text": {"kind": "bigru", "word_dim": 11}}
    problem = "`model`: joint_dim 30 is not a multiple of heads 4."
    for options, place in (((), "my.yaml:3"), ((("model", "heads"),), "option --model.heads")):
        with pytest.raises(ConfigError) as refusal:
            validate(ChanConfig, model, Source("my.yaml", lines, options), ("model",))
        assert str(refusal.value) == f"{place}: {problem}"
    with pytest.raises(ConfigError, match=f"^my.yaml:2: {problem}$"):
        validate(ChanConfig, model, Source("my.yaml", {("model",): 2}), ("model",))


def test_a_pair_of_values_is_refused_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["doctor", "recipe", "hrem_scenes", "--model.joint_dim", "30"], capsys, kind="ConfigError")
    assert said == "ConfigError: option --model.joint_dim: `model`: joint_dim 30 is not a multiple of heads 4."


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (TrainConfig, {"batch_sise": 3}, r"unknown key `batch_sise`\. Did you mean `batch_size`\?"),
        (TrainConfig, {"zzz": 3}, r"Known: batch_size, clip_norm"),
        (ChanConfig, {"bert": {}}, "unknown key `bert`"),
        (ChanConfig, {"image": {"kind": "regions", "widht": 3}}, r"`image\.widht`\. Did you mean `width`\?"),
        (ChanConfig, {"text": {"kind": "bert", "word_dim": 3}}, r"unknown key `text\.word_dim`"),
        (ChanConfig, {"image": {"width": 3}}, "unable to extract tag using discriminator 'kind'"),
        (ChanConfig, {"image": {"kind": "pixels"}}, "'pixels'"),
        (ChanConfig, {"image": 7}, "`image` is 7"),
    ],
)
def test_an_unknown_key_is_refused_at_every_level(model: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(model, values, Source("my.yaml", {}))


def test_configurations_can_not_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        DataConfig().region_drop = 0.5  # type: ignore[misc]


# ------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--train.lr", "1e-4"], {"train": {"lr": "1e-4"}}),
        (["--train.lr=0.5"], {"train": {"lr": 0.5}}),
        (["--data.name=a=b"], {"data": {"name": "a=b"}}),
        (["--data.name", ""], {"data": {"name": None}}),
        (["--data.region-drop", "0"], {"data": {"region_drop": 0}}),
        (["--train.lr_steps", "[3, 4]"], {"train": {"lr_steps": [3, 4]}}),
        (["--data.root", "a: [b"], {"data": {"root": "a: [b"}}),
        (["--train.lr", "-1", "--train.epochs=2"], {"train": {"lr": -1, "epochs": 2}}),
        (["--model.image.width", "8"], {"model": {"image": {"width": 8}}}),
    ],
)
def test_overrides_become_nested_values(arguments: list[str], expected: dict[str, Any]) -> None:
    assert parse_overrides(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.lr", "3"], r"unexpected argument 'train\.lr'"),
        (["--train.lr"], "has no value"),
        (["--train.lr", "--train.epochs", "3"], "'--train.lr' has no value"),
        (["--", "3"], "unexpected argument '--'"),
        (["--train.lr", "1", "--train.lr", "2"], "is given twice"),
        (["--train", "1", "--train.lr", "2"], "contradicts"),
        (
            ["--data.name", "2024-13-45"],
            r"option '--data\.name': '2024-13-45' looks like a date .* write \"'2024-13-45'\"",
        ),
    ],
)
def test_bad_overrides_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_overrides(arguments)


_KEYS = st.sampled_from(["a", "b", "c"])
_NESTED: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, 9), lambda inner: st.dictionaries(_KEYS, inner, max_size=3), max_leaves=6
)


@given(base=st.dictionaries(_KEYS, _NESTED), over=st.dictionaries(_KEYS, _NESTED))
def test_merging_keeps_what_is_not_overridden(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = merge(base, over)
    assert set(merged) == set(base) | set(over)
    assert merge(merged, over) == merged
    assert all(merged[key] == base[key] for key in set(base) - set(over))
