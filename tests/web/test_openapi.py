"""The description of the API: complete, true under generated requests, and shown without any outside request."""

from __future__ import annotations

import contextlib
import re
from html.parser import HTMLParser

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import response_schema_conformance
from starlette.testclient import TestClient

from patchword.retrieve.engine import Index
from patchword.web.app import create_app
from patchword.web.settings import Limits, Settings

ROUTES = {
    ("get", "/search"), ("post", "/search"), ("get", "/similar/{id}"), ("post", "/similar"), ("get", "/captions/{id}"),
    ("post", "/captions"), ("get", "/explain"), ("get", "/images/{id}"), ("get", "/thumb/{id}"), ("get", "/items/{id}"),
    ("get", "/info"), ("get", "/health"), ("get", "/metrics"), ("post", "/search/batch"),
}  # fmt: skip


def test_every_route_is_described(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    found = {(method, path): told for path, methods in document["paths"].items() for method, told in methods.items()}
    assert set(found) == ROUTES
    for place, told in found.items():
        assert told["summary"], place
        assert told["description"], place
        assert all(p.get("description") for p in told.get("parameters", [])), place
        for status, answer in told["responses"].items():
            if int(status) >= 400:
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorOut"), (place, status)
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), name
    assert document["components"]["schemas"]["SearchIn"]["examples"]


class Sources(HTMLParser):
    """What a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [
            value or "" for key, value in attrs if key in ("src", "srcset", "data", "action") or tag == "link"
        ]
        assert not any(key.startswith("on") or key == "style" for key, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_of_the_api_loads_nothing(client: TestClient) -> None:
    answer = client.get("/docs")
    page = Sources()
    page.feed(answer.text)
    assert page.loaded == []
    assert "script" not in page.tags
    assert not re.search(r"https?://", answer.text)
    for _, path in ROUTES:
        assert path in page.text
    assert "Bearer" not in page.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


# ------------------------------------------------------------------ generated requests


@pytest.fixture(scope="module")
def described(opened: Index) -> BaseSchema:
    """The schema of an application in this process."""
    app = create_app(opened, Settings(names=("testserver",), limits=Limits(max_body_mb=1.0, timeout_s=20.0)))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")  # of schemathesis' own strategies
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_generated_requests_get_what_is_described(
    method: str, path: str, mode: GenerationMode, described: BaseSchema
) -> None:
    """Requests that fit the description, and requests that do not."""
    operation = described[path][method.upper()]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def ask(case: Case) -> None:
        answer = case.call()
        case.validate_response(answer, checks=[not_a_server_error, response_schema_conformance])
        if answer.status_code >= 400:
            assert set(answer.json()) == {"error"}

    with contextlib.suppress(Unsatisfiable):  # a route without parameters has no wrong requests
        ask()
