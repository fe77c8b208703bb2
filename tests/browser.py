"""A headless Chromium in which tests open pages as a user would; without it they are skipped."""

import contextlib
import shutil
from pathlib import Path

import pytest


@contextlib.contextmanager
def chromium():
    """A browser; skips the test if it, or the package that drives it, is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed: this test drives a browser")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine: this test drives a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser, path: Path, *, width: int = 1280, height: int = 800, **options):
    """Open a file as a page and wait for its figures; fails on console errors and on network requests."""
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not _at_home(request.url) else None)
    try:
        page.goto(path.resolve().as_uri())
        wait_until_drawn(page)
        yield page
        assert not problems
    finally:
        page.close()


def wait_until_drawn(page):
    """Wait until every figure, or a sentence in its place, is present."""
    page.wait_for_function(
        "() => [...document.querySelectorAll('.plot:not([hidden])')].every(plot => plot.querySelector('.main-svg'))"
    )


def _at_home(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))
