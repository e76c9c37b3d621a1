"""A study as a block of text for the terminal: the report in short."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bstuner.report import growth_words, state_words, verdict_words
from bstuner.report.terminal.find_summary import render_find
from bstuner.report.terminal.tune_summary import render_tune
from bstuner.study import Findings

__all__ = ["render_study"]


def render_study(findings: Findings) -> RenderableType:
    """The verdict, how far the search has come, and what was found.

    Args:
        findings: Those of a study.
    """
    parts: list[RenderableType] = [Text(verdict_words(findings), style="bold")]
    if findings.state != "ended":  # which the block below tells with the rest
        parts.append(Text(state_words(findings), style="cyan"))
    if findings.failure:
        parts.append(Text(findings.failure, style="yellow"))
    if findings.result is not None:
        parts.append(Padding(render_tune(findings.result), (1, 0, 0, 0)))
    elif findings.find is not None:
        parts.append(Padding(render_find(findings.find), (1, 0, 0, 0)))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True, min_width=9)
    facts.add_column(overflow="fold")
    for label, words in _rows(findings):
        facts.add_row(label, Text(words))
    return Group(*parts, facts)


def _rows(findings: Findings) -> Iterator[tuple[str, str]]:
    plan, where = findings.growth, findings.environment
    if findings.result is None:
        yield "Study", f"{findings.study_name} in {findings.storage}"
    if plan is not None:
        yield "Growth", growth_words(plan)
    hosts = f" on {', '.join(where.hosts)}" if where.hosts else ""
    yield "Ran", f"on {where.device}, precision {where.precision}{hosts}"
