"""The page without a mouse, with a screen reader, in the dark, on a phone."""

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from page_visits import Visit, close_viewer, search, tiles, wait_for_rest
from playwright.sync_api import Page, expect

Screenshot = Callable[[Page, str], None]
WORDS = "a red star"
# Contrast of every element with text of its own against the nearest ground below it; large text needs less (WCAG 2).
CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].map((value, k) => k < 3 ? value : value / 255);
    };
    const over = (top, below) => below.map((value, k) => k < 3 ? top[k] * top[3] + value * (1 - top[3]) : 1);
    const ground = node => {
        if (node === null) return rgba(getComputedStyle(document.body).backgroundColor);
        const own = rgba(getComputedStyle(node).backgroundColor);
        return own[3] === 1 ? own : over(own, ground(node.parentElement));
    };
    const bright = colour => colour.slice(0, 3).map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, k) => sum + value * [0.2126, 0.7152, 0.0722][k], 0);
    const poor = [];
    let checked = 0;
    for (const node of document.body.querySelectorAll("*")) {
        const hasText = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
        if (!hasText || !node.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
        if (node.closest("[aria-hidden=true], .unseen, option") || node.disabled) continue;
        const style = getComputedStyle(node), below = ground(node);
        const [a, b] = [bright(over(rgba(style.color), below)), bright(below)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const size = parseFloat(style.fontSize);
        const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
        checked += 1;
        const name = `${node.tagName}.${node.className} "${node.textContent.trim().slice(0, 30)}"`;
        if (ratio < needed) poor.push(`${name} ${ratio.toFixed(2)}`);
    }
    return {checked, poor};
}"""
# Every element that takes the keyboard or is pressed, and whether something names it.
UNNAMED = """() => [...document.querySelectorAll("a[href], button, input, select, textarea, [tabindex]")]
    .filter(node => node.checkVisibility() && !node.matches("pre, section, h2"))
    .filter(node => {
        const labels = [...(node.labels ?? [])].map(label => label.textContent).join("");
        return !(node.getAttribute("aria-label") || labels || node.textContent).trim();
    })
    .map(node => node.outerHTML.slice(0, 80))"""


def focused(page: Page) -> str:
    """What the keyboard is on: its label or text."""
    return str(
        page.evaluate(
            "(document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim())"
            " || document.activeElement.id"
        )
    )


def test_the_keyboard_begins_at_the_best_picture_of_the_last_answer(visit: Visit, album: str) -> None:
    """Not at the best one of an answer before it, which may be among the others now."""
    page = visit.open(album)
    hits = [hit["id"] for hit in search(page, WORDS)]
    others = (f"a {word} {shape}" for word in ("green", "blue", "small red") for shape in ("heart", "star", "ring"))
    before = next(words for words in others if search(page, words)[0]["id"] in hits[1:])
    page = visit.open(album)
    for words in (before, WORDS):
        search(page, words)
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("1: ")


def test_a_whole_visit_with_the_keyboard(visit: Visit, album: str) -> None:
    page = visit.open(album)
    expect(page.locator("#words")).to_be_focused()
    search(page, WORDS, lambda: page.keyboard.type(WORDS))  # results of the first letters give way to those of all
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("1: ")
    page.keyboard.press("ArrowRight")
    assert focused(page).startswith("2: ")
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert below > page.locator(".card").nth(1).bounding_box()["y"] + 50
    page.keyboard.press("ArrowUp")
    assert focused(page).startswith("2: ")
    page.keyboard.press("End")
    assert focused(page).startswith("48: ")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator("#viewer h2")).to_be_focused()
    expect(page.locator(".word")).to_have_count(3)
    for _ in range(5):
        page.keyboard.press("Tab")
    assert focused(page).startswith("“a” ")
    page.keyboard.press("ArrowRight")
    assert focused(page).startswith("“red” ")
    expect(page.locator(".said")).to_contain_text("“red”")
    expect(page.locator(".outline .label")).to_have_count(0)  # this word alone is lit
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")  # outside of the words: the next picture
    expect(page.locator(".place")).to_have_text(re.compile("^2 of "))
    close_viewer(page)
    page.wait_for_function("() => document.activeElement.matches('.card[aria-label^=\"2: \"]')")  # what was shown last
    expected = tiles(page)[1]
    with page.expect_response(re.compile(f"/similar/{expected}")):
        page.keyboard.press("s")
    page.keyboard.press("/")
    expect(page.locator("#words")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    expect(page.locator("#filters")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#filters")).to_be_hidden()
    expect(page.locator("#filters-button")).to_be_focused()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()


def test_results_are_one_stop_of_the_tab_key(visit: Visit, album: str) -> None:
    page = visit.open(album)
    search(page, WORDS)
    stops = page.eval_on_selector_all("#grid a, #grid button", "all => all.filter(one => one.tabIndex >= 0).length")
    assert stops == 2  # the picture and its "similar"
    page.locator(".card").nth(5).focus()
    stops = page.eval_on_selector_all("#grid .card", "all => all.map(one => one.tabIndex)")
    assert [k for k, stop in enumerate(stops) if stop == 0] == [5]


def test_screen_readers_hear_the_number_of_results(visit: Visit, album: str) -> None:
    page = visit.open(album)
    search(page, WORDS)
    expect(page.get_by_role("status")).to_have_text(f"48 results for {WORDS}")
    expect(page.locator("[aria-live='polite']")).to_have_attribute("aria-atomic", "true")


def test_landmarks_and_headings_are_in_order(visit: Visit, album: str) -> None:
    page = visit.open(album)
    search(page, WORDS)
    page.locator("#filters-button").click()
    for role in ("banner", "main", "search"):
        assert page.get_by_role(role).count() == 1
    expect(page.get_by_role("region", name="Results")).to_be_visible()
    expect(page.get_by_role("region", name="Filters")).to_be_visible()
    visible = "all => all.filter(one => one.checkVisibility()).map(one => Number(one.tagName[1]))"
    levels = page.eval_on_selector_all("h1, h2, h3, h4", visible)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    page.locator(".card").first.click()
    expect(page.get_by_role("dialog")).to_have_attribute("aria-labelledby", "viewer-title")
    levels = page.eval_on_selector_all("dialog[open] :is(h2, h3)", visible)
    assert levels[0] == 2
    assert set(levels[1:]) == {3}


def test_everything_that_can_be_used_has_a_name(visit: Visit, album: str) -> None:
    page = visit.open(album, "?q=a+red+star&part=0.5:item:3&part=-1:text:ring&min.width=10&where=height+%3E+1")
    expect(page.locator(".tile").first).to_be_visible()
    page.locator("#filters-button").click()
    assert page.evaluate(UNNAMED) == []
    named = page.locator("body").aria_snapshot()
    assert not re.search(r"^\s*- (button|link|textbox|searchbox|combobox|spinbutton)\s*(\[|$)", named, re.MULTILINE)
    page.locator(".card").first.click()
    expect(page.locator(".word").first).to_be_visible()
    assert page.evaluate(UNNAMED) == []
    assert page.locator("#viewer img.whole").get_attribute("alt")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme: str, visit: Visit, album: str, screenshot: Screenshot) -> None:
    page = visit.open(album, "?q=a+red+star&part=-0.5:text:ring&min.width=10", color_scheme=scheme)
    expect(page.locator(".tile").first).to_be_visible()
    wait_for_rest(page)
    if scheme == "dark":
        screenshot(page, "dark")
    page.locator("#filters-button").click()
    wait_for_rest(page)
    found = page.evaluate(CONTRAST)
    assert found["checked"] > 60
    assert found["poor"] == []
    page.locator(".card").first.click()
    expect(page.locator(".word").first).to_be_visible()
    expect(page.locator(".captions li")).to_have_count(5)
    wait_for_rest(page)
    found = page.evaluate(CONTRAST.replace("document.body.query", "document.querySelector('#viewer').query"))
    assert found["checked"] > 15
    assert found["poor"] == []


def test_dark_colours_follow_the_system_until_they_are_chosen(visit: Visit, album: str) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page = visit.open(album, color_scheme="light")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    expect(page.locator("#theme")).to_have_attribute("aria-pressed", "true")
    page.locator("#theme").click()  # light, against the system
    assert page.evaluate(ground) == light
    page.reload()
    assert page.evaluate(ground) == light
    expect(page.locator("#theme")).to_have_attribute("aria-pressed", "false")
    page.locator("#theme").click()  # as the system has it: nothing is kept
    assert page.evaluate(ground) == dark
    assert page.evaluate("localStorage.length") == 0


def test_a_phone_is_wide_enough(visit: Visit, album: str, screenshot: Screenshot) -> None:
    page = visit.open(album, width=390, height=844, has_touch=True, is_mobile=True)
    hits = search(page, WORDS)
    too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(too_wide)
    screenshot(page, "phone")
    page.locator("#words").fill('a red star -"a very long sentence about a ring that does not end before the edge"')
    page.locator("#keep").click()
    expect(page.locator(".chip")).to_have_count(2)
    page.locator("#filters-button").click()
    assert not page.evaluate(too_wide)
    clipped = (
        "all => all.filter(one => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert page.eval_on_selector_all("button, input, select, .chip, .card", clipped) == 0
    page.locator("#filters-button").click()
    page.locator(".card").first.click()
    expect(page.locator(".word").first).to_be_visible()
    wide = "document.querySelector('#viewer').scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    assert page.eval_on_selector_all("#viewer button, #viewer input, .frame", clipped) == 0
    small = "all => all.filter(one => one.checkVisibility() && one.getBoundingClientRect().height < 24).length"
    assert page.eval_on_selector_all("#viewer button", small) == 0
    screenshot(page, "phone_lit")
    assert hits


def test_nothing_moves_for_those_who_ask_for_it(visit: Visit, album: str) -> None:
    page = visit.open(album, reduced_motion="reduce")
    search(page, WORDS)
    page.locator(".card").first.click()
    expect(page.locator("#viewer")).to_be_visible()
    moves = "one => [getComputedStyle(one)].some(it => it.animationName !== 'none' || it.transitionProperty !== 'none')"
    assert page.eval_on_selector_all("*", f"all => all.filter({moves}).map(one => one.outerHTML.slice(0, 99))") == []
