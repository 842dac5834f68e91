"""A run of CHAN over tiny data that nothing happens to, for the tests of what may happen to one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import recipe, write_precomp

from patchword.train import loop
from patchword.train.run import train


@pytest.fixture(scope="session", autouse=True)
def logged_by_step() -> Iterator[None]:
    """A busy machine logs no more lines than a free one, so that the logs of two runs can be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY_S", math.inf)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Region features and captions; tests only read them."""
    return write_precomp(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of ten steps, undisturbed."""
    return train(recipe("chan", data), tmp_path_factory.mktemp("whole") / "run").run
