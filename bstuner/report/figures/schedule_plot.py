"""The growth plan of a fit as a picture: batch size and learning rate against samples, your own code beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bstuner.core.growth import Phase, RunPlan, phase_at, steps_saved
from bstuner.errors import InvalidSetting
from bstuner.report import format_saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_plot", "draw_schedule", "save_plot"]

_KINDS = (".png", ".svg", ".pdf")
# More points than there are pixels show nothing more.
_MOST_POINTS = 4000
_PLANNED: dict[str, Any] = {"color": "#1f6fb4", "linewidth": 2.0, "label": "planned"}
_YOURS: dict[str, Any] = {"color": "#d1661f", "linewidth": 1.6, "linestyle": (0, (4, 2)), "label": "yours"}
_CAP = "#555555"

_Convert = Callable[[Any], NDArray[np.float64]]


def check_plot(path: Path) -> None:
    """Refuse a picture that could not be drawn, before the work that it is to show.

    Args:
        path: where it is to be written; the ending says what kind of picture.

    Raises:
        InvalidSetting: the ending is none of those known, or matplotlib is not installed.

    """
    if path.suffix.lower() not in _KINDS:
        raise InvalidSetting(f"Expected --plot to be a file that ends in {', '.join(_KINDS)}, found {str(path)!r}.")
    try:
        import matplotlib  # noqa: F401  # an extra: whoever draws nothing need not install it
    except ImportError as error:
        raise InvalidSetting(
            f"Expected matplotlib, which draws --plot {path}, found none. Install it: pip install 'bstuner[plot]'."
        ) from error


def save_plot(plan: RunPlan, path: Path) -> None:
    """Draw a plan into a file.

    Args:
        plan: that of a fit.
        path: the file, which is replaced if it exists.

    """
    draw_schedule(plan).savefig(path, dpi=150)


def draw_schedule(plan: RunPlan) -> Figure:
    """Draw a plan: the batch size above the learning rate, which is left out where the fit has no end.

    Args:
        plan: that of a fit.

    """
    from matplotlib.figure import Figure

    phases = plan.phases
    end = plan.samples if plan.samples is not None else _some_way_on(plan, phases[-1])
    panels = 2 if plan.lrs else 1
    # Without pyplot: the script's own figures and settings stay as they are.
    figure = Figure(figsize=(7.0, 2.9 * panels), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    _draw_batch_size(axes[0], plan, phases, end)
    if plan.lrs:
        _draw_lr(axes[1], plan, phases, end)
    for panel in axes:
        panel.grid(True, color="#e3e3e3", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)  # the epochs have a line of their own at the top
        panel.set_axisbelow(True)
    axes[-1].set_xlabel("samples")
    axes[-1].set_xlim(0, end)
    axes[-1].xaxis.set_major_formatter(_count)
    figure.suptitle(_title(plan), fontsize=11)
    return figure


def _some_way_on(plan: RunPlan, last: Phase) -> int:
    """Where the picture of a fit without end ends: an epoch into the last batch size, or as far again."""
    return last.start_sample + ((last.start_sample or last.batch_size) if plan.streams else plan.samples_per_epoch)


def _draw_batch_size(axes: Axes, plan: RunPlan, phases: Sequence[Phase], end: int) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    own = plan.layout.global_batch_size
    # A batch beyond the epoch is one step of all of it.
    sizes = [min(phase.batch_size, plan.samples_per_epoch) for phase in phases]
    starts = [phase.start_sample for phase in phases]
    axes.step([*starts, end], [*sizes, sizes[-1]], where="post", **_PLANNED)
    axes.plot([0, end], [own, own], **_YOURS)
    axes.set_yscale("log", base=2)
    axes.set_ylabel("batch size (samples per step)")
    top = max(own, *sizes)
    if plan.capped_by and plan.max_batch_size is not None:
        top = max(top, plan.max_batch_size)
        axes.axhline(plan.max_batch_size, color=_CAP, linewidth=1.0, linestyle=":")
        words = f"capped at {plan.max_batch_size:,} by {plan.capped_by}"
        place = axes.get_yaxis_transform()  # across in shares of the panel, upward in samples
        axes.text(0.01, plan.max_batch_size * 1.05, words, transform=place, fontsize=8, color=_CAP, va="bottom")
    # Room for the words above the highest line.
    axes.set_ylim(min(own, *sizes) / 1.25, top * 1.5)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    if not plan.streams:  # whose epochs have no known length
        epochs = axes.secondary_xaxis("top", functions=_between_samples_and_epochs(plan.samples_per_epoch))
        epochs.set_xlabel("epochs")
    axes.legend(loc="center left", frameon=False, fontsize=9)


def _between_samples_and_epochs(samples_per_epoch: int) -> tuple[_Convert, _Convert]:
    return (
        lambda samples: np.asarray(samples) / samples_per_epoch,
        lambda epochs: np.asarray(epochs) * samples_per_epoch,
    )


def _draw_lr(axes: Axes, plan: RunPlan, phases: Sequence[Phase], end: int) -> None:
    samples = _points(plan, phases, end)
    yours = np.array([plan.nominal_lr(sample) for sample in samples.tolist()])
    factors = np.array([phase_at(phases, sample).lr_factor for sample in samples.tolist()])
    axes.step([*samples, end], [*(yours * factors), yours[-1] * factors[-1]], where="post", **_PLANNED)
    axes.step([*samples, end], [*yours, yours[-1]], where="post", **_YOURS)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)


def _points(plan: RunPlan, phases: Sequence[Phase], end: int) -> NDArray[np.int64]:
    """Where the learning rate is drawn: steps of your own, thinned out, and every change of the batch size."""
    starts = plan.nominal.starts(len(plan.lrs))
    starts = starts[:: -(-len(starts) // _MOST_POINTS)]
    changes = [phase.start_sample for phase in phases]
    points = np.unique(np.concatenate([starts, np.array(changes, dtype=np.int64)]))
    return points[points < end]


def _count(samples: float, _: object = None) -> str:
    """A number of samples as it is read on an axis.

    >>> [_count(samples) for samples in (0, 1500, 250_000, 2.5e6, 1.2e9)]
    ['0', '1.5K', '250K', '2.5M', '1.2B']
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if samples >= size:
            return f"{samples / size:g}{unit}"
    return f"{samples:g}"


def _title(plan: RunPlan) -> str:
    saved = steps_saved(plan)
    if saved is None or plan.planned_steps is None:
        return "Planned batch size"
    return f"{plan.planned_steps:,} optimizer steps instead of {plan.nominal_steps:,}: {format_saved(saved)}"
