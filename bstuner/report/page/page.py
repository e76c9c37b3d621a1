"""The report: one HTML file that holds all it shows, opens offline, and asks no network for anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from bstuner.core import TuneResult
from bstuner.report import (
    confirmed_words,
    data_words,
    device_words,
    fits_words,
    format_metric,
    growth_words,
    knee_words,
    state_words,
    verdict_words,
)
from bstuner.report.figures import (
    curves_figure,
    front_figure,
    growth_figure,
    memory_figure,
    throughput_figure,
    trials_figure,
)
from bstuner.report.page.parts import environment_list, phase_table, settings_tabs, tiles, trial_rows, trial_table
from bstuner.study import Findings

__all__ = ["report_page"]


def report_page(findings: Findings, now: datetime) -> str:
    """The whole page.

    Args:
        findings: Those of a study.
        now: When it is made, for its foot.
    """
    page = _Page(findings)
    parts = [page.head(), *page.sections(), page.foot(now)]
    template = Template(files("bstuner.report.page").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{findings.study_name}: bstuner report"),
        body="\n".join(parts),
        # Between script tags, where nothing but the end of the tag is special.
        figures="{" + ",".join(f"{json.dumps(name)}:{_json(each)}" for name, each in page.figures.items()) + "}",
        plotly=get_plotlyjs(),
    )


class _Page:
    """The parts of one page, and the figures they have made room for."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.figures: dict[str, go.Figure] = {}

    def head(self) -> str:
        """Verdict, state, and the numbers that matter."""
        findings, facts = self.findings, self.findings.facts
        going_on = " open" if findings.state != "ended" else ""
        model = f"{escape(facts.model)}, {facts.parameters:,} parameters. " if facts.model else ""
        result = findings.result
        found = () if findings.find is None else findings.find.warnings
        told = () if result is None else result.warnings
        notes = [note for note in dict.fromkeys((findings.failure, *found, *told)) if note]
        return "\n".join([
            "<header>",
            f'<p class="state{going_on}">{escape(state_words(findings))}</p>',
            f"<h1>{escape(verdict_words(findings))}</h1>",
            f'<p class="soft">{model}Study {escape(findings.study_name)} in {escape(findings.storage)}.</p>',
            "</header>",
            *tiles(findings),
            *(f'<p class="warn">{escape(note)}</p>' for note in notes),
        ])  # fmt: skip

    def sections(self) -> Iterator[str]:
        """Everything below the head."""
        yield from self._settings()
        yield from self._trials()
        yield from self._curves()
        yield from self._find()
        yield from self._growth()
        yield _section("Environment", environment_list(self.findings))

    def foot(self, now: datetime) -> str:
        """What made the page, and when."""
        version = escape(self.findings.environment.versions["bstuner"])
        updated = self.findings.updated
        last = f" The last trial began or ended at {updated:%Y-%m-%d %H:%M:%S}." if updated else ""
        made = f"Made by <code>bstuner report</code> on {now:%Y-%m-%d at %H:%M:%S}"
        return f"<footer>{made}, from a study of bstuner {version}.{last}</footer>"

    def _settings(self) -> Iterator[str]:
        result = self.findings.result
        if result is None:
            return
        if result.objective == "both" and result.best.number == result.baseline.number:
            words = (
                "<p>Nothing to copy before you choose from the front below: <code>bstuner tune --take metric</code> or "
                f"<code>--take speed</code>, with <code>--study_name {escape(result.study_name)}</code>, takes an end "
                "of it.</p>"
            )
            yield _section("Settings", words)
            return
        yield _section("Settings", f"<p>{escape(self._which(result))}</p>", settings_tabs(result, self.findings))

    def _which(self, result: TuneResult) -> str:
        if result.answer.number == result.baseline.number:
            return "Your own, which stay."
        if self.findings.state == "ended":
            return "Those of the best trial, and where each belongs."
        return "Those of the best trial so far; the search may still find better ones."

    def _trials(self) -> Iterator[str]:
        findings = self.findings
        count = len(findings.trials) + len(findings.running)
        if not count:
            return
        facts, result = findings.facts, findings.result
        bar = ""
        if result is not None and facts.objective == "time":
            bar = (
                f" The target is {facts.monitor} {format_metric(result.target)}, which your own settings reached; "
                f"trials are ranked by their time to {format_metric(result.bar)}, the bar that better ends have raised."
            )
        budget = f"Each trains on at most {facts.trial_budget:,} samples, from the same weights in the same order.{bar}"
        places = "Batch size against learning rate. Point at a trial for its numbers."
        figures = [self._figure("trials", trials_figure(findings), places)]
        if facts.objective == "both":
            words = "The front: of its trials, no other is better in both."
            figures.append(self._figure("front", front_figure(findings), words))
        confirmed = confirmed_words(result) if result is not None else ""
        held = f"<p>{'Confirmed' if result and result.confirmed else 'Not confirmed:'} {escape(confirmed)}.</p>"
        yield _section(
            "Trials",
            f"<p>{escape(budget)}</p>",
            *figures,
            held if confirmed else "",
            trial_table(trial_rows(findings), facts.monitor),
        )

    def _curves(self) -> Iterator[str]:
        by_samples = curves_figure(self.findings)
        if by_samples is None:
            return
        again = (
            " Again: with another order of the data."
            if self.findings.result and self.findings.result.confirmation
            else ""
        )
        words = f"By samples: how much a sample teaches.{again}"
        figures = [self._figure("curves", by_samples, words)]
        if self.findings.facts.objective == "time":
            words = "By seconds of training, without validation: what the search makes shorter."
            figures.append(self._figure("curves-seconds", curves_figure(self.findings, against="seconds"), words))
        yield _section("Training curves", f'<div class="pair">{"".join(figures)}</div>')

    def _find(self) -> Iterator[str]:
        find = self.findings.find
        if find is None:
            yield _section(
                "Memory and throughput", "<p>This study does not hold what was measured before its trials.</p>"
            )
            return
        memory = f"{device_words(find)}. Fits: {fits_words(find)}."
        figures = [self._figure("memory", memory_figure(self.findings), memory)]
        throughput = throughput_figure(self.findings)
        if throughput is not None:
            knee = f"Knee at {knee_words(find, find.knee)}." if find.knee else "Too little was measured for a knee."
            figures.append(self._figure("throughput", throughput, knee))
        data = data_words(find)
        words = f"<p>{escape(data)}.</p>" if data else ""
        yield _section("Memory and throughput", f'<div class="pair">{"".join(figures)}</div>{words}')

    def _growth(self) -> Iterator[str]:
        plan = self.findings.growth
        if plan is None:
            return
        words = f"Batch size and learning rate of the fit that followed: {growth_words(plan)}."
        figure = self._figure("growth", growth_figure(self.findings), words)
        yield _section("Growth plan", figure, phase_table(plan))

    def _figure(self, name: str, figure: go.Figure | None, caption: str) -> str:
        """Room for a figure, above the words that tell its numbers to who cannot see it."""
        if figure is None:
            return ""
        self.figures[name] = figure
        return (
            f'<figure><div class="plot" id="{name}" style="height: {figure.layout.height}px"></div>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )


def _section(title: str, *parts: str) -> str:
    return "\n".join(["<section>", f"<h2>{title}</h2>", *parts, "</section>"])


def _json(figure: go.Figure) -> str:
    content: Any = figure.to_json()
    return str(content).replace("<", "\\u003c")
