"""Input that is wrong on purpose: every answer is clear, one line, without a path of this machine, and never a 5xx."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from served import Served, encoded, picture, read_all, serving
from starlette.testclient import TestClient

from patchword.retrieve.engine import Index
from patchword.web.schemas import SearchIn

JSON = {"Content-Type": "application/json"}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.fixture(scope="module")
def served(opened: Index) -> Iterator[Served]:
    """One running server."""
    with serving(opened) as found:
        yield found


@pytest.fixture
def checked(client: TestClient, small_index: Path) -> Iterator[TestClient]:
    """A client all of whose answers are looked at, and after which the service still works."""
    answers = []
    send = client.send

    def kept(*arguments: Any, **options: Any) -> Any:
        answers.append(send(*arguments, **options))
        return answers[-1]

    client.send = kept  # type: ignore[method-assign]
    yield client
    assert client.get("/search", params={"q": "a red wall"}).status_code == 200
    assert answers
    for answer in answers:
        assert answer.status_code < 500, (answer.request.url, answer.text)
        if answer.status_code >= 400:
            said = answer.json()["error"]
            assert said
            assert "\n" not in said
            assert len(said) <= 500
            assert str(small_index.parent) not in said
            assert not re.search(r"(?<![\w:/])/(home|root|tmp|usr|work)/", said)
            assert "Traceback" not in said


def refused(answer: Any, *statuses: int) -> str:
    """The error of an answer that has to be one."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    return str(answer.json()["error"])


# ------------------------------------------------------------------ addresses

ESCAPES = (
    "/images/..", "/images/../../etc/passwd", "/images/..%2f..%2fetc%2fpasswd", "/thumb/%2e%2e%2f1",
    "/images//etc/passwd", "/static/../app.py", "/static/..%2f..%2fapp.py", "/static/%2e%2e/settings.py",
    "/static//etc/passwd",
    "/static/..%5c..%5capp.py", "/items/1%00", "/static/%00", "/images/1.png",
    "/images/1/../2/x", "/static/", "/images/",
)  # fmt: skip


@pytest.mark.parametrize("path", ESCAPES)
def test_addresses_lead_nowhere_else(path: str, served: Served) -> None:
    with served.raw() as raw:  # sent as they are: clients would tidy them up
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        found = read_all(raw)
    assert re.match(rb"HTTP/1.1 (404|405|422) ", found), found[:200]
    assert b"root:" not in found
    assert b"import" not in found


@pytest.mark.parametrize("one", ["-1", "1e3", "0x1", "9" * 30, "null", "1 or 1=1", "٣", "1.5", "a" * 3000])
def test_ids_that_are_none(one: str, checked: TestClient) -> None:
    for path in ("/images/{}", "/thumb/{}", "/items/{}", "/similar/{}", "/captions/{}"):
        refused(checked.get(path.format(one)), 404)
    refused(checked.get("/explain", params={"id": one, "q": "a red wall"}), 404, 422)
    refused(checked.get(f"/items/{2**63 - 1}"), 404)


# ------------------------------------------------------------------ queries

TEXTS = ("", " ", "\x00", "\x1b[2J\x07", "\n\r\t", "xyzzy", "'; DROP TABLE items; --", "\u202e\ufeff", "\ufffd" * 100)


@pytest.mark.parametrize("text", TEXTS)
def test_sentences_without_a_known_word(text: str, checked: TestClient) -> None:
    refused(checked.get("/search", params={"q": text}), 400)
    refused(checked.post("/search", json={"parts": [{"text": text}]}), 400)
    refused(checked.get("/explain", params={"id": 1, "q": text}), 400)


def test_control_characters_count_as_spaces(checked: TestClient) -> None:
    plain = checked.get("/search", params={"q": "a red wall"}).json()["hits"]
    assert checked.get("/search", params={"q": "a\x00red\nwall\x07"}).json()["hits"] == plain


def test_a_long_query_is_refused(checked: TestClient) -> None:
    said = refused(checked.get("/search", params={"q": "red " * 2500}), 422)
    assert "10,000 characters. At most 1,000" in said
    refused(checked.get("/search", params={"q": "wall", "where": "width > 1 and " * 700 + "width > 1"}), 422)


FILTERS = (
    "nothing = 1", "width >", "width = 'a' or", "1=1; drop table items", "path = \"", "((((((width > 1",
    "path like '%' escape", "id in (select id from items)", "width > nan", "'", "\x00", "width = 0x41",
    "--", "/etc/passwd",
)  # fmt: skip


@pytest.mark.parametrize("where", FILTERS)
def test_filters_that_can_not_be_read(where: str, checked: TestClient) -> None:
    refused(checked.get("/search", params={"q": "a red wall", "where": where}), 400)


def test_a_filter_can_not_find_out_where_the_pictures_lie(checked: TestClient) -> None:
    for where in ("root like '/%'", "\"root\" >= '/a'", "width>1 and(root!='x')", "not root is null"):
        said = refused(checked.get("/search", params={"q": "a red wall", "where": where}), 400)
        assert "unknown column `root`" in said
    assert checked.get("/search", params={"q": "a red wall", "where": "path != 'root'"}).status_code == 200
    assert "root" not in checked.get("/info").json()["columns"]


def test_a_filter_can_not_be_nested_without_end(checked: TestClient) -> None:
    for where in ("(" * 450 + "width>1" + ")" * 450, "not " * 240 + "width>1", "width>1" + " or width>1" * 80):
        assert checked.get("/search", params={"q": "a red wall", "where": where}).status_code in (200, 400)


BODIES = (
    b"", b"{", b"[]", b"null", b"1", b'"a"', b"{}", b'{"parts":[]}', b'{"parts":[{}]}', b'{"parts":[null]}',
    b'{"parts":[{"text":1}]}', b'{"parts":[{"text":"a","image_id":1}]}', b'{"parts":[{"text":"wall","other":1}]}',
    b'{"parts":[{"text":"wall"}],"k":0}', b'{"parts":[{"text":"wall"}],"k":1e400}',
    b'{"parts":[{"text":"wall"}],"k":2.5}',
    b'{"parts":[{"text":"wall"}],"k":' + b"9" * 6000 + b"}", b'{"parts":[{"text":"wall","weight":NaN}]}',
    b'{"parts":[{"text":"wall","weight":Infinity}]}', b'{"parts":[{"text":"wall","weight":-1e999}]}',
    b'{"parts":[{"text":"wall","weight":1' + b"0" * 400 + b"}]}", b'{"parts":[{"text":"wall","weight":0}]}',
    b'{"parts":[{"text":"wall"}],"threshold":NaN}', b'{"parts":[{"image_id":1e30}]}', b'{"parts":[{"image_id":-1}]}',
    b'{"parts":[{"image_id":99999}]}', b'{"parts":[{"text":"wall"}],"mode":"best"}', b'{"parts":[{"text":"\\ud800"}]}',
    b'{"parts":[{"image":"/etc/passwd"}]}', b'{"parts":[{"image":"****"}]}', b'{"parts":[{"image":""}]}',
    b'{"parts":[{"image":"\xc3\xa9"}]}', b'{"parts":[{"image":{"path":"/etc/passwd"}}]}', b"\xff\xfe\x00",
    b"[" * 200000,
    b'{"parts":' + b'{"a":' * 50000 + b"1" + b"}" * 50000 + b"}", b'{"parts":[{"text":"wall"}],"where":5}',
    b'{"__proto__":{},"parts":[{"text":"wall"}]}',
)  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_bodies_that_are_no_search(body: bytes, checked: TestClient) -> None:
    refused(checked.post("/search", content=body, headers=JSON), 400, 404, 422)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "image/png", "multipart/form-data", ""]
)
def test_a_search_of_another_type_is_refused(kind: str, checked: TestClient) -> None:
    body = json.dumps({"parts": [{"text": "a red wall"}]})
    refused(checked.post("/search", content=body, headers={"Content-Type": kind}), 400, 415, 422)


# ------------------------------------------------------------------ pictures


def polyglots() -> dict[str, bytes]:
    """Files that are no picture, or more than one thing."""
    good = encoded(picture((200, 30, 40), np.random.default_rng(0)), "JPEG")
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("a.txt", "a")
    png = encoded(Image.new("RGB", (8, 8)))
    return {
        "nothing": b"",
        "text": b"hello",
        "svg": SVG,
        "svg with a declaration": b'<?xml version="1.0"?>' + SVG,
        "html": b"<html><img src=x onerror=alert(1)></html>",
        "eps": EPS,
        "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF",
        "zip": inside.getvalue(),
        "half a jpeg": good[: len(good) // 2],
        "jpeg header": good[:30],
        "png without data": png[:33],
        "png of no size": png[:16] + bytes(8) + png[24:],
        "gif of no size": b"GIF89a" + bytes(7),
        "bmp of huge size": b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
        + (40).to_bytes(4, "little") + (2**31 - 1).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24),
    }  # fmt: skip


@pytest.mark.parametrize("name", polyglots())
def test_files_that_are_no_picture(name: str, checked: TestClient) -> None:
    raw = polyglots()[name]
    refused(checked.post("/similar", content=raw, headers={"Content-Type": "image/jpeg"}), 422)
    part = {"image": base64.b64encode(raw).decode()}
    refused(checked.post("/search", json={"parts": [part]}), 422)


def test_a_polyglot_is_only_a_picture(checked: TestClient) -> None:
    raw = encoded(picture((200, 30, 40), np.random.default_rng(0)), "JPEG") + b"<script>alert(1)</script>"
    assert checked.post("/similar", content=raw, headers={"Content-Type": "image/jpeg"}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["image/svg+xml", "text/html", "application/json", "multipart/form-data; boundary=x", ""]
)
def test_a_picture_of_another_type_is_refused(kind: str, checked: TestClient) -> None:
    raw = encoded(picture((200, 30, 40), np.random.default_rng(0)))
    refused(checked.post("/similar", content=raw, headers={"Content-Type": kind}), 415)


@pytest.mark.parametrize(
    "query", ["k=-1", "k=nan", "k=1e9", "k=", "threshold=inf", "threshold=x", "mode=", "mode=best", "k=1&k=x"]
)
def test_parameters_out_of_range(query: str, checked: TestClient) -> None:
    refused(checked.get(f"/search?q=a+red+wall&{query}"), 422)


@pytest.mark.parametrize("size", ["0", "-1", "5000", "x", "1e3", "9" * 50])
def test_sizes_out_of_range(size: str, checked: TestClient) -> None:
    refused(checked.get(f"/thumb/1?size={size}"), 422)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_can_be_changed(method: str, checked: TestClient) -> None:
    for path in ("/search", "/images/1", "/items/1", "/"):
        refused(checked.request(method, path), 405)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_http(sent: bytes, served: Served) -> None:
    with served.raw() as raw:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may be refused before it is sent whole
            raw.sendall(sent)
            raw.shutdown(1)
        found = read_all(raw)
        assert not found or re.match(rb"HTTP/1.1 (200|4\d\d) ", found), found[:200]
    assert served.get("/search?q=a+red+wall").status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"parts": [{}] * 100_000}, "`parts.0`"),
        ({"parts": [{"text": "wall"}] * 100_000}, "`parts`: List should have at most 256 items"),
        ({"parts": [{"text": "wall"}], **{f"key{n}": 0 for n in range(50_000)}}, "found 50,001 keys"),
        ({"parts": [{f"key{n}": 0 for n in range(50_000)}]}, "found 50,000 keys"),
    ],
    ids=["bad parts", "parts", "keys", "keys of a part"],
)
def test_thousands_of_mistakes_are_one(checked: TestClient, body: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as found:
        SearchIn.model_validate(body)
    assert found.value.error_count() == 1  # each of them costs memory and time on the loop that serves everybody
    assert said in refused(checked.post("/search", json=body), 422)
    answers = checked.post("/search/batch", json=[body, {"parts": [{"text": "a red wall"}]}]).json()
    assert "error" in answers[0]
    assert answers[1]["hits"]
