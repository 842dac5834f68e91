"""A disk of pictures that is slow, or hangs, keeps no search waiting; nor does counting what the index holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import wait_until
from starlette.testclient import TestClient

from patchword.retrieve.engine import Index
from patchword.web import presence
from patchword.web.app import create_app
from patchword.web.presence import is_there
from patchword.web.service import Service
from patchword.web.settings import Limits, Settings


@pytest.fixture
def client(opened: Index) -> Iterator[TestClient]:
    """A client whose requests fail when they have to wait."""
    app = create_app(opened, Settings(limits=Limits(timeout_s=20.0)))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as found:
        yield found


def service_of(client: TestClient) -> Service:
    found: Service = client.app.state.service  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("path", ["/search?q=a+red+wall", "/similar/1", "/items/1", "/info", "/explain?id=1&q=red"])
def test_thumbnails_in_work_keep_nobody_waiting(client: TestClient, path: str) -> None:
    release, pictures = threading.Event(), service_of(client).pictures
    begun = threading.Semaphore(0)

    def make_thumbnail() -> None:
        begun.release()
        release.wait(60)

    try:
        for _ in range(8):
            pictures._pool.submit(make_thumbnail)
        for _ in range(2):
            assert begun.acquire(timeout=20)
        assert client.get(path).status_code == 200
    finally:
        release.set()


def test_what_a_disk_does_not_say_in_time_is_unknown(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    release, asked = threading.Event(), []
    looking = service_of(client).presence
    looking.limit_s = 0.05

    def hang(item: object) -> bool:
        asked.append(item)
        release.wait(60)
        return True

    monkeypatch.setattr(presence, "is_there", hang)
    try:
        for _ in range(4):
            hits = client.get("/search", params={"q": "a red wall", "k": 10}).json()["hits"]
            assert len(hits) == 10
            assert {hit["available"] for hit in hits} == {None}
        assert (looking.late, len(asked)) == (2, 2)  # no third thread, and nobody waits for one
        assert client.get("/items/1").json()["available"] is None
    finally:
        release.set()
    looking.limit_s = 20.0
    wait_until(lambda: looking.late == 0)
    assert client.get("/items/1").json()["available"] is True
    assert len(asked) == 3  # a late look stops at the file that it was at


def test_a_file_that_can_not_be_looked_at_is_unknown(opened: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    item = opened.item(1)
    assert is_there(item) is True

    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    assert is_there(item) is None


def test_no_request_counts_the_whole_index(opened: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Index.info` counts all items and the files of the shortlist: it takes seconds where there are many."""

    def refuse(_: Index) -> None:
        raise AssertionError("counted")

    expected = opened.info()
    monkeypatch.setattr(Index, "info", refuse)
    with TestClient(create_app(opened), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        told = client.get("/info").json()
        assert (told["images"], told["captions"], told["method"]) == (expected.images, 0, expected.method)
        assert (told["generation"], "width" in told["columns"]) == (expected.generation, True)
        answer = client.get("/captions/1")
        assert (answer.status_code, "no captions are indexed" in answer.json()["error"]) == (404, True)
        assert f"patchword_generation {float(expected.generation)}" in client.get("/metrics").text
