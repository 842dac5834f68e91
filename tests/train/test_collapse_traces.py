"""What the watch says of whole runs that were really trained.

``traces/collapsed.json`` and ``traces/healthy.json`` are taken from the ``metrics.jsonl`` of two runs that logged every
step (``patchword.train.loop.LOG_EVERY_S = 0``): of all lines of kind ``train``, in their order, ``step_recall`` is
``recall`` and ``violation`` is ``violation`` (null where the line has none: no hardest negatives yet), rounded to four
decimals. ``batch`` is the run's ``train.batch_size``, and ``run`` says in a sentence what was trained. The collapsed
run had ``train.on_collapse: warn``, so it goes on after the watch has spoken.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from patchword.train.collapse import CollapseWatch

TRACES = Path(__file__).parent / "traces"


def trace(name: str) -> dict[str, Any]:
    """The numbers of a run, step by step."""
    read: dict[str, Any] = json.loads((TRACES / f"{name}.json").read_text(encoding="utf-8"))
    assert len(read["recall"]) == len(read["violation"]) > 200
    return read


def warned_at(run: dict[str, Any]) -> list[int]:
    """The steps after which the watch says that training has collapsed."""
    watch = CollapseWatch()
    pairs = zip(run["recall"], run["violation"], strict=True)
    return [step for step, (recall, violation) in enumerate(pairs) if watch.see(recall, violation, run["batch"])]


def test_a_real_collapse_is_noticed_soon() -> None:
    run, watch = trace("collapsed"), CollapseWatch()
    begin = next(step for step, violation in enumerate(run["violation"]) if violation is not None and violation > 0.9)
    steps = warned_at(run)
    assert steps, "the run collapsed, and the watch said nothing"
    assert begin <= steps[0] < begin + 4 * watch.window
    assert steps[-1] == len(run["recall"]) - 1, "a collapsed run does not recover"


def test_a_real_healthy_run_is_left_alone_although_it_contracts_its_space() -> None:
    run = trace("healthy")
    hardest = [violation for violation in run["violation"] if violation is not None]
    assert max(hardest) > 0.9, "the trace must hold the moment that looks like a collapse"
    assert warned_at(run) == []


@pytest.mark.parametrize("name", ["collapsed", "healthy"])
def test_the_numbers_of_a_trace_are_shares(name: str) -> None:
    run = trace(name)
    assert all(0 <= recall <= 1 for recall in run["recall"])
    assert all(violation is None or violation >= 0 for violation in run["violation"])
    assert run["batch"] > 1
