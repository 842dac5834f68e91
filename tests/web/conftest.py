"""A small real index, made once: pictures, a random model over their pixels, captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import make_index, make_pictures
from starlette.testclient import TestClient

from patchword.retrieve.engine import Index
from patchword.web.app import create_app


@pytest.fixture(scope="session")
def small_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an index that no test changes; its pictures lie beside it in ``pictures``."""
    place = tmp_path_factory.mktemp("served")
    return make_index(make_pictures(place / "pictures"), place / "my.index")


@pytest.fixture(scope="session")
def opened(small_index: Path) -> Iterator[Index]:
    """The same, open."""
    with Index.open(small_index) as found:
        yield found


@pytest.fixture
def client(opened: Index) -> Iterator[TestClient]:
    """A client of a service over it, in this process."""
    with TestClient(create_app(opened), base_url="http://127.0.0.1", raise_server_exceptions=False) as found:
        yield found
