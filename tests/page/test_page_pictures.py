"""Pictures as queries, and pictures that are not as they should be."""

import base64
import re
from pathlib import Path
from urllib.parse import unquote_plus

import pytest
from page_visits import BROKEN, GONE, HOSTILE, Visit, close_viewer, search, tiles
from playwright.sync_api import JSHandle, Page, expect

WORDS = "a red star"
IMAGE_PART = re.compile("/search$")


@pytest.fixture(autouse=True)
def broken_picture(visit: Visit) -> None:
    """One file of the index is broken, about which the browser writes a line of its own."""
    visit.expected.append("status of 410")


def transfer(page: Page, file: Path, kind: str = "image/jpeg", name: str | None = None) -> JSHandle:
    """What a drag from the file manager holds."""
    return page.evaluate_handle(
        """([text, name, type]) => {
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type}));
            return transfer;
        }""",
        [base64.b64encode(file.read_bytes()).decode("ascii"), name or file.name, kind],
    )


def drop(page: Page, where: str, held: JSHandle, at: tuple[float, float] = (640, 500)) -> None:
    """Drag something over the page and drop it."""
    given = {"dataTransfer": held, "clientX": at[0], "clientY": at[1]}
    page.dispatch_event("body", "dragenter", given)
    page.dispatch_event(where, "dragover", given)
    page.dispatch_event(where, "drop", given)


def test_a_dropped_picture_is_the_query(visit: Visit, photo_service: str, photos: Path) -> None:
    page = visit.open(photo_service)
    search(page, WORDS)
    held = transfer(page, photos / "photo_03.jpg")
    page.dispatch_event("body", "dragenter", {"dataTransfer": held, "clientX": 640, "clientY": 500})
    expect(page.locator("#drop")).to_be_visible()
    with page.expect_response(IMAGE_PART) as answered:
        drop(page, "#drop", held)
    sent = answered.value.request.post_data_json["parts"]
    assert [set(part) for part in sent] == [{"image", "weight"}]
    assert base64.b64decode(sent[0]["image"]) == (photos / "photo_03.jpg").read_bytes()
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator(".chip")).to_contain_text("photo_03.jpg")
    expect(page.locator(".tile .name").first).to_have_text("photo_03.jpg")  # nothing is more like it
    page.reload()
    expect(page.locator(".tile .name").first).to_have_text("photo_03.jpg")  # kept for the visit
    page.go_back()
    expect(page.locator("#words")).to_have_value(WORDS)


def test_a_picture_dropped_on_the_box_is_added(visit: Visit, photo_service: str, photos: Path) -> None:
    page = visit.open(photo_service)
    search(page, WORDS)
    with page.expect_response(IMAGE_PART) as answered:
        drop(page, "#words", transfer(page, photos / "photo_01.jpg"), at=(640, 40))
    assert [set(part) - {"weight"} for part in answered.value.request.post_data_json["parts"]] == [{"text"}, {"image"}]


def test_pictures_dropped_together_keep_their_order(visit: Visit, photo_service: str, photos: Path) -> None:
    """The first is slow to read, and replaces the query only."""
    page = visit.open(photo_service)
    search(page, WORDS)
    page.evaluate(
        """() => {
            const read = FileReader.prototype.readAsDataURL;
            FileReader.prototype.readAsDataURL = function (file) {
                setTimeout(() => read.call(this, file), file.name === "photo_01.jpg" ? 300 : 0);
            };
        }"""
    )
    held = transfer(page, photos / "photo_01.jpg")
    second = transfer(page, photos / "photo_02.jpg")
    page.evaluate("([to, from]) => to.items.add(from.files[0])", [held, second])
    with page.expect_response(IMAGE_PART) as answered:
        drop(page, "main", held)
    sent = [base64.b64decode(part["image"]) for part in answered.value.request.post_data_json["parts"]]
    assert sent == [(photos / f"photo_0{k}.jpg").read_bytes() for k in (1, 2)]
    expect(page.locator(".chip")).to_have_count(2)


def test_a_result_can_be_dragged_onto_the_box(visit: Visit, photo_service: str) -> None:
    page = visit.open(photo_service)
    hits = search(page, WORDS)
    with page.expect_response(IMAGE_PART) as answered:
        page.locator(".tile .card").nth(1).drag_to(page.locator("#words"))
    assert answered.value.request.post_data_json["parts"] == [
        {"text": WORDS, "weight": 1},
        {"image_id": hits[1]["id"], "weight": 1},
    ]


def test_a_chosen_and_a_pasted_picture_are_added(visit: Visit, photo_service: str, photos: Path) -> None:
    page = visit.open(photo_service)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a picture").click()
    chooser.value.set_files(photos / "photo_05.jpg")
    expect(page.locator(".tile .name").first).to_have_text("photo_05.jpg")
    with page.expect_response(IMAGE_PART) as answered:
        page.evaluate(
            "held => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: held}))",
            transfer(page, photos / "photo_06.jpg"),
        )
    assert len(answered.value.request.post_data_json["parts"]) == 2
    expect(page.locator(".chip")).to_have_count(2)


def test_a_large_picture_is_made_smaller_before_it_is_sent(visit: Visit, photo_service: str, place: Path) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    large = place / "large.png"
    Image.fromarray(noise).save(large, compress_level=1)
    page = visit.open(photo_service)
    with page.expect_response(IMAGE_PART) as answered:
        drop(page, "main", transfer(page, large, "image/png"))
    sent = base64.b64decode(answered.value.request.post_data_json["parts"][0]["image"])
    assert sent[:3] == b"\xff\xd8\xff"
    assert len(sent) < 1_500_000 < large.stat().st_size
    assert answered.value.status == 200


def test_what_is_no_picture_is_refused_in_words(visit: Visit, photo_service: str, photos: Path) -> None:
    visit.expected.append(r"status of 4\d\d")
    page = visit.open(photo_service)
    drop(page, "main", transfer(page, photos / BROKEN, "text/plain", "notes.txt"))
    expect(page.locator("#message")).to_contain_text("is no picture")
    drop(page, "main", transfer(page, photos / BROKEN, "image/png", "broken.png"))
    expect(page.locator("#message")).not_to_contain_text("text/plain")
    expect(page.locator("#message")).to_contain_text(re.compile("picture|image"))
    link = page.evaluate_handle(
        "() => { const t = new DataTransfer(); t.setData('text/uri-list', 'http://a/'); return t; }"
    )
    drop(page, "main", link)
    expect(page.locator("#message")).to_contain_text("Only a picture file")


def test_a_model_over_regions_says_that_it_can_not_read_a_picture(visit: Visit, album: str, photos: Path) -> None:
    visit.expected.append(r"status of 4\d\d")
    page = visit.open(album)
    with page.expect_response(IMAGE_PART) as answered:
        drop(page, "main", transfer(page, photos / "photo_00.jpg"))
    assert 400 <= answered.value.status < 500
    expect(page.locator("#message p")).to_have_text(answered.value.json()["error"])


def test_a_picture_that_the_address_can_not_hold(visit: Visit, photo_service: str) -> None:
    page = visit.open(photo_service, "?part=1:file:abc123:dog.jpg")
    expect(page.locator("#message")).to_contain_text("“dog.jpg” is not here")


def test_a_hostile_name_is_only_text(visit: Visit, photo_service: str) -> None:
    visit.expected.append(r"status of 4\d\d")  # the broken file is among the results
    page = visit.open(photo_service)
    hits = search(page, WORDS)
    assert HOSTILE in [hit["path"] for hit in hits]
    tile = page.locator(".tile", has_text="onerror")
    expect(tile.locator(".name")).to_have_text("a␊<img src=x onerror=alert(1)> [U+202E]gnp.png")
    tile.locator(".card").click()
    expect(page.locator("#viewer h2")).to_have_text("a␊<img src=x onerror=alert(1)> [U+202E]gnp.png")
    assert page.locator("img[src='x'], [onerror]").count() == 0
    query = "q=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E%20red&part=1:text:%3Cb%3Estar%3C/b%3E"
    other = visit.open(photo_service, f"?{query}")
    expect(other.locator(".chip .text")).to_have_text("<b>star</b>")
    assert unquote_plus(other.url).count("<b>star</b>") == 1
    assert other.locator("#chips b, img[src='x']").count() == 0


def test_missing_and_broken_files_leave_a_placeholder(visit: Visit, photo_service: str) -> None:
    visit.expected.append(r"status of 4\d\d")  # the browser's own line about the picture that can not be decoded
    page = visit.open(photo_service)
    hits = search(page, WORDS)
    available = {hit["path"]: hit["available"] for hit in hits}
    assert (available[GONE], available[BROKEN], available["photo_00.jpg"]) == (False, True, True)
    for name in (GONE, BROKEN):
        tile = page.locator(".tile", has_text=name)
        tile.scroll_into_view_if_needed()
        expect(tile.locator(".gone")).to_be_visible()
        assert tile.locator("img").count() == 0
        tile.locator(".card").click()
        expect(page.locator("#viewer .gone")).to_be_visible()
        expect(page.locator("#viewer h2")).to_have_text(name)
        close_viewer(page)
    assert len(tiles(page)) == 18


def test_dates_of_pictures_filter(visit: Visit, photo_service: str) -> None:
    visit.expected.append(r"status of 4\d\d")
    page = visit.open(photo_service)
    search(page, WORDS)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("taken from").fill("2024-05-03")
    expect(page.locator(".tile")).to_have_count(13)
    page.get_by_label("taken until").fill("2024-05-05")
    expect(page.locator(".tile")).to_have_count(3)
    names = sorted(page.locator(".tile .name").all_inner_texts())
    assert names == ["photo_02.jpg", "photo_03.jpg", "photo_04.jpg"]


def test_patches_of_a_grid_are_lit(visit: Visit, photo_service: str) -> None:
    page = visit.open(photo_service, "?q=a+red+star&has.path=photo_00")
    page.locator(".tile .card").first.click()
    expect(page.locator(".word")).to_have_text(["a", "red", "star"])
    expect(page.locator(".light")).to_be_visible()
    page.locator(".word", has_text="red").hover()
    expect(page.locator(".said")).to_contain_text("“red”")
    widths = page.eval_on_selector_all(".outline", "all => all.map(one => parseFloat(one.style.width))")
    assert set(widths) == {25.0}  # 4 x 4 cells
