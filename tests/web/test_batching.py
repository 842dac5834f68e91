"""Searches of many clients are answered together, and nobody can tell."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from served import SENTENCES, serving, wait_until

from patchword.retrieve.engine import Index


def test_a_hundred_clients_get_what_each_would_get_alone(opened: Index) -> None:
    alone = {text: [(hit.id, hit.score) for hit in opened.search(text, 5).hits] for text in SENTENCES}
    with serving(opened) as served:

        def client(number: int) -> int:
            with served.connection() as connection:
                for turn in range(3):
                    text = SENTENCES[(number + turn) % len(SENTENCES)]
                    connection.request("GET", f"/search?k=5&q={text.replace(' ', '+')}")
                    answer = connection.getresponse()
                    assert answer.status == 200
                    hits = json.loads(answer.read())["hits"]
                    assert [hit["id"] for hit in hits] == [one for one, _ in alone[text]]
                    assert [hit["score"] for hit in hits] == pytest.approx([s for _, s in alone[text]], abs=1e-5)
            return number

        with ThreadPoolExecutor(100) as pool:
            assert sorted(pool.map(client, range(100))) == list(range(100))
        metrics = served.metrics()
        assert metrics["patchword_batch_size_sum"] == 300
        assert metrics["patchword_batch_size_count"] < 300
        assert metrics['patchword_requests_total{route="/search",status="200"}'] == 300


@pytest.fixture
def held(opened: Index, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[int]]:
    """An event that lets the first batch go on, and the sizes of all batches."""
    go, sizes, search = threading.Event(), list[int](), opened.search_batch

    def slow(queries: Any, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(queries))
        assert go.wait(30)
        return search(queries, *arguments, **options)

    monkeypatch.setattr(opened, "search_batch", slow)
    return go, sizes


def test_what_waits_while_one_is_scored_becomes_one_batch(
    opened: Index, held: tuple[threading.Event, list[int]]
) -> None:
    go, sizes = held
    with serving(opened) as served, ThreadPoolExecutor(20) as pool:

        def ask(path: str) -> int:
            return served.get(path).status_code

        first = pool.submit(ask, "/search?q=a+red+wall")
        wait_until(lambda: sizes == [1])
        paths = ["/search?q=a+red+wall"] * 8 + ["/search?q=a+blue+wall&where=width>1"] * 5 + ["/search?q=wall&k=3"] * 2
        rest = [pool.submit(ask, path) for path in paths]
        wait_until(lambda: served.metrics()["patchword_queue"] == 15)
        go.set()
        assert {one.result() for one in (first, *rest)} == {200}
        assert sorted(sizes) == [1, 2, 5, 8]  # those that ask alike share a batch


def test_a_wrong_query_does_not_spoil_the_answers_of_others(
    opened: Index, held: tuple[threading.Event, list[int]]
) -> None:
    go, sizes = held
    with serving(opened) as served, ThreadPoolExecutor(20) as pool:

        def ask(text: str) -> tuple[int, str]:
            answer = served.get("/search", params={"q": text})
            return answer.status_code, answer.json().get("error", "")

        first = pool.submit(ask, "wall")
        wait_until(lambda: sizes == [1])
        good = [pool.submit(ask, "a red wall") for _ in range(6)]
        bad = [pool.submit(ask, "xyzzy plugh") for _ in range(2)]
        wait_until(lambda: served.metrics()["patchword_queue"] == 8)
        go.set()
        assert {one.result() for one in (first, *good)} == {(200, "")}
        for one in bad:
            status, said = one.result()
            assert status == 400
            assert "knows none of the words" in said


def test_an_idle_service_adds_no_wait(opened: Index) -> None:
    for _ in range(3):
        opened.search("a red wall")
    with serving(opened) as served:
        times = []
        for _ in range(20):
            started = time.perf_counter()
            assert served.get("/search?q=a+red+wall").status_code == 200
            times.append(time.perf_counter() - started)
        metrics = served.metrics()
        waited = metrics['patchword_stage_seconds_sum{stage="queue"}'] / 20
        assert waited < 0.01
        assert metrics["patchword_batch_size_count"] == 20
        assert min(times) < 0.25
