"""Options and fixtures of the whole test run."""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

GOLDEN = Path(__file__).parent / "golden"
REAL = Path(__file__).parent / "real"
PACKAGE = Path(__file__).parent.parent / "patchword"


def shaped_modules() -> list[str]:
    """Modules whose signatures declare shapes. In the others mypy says all; checking every call there takes minutes."""
    paths = [path for path in PACKAGE.rglob("*.py") if "from jaxtyping import" in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]


install_import_hook(shaped_modules(), "beartype.beartype")  # before the first import of the package


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--shared DIR``: also run the tests on real annotation files and photographs that lie in DIR/data."""
    parser.addoption(
        "--shared", type=Path, default=None, help="folder with data/ and golden/ of real files; adds tests/real"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/real needs files that are not ours to ship: it is collected only with --shared."""
    if config.getoption("--shared") is None and collection_path.is_relative_to(REAL):
        return True
    return None


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden cases; it must be there."""
    assert GOLDEN.is_dir(), f"{GOLDEN} is missing: the golden cases belong to the test suite"
    return GOLDEN
