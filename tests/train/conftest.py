"""A run of CHAN over tiny data that nothing happens to, for the tests of what may happen to one."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import recipe, write_precomp

from patchword.train.run import train


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Region features and captions; tests only read them."""
    return write_precomp(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of ten steps, undisturbed."""
    return train(recipe("chan", data), tmp_path_factory.mktemp("whole") / "run").run
