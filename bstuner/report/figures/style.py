"""How all figures look: quiet, the same on white and on black, told apart without colour too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any

from plotly import graph_objects as go

from bstuner.report import format_lr

__all__ = [
    *("FAINT", "INK", "OURS", "PALE", "WRONG", "YOURS"),
    *("line", "log2_axis", "log_axis", "new_figure", "points", "words"),
]

# Of Okabe and Ito's palette, whose colours everybody can tell apart.
OURS, YOURS, WRONG = "#0072b2", "#e69f00", "#d55e00"
INK = "#707070"  # for words and rings: legible on white and on black
PALE, FAINT = "rgba(128, 128, 128, 0.25)", "rgba(128, 128, 128, 0.45)"  # for grids, and for what is beside the point

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# More labels than these do not fit a phone.
_MOST_TICKS = 9
_CLEAR = "rgba(0, 0, 0, 0)"


def new_figure(x: dict[str, Any], y: dict[str, Any], height: int = 360) -> go.Figure:
    """A figure without data.

    Args:
        x: Of its horizontal axis, what differs from others.
        y: Of its vertical axis, likewise.
        height: Its height in pixels; it is as wide as there is room.
    """
    return go.Figure(layout={**_LAYOUT, "height": height, "xaxis": {**_AXIS, **x}, "yaxis": {**_AXIS, **y}})


def points(name: str, x: Iterable[Any], y: Iterable[Any], hover: Iterable[str], **more: Any) -> go.Scatter:
    """Points that tell their numbers where one points at them.

    Args:
        name: What they are, for the legend.
        x: Their places; plain numbers, as older versions of plotly.js know no others.
        y: Likewise.
        hover: The words beside each; may hold `<br>`.
        more: What else a trace has.
    """
    return go.Scatter(
        **{
            "name": name,
            "x": list(x),
            "y": list(y),
            "hovertext": list(hover),
            "hoverinfo": "text",
            "mode": "markers",
            **more,
        }
    )


def line(name: str, x: Iterable[Any], y: Iterable[Any], color: str, *, dash: str = "solid", **more: Any) -> go.Scatter:
    """A line; the arguments as for `points`."""
    shape = {"color": color, "dash": dash, "width": 2.5}
    return go.Scatter(
        **{"name": name, "x": list(x), "y": list(y), "mode": "lines", "line": shape, "hoverinfo": "skip", **more}
    )


def log2_axis(title: str, values: Iterable[int]) -> dict[str, Any]:
    """An axis on which each doubling is as long, labelled with the sizes, or where they are many with doublings.

    >>> log2_axis("batch size", [96, 24, 48])["ticktext"]
    ['24', '48', '96']

    Args:
        title: What it shows.
        values: The sizes.
    """
    sizes = sorted(set(values))
    shown = sizes
    if len(sizes) > _MOST_TICKS:
        doublings = math.floor(math.log2(sizes[-1] / sizes[0]))
        every = -(-(doublings + 1) // _MOST_TICKS)
        shown = [sizes[0] * 2**doubling for doubling in range(0, doublings + 1, every)]
    ends = (math.log10(sizes[0] / 1.5), math.log10(sizes[-1] * 1.5))
    labels = [f"{size:,}" for size in shown]
    return {"type": "log", "tickvals": shown, "ticktext": labels, "range": list(ends), "title": {"text": title}}


def log_axis(title: str, values: Iterable[float]) -> dict[str, Any]:
    """An axis for numbers that differ by factors, labelled at 1, 2 and 5 times the powers of ten, or at those alone.

    >>> log_axis("learning rate", [0.004, 0.03])["ticktext"]
    ['5e-3', '0.01', '0.02']

    Args:
        title: What it shows.
        values: The numbers.
    """
    known = list(values)
    # A ring and a name below the lowest point, or above the highest, take a seventh of a low figure.
    room = max(1.6, (max(known) / min(known)) ** 0.2)
    low, high = min(known) / room, max(known) * room
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1,)):
        ticks = [tick for power in powers for step in steps if low <= (tick := float(f"{step}e{power}")) <= high]
        if len(ticks) <= _MOST_TICKS:
            break
    labels = [format_lr(tick) for tick in ticks]
    ends = [math.log10(low), math.log10(high)]
    return {"type": "log", "tickvals": ticks, "ticktext": labels, "range": ends, "title": {"text": title}}


def words(text: str) -> str:
    """A user's own words in a figure, where a `<` would begin a tag."""
    return escape(text, quote=False)


_AXIS: dict[str, Any] = {
    "gridcolor": PALE,
    "linecolor": FAINT,
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": FAINT,
    "ticklen": 4,
    "automargin": True,
    "title": {"standoff": 12},
}
_LAYOUT: dict[str, Any] = {
    "template": "none",
    "font": {"family": _FONT, "size": 13, "color": INK},
    "paper_bgcolor": _CLEAR,
    "plot_bgcolor": _CLEAR,
    "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": _CLEAR},
    "hoverlabel": {"font": {"family": _FONT, "size": 13}, "align": "left"},
    "hovermode": "closest",
    "showlegend": True,  # of one trace too: what it is
}
