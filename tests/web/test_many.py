"""Several queries in one request: answered in order, each as if it were sent alone, and one that is wrong alone."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from served import encoded, picture, serving
from starlette.testclient import TestClient

from patchword.retrieve.engine import Index
from patchword.web.app import create_app
from patchword.web.settings import Limits, Settings

RED = {"parts": [{"text": "a red wall"}], "k": 3}


def metrics(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from time to time."""
    hits = [{**hit, "score": pytest.approx(hit["score"], abs=1e-5)} for hit in answer["hits"]]
    return {**answer, "hits": hits, "took_ms": None}


def test_each_query_gets_the_answer_that_it_gets_alone(client: TestClient) -> None:
    sent = base64.b64encode(encoded(picture((220, 20, 20), np.random.default_rng(1), (40, 40)), "JPEG")).decode()
    queries: list[dict[str, Any]] = [
        RED,
        {"parts": [{"text": "a blue wall"}, {"text": "a zzzz wall", "weight": -0.5}], "k": 2, "where": "width > 0"},
        {"parts": [{"image_id": 2}], "k": 4, "mode": "exact"},
        {"parts": [{"image": sent}], "k": 1},
        RED,
    ]
    answer = client.post("/search/batch", json=queries)
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    alone = [client.post("/search", json=query).json() for query in queries]
    assert [{**one, "took_ms": None} for one in found] == [without_time(one) for one in alone]
    assert found[1]["unknown_words"] == ["zzzz"]
    told = metrics(client)
    assert told['patchword_requests_total{route="/search/batch",status="200"}'] == 1
    assert told['patchword_batch_queries_total{status="200"}'] == 5


def test_a_wrong_query_is_told_in_its_place(client: TestClient) -> None:
    wrong: dict[str, tuple[Any, int]] = {
        "`query`: Input should be": (7, 422),
        "`parts`: Field required": ({"k": 2}, 422),
        "`parts.0`: Value error, expected exactly one of": ({"parts": [{}]}, 422),
        "`text`: Extra inputs": ({**RED, "text": "a"}, 422),
        "From 1 to 1,000 results": ({**RED, "k": 1001}, 422),
        "At most 16 can be joined": ({"parts": [{"text": "a wall"}] * 17}, 422),
        "unknown column `root`": ({**RED, "where": "root = 'x'"}, 400),
        "none of the words": ({"parts": [{"text": "zzzz"}]}, 400),
        "is not in the index": ({"parts": [{"image_id": 99}]}, 400),
        "is not a decodable picture": ({"parts": [{"image": base64.b64encode(b"no picture").decode()}]}, 422),
    }
    queries = [RED, *(query for query, _ in wrong.values()), RED]
    answer = client.post("/search/batch", json=queries)
    assert answer.status_code == 200
    first, *refused, last = answer.json()
    assert first["hits"] == last["hits"]
    assert len(first["hits"]) == 3
    for (says, (_, status)), one in zip(wrong.items(), refused, strict=True):
        assert set(one) == {"error", "status"}
        assert one["status"] == status, one
        assert says in one["error"]
        assert "\n" not in one["error"]
    assert metrics(client)['patchword_batch_queries_total{status="422"}'] == 7


@pytest.mark.parametrize(("body", "says"), [("[]", "at least 1 item"), ("{}", "valid list"), ("[", "no JSON")])
def test_what_is_no_list_of_queries_is_refused(body: str, says: str, client: TestClient) -> None:
    answer = client.post("/search/batch", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert says in answer.json()["error"]


def test_the_number_of_queries_has_a_limit(opened: Index) -> None:
    settings = Settings(limits=Limits(max_batch=3))
    with TestClient(create_app(opened, settings), base_url="http://127.0.0.1") as client:
        assert client.get("/info").json()["limits"]["batch"] == 3
        assert len(client.post("/search/batch", json=[RED] * 3).json()) == 3
        answer = client.post("/search/batch", json=[RED] * 4)
        assert (answer.status_code, answer.json()["error"]) == (
            422,
            "4 queries were sent. At most 3 are answered together.",
        )
        many = client.post("/search/batch", content=json.dumps([{}] * 200_000), headers={"Content-Type": "text/json"})
        assert many.status_code == 422


def test_a_bug_in_one_query_is_told_there_and_found_in_the_log(
    opened: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    search = opened.search_batch

    def broken(queries: Any, *arguments: Any, **options: Any) -> Any:
        if options["where"] is not None:
            raise ZeroDivisionError("a bug in /secret/place.py")
        return search(queries, *arguments, **options)

    monkeypatch.setattr(opened, "search_batch", broken)
    with TestClient(create_app(opened), base_url="http://127.0.0.1") as client:
        good, bad = client.post("/search/batch", json=[RED, {**RED, "where": "width > 0"}]).json()
    assert len(good["hits"]) == 3
    assert (bad["error"], bad["status"]) == ("internal error", 500)
    assert f"internal error {bad['id']}" in caplog.text


def test_batches_take_no_room_of_other_requests(opened: Index) -> None:
    """Few requests at a time are allowed, and each brings many queries: none of these is told to come again."""
    with serving(opened, {"concurrency": 4}) as served, ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(served.http.post, "/search/batch", json=[RED] * 64) for _ in range(3)]
        ask = pool.submit(served.get, "/search", params={"q": "a red wall"})
        assert ask.result().status_code == 200
        for job in jobs:
            assert all(len(one["hits"]) == 3 for one in job.result().json())
        told = served.metrics()
        assert told['patchword_batch_queries_total{status="200"}'] == 192
        assert told["patchword_in_flight"] == 0
        assert told["patchword_batch_size_count"] < 193  # scored together
