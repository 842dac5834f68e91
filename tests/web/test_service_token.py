"""Who may ask: tokens, host names, and what is refused at the start."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from patchword.errors import ConfigError
from patchword.retrieve.engine import Index
from patchword.web.app import create_app
from patchword.web.settings import Settings

TOKEN = "t0ken-of-24-characters-xx"


@pytest.fixture
def guarded(opened: Index) -> Iterator[TestClient]:
    """A client that has to know a token."""
    settings = Settings(token=TOKEN)
    with TestClient(create_app(opened, settings), base_url="http://localhost:8008", follow_redirects=False) as found:
        yield found


def test_without_the_token_nothing_but_health_is_answered(guarded: TestClient) -> None:
    assert guarded.get("/health").status_code == 200
    paths = (
        "/",
        "/info",
        "/search?q=a",
        "/thumb/1",
        "/images/1",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/static/app.js",
    )
    for path in (*paths, "/nowhere"):
        answer = guarded.get(path)
        assert answer.status_code == 401, path
        assert "token" in answer.json()["error"]
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.post("/search", json={}).status_code == 401


@pytest.mark.parametrize(
    "header", ["Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer", f"Bearer {TOKEN}x", "Bearer \xe9"]
)
def test_a_wrong_header_is_refused(header: str, guarded: TestClient) -> None:
    assert guarded.get("/info", headers={"Authorization": header.encode("latin-1")}).status_code == 401


def test_the_header_lets_in(guarded: TestClient) -> None:
    assert guarded.get("/info", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_page_is_opened_once_with_the_token_and_then_has_a_cookie(guarded: TestClient) -> None:
    assert guarded.get("/?token=wrong").status_code == 401
    answer = guarded.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(re.split(r"; ", cookie))
    assert TOKEN not in cookie
    assert guarded.get("/info").status_code == 200  # the client kept the cookie
    assert guarded.get("/search?q=a red wall").status_code == 200


def test_the_token_in_another_address_lets_nobody_in(guarded: TestClient) -> None:
    assert guarded.get(f"/info?token={TOKEN}").status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8008", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"]
)
def test_a_local_service_does_not_answer_to_other_names(host: str, client: TestClient) -> None:
    answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == 400
    assert "not known as" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8008", "127.3.2.1"])
def test_a_local_service_answers_to_the_names_of_this_machine(host: str, client: TestClient) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_further_names_can_be_given(opened: Index) -> None:
    with TestClient(
        create_app(opened, Settings(names=("photos.example",))), base_url="http://photos.example"
    ) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"Host": "other.example"}).status_code == 400


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": "0.0.0.0"}, "no token was given.*--no-token"),
        ({"host": "photos.example"}, "no token was given"),
        ({"host": "0.0.0.0", "token": "short"}, "5 characters.*Expected 16"),
        ({"token": ""}, "token is empty"),
        ({"token": "two words"}, "has spaces"),
        ({"token": TOKEN, "open_to_all": True}, "Expected one of them"),
        ({"port": 70000}, "`port` is 70000"),
    ],
)
def test_unsafe_settings_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(**wrong)  # type: ignore[arg-type]


def test_other_machines_may_ask_when_that_is_said() -> None:
    assert not Settings(host="0.0.0.0", token=TOKEN).is_local
    assert Settings(host="0.0.0.0", open_to_all=True).token is None
    assert Settings(host="::1").is_local
