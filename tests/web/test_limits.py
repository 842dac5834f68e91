"""What one client may ask for, send and hold: everything above is a clear answer, and others are not kept waiting."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import encoded, make_index, picture, png_of, read_all, serving, wait_until
from starlette.testclient import TestClient

from patchword.errors import ConfigError
from patchword.retrieve.engine import Index
from patchword.web.app import create_app
from patchword.web.connection import PatientConnection
from patchword.web.settings import Limits, Settings
from patchword.web.thumbs import ThumbCache

TEXT = "a red wall"
JSON = {"Content-Type": "application/json"}


class Gate:
    """Keeps the index's searches waiting until it is opened."""

    def __init__(self, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        search = index.search_batch

        def slow(*arguments: object, **options: object) -> object:
            self.entered.set()
            assert self.open.wait(30)
            return search(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(index, "search_batch", slow)


@pytest.fixture
def small(opened: Index) -> Iterator[TestClient]:
    """A client of a service with narrow limits."""
    limits = Limits(max_body_mb=0.05, max_pixels=5000, max_query=30, max_k=25, max_parts=3)
    with TestClient(create_app(opened, Settings(limits=limits)), base_url="http://127.0.0.1") as found:
        yield found


# ------------------------------------------------------------------ sizes


def test_the_limits_are_told(small: TestClient) -> None:
    told = small.get("/info").json()["limits"]
    assert told == {"body_mb": 0.05, "pixels": 5000, "query": 30, "k": 25, "parts": 3, "batch": 64, "timeout_s": 30.0}


def test_k_query_and_parts_have_limits(small: TestClient) -> None:
    assert len(small.get("/search", params={"q": TEXT, "k": 25}).json()["hits"]) == 13
    for path in (f"/search?q={TEXT}&k=26", "/similar/1?k=26", "/captions/1?k=26", f"/search?q={TEXT}&k=0"):
        assert small.get(path).status_code == 422, path
    assert "`k` is 26. From 1 to 25" in small.get(f"/search?q={TEXT}&k=26").json()["error"]
    for path in (f"/search?q={'a' * 31}", f"/explain?id=1&q={'a' * 31}", f"/search?q=a&where={'a' * 31}"):
        answer = small.get(path)
        assert (answer.status_code, "31 characters. At most 30" in answer.json()["error"]) == (422, True), path
    part = {"text": TEXT}
    assert small.post("/search", json={"parts": [part] * 3, "k": 2}).status_code == 200
    answer = small.post("/search", json={"parts": [part] * 4, "k": 2})
    assert (answer.status_code, answer.json()["error"]) == (422, "the query has 4 parts. At most 3 can be joined.")


def test_a_picture_is_measured_before_it_is_decoded(small: TestClient) -> None:
    draw = np.random.default_rng(0)
    good, large = encoded(picture((9, 9, 9), draw, (70, 70)), "JPEG"), encoded(Image.new("RGB", (71, 71)))
    assert small.post("/similar?k=2", content=good, headers={"Content-Type": "image/jpeg"}).status_code == 200
    for raw in (large, png_of(20_000, 20_000)):
        answer = small.post("/similar?k=2", content=raw, headers={"Content-Type": "image/png"})
        assert (answer.status_code, "5,000 are decoded" in answer.json()["error"]) == (422, True)
        part = {"image": base64.b64encode(raw).decode()}
        assert small.post("/search", json={"parts": [part], "k": 2}).status_code == 422


def test_a_bomb_is_refused_at_once(client: TestClient) -> None:
    bomb = png_of(50_000, 50_000)
    started = time.perf_counter()
    answer = client.post("/similar", content=bomb, headers={"Content-Type": "image/png"})
    assert (answer.status_code, "pixels" in answer.json()["error"]) == (422, True)
    assert time.perf_counter() - started < 2


def test_thumbnails_stay_within_their_memory() -> None:
    cache = ThumbCache(100)
    for k in range(50):
        cache.put(str(k), bytes(30))
        assert cache.get("0") == bytes(30)  # used last, so it stays
        assert cache.held == 30 * len(cache) <= 100
    assert cache.get("1") is None
    cache.put("large", bytes(101))
    assert cache.get("large") is None


SENSELESS = (
    {"max_k": 0}, {"max_k": 19}, {"max_batch": 1025}, {"timeout_s": float("inf")}, {"max_pixels": 10**9},
    {"concurrency": -1},
)  # fmt: skip


@pytest.mark.parametrize("wrong", SENSELESS)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}` is"):
        Limits(**wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------ bodies


def test_an_oversized_body_is_answered_whether_or_not_its_size_is_told(opened: Index) -> None:
    with serving(opened, {"max_body_mb": 0.5}) as served:
        for body, headers in (
            (bytes(2_000_000), JSON),
            (iter([bytes(50_000)] * 40), {**JSON, "Transfer-Encoding": "chunked"}),
        ):
            with served.connection() as connection:
                connection.request("POST", "/search", body, headers, encode_chunked=True)  # type: ignore[arg-type]
                answer = connection.getresponse()
                assert answer.status == 413
                assert b"larger than 0.5 MB" in answer.read()
        with served.raw() as raw:  # a size that is only claimed is not waited for
            raw.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n")
            raw.shutdown(1)
            assert read_all(raw).startswith(b"HTTP/1.1 413 ")
        assert served.get("/search", params={"q": TEXT}).status_code == 200
        assert served.metrics()["patchword_in_flight"] == 0


def test_slow_clients_are_cut_off_and_keep_nobody_waiting(opened: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientConnection, "header_s", 0.6)
    limits = {"body_grace_s": 0.6, "concurrency": 4}
    with serving(opened, limits) as served, ThreadPoolExecutor(20) as pool:

        def dribble(head: bytes) -> bytes:
            with served.raw() as raw:
                raw.sendall(head)
                for _ in range(200):
                    try:
                        raw.sendall(b"a")
                    except OSError:
                        break
                    time.sleep(0.02)
                return read_all(raw)

        body = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
        headers = b"GET /search?q=wall HTTP/1.1\r\nHost: localhost\r\nX-Long: "
        started = time.perf_counter()
        slow = [pool.submit(dribble, head) for head in [body] * 8 + [headers] * 8]
        time.sleep(0.2)  # more slow clients are connected now than requests may be in work
        for _ in range(5):
            assert served.get("/search", params={"q": TEXT}).status_code == 200
        assert time.perf_counter() - started < 0.6 + 1
        answers = [one.result() for one in slow]
        assert all(b" 408 " in answer.splitlines()[0] for answer in answers[:8] if answer)
        assert not any(answers[8:])  # closed without an answer
        assert time.perf_counter() - started < 4


def test_the_second_request_of_a_connection_has_to_come_in_time_too(
    opened: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientConnection, "header_s", 0.3)
    with serving(opened) as served, served.raw() as raw:
        ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(2):
            raw.sendall(ask)
            found = b""
            while not found.endswith(b'{"status":"ok"}'):
                found += raw.recv(1000)
            time.sleep(0.5)  # an idle connection is kept for longer
        raw.sendall(ask[:10])
        started = time.perf_counter()
        assert read_all(raw) == b""
        assert 0.2 < time.perf_counter() - started < 2


def test_a_client_that_does_not_read_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "pictures" / "large.png")  # 6.8 MB: more than the buffers between us
    index = make_index(tmp_path / "pictures", tmp_path / "my.index")
    with serving(index, {"timeout_s": 2.0, "concurrency": 1}) as served:
        one = served.index.search("wall", 1).hits[0].id
        with served.raw() as raw:
            raw.sendall(f"GET /images/{one} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert raw.recv(1).startswith(b"H")
            wait_until(lambda: served.get("/info").status_code == 200, 1.5)  # it holds no place among those in work
            wait_until(lambda: served.metrics().get('patchword_requests_total{route="/images/{id}",status="499"}') == 1)
        assert len(served.get(f"/images/{one}").content) > 6e6


# ------------------------------------------------------------------ concurrency and time


def test_one_request_too_many_is_told_to_come_again(opened: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(opened, monkeypatch)
    with serving(opened, {"concurrency": 3}) as served, ThreadPoolExecutor(3) as pool:

        def ask() -> int:
            return served.get("/search", params={"q": TEXT}).status_code

        held = [pool.submit(ask) for _ in range(3)]
        wait_until(lambda: served.metrics()["patchword_in_flight"] == 3)
        answer = served.get("/info")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "3 requests are in work" in answer.json()["error"]
        assert served.get("/health").status_code == 200
        gate.open.set()
        assert [one.result() for one in held] == [200] * 3
        assert served.get("/info").status_code == 200


def test_what_takes_too_long_is_answered_504(opened: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(opened, monkeypatch)
    with serving(opened, {"timeout_s": 0.4}) as served:
        started = time.perf_counter()
        answer = served.get("/search", params={"q": TEXT})
        assert (answer.status_code, answer.json()["error"].partition(".")[0]) == (504, "no answer within 0")
        assert 0.3 < time.perf_counter() - started < 3
        gate.open.set()
        wait_until(lambda: served.get("/search", params={"q": TEXT}).status_code == 200)
        assert served.metrics()["patchword_in_flight"] == 0


def test_a_client_that_left_is_not_searched_for(opened: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(opened, monkeypatch)
    with serving(opened) as served:
        left = 'patchword_requests_total{route="/search",status="499"}'
        with served.raw() as first:
            first.sendall(b"GET /search?q=wall HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert gate.entered.wait(10)  # it is being scored, the next ones wait
            for _ in range(10):
                with served.raw() as raw:
                    raw.sendall(b"GET /search?q=wall HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: served.metrics().get(left) == 10)
            gate.open.set()
            assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert served.get("/search", params={"q": TEXT}).status_code == 200
        assert served.metrics()["patchword_batch_size_sum"] == 2  # the first and the last
