"""The figures of a search: findings in, plotly figures out; None where a study does not hold the data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from bstuner.core import FindResult, Mark, Probe, TrialSummary, format_bytes
from bstuner.report import format_metric, format_seconds, format_settings
from bstuner.report.figures.style import FAINT, INK, OURS, WRONG, YOURS, line, log2_axis, new_figure, points, words
from bstuner.report.figures.trials import front_figure, trials_figure
from bstuner.study import Findings

__all__ = ["curves_figure", "front_figure", "growth_figure", "memory_figure", "throughput_figure", "trials_figure"]

# Below this share of what may be used, a line that shows the limit would press all measurements into the ground.
_NEAR_THE_LIMIT = 0.05
_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def memory_figure(findings: Findings) -> go.Figure | None:
    """Peak memory against batch size: what was measured, the line through it, what may be used, and the answer."""
    find = findings.find
    measured = [] if find is None else [probe for probe in find.probes if probe.peak_bytes is not None]
    if find is None or not measured:
        return None
    top = max(probe.peak_bytes or 0 for probe in measured)
    unit, bytes_of_unit = next((each for each in _UNITS if top >= each[1]), ("bytes", 1))
    figure = new_figure(
        {"title": {"text": "batch size per device"}, "rangemode": "tozero"},
        {"title": {"text": f"peak memory ({unit})"}, "rangemode": "tozero"},
    )
    if find.memory_slope is not None and find.memory_intercept is not None:
        ends = [0, 1.15 * max(probe.batch_size for probe in find.probes)]
        along = [(find.memory_intercept + find.memory_slope * size) / bytes_of_unit for size in ends]
        per_sample = f"{format_bytes(round(find.memory_slope))} per sample"
        figure.add_trace(line(per_sample, ends, along, OURS, dash="dot"))
    for name, probes, marker in (
        ("fits", [p for p in measured if p.fits], {"color": OURS, "size": 9}),
        ("too large", [p for p in measured if not p.fits], {"color": WRONG, "size": 9, "symbol": "x"}),
    ):
        if probes:
            heights = [(probe.peak_bytes or 0) / bytes_of_unit for probe in probes]
            hover = map(_probe_words, probes)
            figure.add_trace(points(name, [p.batch_size for p in probes], heights, hover, marker=marker))
    failed = [probe for probe in find.probes if probe.peak_bytes is None and not probe.fits]
    if failed:
        heights = [find.usable_bytes / bytes_of_unit] * len(failed)
        marker = {"color": WRONG, "size": 10, "symbol": "triangle-up"}
        sizes, hover = [probe.batch_size for probe in failed], map(_probe_words, failed)
        figure.add_trace(points("out of memory", sizes, heights, hover, marker=marker))
    if find.peak_bytes is not None:
        _mark(figure, "answer", find.batch_size, find.peak_bytes / bytes_of_unit)
    if failed or top >= _NEAR_THE_LIMIT * find.usable_bytes:
        for name, limit, dash, side in (
            ("usable", find.usable_bytes, "dash", "top"),  # below its line, where the other's words are not
            ("capacity", find.capacity_bytes, "solid", "bottom"),
        ):
            text = f"{name} {format_bytes(limit)}"
            label = {"text": text, "textposition": "start", "yanchor": side, "font": {"color": INK, "size": 12}}
            figure.add_shape(
                type="line", xref="paper", x0=0, x1=1, y0=limit / bytes_of_unit, y1=limit / bytes_of_unit,
                line={"color": FAINT, "width": 1.5, "dash": dash}, label=label,
            )  # fmt: skip
        figure.update_yaxes(range=[0, 1.12 * max(find.capacity_bytes, top) / bytes_of_unit])
    return figure


def throughput_figure(findings: Findings) -> go.Figure | None:
    """Samples per second against batch size, with the knee and the answer."""
    find = findings.find
    if find is None or not find.throughput:
        return None
    rates = find.throughput
    figure = new_figure(
        log2_axis("batch size per device", rates),
        {"title": {"text": "samples per second"}, "rangemode": "tozero", "tickformat": ","},
    )
    timed = {probe.batch_size: probe for probe in find.probes if probe.seconds}
    hover = [_probe_words(timed[size]) for size in rates]
    marker, way = {"color": OURS, "size": 9}, {"color": OURS, "width": 1.5}
    figure.add_trace(points("measured", rates, rates.values(), hover, mode="lines+markers", marker=marker, line=way))
    if find.batch_size in rates:
        _mark(figure, "largest that fits", find.batch_size, rates[find.batch_size])
    if find.knee is not None:
        _draw_knee(figure, find, find.knee)
    return figure


def _draw_knee(figure: go.Figure, find: FindResult, knee: int) -> None:
    rates = find.throughput
    enough = 0.9 * max(rates.values())
    text = f"90% of the throughput of {max(rates):,}"
    label = {"text": text, "textposition": "start", "yanchor": "bottom", "font": {"color": INK, "size": 12}}
    figure.add_hline(y=enough, line={"color": FAINT, "width": 1.5, "dash": "dash"}, label=label)
    marker = {"color": YOURS, "size": 11, "symbol": "diamond", "line": {"color": INK, "width": 1}}
    hover = [f"knee: {knee:,}<br>the smallest power of two with 90% of the throughput of {max(rates):,}"]
    figure.add_trace(points("knee", [knee], [rates.get(knee, enough)], hover, marker=marker))


def curves_figure(findings: Findings, against: Literal["samples", "seconds"] = "samples") -> go.Figure | None:
    """The metric of every trial as it trained: yours, the best, those with another order of the data, the others faint.

    Args:
        findings: Those of a study.
        against: What it is drawn against: samples, or seconds of training.
    """
    result = findings.result
    if result is None or not result.baseline.curve:
        return None
    monitor = words(findings.facts.monitor)
    title = "samples trained on" if against == "samples" else "seconds of training"
    figure = new_figure({"title": {"text": title}, "rangemode": "tozero"}, {"title": {"text": monitor}}, height=400)
    best = None if result.best.number == result.baseline.number else result.best
    named = [("yours", result.baseline, YOURS, "solid")]
    named += [("best", best, OURS, "solid")] if best is not None else []
    named += [
        ("yours again", trial, YOURS, "dot") if trial.role == "confirm baseline" else ("best again", trial, OURS, "dot")
        for trial in result.confirmation
    ]
    numbers = {result.baseline.number, result.best.number}
    others = [trial for trial in findings.trials if trial.number not in numbers and trial.curve]
    if others:
        joined = list(chain.from_iterable((*trial.curve, None) for trial in others))
        hover = list(chain.from_iterable((*_curve_words(trial, monitor), "") for trial in others))
        figure.add_trace(_curve("others", joined, hover, against, {"color": FAINT, "width": 1}))
    for name, trial, color, dash in named:
        shape = {"color": color, "width": 2.5, "dash": dash}
        figure.add_trace(_curve(name, trial.curve, _curve_words(trial, monitor), against, shape))
    beyond = "top" if result.mode == "min" else "bottom"  # on the side of the line where few curves are
    text = f"target {format_metric(result.target)}"
    label = {"text": text, "textposition": "middle", "yanchor": beyond, "font": {"color": INK, "size": 12}}
    figure.add_shape(
        type="line", xref="paper", x0=0, x1=1, y0=result.target, y1=result.target,
        line={"color": INK, "width": 1, "dash": "dash"}, label=label,
    )  # fmt: skip
    # The axis is that of the named ones: a trial that diverged would hide them.
    seen = [mark.metric for _, trial, _, _ in named for mark in trial.curve]
    room = 0.06 * (max(seen) - min(seen) or abs(seen[0]) or 1.0)
    figure.update_yaxes(range=[min(seen) - room, max(seen) + room])
    return figure


def growth_figure(findings: Findings) -> go.Figure | None:
    """The growth plan: batch size above the learning rate, planned and yours."""
    plan = findings.growth
    if plan is None:
        return None
    curve, own = plan["points"], plan["own"]["batch_size"]
    starts, sizes = ([pair[at] for pair in plan["sizes"]] for at in range(2))
    panels = 2 if curve else 1
    figure = make_subplots(rows=panels, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    look = new_figure({}, {}).layout
    figure.update_layout(look, height=260 * panels)
    figure.update_xaxes(look.xaxis)
    figure.update_yaxes(look.yaxis)
    end = plan["samples"] or starts[-1] * 5 // 4 or own  # a fit without end is drawn some way on
    hover = [f"from sample {start:,}: batch {size:,}" for start, size in plan["sizes"]]
    planned = {"shape": "hv", "color": OURS, "width": 2.5}
    told = [*hover, hover[-1]]
    steps = points("planned", [*starts, end], [*sizes, sizes[-1]], told, mode="lines", line=planned)
    figure.add_trace(steps, row=1, col=1)
    figure.add_trace(line("yours", [0, end], [own, own], YOURS, dash="dash"), row=1, col=1)
    figure.update_yaxes(row=1, col=1, **log2_axis("batch size", [own, *sizes]))
    if curve:
        samples, own_lrs, lrs = (list(column) for column in zip(*curve, strict=True))
        figure.add_trace(line("planned", samples, lrs, OURS, showlegend=False), row=2, col=1)
        figure.add_trace(line("yours", samples, own_lrs, YOURS, dash="dash", showlegend=False), row=2, col=1)
        figure.update_yaxes(row=2, col=1, title_text="learning rate", rangemode="tozero", exponentformat="power")
    figure.update_xaxes(row=panels, col=1, title_text="samples")
    return figure


def _mark(figure: go.Figure, name: str, x: float, y: float) -> None:
    """A ring around a point, and its name beside it."""
    ring = {"size": 18, "color": "rgba(0, 0, 0, 0)", "line": {"color": INK, "width": 2}}
    text = {"text": [name], "textposition": "top left", "textfont": {"color": INK}}
    figure.add_trace(
        points(name, [x], [y], [f"{name}: {x:,}"], mode="markers+text", marker=ring, showlegend=False, **text)
    )


def _curve(
    name: str, marks: Any, hover: Any, against: Literal["samples", "seconds"], shape: dict[str, Any]
) -> go.Scatter:
    x = [None if mark is None else getattr(mark, against) for mark in marks]
    y = [None if mark is None else mark.metric for mark in marks]
    dots = {"size": max(4.0, 2 * shape["width"]), "color": shape["color"]}  # one validation makes no line
    return points(name, x, y, hover, mode="lines+markers", line=shape, marker=dots)


def _curve_words(trial: TrialSummary, monitor: str) -> Iterator[str]:
    who = "again, another order of the data" if trial.number is None else f"trial {trial.number}"
    for mark in trial.curve:
        yield f"{who}: {format_settings(trial)}<br>{_mark_words(mark, monitor)}"


def _mark_words(mark: Mark, monitor: str) -> str:
    return f"{monitor} {format_metric(mark.metric)} after {mark.samples:,} samples, {format_seconds(mark.seconds)}"


def _probe_words(probe: Probe) -> str:
    rows = [f"batch size {probe.batch_size:,}"]
    if probe.peak_bytes is not None:
        rows.append(f"peak {format_bytes(probe.peak_bytes)}")
    if probe.samples_per_second is not None:
        rows.append(f"{probe.samples_per_second:,.0f} samples/s, {format_seconds(probe.seconds or 0.0)} per step")
    return "<br>".join([*rows, "fits" if probe.fits else words(probe.reason)])
