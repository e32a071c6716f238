"""A real browser without a window, for the tests that look at a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium as playwright drives it; skips where one of the two is not there."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    program = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if program is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(_OPTIONS))
        try:
            yield started
        finally:
            started.close()


class Tab:
    """A page open in the browser, with all that it complained of and asked for."""

    def __init__(self, started: Any, file: Path, *, width: int = 1200, dark: bool = False) -> None:
        self.context = started.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
        )
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type != "log" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._requested)
        self.page.goto(file.as_uri())

    def _requested(self, request: Any) -> None:
        if not request.url.startswith("data:"):
            self.requests.append(request.url)

    def draw(self) -> None:
        """Every plot that is shown, be it in view or not."""
        self.page.evaluate("() => window.featcache.drawAll()")

    def marks(self, chart: str) -> int:
        """How many paths a plot consists of."""
        return int(self.page.locator(f"#{chart} svg path").count())

    def close(self) -> None:
        self.context.close()
