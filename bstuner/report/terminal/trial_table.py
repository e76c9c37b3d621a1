"""Trials as a table that fits the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from bstuner.core import Mark, Objective, TrialRequest, TrialSummary
from bstuner.report import format_lr, format_metric

__all__ = ["Running", "trial_table"]

_WIDE = 76  # columns that a whole row takes; below, throughput is left out
_NAME_WIDTH = 12  # of a metric: longer names are cut


@dataclass
class Running:
    """The trial that runs.

    Args:
        number: its number in the study; None for a run that confirms the winner.
        request: what it is asked to run.
        mark: its last validation; None before the first.

    """

    number: int | None
    request: TrialRequest
    mark: Mark | None = None

    def share(self, budget: int | None) -> float:
        """The part of its budget that it has trained on, from 0 to 1."""
        return min(1.0, self.mark.samples / budget) if self.mark and budget else 0.0


def trial_table(
    ended: Sequence[TrialSummary],
    running: Running | None,
    best: TrialSummary | None,
    *,
    monitor: str,
    objective: Objective,
    budget: int | None,
    width: int,
    height: int,
) -> Table:
    """The trials, the last ones where there is no room for all, and always the best.

    Args:
        ended: the trials that have ended, in order.
        running: the one that runs.
        best: the best of those that have ended.
        monitor: the metric.
        objective: "time", "metric" or "both".
        budget: samples of a whole trial; None where unknown.
        width: columns of the terminal.
        height: lines that the table may take.

    """
    wide, timed = width >= _WIDE, objective == "time"
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0), header_style="dim")
    names = ["trial", "batch", "lr", *(["samples/s"] if wide else []), monitor, *(["seconds"] if timed else [])]
    for name in names:
        limit = _NAME_WIDTH if name == monitor else None
        table.add_column(Text(name), justify="right", no_wrap=True, max_width=limit, overflow="ellipsis")
    table.add_column("verdict", no_wrap=True, overflow="ellipsis")

    room = max(2, height - 1 - (running is not None))  # without the header
    last = list(ended if len(ended) <= room else ended[-(room - 1) :])
    hidden = len(ended) - len(last)
    if hidden and best is not None and best not in last:
        last = last[1:]  # makes room for the best
        table.add_row(*_cells(best, wide, timed), _verdict(best, best), style=_style(best, best))
    if hidden:
        table.add_row(*[""] * len(names), f"({hidden} more)", style="dim")
    for trial in last:
        table.add_row(*_cells(trial, wide, timed), _verdict(trial, best), style=_style(trial, best))
    if running is not None:
        told = f"running, {running.share(budget):.0%}" if budget else "running"
        table.add_row(*_cells_so_far(running, wide, timed), told, style="cyan")
    return table


def _cells(trial: TrialSummary, wide: bool, timed: bool) -> list[str]:
    metric = "-" if trial.metric is None else format_metric(trial.metric)
    return [
        "again" if trial.number is None else str(trial.number),
        f"{trial.global_batch_size:,}",
        format_lr(trial.lr),
        *([_number(trial.samples_per_second)] if wide else []),
        metric,
        *([_number(trial.seconds)] if timed else []),
    ]


def _cells_so_far(running: Running, wide: bool, timed: bool) -> list[str]:
    mark = running.mark
    return [
        "again" if running.number is None else str(running.number),
        f"{running.request.global_batch_size:,}",
        format_lr(running.request.lr),
        *([_number(mark.samples / mark.seconds if mark is not None and mark.seconds else None)] if wide else []),
        "-" if mark is None else format_metric(mark.metric),
        *([""] if timed else []),
    ]


def _number(value: float | None) -> str:
    """To three digits or more."""
    if value is None:
        return "-"
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def _verdict(trial: TrialSummary, best: TrialSummary | None) -> str:
    if trial.verdict == "best" and trial is not best:
        return "confirmed" if trial.number is None else "was best"
    return trial.verdict


def _style(trial: TrialSummary, best: TrialSummary | None) -> str:
    if trial is best:
        return "bold green"
    return "yellow" if trial.verdict in ("out of memory", "not finite") else ""
