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
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page, Request, Response
from small import command, wait_for

HOSTILE = "a\n<img src=x onerror=alert(1)> \u202egnp.png"
GONE, BROKEN = "gone.png", "broken.png"
TOKEN = "a-token-of-the-tests"
ALBUM = 72  # pictures of the index with regions
WIDTH, HEIGHT = 1280, 820  # of the usual page
# The first page, results or a trouble are shown only once the page has learnt what it searches; a refusal has no box.
KNOWS_ITS_INDEX = """() => !document.querySelector("#words")
    || ["hello", "results", "message"].some(id => !document.getElementById(id).hidden)"""
SHOWS = "ids => [...document.querySelectorAll('#grid .tile')].map(one => one.dataset.id).join() === ids.join()"


def chromium() -> str:
    """The system's browser.

    Its absence fails the tests: they say whether the page works at all.
    """
    for name in ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.fail("Chromium is not installed, and the page is tested in it. Install it: bash .ci/chromium", pytrace=False)


@dataclass
class Serving:
    """``patchword serve`` as a process of its own.

    Attributes:
        port: a free one is taken by the first start, and kept by the next ones.
    """

    index: Path
    options: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """What it says goes to a file, so that no pipe fills."""
        said = self.index.parent / f"{self.index.name}.{len(self.options)}.log"
        with said.open("w", encoding="utf-8") as log:
            words = command("serve", self.index, "--port", str(self.port), *self.options)
            self.process = subprocess.Popen(words, stdout=log, stderr=log, text=True)
        address = re.compile(r"http://127\.0\.0\.1:(\d+)/")
        wait_for(lambda: address.search(said.read_text(encoding="utf-8")) is not None, self.process)
        found = address.search(said.read_text(encoding="utf-8"))
        assert found is not None
        self.port = int(found[1])

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it for a while; afterwards it is at the same address again."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@contextmanager
def served(index: Path, *options: str) -> Iterator[Serving]:
    """A service that runs."""
    serving = Serving(index, options)
    try:
        serving.start()
        yield serving
    finally:
        serving.stop()


@dataclass
class Pages:
    """The browser, and the usual page: tests use it one after the other, since a new one costs a process and a window.

    Attributes:
        spare: the page, while no test has it.
    """

    browser: Browser
    spare: Page | None = None

    def take(self) -> Page:
        """The usual page without a past; a new one while another visit has it. What moves is for the other pages."""
        page, self.spare = self.spare, None
        return page or self.new(reduced_motion="reduce")

    def new(self, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> Page:
        """A page in a context of its own."""
        page = self.browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        page.set_default_timeout(15_000)
        return page

    def give_back(self, page: Page) -> None:
        """Leave nothing of a visit: no route, stored text, cookie or mouse over a picture."""
        page.unroute_all(behavior="ignoreErrors")
        page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        page.goto("about:blank")
        page.mouse.move(0, 0)
        page.context.clear_cookies()
        if self.spare is None:
            self.spare = page
        else:
            page.context.close()


@dataclass
class Visit:
    """Pages that were opened in a test, and what happened in them.

    Attributes:
        troubles: console errors, uncaught exceptions and dialogs.
        expected: patterns of troubles that belong to the test, such as the browser's line about a refused request.
        requests: addresses that were asked for.
        origins: of the services; everything else is outside.
        usual: the page that goes back to `pages`.
        others: pages that are closed.
    """

    pages: Pages
    troubles: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    usual: Page | None = None
    others: list[Page] = field(default_factory=list)

    def open(self, address: str, path: str = "", **options: Any) -> Page:
        """Open the page without a past, and wait until it knows its index; a second one shares nothing with the first.

        Args:
            options: width, height and what else differs from the usual page.
        """
        if options or self.usual is not None:
            page = self.pages.new(**options)
            self.others.append(page)
        else:
            page = self.usual = self.pages.take()
        self.origins.add(address.rstrip("/"))
        for event, heard in self._heard():
            page.on(event, heard)
        page.goto(address + path)
        page.wait_for_function(KNOWS_ITS_INDEX)
        return page

    def leave(self) -> None:
        """Close the pages; the usual one waits for the next visit."""
        for page in self.others:
            page.context.close()
        if self.usual is not None:
            page, self.usual = self.usual, None
            try:
                self.pages.give_back(page)
            except Error:  # after a test that failed the page may answer no more
                page.context.close()
            else:
                for event, heard in self._heard():
                    page.remove_listener(event, heard)

    def check(self) -> None:
        """No console error, exception or dialog, and no request to anywhere else, may come from a page."""
        assert self.unexpected() == []
        assert self.requests
        assert self.outside() == []

    def _heard(self) -> list[tuple[Any, Callable[[Any], None]]]:
        return [
            ("console", self._hear_console),
            ("pageerror", self._hear_error),
            ("dialog", self._hear_dialog),
            ("request", self._hear_request),
        ]

    def _hear_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.troubles.append(message.text)

    def _hear_error(self, error: Error) -> None:
        self.troubles.append(str(error))

    def _hear_dialog(self, dialog: Dialog) -> None:
        self.troubles.append(f"a dialog opened: {dialog.message}")
        dialog.dismiss()

    def _hear_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def outside(self) -> list[str]:
        """Addresses that belong to no service; what the page holds itself (data:, blob:) is inside."""
        inside = (*(f"{origin}/" for origin in self.origins), "data:", *(f"blob:{origin}/" for origin in self.origins))
        return [url for url in self.requests if not url.startswith(inside)]

    def unexpected(self) -> list[str]:
        """Troubles that no pattern of the test explains."""
        return [text for text in self.troubles if not any(re.search(pattern, text) for pattern in self.expected)]


@contextmanager
def visiting(pages: Pages) -> Iterator[Visit]:
    """A visit whose pages are left, and then checked."""
    visit = Visit(pages)
    try:
        yield visit
    finally:
        visit.leave()
    visit.check()


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
