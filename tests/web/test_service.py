"""What every route answers, on a real small index."""

from __future__ import annotations

import base64
import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import encoded, make_index, make_pictures, picture
from starlette.testclient import TestClient

from patchword.data.pictures import decode
from patchword.index import add_captions
from patchword.retrieve.engine import Index
from patchword.retrieve.query import Answer, Part, Query
from patchword.web.app import create_app

TEXT = "a red wall"


def same(told: dict[str, object], answer: Answer) -> None:
    """The answer over HTTP is that of the index."""
    hits = told["hits"]
    assert isinstance(hits, list)
    assert [hit["id"] for hit in hits] == [hit.id for hit in answer.hits]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in answer.hits], abs=1e-6)
    assert (told["mode"], told["searched"]) == (answer.mode, answer.searched)


def id_of(opened: Index, name: str) -> int:
    """Id of the picture with this path."""
    found = {hit.item.path: hit.id for hit in opened.search(TEXT, 1000).hits}
    return found[name]


# ------------------------------------------------------------------ search


def test_words_find_what_the_index_finds(client: TestClient, opened: Index) -> None:
    told = client.get("/search", params={"q": TEXT, "k": 5}).json()
    same(told, opened.search(TEXT, 5))
    assert [hit["rank"] for hit in told["hits"]] == [1, 2, 3, 4, 5]
    first = told["hits"][0]
    assert first["available"]
    assert not Path(first["path"]).is_absolute()
    assert (first["width"], first["height"], first["columns"]) == (40, 40, {})
    assert client.post("/search", json={"parts": [{"text": TEXT}], "k": 5}).json()["hits"] == told["hits"]


def test_filter_mode_and_threshold_are_passed_on(client: TestClient, opened: Index) -> None:
    where = "path like 'more/%'"
    same(
        client.get("/search", params={"q": TEXT, "where": where, "mode": "exact"}).json(),
        opened.search(TEXT, 20, where=where, mode="exact"),
    )
    same(client.get("/search", params={"q": TEXT, "mode": "fast", "k": 3}).json(), opened.search(TEXT, 3, mode="fast"))
    scores = [hit.score for hit in opened.search(TEXT, 20).hits]
    between = (scores[2] + scores[3]) / 2
    assert len(client.get("/search", params={"q": TEXT, "threshold": between}).json()["hits"]) == 3


def test_words_and_pictures_are_joined(client: TestClient, opened: Index, small_index: Path) -> None:
    one = id_of(opened, "blue_2.png")
    file = small_index.parent / "pictures" / "turned.jpg"
    parts = [
        {"text": TEXT, "weight": 1.5},
        {"image_id": one, "weight": -0.5},
        {"image": base64.b64encode(file.read_bytes()).decode()},
    ]
    told = client.post("/search", json={"parts": parts[:2], "k": 9}).json()
    two = (Part(text=TEXT, weight=1.5), Part(image=one, weight=-0.5))
    same(told, opened.search(Query(two), 9))
    told = client.post("/search", json={"parts": parts, "k": 9}).json()
    same(told, opened.search(Query((*two, Part(image=decode(file)))), 9))


def test_similar_to_an_indexed_image(client: TestClient, opened: Index) -> None:
    one = id_of(opened, "blue_2.png")
    same(client.get(f"/similar/{one}", params={"k": 4}).json(), opened.similar(one, 4))


def test_similar_to_a_picture_that_is_sent(client: TestClient, opened: Index, small_index: Path) -> None:
    file = small_index.parent / "pictures" / "turned.jpg"
    for kind in ("image/jpeg", "application/octet-stream", "image/png; charset=binary"):
        told = client.post("/similar", params={"k": 4}, content=file.read_bytes(), headers={"Content-Type": kind})
        same(told.json(), opened.search(Query((Part(image=decode(file)),)), 4))


def test_the_parts_of_an_explanation_add_up(client: TestClient, opened: Index) -> None:
    one = id_of(opened, "blue_2.png")
    told = client.get("/explain", params={"id": one, "q": TEXT}).json()
    parts = np.array(told["parts"])
    assert parts.sum() == pytest.approx(told["score"], abs=1e-4)
    assert [word["text"] for word in told["words"] if not word["is_mark"]] == TEXT.split()
    assert [word["part"] for word in told["words"]] == pytest.approx(list(parts.sum(1)), abs=1e-5)
    assert np.array(told["boxes"]).shape == (parts.shape[1], 4)
    found = next(hit for hit in client.get("/search", params={"q": TEXT}).json()["hits"] if hit["id"] == one)
    assert told["score"] == pytest.approx(found["score"], abs=2e-3)  # vectors are stored in half precision


def test_captions_need_a_caption_set(client: TestClient, opened: Index) -> None:
    answer = client.get(f"/captions/{id_of(opened, 'blue_2.png')}")
    assert answer.status_code == 404
    assert "no captions are indexed" in answer.json()["error"]


def test_captions_for_an_image_and_for_a_picture_that_is_sent(tmp_path: Path) -> None:
    index = make_index(make_pictures(tmp_path / "pictures", 4), tmp_path / "my.index")
    lines = [{"image": "blue_2.png", "caption": "a blue wall"}, {"image": "none.png", "caption": "a red wall"}]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    add_captions(index, tmp_path / "said.jsonl")
    with Index.open(index) as opened, TestClient(create_app(opened), base_url="http://127.0.0.1") as client:
        one = id_of(opened, "blue_2.png")
        hits = client.get(f"/captions/{one}", params={"k": 5}).json()["hits"]
        found = opened.captions_for(one, 5)
        assert [(hit["id"], hit["caption"]) for hit in hits] == [(hit.id, hit.item.text) for hit in found]
        assert {hit["caption"]: hit["image_id"] for hit in hits} == {"a blue wall": one, "a red wall": None}
        raw = (tmp_path / "pictures" / "blue_2.png").read_bytes()
        sent = client.post("/captions?k=1", content=raw, headers={"Content-Type": "image/png"}).json()["hits"]
        assert sent[0]["caption"] == hits[0]["caption"]
        assert client.get("/info").json()["captions"] == 2


# ------------------------------------------------------------------ pictures


def test_a_picture_is_sent_as_it_is(client: TestClient, opened: Index, small_index: Path) -> None:
    for name, kind in (("blue_2.png", "image/png"), ("turned.jpg", "image/jpeg")):
        answer = client.get(f"/images/{id_of(opened, name)}")
        assert answer.content == (small_index.parent / "pictures" / name).read_bytes()
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]


def test_a_thumbnail_is_upright_and_of_few_sizes(client: TestClient, opened: Index) -> None:
    one = id_of(opened, "turned.jpg")
    answer = client.get(f"/thumb/{one}", params={"size": 20})
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(BytesIO(answer.content)) as found:
        assert (found.format, found.size) == ("JPEG", (30, 60))  # 60 x 30, turned; never larger than the picture
    assert client.get(f"/thumb/{one}", params={"size": 64}).headers["etag"] == answer.headers["etag"]
    assert client.get(f"/thumb/{one}", params={"size": 65}).headers["etag"] != answer.headers["etag"]


def test_what_the_client_has_is_not_sent_again(client: TestClient, opened: Index) -> None:
    one = id_of(opened, "blue_2.png")
    for path in (f"/thumb/{one}?size=64", f"/images/{one}"):
        first = client.get(path)
        again = client.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_an_item_tells_what_is_known(client: TestClient, opened: Index, small_index: Path) -> None:
    one = id_of(opened, "turned.jpg")
    told = client.get(f"/items/{one}").json()
    size = (small_index.parent / "pictures" / "turned.jpg").stat().st_size
    assert (told["id"], told["path"], told["bytes"], told["available"]) == (one, "turned.jpg", size, True)
    assert (told["width"], told["height"]) == (30, 60)
    assert told["modified"].endswith("Z")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An index whose pictures a test may break."""
    return make_index(make_pictures(tmp_path / "pictures"), tmp_path / "my.index")


def test_pictures_that_are_gone_broken_or_elsewhere_are_not_sent(own: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    (tmp_path / "secret.png").write_bytes(encoded(picture((1, 2, 3), np.random.default_rng(1))))
    with Index.open(own) as opened, TestClient(create_app(opened), base_url="http://127.0.0.1") as client:
        names = ("red_4.png", "green_1.png", "blue_2.png", "green_5.png", "turned.jpg")
        ids = {name: id_of(opened, name) for name in names}
        (pictures / "red_4.png").unlink()
        (pictures / "green_1.png").write_bytes(b"<html><script>alert(1)</script>")
        (pictures / "blue_2.png").unlink()
        (pictures / "blue_2.png").symlink_to(tmp_path / "secret.png")
        (pictures / "green_5.png").unlink()
        os.mkfifo(pictures / "green_5.png")
        (pictures / "turned.jpg").write_bytes((pictures / "turned.jpg").read_bytes()[:400])
        for name, one in ids.items():
            paths = [f"/thumb/{one}"] if name == "turned.jpg" else [f"/thumb/{one}", f"/images/{one}"]
            for path in paths:
                answer = client.get(path)
                assert answer.status_code in (404, 410), (name, path, answer.content[:100])
                assert set(answer.json()) == {"error"}
                assert str(tmp_path) not in answer.text
        hits = client.get("/search", params={"q": TEXT}).json()["hits"]
        assert not next(hit for hit in hits if hit["id"] == ids["red_4.png"])["available"]
        assert not client.get(f"/items/{ids['red_4.png']}").json()["available"]


def test_formats_that_browsers_do_not_show_are_sent_as_jpeg(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    picture((10, 200, 30), np.random.default_rng(0)).save(pictures / "a.tiff")
    index = make_index(pictures, tmp_path / "my.index")
    with Index.open(index) as opened, TestClient(create_app(opened), base_url="http://127.0.0.1") as client:
        answer = client.get(f"/images/{id_of(opened, 'a.tiff')}")
        assert answer.headers["content-type"] == "image/jpeg"
        with Image.open(BytesIO(answer.content)) as found:
            assert (found.format, found.size) == ("JPEG", (40, 40))


# ------------------------------------------------------------------ the service itself


def test_info_says_what_is_served(client: TestClient, opened: Index) -> None:
    told = client.get("/info").json()
    assert (told["images"], told["captions"], told["method"], told["model"]) == (13, 0, "chan", "model")
    assert told["generation"] == opened.info().generation
    assert told["columns"]["width"] == "integer"
    assert told["limits"]["k"] == 1000


def test_every_answer_has_the_headers_that_keep_a_browser_safe(client: TestClient) -> None:
    for path in ("/", "/health", "/info", "/search", "/nowhere", "/docs", "/static/nothing.js", "/thumb/99999"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "no-referrer", path
        assert headers["content-security-policy"].startswith("default-src"), path
        assert "access-control-allow-origin" not in headers, path


def test_the_page_is_served(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src" not in answer.headers["content-security-policy"]  # so that of default-src holds: 'self'
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_a_browser_keeps_the_files_of_the_page_and_asks_whether_they_are_the_same(client: TestClient) -> None:
    first = client.get("/static/main.js")
    assert (first.status_code, first.headers["cache-control"]) == (200, "no-cache")
    again = client.get("/static/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", "no-cache")
    assert client.get("/static/nothing.js").headers["cache-control"] == "no-store"


def test_what_nobody_expected_is_one_line_with_a_number(
    opened: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/place is on fire")

    monkeypatch.setattr(opened, "search_batch", broken)
    with TestClient(create_app(opened), base_url="http://127.0.0.1") as client:
        answer = client.get("/search", params={"q": TEXT})
        assert answer.status_code == 500
        assert set(answer.json()) == {"error", "id"}
        assert answer.json()["error"] == "internal error"
        assert "secret" not in answer.text
        assert any(answer.json()["id"] in record.getMessage() and record.exc_info for record in caplog.records)
        assert client.get("/health").status_code == 200
