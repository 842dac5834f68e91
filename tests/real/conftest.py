"""Real data handed over with `pytest --shared DIR`; the option itself is defined in tests/conftest.py."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest) -> Path:
    """The folder given with `--shared`, which holds `data/`."""
    given = request.config.getoption("--shared")
    assert given is not None, "tests under tests/real need --shared DIR"
    return Path(given)
