"""The report opens in a real browser, offline, and shows what the study holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from browser import PHONE, Browser
from optuna.storages import InMemoryStorage
from plans import STEPS
from studies import FACTS, FIND, searched

from bstuner.core.trial import TrialRequest
from bstuner.report.page.page import report_page
from bstuner.report.plan_json import plan_for_study
from bstuner.report.verdict import state_words, verdict_words
from bstuner.study.findings import Findings, write_growth

NOW = datetime(2026, 1, 2, 3, 4, 5)
ALL_DRAWN = "document.querySelectorAll('.js-plotly-plot').length === document.querySelectorAll('.plot').length"


@pytest.fixture(scope="module")
def findings() -> Findings:
    study = searched(InMemoryStorage())
    write_growth(study, json.loads(json.dumps(plan_for_study(STEPS))))
    return Findings.read(study)


@pytest.fixture(scope="module")
def searching() -> list[Findings]:
    """A study at the start of each of its trials."""
    seen: list[Findings] = []
    storage = InMemoryStorage()

    def look(request: TrialRequest) -> None:
        seen.append(Findings.read(optuna.load_study(study_name="digits", storage=storage)))

    searched(storage, n_trials=5, before=look)
    return seen


@pytest.fixture(scope="module")
def file(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(report_page(findings, NOW), encoding="utf-8")
    return file


@pytest.fixture
def page(browser: Browser, file: Path) -> Browser:
    """The whole report, opened unless it is open already: that takes seconds."""
    if browser.evaluate("location.href") != file.as_uri():
        browser.open(file)
        browser.wait_for(ALL_DRAWN)
    return browser


def opened(browser: Browser, findings: Findings) -> Browser:
    page = Path("report.html").resolve()
    page.write_text(report_page(findings, NOW), encoding="utf-8")
    browser.open(page)
    browser.wait_for(ALL_DRAWN)
    return browser


def test_every_figure_has_its_data_and_nothing_goes_wrong(page: Browser, findings: Findings) -> None:
    drawn = page.evaluate("Object.fromEntries([...document.querySelectorAll('.plot')].map(e => [e.id, e.data.length]))")
    assert set(drawn) == {"trials", "curves", "curves-seconds", "memory", "throughput", "growth"}
    assert all(drawn.values())
    points = page.evaluate(
        "document.getElementById('trials').data.flatMap(t => t.mode === 'markers' ? t.x : []).length"
    )
    assert points == len(findings.trials) >= 12
    marks = page.evaluate("document.querySelectorAll('#trials .scatterlayer .point').length")
    assert marks == len(findings.trials) + 2  # the rings around the baseline and the best
    assert page.evaluate("document.getElementById('memory').data.find(t => t.name === 'fits').x") == [2, 8, 16, 64, 256]
    assert page.errors() == []


def test_the_page_asks_no_network_for_anything(page: Browser, findings: Findings) -> None:
    assert page.evaluate("location.protocol") == "file:"
    assert page.evaluate("performance.getEntriesByType('resource').map(e => e.name)") == []


def test_the_table_has_the_trials(page: Browser, findings: Findings) -> None:
    rows = page.evaluate(
        "[...document.querySelectorAll('#trial-table tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    assert [row[0] for row in rows] == [str(trial.number) for trial in findings.trials]
    heads = page.evaluate("[...document.querySelectorAll('#trial-table thead th')].map(c => c.innerText)")
    assert heads == [*("trial", "batch", "lr", "val_loss", "seconds", "samples", "samples/s", "peak"), "outcome", "why"]
    assert findings.result is not None
    best = rows[findings.result.best.number or 0]
    assert (best[1], best[8]) == (f"{findings.result.best.global_batch_size:,}", "best")
    assert (rows[0][1], rows[0][2], rows[0][8]) == ("32", "1e-3", "yours")


def test_a_click_sorts_the_table_by_number(page: Browser, findings: Findings) -> None:
    column = "[...document.querySelectorAll('#trial-table tbody tr')].map(r => r.cells[{}].dataset.value)"
    for click, order in (("first", 1), ("second", -1)):
        page.evaluate("document.querySelectorAll('#trial-table th button')[4].click()")
        values = page.evaluate(column.format(4))
        known = [float(value) for value in values if value]
        assert known == sorted(known)[::order], click
        assert values == [*map(str, known), *[""] * (len(values) - len(known))]  # what is unknown comes last
    assert page.evaluate("document.querySelectorAll('#trial-table th')[4].getAttribute('aria-sort')") == "descending"


def test_no_page_is_wider_than_a_phone(page: Browser, findings: Findings) -> None:
    for width in (PHONE[0], 320):
        page.resize(width, PHONE[1])
        page.wait_for(f"document.getElementById('trials').querySelector('.main-svg').clientWidth < {width}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_page_tells_how_many_samples_were_looked_at(page: Browser) -> None:
    assert "1,797 samples looked at for the largest." in page.text()


def test_the_settings_are_there_to_copy_in_three_ways(page: Browser, findings: Findings) -> None:
    texts = page.evaluate("[...document.querySelectorAll('.tabs pre')].map(e => e.textContent)")
    assert findings.result is not None
    assert json.loads(texts[2])["lr"] == findings.result.lr
    assert f"batch_size = {findings.result.batch_size}  # Digits.batch_size" in texts[0]
    assert "# and change max_steps: 400 -> 200" in texts[0]
    shown = "[...document.querySelectorAll('.tabs pre')].map(e => e.offsetHeight > 0)"
    assert page.evaluate(shown) == [True, False, False]
    page.click("label[for=json]")
    assert page.evaluate(shown) == [False, False, True]
    page.click(".json .copy")
    page.wait_for("document.querySelector('.json .copy').textContent === 'Copied'")


def test_during_the_search_the_page_says_how_far_it_is(browser: Browser, searching: list[Findings]) -> None:
    page = opened(browser, searching[2])
    assert "Still searching: 2 of 5 trials have ended, 1 running" in page.text()
    assert "So far: " in page.text()
    rows = page.evaluate("document.querySelectorAll('#trial-table tbody tr').length")
    assert rows == 3
    assert page.errors() == []


def test_before_the_first_trial_has_ended_the_page_shows_what_was_measured(
    browser: Browser, searching: list[Findings]
) -> None:
    page = opened(browser, searching[0])
    assert "no trial has ended" in page.text()
    assert page.evaluate("[...document.querySelectorAll('.plot')].map(e => e.id)") == ["trials", "memory", "throughput"]
    assert page.errors() == []


def test_a_study_of_an_older_version_makes_a_page_that_says_what_it_lacks(browser: Browser, findings: Findings) -> None:
    older = replace(findings, find=None, growth=None, state="unknown", n_trials=None)
    page = opened(browser, older)
    assert "does not hold what was measured" in page.text()
    assert "which did not keep whether the search has ended" in page.text()
    assert page.errors() == []


def test_users_words_stay_words(browser: Browser) -> None:
    evil = "<script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"
    facts = replace(FACTS, monitor=evil, model=evil, gpu_name=evil)
    find = replace(FIND, device=evil, holder=f"{evil}.batch_size", warnings=(evil, "</script>"))
    study = searched(InMemoryStorage(), name=evil, facts=facts, find=find, n_trials=3)
    page = opened(browser, Findings.read(study))
    assert page.evaluate("window.evil === undefined && document.images.length === 0")
    assert page.evaluate("document.title") == f"{evil}: bstuner report"
    assert evil in page.evaluate("document.querySelector('h1').textContent")
    assert page.errors() == []


def test_the_error_that_ended_a_search_is_told(browser: Browser, searching: list[Findings]) -> None:
    for ended, said in ((searching[0], "There is no answer: "), (searching[1], "So far: ")):
        page = opened(browser, replace(ended, state="failed", failure="Expected <this>.", running=()))
        assert "Expected <this>." in page.text()
        assert said in page.text()


def test_a_front_without_a_choice_has_nothing_to_copy(browser: Browser) -> None:
    study = searched(InMemoryStorage(), facts=replace(FACTS, objective="both"), n_trials=6)
    page = opened(browser, Findings.read(study))
    assert page.evaluate("document.querySelectorAll('.tabs').length") == 0
    assert "--take speed" in page.text()
    assert page.evaluate("document.getElementById('front').data.length") >= 1
    assert page.errors() == []


def changed(**changes: Any) -> Callable[[Findings], Findings]:
    def change(findings: Findings) -> Findings:
        assert findings.result is not None
        return replace(findings, result=replace(findings.result, **changes))

    return change


def unchanged(findings: Findings) -> Findings:
    return findings


def own_settings_best(findings: Findings) -> Findings:
    assert findings.result is not None
    return changed(best=findings.result.baseline)(findings)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            unchanged,
            r"^Batch 128 with .* reaches what your .*x to .*x sooner \(.*\), confirmed with another order of the data",
        ),
        (changed(confirmed=False), r"^Keep your own settings: batch 128 .*, but not with another order of the data\.$"),
        (changed(confirmed=None), r", not confirmed(; \d other pairs? (is|are) as good)?\.$"),
        (own_settings_best, r"^Your own settings were the best found .*none of \d+ others was ahead and held\.$"),
    ],
)
def test_the_verdict_is_honest(case: Callable[[Findings], Findings], said: str, findings: Findings) -> None:
    assert re.search(said, verdict_words(case(findings)))


def test_the_verdict_before_there_is_a_baseline(findings: Findings, searching: list[Findings]) -> None:
    assert verdict_words(searching[0]).startswith("There is no answer yet: no trial has ended.")
    failed = replace(searching[0], state="failed", failure="Expected <this>.", running=())
    assert verdict_words(failed) == "There is no answer: the search was ended by an error."
    assert state_words(failed) == "Ended by an error after 0 of 5 trials"
    assert "interrupted before" in verdict_words(replace(failed, state="interrupted"))
    assert verdict_words(searching[1]).startswith("So far: your own settings have set the bar, val_loss")
    assert state_words(findings) == f"Ended after {len(findings.trials)} trials: all 12 trials were run"
