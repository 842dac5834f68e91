"""Options and fixtures of the whole test run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from xdist.scheduler import LoadFileScheduling

GOLDEN = Path(__file__).parent / "golden"
REAL = Path(__file__).parent / "real"
PACKAGE = Path(__file__).parent.parent / "patchword"

# One thread in each process, the processes that tests start included: there are as many of them as cores, these sizes
# gain nothing from more, and threads that wait for one another keep busy the cores that others need.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def shaped_modules() -> list[str]:
    """Modules whose signatures declare shapes. In the others mypy says all; checking every call there takes minutes."""
    paths = [path for path in PACKAGE.rglob("*.py") if "from jaxtyping import" in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]


jaxtyping.install_import_hook(shaped_modules(), "beartype.beartype")  # before the first import of the package


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--shared DIR``: also run the tests on real annotation files and photographs that lie in DIR/data."""
    parser.addoption(
        "--shared", type=Path, default=None, help="folder with data/ and golden/ of real files; adds tests/real"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/real needs files that are not ours to ship: it is collected only with --shared."""
    if collection_path.name == "conftest.py":
        return True  # it is no test, and two of one name can not both be imported as tests
    if config.getoption("--shared") is None and collection_path.is_relative_to(REAL):
        return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Shapes are checked in unit tests. Integration tests make the same calls by the thousand."""
    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("integration") is not None)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


class Scheduling(LoadFileScheduling):
    """A file at a time for each process, and the whole search page in one: its tests share a browser and indexes."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "tests/page" if file.startswith("tests/page/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Which process runs what."""
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden cases; it must be there."""
    assert GOLDEN.is_dir(), f"{GOLDEN} is missing: the golden cases belong to the test suite"
    return GOLDEN
