"""The first screen of the README works as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_docs import README, blocks, run_blocks, workplace  # noqa: F401

CHINESE = README.with_name("README.zh.md")
FIRST_SCREEN = 40
LINES_OF_CODE = 8


def test_the_first_screen_shows_everything() -> None:
    first = README.read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN]
    text = "\n".join(first)
    order = [
        "# patchword",
        "](docs/images/",
        "pip install",
        "index build",
        "```python",
        "| method |",
        "](docs/start.md)",
    ]
    places = [text.find(part) for part in order]
    assert -1 not in places, f"not on the first screen: {order[places.index(-1)]}"
    assert places == sorted(places)
    assert "R@K:" in text
    assert "rsum:" in text


def test_what_the_first_screen_reports_was_measured_or_published() -> None:
    docs, rows = README.with_name("docs"), first_rows()
    results = docs.joinpath("results.md").read_text(encoding="utf-8")
    numbers = [number for row in rows for number in re.findall(r"\d+\.\d(?: ± \d+\.\d)?", "|".join(row[1:-2]))]
    assert numbers
    assert not [number for number in numbers if f"| {number} |" not in results and f"| **{number}** |" not in results]
    for row in rows:
        pages = re.findall(r"\]\(([^)#]+)", row[0])
        said = [README.parent.joinpath(page).read_text(encoding="utf-8") for page in pages]
        published = re.findall(r"\d+\.\d", row[-2])
        assert published
        assert not [number for number in published if not any(number in page for page in said)]
        for recipe in re.findall(r"`(\w+)`", row[-1]):
            assert README.with_name("recipes").joinpath(f"{recipe}.yaml").is_file()


def first_rows() -> list[list[str]]:
    """Cells of the rows of the first table: method, our numbers, published ones, recipes."""
    first = README.read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN]
    return [line.strip("|").split("|") for line in first if line.startswith("|") and "`" in line]


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


def test_the_chinese_page_has_the_same_code() -> None:
    assert [code_of(block.text) for block in blocks(CHINESE)] == [code_of(block.text) for block in blocks(README)]


def test_the_chinese_page_has_the_same_numbers() -> None:
    assert rows_of(CHINESE) == rows_of(README)


def test_the_chinese_page_links_to_what_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)", CHINESE.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (CHINESE.parent / link).is_file()]


def code_of(text: str) -> list[str]:
    """Lines without their comments."""
    return [re.sub(r"\s+#.*", "", line) for line in text.splitlines()]


def rows_of(page: Path) -> list[tuple[str, list[str]]]:
    """Recipe and numbers of every row of the tables."""
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines if line.startswith("|") and "`" in line]
    return [(cells[-2], re.findall(r"\d+\.\d", " ".join(cells[1:-2]))) for cells in rows]
