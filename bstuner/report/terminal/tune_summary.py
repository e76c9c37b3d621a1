"""The findings of a search for batch size and learning rate as a block of text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bstuner.core import FindResult, TuneResult, unscale_lr
from bstuner.report import (
    alike_words,
    confirmed_words,
    device_words,
    edge_words,
    fits_words,
    format_lr,
    format_metric,
    format_ratio,
    format_seconds,
    format_settings,
    format_sooner,
    knee_words,
    quality,
)

__all__ = ["render_tune", "tune_rows"]

Row = tuple[str, "str | Text | _Side"]


def render_tune(result: TuneResult) -> RenderableType:
    """The block printed at the end of a search: what fits, the user's own settings, and what beats them.

    Args:
        result: what was found.

    """
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True, min_width=9)
    facts.add_column(overflow="fold")
    for label, words in _rows(result):
        facts.add_row(label, Text(words) if isinstance(words, str) else words)
    return Group(facts, _front(result)) if result.objective == "both" else facts


def tune_rows(result: TuneResult) -> list[tuple[str, str]]:
    """The same findings in plain words: a label and a line each.

    Args:
        result: what was found.

    """
    return [(label, words if isinstance(words, str) else words.plain) for label, words in _rows(result)]


class _Side:
    """Settings and what came of them: side by side where there is room, else one below the other."""

    def __init__(self, settings: str, outcome: str) -> None:
        self._settings, self._outcome = Text(settings), Text(outcome)
        self._line = Text(f"{settings}   {outcome}")
        self.plain = f"{settings}: {outcome}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._line.cell_len <= options.max_width:
            yield self._line
        else:
            yield self._settings
            yield self._outcome

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, self._line.cell_len)


def _rows(result: TuneResult) -> Iterator[Row]:
    if result.find is not None:
        yield from _found(result.find)
    yield "Baseline", _Side(format_settings(result.baseline), _baseline(result))
    yield "Trials", _trials(result)
    if result.stopped:
        yield "Ended", result.stopped
    yield from _best(result)
    yield from (("Set", value) for value in result.set_values)
    yield from (("Also", value) for value in result.by_hand)
    found = result.find.warnings if result.find is not None else ()
    yield from (("Warning", Text(warning, style="yellow")) for warning in dict.fromkeys((*found, *result.warnings)))
    if result.storage:
        yield "Study", f"{result.study_name} in {result.storage}"


def _found(find: FindResult) -> Iterator[Row]:
    yield "Device", device_words(find)
    yield "Fits", fits_words(find)
    if find.knee is not None:
        yield "Knee", knee_words(find, find.knee)


def _baseline(result: TuneResult) -> str:
    baseline = result.baseline
    metric = f"{result.monitor} {format_metric(result.target)} after {baseline.samples:,} samples"
    seconds = baseline.seconds
    if seconds is None and baseline.samples_per_second:
        seconds = baseline.samples / baseline.samples_per_second
    return metric if seconds is None else f"{metric}, {format_seconds(seconds)}"


def _trials(result: TuneResult) -> str:
    share = "" if result.share_of_fit is None else f", {result.share_of_fit:.0%} of the fit's training time"
    cost = f"{len(result.trials)} in {format_seconds(result.seconds)} ({result.cost:.1f} baselines{share})"
    for verdict, words in (("out of memory", "ran out of memory"), ("not finite", "diverged")):
        count = sum(trial.verdict == verdict for trial in result.trials)
        cost += f", {count} {words}" if count else ""
    return cost


def _best(result: TuneResult) -> Iterator[Row]:
    best, baseline = result.best, result.baseline
    if best.number == baseline.number:
        others = len(result.trials) - 1
        kept = "your own settings stay: choose from the front below"
        none = f"your own settings: none of {others} others was better" if others else "your own settings"
        yield "Best", _Side(format_settings(best), kept if result.objective == "both" else none)
        return
    base_lr = format_lr(unscale_lr(best.lr, best.global_batch_size, baseline.global_batch_size, result.rule))
    rule = f" ({result.rule} rule, base lr {base_lr})" if result.rule != "none" else ""
    settings = format_settings(best) + rule
    if result.objective == "time":
        yield "Best", _Side(settings, _sooner(result))
        share = _fewer(best.samples, baseline.samples)
        yield "Samples", f"{best.samples:,} instead of {baseline.samples:,} ({share}) to the same {result.monitor}"
    else:
        mine, yours = (format_metric(quality(trial, result.mode)) for trial in (best, baseline))
        yield "Best", _Side(settings, f"{result.monitor} {mine} instead of {yours} within {result.budget:,} samples")
        one, other = best.samples_per_second, baseline.samples_per_second
        if one and other:
            yield "Speed", f"{one:,.0f} samples/s instead of {other:,.0f} ({format_ratio(one / other)})"
    if result.objective != "both":
        yield "Confirmed", _confirmed(result)
    if alike := alike_words(result):
        yield "Alike", alike
    if edge := edge_words(result):
        yield "Edge", edge


def _sooner(result: TuneResult) -> str:
    reached = f"{result.monitor} {format_metric(result.target)}"
    if result.best.seconds is not None:
        reached += f" after {format_seconds(result.best.seconds)}"
    return f"{reached}: {format_sooner(result)}" if result.speedup is not None else reached


def _fewer(mine: float, yours: float) -> str:
    ratio = mine / yours if yours else 1.0
    if ratio >= 2:
        return f"{ratio:.1f}x as many"
    share = round(abs(ratio - 1), 2)
    return f"{share:.0%} {'more' if ratio > 1 else 'fewer'}" if share else "as many"


def _confirmed(result: TuneResult) -> Text:
    how = confirmed_words(result)
    if result.confirmed is False:
        return Text(f"no: {how}. Your own settings stay.", style="yellow")
    return Text(how or "not tried with another order of the data")


def _front(result: TuneResult) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("batch size", "lr", result.monitor, "samples/s"):
        table.add_column(Text(name), justify="right")
    table.add_column("")
    marks = {result.baseline.number: "your own"}
    if result.best.number != result.baseline.number:
        marks[result.best.number] = "taken"
    for trial in sorted(result.pareto_front, key=lambda trial: trial.samples_per_second or 0.0):
        table.add_row(
            f"{trial.global_batch_size:,}",
            format_lr(trial.lr),
            format_metric(trial.metric if trial.metric is not None else float("nan")),
            f"{trial.samples_per_second or 0.0:,.0f}",
            marks.get(trial.number, ""),
            style="bold green" if trial.number == result.best.number else "",
        )
    return table
