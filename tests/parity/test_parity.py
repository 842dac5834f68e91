import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import refused
from torch import Tensor

from patchword.cli import main
from patchword.errors import ConfigError, DataError
from patchword.parity.cases import Case, Ledger, find_cases, leaves, read_case
from patchword.parity.run import compare_path, parity, report

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = [GOLDEN / "vse_infinity", GOLDEN / "chan"]
MODELS = ["vse_infinity/case1", "chan/case1"]
INPUTS = ("state_dict/", "images", "captions", "train/images", "train/captions")  # and the lengths
OFF = 1e-3


def tensors_of(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case}.safetensors")


def fields_of(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{case}.json").read_text())
    return found


def expected_of(case: str) -> list[str]:
    """Names of the tensors of a case that are outputs of the authors' code."""
    return [
        name
        for name, value in sorted(tensors_of(case).items())
        if not name.startswith(INPUTS) and not name.endswith("_lengths") and value.is_floating_point()
    ]


def off_by_a_little(value: Tensor) -> Tensor:
    """The tensor with its largest finite entry changed by 1e-3."""
    flat = value.flatten().clone()
    flat[flat.abs().nan_to_num(-1.0).argmax()] += OFF
    return flat.view(value.shape)


def write(folder: Path, case: str, tensors: dict[str, Tensor], fields: dict[str, Any] | None = None) -> Path:
    """A changed copy of a case."""
    path = folder / f"{Path(case).name}.json"
    path.write_text(json.dumps(fields if fields is not None else fields_of(case)))
    if tensors:
        save_file(tensors, path.with_suffix(".safetensors"))
    return path


@cache
def all_off(case: str) -> Ledger:
    """The comparison of a case in which every expected tensor and every scalar is off at once.

    No expected value takes part in computing another, so each row is what it would be if that value alone were off.
    """
    tensors, fields = tensors_of(case), fields_of(case)
    tensors |= {name: off_by_a_little(tensors[name]) for name in expected_of(case)}
    for name, value in fields["scalars"].items():
        if isinstance(value, list):
            fields["scalars"][name] = [*value[:-1], value[-1] + OFF]
        elif isinstance(value, float):
            fields["scalars"][name] = value + OFF
    with TemporaryDirectory() as folder:
        return compare_path(write(Path(folder), case, tensors, fields))


def misses(ledger: Ledger, name: str) -> list[bool]:
    return [not row.passed for row in ledger.rows if row.name == name]


@pytest.mark.parametrize("path", find_cases(FOLDERS), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_case_passes(path: Path) -> None:
    ledger = compare_path(path)
    assert ledger.passed, [row for row in ledger.rows if not row.passed]
    assert len(ledger.rows) >= 15
    assert all("dead in the authors' code" in left for left in ledger.not_compared)


@pytest.mark.parametrize(("case", "name"), [(case, name) for case in MODELS for name in expected_of(case)])
def test_one_changed_value_of_any_tensor_is_a_miss(case: str, name: str) -> None:
    found = misses(all_off(case), name)
    assert found, f"{name} is not compared"
    assert any(found)


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, n) for case in MODELS for n, v in fields_of(case)["scalars"].items() if isinstance(v, float | list)],
)
def test_one_changed_scalar_is_a_miss(case: str, name: str) -> None:
    assert any(misses(all_off(case), f"scalars.{name}"))


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("vse_infinity/case1", "sims"),
        ("vse_infinity/case3", "grid_features"),
        ("vse_infinity/case3", "train/grad/hinge_max/img_enc.image_encoder.gpool.linear.weight"),
        ("chan/case1", "train/traj/loss"),
        ("chan/case2", "sims/VSACoding/LSEPooling"),
        ("chan/case3", "coding/THACoding"),
        ("vse_infinity/case4", "sims_a"),
    ],
)
def test_one_changed_tensor_alone_fails_the_command(
    tmp_path: Path, case: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = tensors_of(case)
    value = tensors[name]
    if name == "sims_a":  # an input of the protocol: make the best image of caption 0 another one
        value[:, 0] = -value[:, 0]
        tensors[name] = value
    else:
        tensors[name] = off_by_a_little(value)
    write(tmp_path, case, tensors)
    assert main(["parity", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "MISS" in said
    assert "0 of 1 cases passed" in said


@pytest.mark.parametrize("case", MODELS)
def test_a_nan_in_place_of_a_number_is_a_miss(tmp_path: Path, case: str) -> None:
    tensors = tensors_of(case)
    name = next(n for n in tensors if n.startswith("sims"))
    tensors[name][0, 0] = torch.nan
    assert any(misses(compare_path(write(tmp_path, case, tensors)), name))


def test_a_number_in_place_of_the_reference_nan_is_a_miss(tmp_path: Path) -> None:
    tensors, name = tensors_of("chan/case1"), "sims_raw/VHACoding/SoftmaxPooling"
    assert tensors[name].isnan().any()
    tensors[name] = tensors[name].nan_to_num(0.5)
    assert any(misses(compare_path(write(tmp_path, "chan/case1", tensors)), name))


def change_counter(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    for name in tensors:
        if name.startswith("train/buffer") and name.endswith("bns.0.num_batches_tracked"):
            tensors[name] += 1


def change_length(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    fields["config"]["img_lens"][0] -= 1


def change_margin(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    fields["config"]["margin"] += 1e-3


def change_weight(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    tensors["state_dict/img_enc.fc.weight"] = off_by_a_little(tensors["state_dict/img_enc.fc.weight"])


def change_caption(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    tensors["captions"][0, 1] = 5 if tensors["captions"][0, 1] != 5 else 6


@pytest.mark.parametrize("change", [change_counter, change_length, change_margin, change_weight, change_caption])
def test_changed_inputs_and_settings_are_noticed(
    tmp_path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]
) -> None:
    case = "vse_infinity/case1"
    tensors, fields = tensors_of(case), fields_of(case)
    change(tensors, fields)
    assert not compare_path(write(tmp_path, case, tensors, fields)).passed


def first_leaf(value: Any, path: str) -> list[str | int]:
    """Keys of the first number below a dotted path."""
    keys: list[str | int] = [int(k) if k.isdigit() else k for k in path.split(".")]
    for key in keys:
        value = value[key]
    return [*keys, 0] if isinstance(value, list) else keys


@pytest.mark.parametrize("path", [p for p, _ in leaves(fields_of("vse_infinity/case4")["metrics"], "metrics")], ids=str)
def test_one_changed_recall_is_a_miss(tmp_path: Path, path: str) -> None:
    fields = fields_of("vse_infinity/case4")
    *outer, last = first_leaf(fields, path)
    place = fields
    for key in outer:
        place = place[key]  # type: ignore[index]
    place[last] += OFF  # type: ignore[index]
    assert not compare_path(write(tmp_path, "vse_infinity/case4", tensors_of("vse_infinity/case4"), fields)).passed


@pytest.mark.parametrize("kind", ["bigru", "bert"])
def test_one_changed_token_is_a_miss(tmp_path: Path, kind: str) -> None:
    fields = fields_of("vse_infinity/case5")
    for k in range(len(fields["cases"][kind])):
        changed = json.loads(json.dumps(fields))
        changed["cases"][kind][k]["ids"][-1] += 1
        ledger = compare_path(write(tmp_path, "vse_infinity/case5", tensors_of("vse_infinity/case5"), changed))
        assert [row.name for row in ledger.rows if not row.passed] == [f"cases.{kind}.{k}"]


def test_a_case_with_nothing_comparable_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fields in (
        {"method": "chan"},
        {"method": "chan", "kind": "something new", "numbers": [1, 2]},
        {"method": "a method of the future", "scalars": {"loss": 1.0}},
        {"method": "vse_infinity", "tensors": {}},
    ):
        write(tmp_path, "case1", {"numbers": torch.ones(2)}, fields)
        assert not compare_path(tmp_path / "case1.json").passed
        assert main(["parity", str(tmp_path)]) == 1
        said = capsys.readouterr().out
        assert "NOT COMPARED, 0 quantities compared" in said
        assert "not compared: numbers" in said
    assert main(["parity", str(tmp_path), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] is False
    assert said["cases"][0]["not_compared"] == ["numbers"]


def test_one_failing_case_among_passing_ones_fails_the_command(tmp_path: Path) -> None:
    write(tmp_path, "vse_infinity/case5", tensors_of("vse_infinity/case5"))
    assert main(["parity", str(tmp_path)]) == 0
    (tmp_path / "other.json").write_text(json.dumps({"method": "chan"}))
    assert main(["parity", str(tmp_path)]) == 1


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("name", ["captions", "image_lengths", "state_dict/txt_enc.embed.weight"])
def test_a_missing_input_is_refused(tmp_path: Path, case: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = tensors_of(case)
    del tensors[name]
    write(tmp_path, case, tensors)
    assert main(["parity", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert name.removeprefix("state_dict/") in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("name", ["caption_lengths", "image_lengths", "train/caption_lengths", "train/image_lengths"])
def test_a_length_that_is_no_whole_number_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = tensors_of("chan/case1")
    tensors[name][1] += OFF
    path = write(tmp_path, "chan/case1", tensors)
    assert f"tensor `{name}` holds " in refused(["parity", path], capsys, kind="DataError")
    (tmp_path / "other.json").write_text(json.dumps({"method": "chan"}))
    assert main(["parity", str(tmp_path)]) == 1
    assert "case1: FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("part", ["img_emb", "train/sims"])
def test_a_missing_output_is_not_passed_over(tmp_path: Path, case: str, part: str) -> None:
    tensors, fields = tensors_of(case), fields_of(case)
    del tensors[part]
    with pytest.raises(DataError, match=f"lacks the tensor `{part}`"):
        compare_path(write(tmp_path, case, tensors, fields))
    del fields["tensors"][part]
    with pytest.raises(DataError, match=f"has no '{part}', which this kind of case needs"):
        compare_path(write(tmp_path, case, tensors, fields))


def test_listed_tensors_must_be_there_in_their_shape(tmp_path: Path) -> None:
    fields = {"method": "chan", "tensors": {"a": {"shape": [2, 3]}}}
    for tensors, said in (({"b": torch.ones(2)}, "lacks the tensor `a`"), ({"a": torch.ones(3)}, r"shape \[3\]")):
        with pytest.raises(DataError, match=said):
            read_case(write(tmp_path, "case1", tensors, fields))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "x"}', "\x00"])
def test_unreadable_cases_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="golden case"):
        read_case(tmp_path / "a.json")


def test_a_truncated_tensor_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "case1", {"a": torch.ones(100)}, {"method": "chan"})
    beside = path.with_suffix(".safetensors")
    beside.write_bytes(beside.read_bytes()[:200])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        read_case(path)


def test_folders_without_cases_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "none"):
        assert main(["parity", str(place)]) == 2
        assert "holds no golden case" in capsys.readouterr().err


def test_what_a_case_is_does_not_depend_on_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "renamed"
    folder.mkdir()
    path = write(folder, "zzz", tensors_of("vse_infinity/case5"), fields_of("vse_infinity/case5"))
    assert compare_path(path).passed
    told = report(parity([folder]))
    assert [one["case"] for one in told] == ["renamed/zzz"]
    assert told[0]["passed"]


def ledger(**tensors: Tensor) -> Ledger:
    return Ledger(Case(Path("x/y.json"), {"method": "chan"}, tensors))


def test_tolerances() -> None:
    made = ledger()
    for name, found, expected, passes in (
        ("equal", 1.0, 1.0, True),
        ("within", 1.0 + 9e-6, 1.0, True),
        ("beyond", 1.0 + 4e-5, 1.0, False),
        ("large within", 100.0 + 4e-4, 100.0, True),
        ("capped", 1e6 + 1e-3, 1e6, False),
        ("nan", torch.nan, torch.nan, True),
        ("found nan", torch.nan, 1.0, False),
        ("expected nan", 1.0, torch.nan, False),
        ("inf", torch.inf, torch.inf, True),
        ("other inf", torch.inf, -torch.inf, False),
        ("shape", torch.ones(2), torch.ones(3), False),
    ):
        made.close(name, found, expected, atol=1e-5, rtol=1e-5)
        assert made.rows[-1].passed is passes, name
    made.exact("ids", torch.tensor([1, 2]), [1, 2])
    made.exact("other ids", torch.tensor([1, 2]), [1, 3])
    assert [row.passed for row in made.rows[-2:]] == [True, False]
    assert not made.passed


def test_nothing_compared_is_not_passed_and_leftovers_are_listed() -> None:
    made = ledger(a=torch.ones(1), b=torch.ones(1), c=torch.ones(1))
    assert not made.passed
    made.close("a", torch.ones(1), made.input("a"), atol=0.0, rtol=0.0)
    made.excuse("c", "never used")
    assert made.passed
    assert made.not_compared == ["b", "c (never used)"]
    with pytest.raises(DataError, match="has no tensor `d`"):
        made.input("d")


# ------------------------------------------------------------------ a folder of cases, some of them damaged


def copy_of_case(source: Path, target: Path, drop: str | None = None) -> Path:
    """A case under another name, without one of its tensors."""
    tensors = load_file(source.with_suffix(".safetensors"))
    save_file({name: value for name, value in tensors.items() if name != drop}, target.with_suffix(".safetensors"))
    target.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    return target.with_suffix(".json")


def test_a_damaged_case_fails_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = GOLDEN / "chan" / "case2"
    copy_of_case(source, tmp_path / "a_broken", drop="sims/selected")
    copy_of_case(source, tmp_path / "b_whole")
    (tmp_path / "c_text.json").write_text("no JSON", encoding="utf-8")
    assert main(["parity", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "a_broken: FAILED" in said
    assert "lacks the tensor `sims/selected` that 'a_broken.json' lists" in said
    assert "b_whole: passed" in said
    assert "is not a readable golden case" in said
    assert "1 of 3 cases passed" in said


@pytest.mark.parametrize("about", [{"shape": [2, 3]}, ["float32", [2, 3]], [[2, 3], "torch.float32"]])
def test_a_tensor_that_the_case_lists_may_not_be_missing(about: Any, tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text(json.dumps({"method": "hrem", "tensors": {"a": about, "b": about}}))
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "case.safetensors")
    with pytest.raises(DataError, match="lacks the tensor `b`"):
        read_case(tmp_path / "case.json")
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(3, 2)}, tmp_path / "case.safetensors")
    with pytest.raises(DataError, match=r"`b` has shape \[3, 2\], 'case.json' says \[2, 3\]"):
        read_case(tmp_path / "case.json")


def test_a_tensor_below_a_used_name_is_listed_as_not_compared(tmp_path: Path) -> None:
    source = GOLDEN / "chan" / "case2"
    tensors = load_file(source.with_suffix(".safetensors"))
    save_file({**tensors, "images.extra": torch.ones(2)}, tmp_path / "case.safetensors")
    (tmp_path / "case.json").write_bytes(source.with_suffix(".json").read_bytes())
    assert "images.extra" in compare_path(tmp_path / "case.json").not_compared


def test_nothing_to_compare_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--json"]):
        said = refused(["parity", *more], capsys, kind="ConfigError")
        assert "nothing to compare: no case was given" in said
        assert "patchword parity tests/golden/chan" in said
    with pytest.raises(ConfigError, match="no case was given"):
        parity([])
