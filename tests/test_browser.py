"""The browser the other tests look through notices what is wrong on a page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import browser as browser_module
import pytest
from browser import PHONE, Browser

FINE = "<p>fine</p><script>document.title = 'ran'</script>"


def write(body: str) -> Path:
    page = Path("page.html")
    page.write_text(f"<!doctype html><meta charset='utf-8'><link rel='icon' href='data:,'>{body}")
    return page


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("<script>nobody.knows()</script>", "nobody is not defined"),
        ("<script>setTimeout(() => { throw new Error('late') }, 20)</script>", "late"),
        ("<script>Promise.reject(new Error('broken promise'))</script>", "broken promise"),
        ("<script>console.error('told')</script>", "told"),
        ("<script src='not-there.js'></script>", "not-there.js"),
        ("<script src='https://example.com/library.js'></script>", "ERR_NAME_NOT_RESOLVED"),
    ],
    ids=["script", "later", "promise", "console", "missing file", "needs the network"],
)
def test_what_goes_wrong_on_a_page_is_noticed(browser: Browser, body: str, error: str) -> None:
    browser.open(write(body + "<script>setTimeout(() => document.title = 'over', 60)</script>"))
    browser.wait_for("document.title === 'over'")
    (found,) = browser.errors()
    assert error in found
    assert browser.errors() == [found]  # asking does not forget


def test_a_page_that_is_fine_has_no_errors_even_after_one_that_had(browser: Browser) -> None:
    browser.open(write("<script>nobody.knows()</script>"))
    browser.open(write(FINE))
    browser.wait_for("document.title === 'ran'")
    assert (browser.errors(), browser.text()) == ([], "fine")


def test_a_page_has_the_size_that_was_asked_for_and_its_picture_too(browser: Browser) -> None:
    browser.open(write("<div style='height: 2000px'>tall</div>"), size=PHONE)
    assert browser.evaluate("[innerWidth, innerHeight]") == list(PHONE)
    picture = browser.screenshot(Path("window.png"), whole=False).read_bytes()
    assert tuple(int.from_bytes(picture[at : at + 4], "big") for at in (16, 20)) == PHONE
    picture = browser.screenshot(Path("page.png")).read_bytes()
    assert int.from_bytes(picture[20:24], "big") >= 2000


def test_waiting_for_what_never_comes_fails_and_tells_the_page(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser_module, "HANG", 0.1)
    browser.open(write(FINE))
    with pytest.raises(pytest.fail.Exception, match=re.escape("document.title === 'other'") + r"(.|\n)*page: fine"):
        browser.wait_for("document.title === 'other'")


@pytest.mark.parametrize(("required", "outcome"), [("0", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_browser_skips_unless_it_is_required(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("BSTUNER_REQUIRE_CHROMIUM", required)
    with pytest.raises(outcome, match="no Chromium"), browser_module.chromium():
        pass
