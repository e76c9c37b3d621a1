"""The figures of the trials: where they are among batch sizes and learning rates, and what is traded for what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from plotly import graph_objects as go

from bstuner.core import TrialSummary
from bstuner.report import format_metric, format_seconds, format_settings, quality
from bstuner.report.figures.style import INK, OURS, WRONG, log2_axis, log_axis, new_figure, points, words
from bstuner.study import Findings

__all__ = ["front_figure", "trials_figure"]

# Those without a colour, by what became of them.
_MARKERS: dict[str, dict[str, Any]] = {
    "stopped early": {"symbol": "circle-open", "color": INK, "size": 9},
    "target not reached": {"symbol": "diamond-open", "color": INK, "size": 9},
    "out of memory": {"symbol": "x", "color": WRONG, "size": 10},
    "diverged": {"symbol": "triangle-up", "color": WRONG, "size": 10},
}
_KINDS = {
    "out of memory": "out of memory",
    "not finite": "diverged",
    "slower": "stopped early",
    "behind": "stopped early",
    "not reached": "target not reached",
}
_SCALE = "Cividis"


def trials_figure(findings: Findings) -> go.Figure | None:
    """Every trial by its batch size and learning rate, coloured by the seconds it took to the target, or its metric."""
    trials, running = findings.trials, [trial for trial in findings.running if trial.lr and trial.global_batch_size]
    if not trials and not running:
        return None
    monitor = words(findings.facts.monitor)
    sizes = [trial.global_batch_size for trial in trials] + [trial.global_batch_size or 1 for trial in running]
    figure = new_figure(
        log2_axis("global batch size (samples)", sizes),
        log_axis("learning rate", [*(trial.lr for trial in trials), *(trial.lr or 1.0 for trial in running)]),
        height=460,
    )
    groups: dict[str, list[TrialSummary]] = {}
    for trial in trials:
        groups.setdefault(_kind(trial, findings), []).append(trial)
    for name in sorted(groups, key=[*_MARKERS, ""].index):
        group = groups[name]
        marker = _MARKERS[name] if name else _coloured(group, findings)
        figure.add_trace(_places(name or _reached(findings), group, monitor, marker))
    if "" in groups:
        figure.update_layout(margin={"b": 120})  # for the bar of colours
    if running:
        hover = [f"trial {trial.number} runs: batch {trial.global_batch_size:,}" for trial in running]
        marker = {"symbol": "circle-dot", "color": "rgba(0, 0, 0, 0)", "size": 12, "line": {"color": OURS, "width": 2}}
        x, y = [trial.global_batch_size for trial in running], [trial.lr for trial in running]
        figure.add_trace(points("running", x, y, hover, marker=marker))
    for name, trial, side in _named(findings):
        ring = {"size": 20, "color": "rgba(0, 0, 0, 0)", "line": {"color": INK, "width": 2}}
        text = {"text": [name], "textposition": side, "textfont": {"color": INK, "size": 13}}
        figure.add_trace(
            points(name, [trial.global_batch_size], [trial.lr], _hover([trial], monitor), mode="markers+text",
                   marker=ring, showlegend=False, **text)
        )  # fmt: skip
    return figure


def front_figure(findings: Findings) -> go.Figure | None:
    """Of a search for both, metric against throughput, and the front of trials that no other beats in both."""
    result = findings.result
    if result is None or findings.facts.objective != "both":
        return None
    monitor = words(findings.facts.monitor)
    whole = [trial for trial in findings.trials if trial.samples_per_second and trial.metric is not None]
    front = sorted(result.pareto_front, key=lambda trial: trial.samples_per_second or 0.0)
    numbers = {trial.number for trial in front}
    figure = new_figure(
        {"title": {"text": "samples per second"}, "tickformat": ","}, {"title": {"text": monitor}}, height=400
    )
    others = [trial for trial in whole if trial.number not in numbers]
    for name, group, more in (
        ("beaten in both", others, {"marker": {"symbol": "circle-open", "color": INK, "size": 9}}),
        ("front", front, {"marker": {"color": OURS, "size": 10}, "mode": "lines+markers", "line": {"color": OURS}}),
    ):
        x, y = [trial.samples_per_second for trial in group], [trial.metric for trial in group]
        if group:
            figure.add_trace(points(name, x, y, _hover(group, monitor), **more))
    return figure


def _kind(trial: TrialSummary, findings: Findings) -> str:
    """What became of a trial, where it has no colour; empty where it has."""
    if findings.facts.objective == "time":
        return "" if trial.seconds is not None else _KINDS.get(trial.verdict, "stopped early")
    whole = trial.verdict in ("baseline", "best", "reached", "not reached") and trial.curve
    return "" if whole else _KINDS.get(trial.verdict, "stopped early")


def _reached(findings: Findings) -> str:
    return "reached the target" if findings.facts.objective == "time" else "trained for the whole budget"


def _coloured(group: Sequence[TrialSummary], findings: Findings) -> dict[str, Any]:
    """The colours of trials, and the bar that says what they mean."""
    bar: dict[str, Any] = {"orientation": "h", "thickness": 10, "outlinewidth": 0}
    bar |= {"yref": "container", "y": 0, "yanchor": "bottom"}
    marker: dict[str, Any] = {"size": 12, "colorscale": _SCALE, "line": {"color": INK, "width": 1}, "showscale": True}
    if findings.facts.objective == "time":
        seconds = [trial.seconds or 0.0 for trial in group]
        ticks = _few(seconds)
        bar |= {"title": {"text": "seconds to the target", "side": "bottom"}}
        bar |= {"tickvals": [_log(each) for each in ticks], "ticktext": [format_seconds(each) for each in ticks]}
        return {**marker, "color": [_log(each) for each in seconds], "reversescale": True, "colorbar": bar}
    best = [quality(trial, findings.facts.mode) for trial in group]
    bar |= {"title": {"text": f"best {words(findings.facts.monitor)}", "side": "bottom"}}
    return {**marker, "color": best, "reversescale": findings.facts.mode == "min", "colorbar": bar}


def _log(seconds: float) -> float:
    """Times differ by factors."""
    return math.log10(max(seconds, 1e-9))


def _few(values: Sequence[float]) -> list[float]:
    """The two ends and the middle between them, by factors; one where they are the same."""
    low, high = min(values), max(values)
    return [low, math.sqrt(low * high), high] if low > 0 and high > 1.05 * low else [high]


def _named(findings: Findings) -> Iterator[tuple[str, TrialSummary, str]]:
    """The trials that have a name, and the side it stands on."""
    result = findings.result
    if result is None:
        return
    if result.best.number == result.baseline.number:
        same = "yours" if findings.facts.objective == "both" or len(result.trials) == 1 else "yours, the best"
        yield same, result.baseline, "bottom center"
        return
    yield "yours", result.baseline, "bottom center"
    yield "best" if result.objective != "both" else "taken", result.best, "top center"


def _places(name: str, trials: Sequence[TrialSummary], monitor: str, marker: dict[str, Any]) -> go.Scatter:
    x, y = [trial.global_batch_size for trial in trials], [trial.lr for trial in trials]
    return points(name, x, y, _hover(trials, monitor), marker=marker)


def _hover(trials: Sequence[TrialSummary], monitor: str) -> list[str]:
    return ["<br>".join(_rows(trial, monitor)) for trial in trials]


def _rows(trial: TrialSummary, monitor: str) -> Iterator[str]:
    yield f"trial {trial.number} ({trial.verdict})"
    yield format_settings(trial)
    if trial.seconds is not None:
        yield f"target after {format_seconds(trial.seconds)}, {trial.samples:,} samples"
    if trial.metric is not None:
        yield f"last {monitor} {format_metric(trial.metric)}"
    if trial.samples_per_second:
        yield f"{trial.samples_per_second:,.0f} samples/s, {trial.steps:,} steps"
    if trial.peak_bytes is not None:
        yield f"peak {trial.peak_bytes / 2**30:.2f} GiB"
    if trial.reason:
        yield words(trial.reason)
