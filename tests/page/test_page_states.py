"""What is not the usual: an empty index, a service that is down, busy, changed, or asks for a token."""

import re
from collections.abc import Callable
from pathlib import Path

from page_visits import TOKEN, Serving, Visit, let_timers_run, search, served
from playwright.sync_api import Page, expect

Screenshot = Callable[[Page, str], None]
WORDS = "a red star"


def test_an_empty_index_says_what_to_do(visit: Visit, empty_index: Path, screenshot: Screenshot) -> None:
    with served(empty_index) as serving:
        page = visit.open(serving.address)
        expect(page.get_by_role("heading", name="This index is empty")).to_be_visible()
        expect(page.locator("#hello pre")).to_contain_text("patchword index add")
        page.locator("#words").fill(WORDS)
        let_timers_run(page, 300)  # longer than a search waits for the next letter
        expect(page.get_by_role("heading", name="This index is empty")).to_be_visible()
        expect(page.locator("#message")).to_be_hidden()
        screenshot(page, "empty")
    assert not [url for url in visit.requests if url.endswith("/search")]


def test_a_service_that_stops_and_comes_back(visit: Visit, photo_serving: Serving) -> None:
    visit.expected += ["net::ERR_", r"status of 4\d\d"]  # small pictures may be on their way when it stops
    page = visit.open(photo_serving.address)
    search(page, WORDS)
    with photo_serving.stopped():
        page.locator("#words").fill("a green ring")
        expect(page.locator("#message")).to_contain_text("does not answer")
        expect(page.locator("#message code")).to_have_text("patchword serve")
        expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    expect(page.locator("#message")).to_be_hidden(timeout=20_000)
    expect(page.locator(".tile").first).to_be_visible()


def test_a_busy_service_is_asked_again(visit: Visit, album: str) -> None:
    visit.expected.append("status of 503")
    page = visit.open(album)
    is_busy = True
    page.route(
        "**/search",
        lambda route: (
            route.fulfill(status=503, body='{"error": "256 searches wait already."}') if is_busy else route.continue_()
        ),
    )
    page.locator("#words").fill(WORDS)
    expect(page.locator("#message")).to_contain_text("256 searches wait already. Trying again")
    is_busy = False
    expect(page.locator(".tile").first).to_be_visible()
    expect(page.locator("#message")).to_be_hidden()


def test_a_refusal_is_not_shown_over_the_answer_to_a_newer_question(visit: Visit, album: str) -> None:
    """Which of words and filter was refused is asked with a second search, and that takes long here."""
    visit.expected.append("status of 400")
    page, held = visit.open(album), []
    page.route(
        "**/search",
        lambda route: (
            route.fulfill(status=400, body='{"error": "No such column."}')
            if route.request.post_data_json["where"] == "nothing = 1"
            else held.append(route)
            if route.request.post_data_json["k"] == 1
            else route.continue_()
        ),
    )
    move = "to => { history.pushState({}, '', to); dispatchEvent(new PopStateEvent('popstate')); }"
    with page.expect_request(lambda one: one.url.endswith("/search") and one.post_data_json["k"] == 1):
        page.evaluate(move, "?q=a+red+star&where=nothing+%3D+1")
    page.evaluate(move, "?q=a+green+ring")
    expect(page.locator(".tile").first).to_be_visible()
    with page.expect_response("**/search"):
        held[0].continue_()
    let_timers_run(page, 50)
    expect(page.locator("#message")).to_be_hidden()
    assert page.locator(".tile").count() > 0


def test_a_token_opens_the_page_and_leaves_the_address(visit: Visit, album_index: Path) -> None:
    visit.expected.append("status of 401")
    with served(album_index, "--token", TOKEN) as serving:
        page = visit.open(serving.address, f"?token={TOKEN}")
        search(page, WORDS)
        assert TOKEN not in page.url
        assert page.locator(".tile img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        page.context.clear_cookies()
        page.locator("#words").fill("a green ring")
        expect(page.locator("#message")).to_contain_text("needs the service's token")
        stranger = visit.open(serving.address)
        expect(stranger.locator("body")).to_contain_text("token")
        assert stranger.locator("#words").count() == 0


def test_the_page_obeys_its_own_rules(visit: Visit, album: str) -> None:
    page = visit.open(album)
    policy = page.request.get(album).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert (
        page.locator("script:not([src]), style, [style]:not(.tile):not(.word):not(.outline):not(.frame)").count() == 0
    )
    names = [url for url in visit.requests if re.search(r"/static/", url)]
    assert len(names) > 15
