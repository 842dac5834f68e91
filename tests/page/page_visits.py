"""What the tests of the page share: services as processes, visits of the page, and what is looked up in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Response
from small import command, wait_for

HOSTILE = "a\n<img src=x onerror=alert(1)> \u202egnp.png"
GONE, BROKEN = "gone.png", "broken.png"
TOKEN = "a-token-of-the-tests"
ALBUM = 72  # pictures of the index with regions
# The first page, results or a trouble are shown only once the page has learnt what it searches; a refusal has no box.
KNOWS_ITS_INDEX = """() => !document.querySelector("#words")
    || ["hello", "results", "message"].some(id => !document.getElementById(id).hidden)"""
SHOWS = "ids => [...document.querySelectorAll('#grid .tile')].map(one => one.dataset.id).join() === ids.join()"


def chromium() -> str:
    """The system's browser.

    Its absence fails the tests: they say whether the page works at all.
    """
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.fail("Chromium is not installed, and the page is tested in it. Install it: bash .ci/chromium", pytrace=False)


@dataclass
class Serving:
    """A service as a process of its own."""

    process: subprocess.Popen[str]
    address: str
    port: int


@contextmanager
def served(index: Path, *options: str) -> Iterator[Serving]:
    """``patchword serve`` on a free port; what it says goes to a file, so that no pipe fills."""
    said = index.parent / f"{index.name}.{len(options)}.log"
    with said.open("w", encoding="utf-8") as log:
        words = command("serve", index, "--port", "0", *options)
        process = subprocess.Popen(words, stdout=log, stderr=log, text=True)
    try:
        wait_for(lambda: re.search(r"http://[\d.]+:(\d+)/", said.read_text(encoding="utf-8")) is not None, process)
        found = re.search(r"http://[\d.]+:(\d+)/", said.read_text(encoding="utf-8"))
        assert found is not None
        yield Serving(process, found[0], int(found[1]))
    finally:
        process.terminate()
        process.wait(timeout=30)


@dataclass
class Visit:
    """Pages that were opened in a test, and what happened in them.

    Attributes:
        troubles: console errors and uncaught exceptions.
        expected: patterns of troubles that belong to the test, such as the browser's line about a refused request.
        requests: addresses that were asked for.
        origins: of the services; everything else is outside.
    """

    browser: Browser
    troubles: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, address: str, path: str = "", *, width: int = 1280, height: int = 820, **options: Any) -> Page:
        """Open the page in a context of its own and wait until it knows its index."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        self.origins.add(address.rstrip("/"))
        page.on("console", lambda message: self.troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", self._asked)
        page.goto(address + path)
        page.wait_for_function(KNOWS_ITS_INDEX)
        return page

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)

    def outside(self) -> list[str]:
        """Addresses that belong to no service; what the page holds itself (data:, blob:) is inside."""
        inside = (*(f"{origin}/" for origin in self.origins), "data:", *(f"blob:{origin}/" for origin in self.origins))
        return [url for url in self.requests if not url.startswith(inside)]

    def unexpected(self) -> list[str]:
        """Troubles that no pattern of the test explains."""
        return [text for text in self.troubles if not any(re.search(pattern, text) for pattern in self.expected)]


def search(page: Page, words: str, type_words: Callable[[], None] | None = None) -> list[dict[str, Any]]:
    """Type words as a person would, and wait until the page shows their answer. Returns the service's hits."""

    def is_answer(response: Response) -> bool:
        if not response.url.endswith("/search") or response.request.post_data_json["parts"][0].get("text") != words:
            return False
        return response.status == 200

    with page.expect_response(is_answer) as answered:
        page.locator("#words").fill(words) if type_words is None else type_words()
    hits: list[dict[str, Any]] = answered.value.json()["hits"]
    wait_for_tiles(page, hits)
    return hits


def wait_for_tiles(page: Page, hits: list[dict[str, Any]]) -> None:
    """Wait until the page shows just these hits: an answer has come before it is drawn."""
    page.wait_for_function(SHOWS, arg=[str(hit["id"]) for hit in hits])


def address(page: Page) -> dict[str, list[str]]:
    """The query of the address, as the page itself has it now; Playwright learns of its changes later."""
    return parse_qs(urlsplit(page.evaluate("location.href")).query)


def close_viewer(page: Page) -> None:
    """Close the large picture, and wait until the page has gone back to the address before it."""
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('#viewer').open && !/[?&]open=/.test(location.search)")


def wait_for_rest(page: Page) -> None:
    """Wait until nothing is asked or moves any more."""
    page.wait_for_function(
        "() => !document.body.classList.contains('is-busy') && document.getAnimations().length === 0"
    )


def let_timers_run(page: Page, ms: int) -> None:
    """Wait by the page's own clock: whatever it wanted to do within this time has been done, however slow it is."""
    page.evaluate("ms => new Promise(done => setTimeout(done, ms))", ms)


def tiles(page: Page) -> list[int]:
    """Ids of the pictures on the page, in their order."""
    return [int(found) for found in page.eval_on_selector_all("#grid .tile", "all => all.map(one => one.dataset.id)")]
