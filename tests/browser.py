"""A real browser for the tests: Chromium without a window, which tells what goes wrong on a page.

A test asks for the `browser` fixture, opens a page or a file, and looks:

    browser.open(tmp_path / "report.html")
    browser.wait_for("document.querySelectorAll('.js-plotly-plot').length === 4")
    assert browser.errors() == []
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium import webdriver

DESKTOP = (1280, 800)
PHONE = (390, 844)
HANG = 60  # seconds, far more than a page needs
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root may not have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Pages that need the network fail here as they do for a reader who has none.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser, or skip where there is none; with BSTUNER_REQUIRE_CHROMIUM=1, fail."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    needed = {"Chromium": program, "chromedriver": driver, "selenium": find_spec("selenium")}
    missing = ", ".join(f"no {name}" for name, found in needed.items() if not found)
    if missing and os.environ.get("BSTUNER_REQUIRE_CHROMIUM") == "1":
        pytest.fail(f"{missing}, but BSTUNER_REQUIRE_CHROMIUM=1")
    if missing:
        pytest.skip(f"{missing} here")
    from selenium import webdriver  # not above: tests that need no browser do without it

    with tempfile.TemporaryDirectory(prefix="bstuner-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = program  # without the two paths selenium would download a browser of its own
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        session = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
        try:
            yield Browser(session)
        finally:
            session.quit()


class Browser:
    """A browser that runs, with one page open."""

    def __init__(self, session: webdriver.Chrome) -> None:
        self._session = session
        self._log: list[dict[str, Any]] = []

    def open(self, page: str | Path, size: tuple[int, int] = DESKTOP) -> None:
        """Open a URL or a file in a window of that many pixels, and forget what the page before it said."""
        self.resize(*size)
        self._session.get("about:blank")  # else a page that differs after the `#` alone would not be loaded
        self._read_log()
        self._log.clear()
        self._session.get(page.resolve().as_uri() if isinstance(page, Path) else page)

    def errors(self) -> list[str]:
        """What the page has logged as an error so far: in scripts, in promises, and files that did not load."""
        self._read_log()
        return [entry["message"] for entry in self._log if entry["level"] == "SEVERE"]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in JavaScript."""
        return self._session.execute_script(f"return ({expression})")

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression in JavaScript is truthy, and return its value."""
        give_up = time.monotonic() + HANG
        while not (value := self.evaluate(expression)):
            if time.monotonic() > give_up:
                pytest.fail(f"not within {HANG} s: {expression}\nerrors: {self.errors()}\npage: {self.text()}")
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click as a reader does, who may copy and open windows, unlike a script."""
        self._session.find_element("css selector", selector).click()

    def text(self) -> str:
        """The words a reader sees."""
        return str(self.evaluate("document.body.innerText"))

    def resize(self, width: int, height: int) -> None:
        """Give the page that many pixels: to the page itself, where a window's own size counts its frame."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._session.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def screenshot(self, file: Path, whole: bool = True) -> Path:
        """Write the page as a PNG: all of it, or only what is in the window."""
        picture = self._session.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        file.write_bytes(base64.b64decode(picture["data"]))
        return file

    def _read_log(self) -> None:
        self._log += self._session.get_log("browser")  # which empties it
