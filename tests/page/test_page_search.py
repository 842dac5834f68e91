"""Searching in the page: words, weights, filters, similar pictures, the address, more results."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from page_visits import Visit, address, close_viewer, let_timers_run, search, tiles, wait_for_tiles
from playwright.sync_api import Page, expect

Screenshot = Callable[[Page, str], None]
WORDS = "a red star"


def asked(page: Page, act: Callable[[], Any], route: str = "/search") -> Any:
    """What the page sends to a route when something is done, and what comes back: (sent, answer)."""
    with page.expect_request(lambda request: urlsplit(request.url).path.startswith(route)) as sent:
        act()
    answer = sent.value.response()
    assert answer is not None
    return (sent.value.post_data_json if sent.value.method == "POST" else None), answer.json()


def test_the_first_page_says_what_is_searched(visit: Visit, album: str, screenshot: Screenshot) -> None:
    page = visit.open(album)
    expect(page.get_by_role("heading", name="Find a picture by what is in it")).to_be_visible()
    expect(page.locator("#hello")).to_contain_text("72 pictures and 360 captions")
    expect(page.locator("#words")).to_be_focused()
    screenshot(page, "start")


def test_results_come_while_typing_in_the_order_of_the_service(
    visit: Visit, album: str, screenshot: Screenshot
) -> None:
    page = visit.open(album)
    hits = search(page, WORDS)
    assert tiles(page) == [hit["id"] for hit in hits]
    first = page.locator(".tile").first
    expect(first.locator(".name")).to_have_text(hits[0]["path"])
    expect(first.locator(".score")).to_have_text(f"{hits[0]['score']:.3f}".replace("-", "\u2212"))
    assert first.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(page.locator("#found")).to_have_text("The best 48 of 72 pictures")
    expect(page.locator("#how")).to_have_text(re.compile(r"^(exact|fast) · \d+(\.\d)? ms$"))
    assert page.title().startswith(WORDS)
    screenshot(page, "results")


def test_the_page_adds_little_to_the_time_of_a_query(
    visit: Visit, album: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = visit.open(album)
    drawn = "n => performance.getEntriesByName('patchword.draw').length === n"
    queries = ("a red", "a red star", "a red star above", "a red star above a blue ring", "a green heart")
    for count, words in enumerate(queries, start=1):
        search(page, words)
        page.wait_for_function(drawn, arg=count)
    times = page.evaluate(
        "['wait', 'query', 'draw'].map(name => performance.getEntriesByName(`patchword.${name}`).map(e => e.duration))"
    )
    assert [len(found) for found in times] == [5, 5, 5]
    wait, query, draw = ([round(value) for value in found] for found in times)
    with capsys.disabled():
        print(f"\npage: ms before the query {wait}, query {query}, drawing {draw}")  # noqa: T201


def test_a_late_answer_is_dropped(visit: Visit, album: str) -> None:
    page = visit.open(album)
    held = []
    page.route(
        "**/search", lambda route: held.append(route) if "green" in route.request.post_data else route.continue_()
    )
    page.locator("#words").fill("a green heart")
    while not held:  # the test's own time limit ends it
        page.wait_for_timeout(20)
    hits = search(page, WORDS)
    assert len(held) == 1
    held[0].continue_()  # its answer comes last, to nobody
    page.request.get(album)  # the service has answered what was asked before
    let_timers_run(page, 400)
    assert tiles(page) == [hit["id"] for hit in hits]
    expect(page.locator("#words")).to_have_value(WORDS)


def test_words_become_weighted_parts(visit: Visit, album: str, screenshot: Screenshot) -> None:
    page = visit.open(album)
    search(page, WORDS)
    sent, _ = asked(page, lambda: page.locator("#words").fill('a red star:2 -ring -"a green heart":0.5'))
    assert sent["parts"] == [
        {"text": "a red star", "weight": 2},
        {"text": "ring", "weight": -1},
        {"text": "a green heart", "weight": -0.5},
    ]
    page.locator("#words").press("Shift+Enter")
    chips = page.locator("#chips .chip")
    expect(chips).to_have_count(3)
    expect(page.locator("#words")).to_have_value("")
    sent, _ = asked(page, page.get_by_role("button", name="Less weight: a red star").click)
    assert sent["parts"][0] == {"text": "a red star", "weight": 1.5}
    expect(page.get_by_role("button", name="Less weight: a red star")).to_be_focused()
    screenshot(page, "parts")
    sent, _ = asked(page, page.get_by_role("button", name="Remove not ring").click)
    assert [part["text"] for part in sent["parts"]] == ["a red star", "a green heart"]
    expect(chips).to_have_count(2)


def test_a_weight_is_never_zero(visit: Visit, album: str) -> None:
    page = visit.open(album, "?part=0.5:text:a+red+star")
    expect(page.locator(".tile").first).to_be_visible()
    sent, _ = asked(page, page.get_by_role("button", name="Less weight: a red star").click)
    assert sent["parts"] == [{"text": "a red star", "weight": -0.5}]
    expect(page.locator(".chip")).to_have_class(re.compile("is-less"))


def test_similar_pictures_by_the_button_of_a_tile(visit: Visit, album: str) -> None:
    page = visit.open(album)
    hits = search(page, WORDS)
    tile = page.locator(".tile").nth(2)
    tile.hover()
    _, answer = asked(page, tile.get_by_role("button", name="Similar to").click, f"/similar/{hits[2]['id']}")
    wait_for_tiles(page, answer["hits"])
    expect(page.locator("#words")).to_have_value("")
    expect(page.locator(".chip")).to_contain_text("like this")
    expect(page.locator("#told button")).to_have_count(3)  # the same picture in words
    caption = page.locator("#told button").first.inner_text()
    page.locator("#told button").first.click()
    expect(page.locator("#words")).to_have_value(caption)


def test_filters_come_from_the_columns_of_the_index(visit: Visit, album: str, screenshot: Screenshot) -> None:
    page = visit.open(album)
    search(page, WORDS)
    page.get_by_role("button", name="Filters").click()
    fields = page.locator("#fields fieldset legend").all_inner_texts()
    assert {"path", "tag", "width", "things", "taken"} <= set(fields)
    sent, answer = asked(page, lambda: page.get_by_label("things at least").fill("5"))
    assert sent["where"] == "things >= 5"
    assert 0 < answer["searched"] < 72
    assert all(hit["columns"]["things"] >= 5 for hit in answer["hits"])
    sent, answer = asked(page, lambda: page.get_by_label("tag", exact=True).fill("o'clock"))
    assert sent["where"] == "tag like '%o''clock%' and things >= 5"
    assert {hit["columns"]["tag"] for hit in answer["hits"]} == {"o'clock"}
    sent, answer = asked(page, lambda: page.get_by_label("tag: how").select_option("is"))
    assert sent["where"] == "tag = 'o''clock' and things >= 5"
    assert answer["hits"]
    expect(page.locator("#filters-count")).to_have_text("2")
    expect(page.locator("#found")).to_contain_text("that pass the filters")
    sent, _ = asked(page, lambda: page.locator("#where").fill("width > 100 or height > 100"))
    assert sent["where"] == "tag = 'o''clock' and things >= 5 and (width > 100 or height > 100)"
    screenshot(page, "filters")
    sent, _ = asked(page, page.get_by_role("button", name="Remove the filter things ≥ 5").click)
    assert sent["where"].startswith("tag = 'o''clock' and (width")
    expect(page.get_by_label("things at least")).to_have_value("")
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator("#found")).to_have_text("The best 48 of 72 pictures")
    expect(page.locator("#filters-count")).to_be_hidden()


def test_a_wrong_expression_is_said_in_its_place(visit: Visit, album: str) -> None:
    visit.expected.append("status of 400")  # the browser's own line about it
    page = visit.open(album)
    search(page, WORDS)
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Filters").click()
    page.locator("#where").fill("bogus > 3")
    expect(page.locator("#where-error")).to_contain_text("bogus")
    expect(page.locator("#where")).to_have_attribute("aria-invalid", "true")
    page.locator("#where").fill("width > 3")
    expect(page.locator("#where-error")).to_be_empty()
    expect(page.locator(".tile").first).to_be_visible()


def test_filters_that_nothing_passes(visit: Visit, album: str) -> None:
    page = visit.open(album, "?q=a+red+star&min.width=100000")
    expect(page.locator("#message")).to_have_text("No picture passes the filters.")
    expect(page.locator(".tile")).to_have_count(0)


def test_unknown_words_are_explained(visit: Visit, album: str) -> None:
    visit.expected.append("status of 400")
    page = visit.open(album)
    page.locator("#words").fill("xylophones")
    expect(page.locator("#message")).to_contain_text("knows none of the words")
    search(page, WORDS)
    expect(page.locator("#message")).to_be_hidden()


def test_the_address_holds_the_query_and_back_works(visit: Visit, album: str) -> None:
    page = visit.open(album)
    first = search(page, WORDS)
    page.locator("#words").press("Enter")
    second = search(page, "a green heart")
    page.locator("#words").press("Enter")
    assert address(page) == {"q": ["a green heart"]}
    page.locator(".tile .card").first.click()
    expect(page.locator("#viewer")).to_be_visible()
    assert address(page)["open"] == [str(second[0]["id"])]
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    page.go_back()
    expect(page.locator("#words")).to_have_value(WORDS)
    expect(page.locator(".tile .name").first).to_have_text(first[0]["path"])
    page.go_forward()
    expect(page.locator("#words")).to_have_value("a green heart")
    other = visit.open(album, f"?q=a+green+heart&min.things=4&part=-0.5:text:ring&open={second[0]['id']}")
    expect(other.locator("#viewer")).to_be_visible()
    expect(other.locator("#words")).to_have_value("a green heart")
    expect(other.locator(".chip")).to_have_count(2)


def test_a_link_to_a_picture_without_a_query(visit: Visit, album: str) -> None:
    visit.expected.append("status of 404")
    page = visit.open(album, "?open=3")
    expect(page.locator("#viewer h2")).to_have_text(re.compile(r"\.png$"))
    close_viewer(page)
    assert address(page) == {}
    other = visit.open(album, "?open=999999")
    expect(other.locator("#message")).to_contain_text("999999")
    expect(other.locator("#viewer")).to_be_hidden()


def test_more_results_on_scrolling(visit: Visit, album: str) -> None:
    page = visit.open(album)
    search(page, WORDS)
    before = tiles(page)
    page.locator(".tile").last.scroll_into_view_if_needed()
    expect(page.locator(".tile")).to_have_count(72)
    assert tiles(page)[: len(before)] == before
    expect(page.locator("#more")).to_be_hidden()


def test_mode_and_lowest_score(visit: Visit, album: str) -> None:
    page = visit.open(album)
    hits = search(page, WORDS)
    page.get_by_role("button", name="Filters").click()
    sent, answer = asked(page, lambda: page.locator("#mode").select_option("exact"))
    assert (sent["mode"], answer["mode"]) == ("exact", "exact")
    limit = hits[4]["score"]
    sent, answer = asked(page, lambda: page.locator("#threshold").fill(f"{limit:.6f}"))
    assert sent["threshold"] == pytest.approx(limit, abs=1e-5)
    assert 4 <= len(answer["hits"]) <= 5
    expect(page.locator(".tile")).to_have_count(len(answer["hits"]))
