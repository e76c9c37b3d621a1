"""A study as a block of text for the terminal: the report in short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bstuner.report.summary import find_summary
from bstuner.report.tune_summary import tune_summary
from bstuner.report.verdict import state_words, verdict
from bstuner.study.findings import Findings

__all__ = ["growth_words", "study_summary"]


def study_summary(findings: Findings) -> RenderableType:
    """The verdict, how far the search has come, and what was found.

    Args:
        findings: Those of a study.
    """
    parts: list[RenderableType] = [Text(verdict(findings), style="bold")]
    if findings.state != "ended":  # which the block below tells with the rest
        parts.append(Text(state_words(findings), style="cyan"))
    if findings.failure:
        parts.append(Text(findings.failure, style="yellow"))
    if findings.result is not None:
        parts.append(Padding(tune_summary(findings.result), (1, 0, 0, 0)))
    elif findings.find is not None:
        parts.append(Padding(find_summary(findings.find), (1, 0, 0, 0)))
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


def growth_words(plan: dict[str, Any]) -> str:
    """A growth plan in a sentence.

    Args:
        plan: It, in plain types.
    """
    low = min(phase["smallest_batch_size"] for phase in plan["phases"])
    high = max(phase["batch_size"] for phase in plan["phases"])
    words = f"batch {low:,} to {high:,}" if high > low else f"batch {low:,} throughout"
    if plan["steps"] is not None and plan["own"]["steps"] is not None:
        words += f": {plan['steps']:,} optimizer steps instead of {plan['own']['steps']:,}"
    return f"{words}, capped at {plan['max_batch_size']:,} by {plan['capped_by']}" if plan["capped_by"] else words
