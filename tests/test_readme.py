"""The first screen of the README works as printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_docs import README, blocks, run_blocks, workplace  # noqa: F401

FIRST_SCREEN = 40
LINES_OF_CODE = 8


def test_the_first_screen_shows_everything() -> None:
    first = README.read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN]
    text = "\n".join(first)
    order = ["# patchword", "](docs/images/", "pip install", "```python", "| method |", "](docs/start.md)"]
    places = [text.find(part) for part in order]
    assert -1 not in places, f"not on the first screen: {order[places.index(-1)]}"
    assert places == sorted(places)


def test_the_example_is_short() -> None:
    code = next(block for block in blocks(README) if block.language == "python")
    lines = [line for line in code.text.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(lines) <= LINES_OF_CODE


@pytest.mark.integration
def test_the_example_prints_what_is_shown(
    workplace: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = [block for block in blocks(README) if block.language == "python"]
    shown = next(block for block in blocks(README) if block.language == "text").text.splitlines()
    run_blocks(README, code)
    printed = capsys.readouterr().out.rstrip().splitlines()
    assert [words_of(line) for line in printed] == [words_of(line) for line in shown]


def words_of(line: str) -> list[str]:
    """The words of a line of output; numbers and ids differ between machines."""
    return [word for word in line.split() if word.replace("->", "").replace(":", "").isalpha()]
