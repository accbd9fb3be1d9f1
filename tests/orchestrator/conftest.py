"""Fixtures of a browser: the system's Chromium, and pages that must not complain."""

import shutil
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

pytest.register_assert_rewrite("mirrored", "sweeping")

Open: TypeAlias = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; for one module, as others may not have Playwright's event loop."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium: install one, such as Debian's package chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as in a container.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a URL in a page; at the end, none may have had an error or asked the network for
    anything but itself."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme="light")
    context.set_default_timeout(60_000)
    complaints: list[str] = []

    def open_page(url: str) -> Page:
        page = context.new_page()

        def said(message: ConsoleMessage) -> None:
            if message.type == "error":
                complaints.append(message.text)

        def asked(request: Request) -> None:
            if not request.url.startswith((url, "blob:", "data:")):
                complaints.append(f"asked for {request.url}")

        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", said)
        page.on("request", asked)
        page.goto(url)
        page.wait_for_selector('[data-table="iterations"] thead th')
        return page

    yield open_page
    context.close()
    assert complaints == []
