"""Run golden cases and say, quantity by quantity, whether ours equals the authors' code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from patchword.errors import ConfigError, DataError, PatchwordError
from patchword.parity.cases import Case, Ledger, Row, find_cases, read_case


def runner_of(case: Case) -> Callable[[Case], Ledger] | None:
    """Which comparison a case needs, from its fields and tensors, never from its file name."""
    method, kind = case.fields["method"], str(case.fields.get("kind", ""))
    if method == "evaluation":
        where = "evaluation:compare"
    elif method == "vse_infinity" and kind == "evaluation protocol":
        where = "evaluation:compare_protocol"
    elif {"vocab_bigru", "vocab_bert", "cases"} <= set(case.fields):
        where = "words:compare_words"
    elif method in ("vse_infinity", "chan") and "images" in case.tensors:
        where = f"{'vse_inf' if method == 'vse_infinity' else 'chan'}:compare"
    elif method in ("scta", "laps"):
        where = "scta:compare"
    elif method == "hrem" and kind == "slice":
        where = "hrem:compare_slice"
    elif method in ("hrem", "aahr") and any(name.startswith("state.img_enc.") for name in case.tensors):
        where = f"{method}:compare"
    elif method == "esl" and kind == "slice":
        where = "esl_slices:compare"
    elif method == "esl" and "in.images" in case.tensors:
        where = "esl:compare"
    elif method == "cefg" and "in.images" in case.tensors:
        where = "cefg:compare"
    elif method == "cefg" and "in.boxes_xyxy" in case.tensors:
        where = "cefg_inputs:compare_adjacency"
    elif method == "cefg" and {"file_text", "graphs"} <= set(case.fields):
        where = "cefg_inputs:compare_penman"
    else:
        return None
    module, _, name = where.partition(":")
    found: Callable[[Case], Ledger] = getattr(import_module(f"patchword.parity.{module}"), name)
    return found


def compare_path(path: Path) -> Ledger:
    """Compare one case; a kind that no comparison knows gives an empty ledger, which does not pass.

    Raises:
        DataError: the case is unreadable or incomplete.
    """
    case = read_case(path)
    runner = runner_of(case)
    try:
        return Ledger(case) if runner is None else runner(case)
    except KeyError as error:
        raise DataError(f"'{path}' has no {error}, which this kind of case needs.") from None


def parity(folders: Sequence[Path]) -> list[Ledger]:
    """Compare every case in the folders.

    A case that can not be compared fails, with the reason, and the others go on.

    Raises:
        ConfigError: no folder was given, so nothing would be compared.
        DataError: a folder holds no case, or the only case is unreadable.
    """
    if not folders:
        raise ConfigError(
            "nothing to compare: no case was given. Give folders with golden cases (NAME.json with NAME.safetensors), "
            "or single cases: patchword parity tests/golden/chan"
        )
    paths = find_cases(folders)
    if len(paths) == 1:
        return [compare_path(paths[0])]
    return [_compared_or_failed(path) for path in paths]


def _compared_or_failed(path: Path) -> Ledger:
    try:
        return compare_path(path)
    except Exception as error:  # noqa: BLE001 - a damaged case may fail anywhere; it must not hide the others
        named = "" if isinstance(error, PatchwordError) else f"{type(error).__name__}: "
        reason = " ".join(f"{named}{error}".split())
        return Ledger(Case(path, {}, {}), [Row("case", float("inf"), float("inf"), "readable", False, reason)])


def report(ledgers: Sequence[Ledger]) -> list[dict[str, Any]]:
    """JSON form: one object per case."""
    return [
        {
            "case": ledger.case.name,
            "passed": ledger.passed,
            "rows": [asdict(row) for row in ledger.rows],
            "not_compared": ledger.not_compared,
        }
        for ledger in ledgers
    ]
