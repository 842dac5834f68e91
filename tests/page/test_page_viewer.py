"""The large picture: its words lit on its patches, captions, the ways on."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from page_visits import Visit, address, close_viewer, search, tiles, wait_for_tiles
from playwright.sync_api import Page, expect

Screenshot = Callable[[Page, str], None]
WORDS = "a red star"


def open_first(page: Page, words: str = WORDS) -> dict[str, Any]:
    """Search, open the best picture; returns what /explain said about it."""
    search(page, words)
    with page.expect_response(re.compile("/explain")) as answered:
        page.locator(".tile .card").first.click()
    expect(page.locator(".word").first).to_be_visible()
    explained: dict[str, Any] = answered.value.json()
    return explained


def light(page: Page, box: list[float]) -> tuple[float, float]:
    """Mean opacity of the dark inside a box of the picture, and outside of it."""
    found: list[float] = page.evaluate(
        """([x0, y0, x1, y1]) => {
            const canvas = document.querySelector(".light"), {width, height} = canvas;
            const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const sums = [0, 0], counts = [0, 0];
            for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
                const [u, v] = [(x + 0.5) / width, (y + 0.5) / height];
                const k = u > x0 && u < x1 && v > y0 && v < y1 ? 0 : 1;
                sums[k] += data[4 * (y * width + x) + 3] / 255;
                counts[k] += 1;
            }
            return sums.map((sum, k) => sum / counts[k]);
        }""",
        box,
    )
    return found[0], found[1]


def test_a_word_lights_its_patches(visit: Visit, album: str, screenshot: Screenshot) -> None:
    page = visit.open(album)
    explained = open_first(page)
    texts = [word["text"] for word in explained["words"] if not word["is_mark"]]
    assert page.locator(".word").all_inner_texts() == texts
    if explained["boxes"] is None:
        pytest.fail("the index has no boxes")
    for text in ("red", "star"):
        row = next(k for k, word in enumerate(explained["words"]) if word["text"] == text)
        parts = explained["parts"][row]
        box = explained["boxes"][parts.index(max(parts))]
        page.locator(".word", has_text=text).hover()
        expect(page.locator(".said")).to_contain_text(f"“{text}”")
        inside, outside = light(page, box)
        assert inside < outside - 0.2
        outline = page.locator(".outline").first
        shown = outline.evaluate("one => [one.style.left, one.style.top].map(parseFloat)")
        assert shown == pytest.approx([100 * box[0], 100 * box[1]], abs=1e-3)
    page.mouse.move(5, 5)
    expect(page.locator(".said")).to_contain_text("Together")
    expect(page.locator(".outline .label").first).to_be_visible()
    screenshot(page, "lit")


def test_parts_of_words_are_those_of_the_service(visit: Visit, album: str) -> None:
    page = visit.open(album)
    explained = open_first(page, "a small red star above a yellow ring")
    words = [word for word in explained["words"] if not word["is_mark"]]
    largest = max(abs(word["part"]) for word in words)
    shares = page.eval_on_selector_all(".word", "all => all.map(one => Number(one.style.getPropertyValue('--share')))")
    assert shares == pytest.approx([abs(word["part"]) / largest for word in words], abs=1e-3)
    for button, word in zip(page.locator(".word").all(), words, strict=True):
        said = button.get_attribute("aria-label")
        assert said is not None
        assert f"{abs(word['part']):.3f}" in said
        assert ("takes" in said) == (word["part"] < 0)


def test_a_pressed_word_stays_lit_until_it_is_pressed_again(visit: Visit, album: str) -> None:
    page = visit.open(album)
    open_first(page)
    word = page.locator(".word", has_text="star")
    word.click()
    page.mouse.move(5, 5)
    expect(word).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".said")).to_contain_text("“star”")
    word.click()
    page.mouse.move(5, 5)
    expect(word).to_have_attribute("aria-pressed", "false")


def test_the_light_can_be_switched_off(visit: Visit, album: str) -> None:
    page = visit.open(album)
    open_first(page)
    expect(page.locator(".light")).to_be_visible()
    page.get_by_label("lit", exact=True).uncheck()
    expect(page.locator(".light")).to_be_hidden()
    page.locator(".word").first.hover()
    expect(page.locator(".light")).to_be_hidden()
    page.keyboard.press("l")
    expect(page.locator(".light")).to_be_visible()


def test_other_words_and_captions_can_be_lit(visit: Visit, album: str) -> None:
    page = visit.open(album)
    open_first(page)
    expect(page.locator(".captions li")).to_have_count(5)
    caption = page.locator(".caption").first
    caption.click()
    expect(page.get_by_label("Light other words")).to_have_value(caption.inner_text())
    words = re.findall(r"\w+", caption.inner_text().lower())
    expect(page.locator(".word")).to_have_text(words, ignore_case=True)
    page.get_by_label("Light other words").fill("blue ring")
    expect(page.locator(".word")).to_have_text(["blue", "ring"])
    page.get_by_label("Light other words").fill("")
    expect(page.locator(".light")).to_be_hidden()


def test_each_sentence_of_a_query_can_be_lit(visit: Visit, album: str) -> None:
    page = visit.open(album, "?q=a+red+star+-ring")
    page.locator(".tile .card").first.click()
    expect(page.locator(".word")).to_have_text(["a", "red", "star"])
    page.get_by_role("button", name="not ring").click()
    expect(page.locator(".word")).to_have_text(["ring"])
    expect(page.get_by_role("button", name="not ring")).to_have_attribute("aria-pressed", "true")


def test_unknown_words_are_explained_beside_the_picture(visit: Visit, album: str) -> None:
    visit.expected.append("status of 400")
    page = visit.open(album)
    open_first(page)
    page.get_by_label("Light other words").fill("xylophones")
    expect(page.locator(".sentence")).to_contain_text("knows none of the words")
    expect(page.locator(".light")).to_be_hidden()


def test_facts_of_the_picture(visit: Visit, album: str) -> None:
    page = visit.open(album)
    hit = search(page, WORDS)[0]
    page.locator(".tile .card").first.click()
    facts = page.locator(".facts")
    for text in (hit["path"], f"{hit['width']} × {hit['height']}", hit["columns"]["tag"], f"{hit['score']:.3f}"):
        expect(facts).to_contain_text(text)
    assert page.locator(".whole").evaluate("image => image.decode().then(() => image.naturalWidth)") == hit["width"]
    expect(page.get_by_role("link", name="Open the file")).to_have_attribute("href", f"images/{hit['id']}")


def test_the_ways_on(visit: Visit, album: str) -> None:
    page = visit.open(album)
    open_first(page)
    ids = tiles(page)
    page.get_by_role("button", name="Next picture").click()
    expect(page.locator(".place")).to_have_text("2 of 48")
    with page.expect_response(re.compile("/search$")) as answered:
        page.get_by_role("button", name="Less like this").click()
    assert answered.value.request.post_data_json["parts"] == [
        {"text": WORDS, "weight": 1},
        {"image_id": ids[1], "weight": -0.5},
    ]
    expect(page.locator("#viewer")).to_be_hidden()
    wait_for_tiles(page, answered.value.json()["hits"])
    page.locator(".tile .card").first.click()
    opened = tiles(page)[0]
    with page.expect_response(re.compile(f"/similar/{opened}")):
        page.locator("#viewer").get_by_role("button", name="Similar", exact=True).click()
    expect(page.locator("#viewer")).to_be_hidden()
    assert address(page)["part"] == [f"1:item:{opened}"]


def test_a_model_that_does_not_know_where_its_patches_lie(visit: Visit, album: str) -> None:
    page = visit.open(album)
    explained = open_first(page)
    close_viewer(page)
    page.route("**/explain?**", lambda route: route.fulfill(body=json.dumps({**explained, "boxes": None})))
    page.locator(".tile .card").nth(1).click()
    expect(page.locator(".sentence")).to_contain_text("is not known")
    expect(page.locator(".light")).to_be_hidden()
    page.locator(".word").first.hover()
    expect(page.locator(".said")).to_contain_text("“a”")
