"""What a trial is: what it is asked to run, how it went, and when it reached a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple, Protocol

from bstuner.core.layout import BatchLayout

__all__ = [
    "Ending",
    "Mark",
    "Mode",
    "TrialRequest",
    "TrialRun",
    "TrialRunner",
    "Watch",
    "curve_doubling",
    "metric_at",
    "samples_to_target",
]

# What a doubling of the training brings counts as at least this share of what the second half of the validations has
# brought: a curve that is flat at its end would make every difference a great one.
_LEAST_DOUBLING = 0.02

Mode = Literal["min", "max"]
Ending = Literal["finished", "stopped", "out of memory", "not finite"]


@dataclass(frozen=True)
class TrialRequest:
    """What a trial is to run.

    Args:
        global_batch_size: Samples per optimizer step, over all processes.
        lr: The learning rate that is used, after any scaling.
        seed: For the order of the data and whatever else is drawn; None for that of the run to come.
    """

    global_batch_size: int
    lr: float
    seed: int | None = None


class Mark(NamedTuple):
    """One validation of a trial.

    Args:
        samples: Samples trained on by then, over all processes.
        metric: The monitored metric.
        seconds: Time that training alone took by then, at the trial's steady throughput so far.
    """

    samples: int
    metric: float
    seconds: float


Watch = Callable[[Mark], bool]  # told of each validation; False stops the trial


@dataclass(frozen=True)
class TrialRun:
    """How a trial went.

    Args:
        request: What was asked for.
        layout: How its batch was laid out over passes and processes.
        ending: How it ended; "stopped" where its watch said so.
        marks: Its validations, in order; all metrics finite.
        samples: Samples trained on, over all processes.
        steps: Optimizer steps taken.
        samples_per_second: Steady throughput of training, without validation and start-up; None if too short to tell.
        peak_bytes: Most bytes of device memory in use at once; None where that was not measured.
        reason: Why it ended early, in words; empty where it did not.
    """

    request: TrialRequest
    layout: BatchLayout
    ending: Ending
    marks: tuple[Mark, ...] = ()
    samples: int = 0
    steps: int = 0
    samples_per_second: float | None = None
    peak_bytes: int | None = None
    reason: str = ""

    def seconds_to_target(self, target: float, mode: Mode) -> float | None:
        """Seconds of training until the metric reached the target; None where it never did."""
        samples = samples_to_target([(mark.samples, mark.metric) for mark in self.marks], target, mode)
        return None if samples is None or not self.samples_per_second else samples / self.samples_per_second


class TrialRunner(Protocol):
    """Runs trials: inside a fit, on a table of recorded curves, or on a formula.

    Attributes:
        budget: Samples of a whole trial, over all processes.
        marks: The samples at which each trial is validated, ascending, the last one the budget. A trial whose batch is
            larger than the gap between two marks is validated at the first step that reaches or passes a mark.
    """

    @property
    def budget(self) -> int:
        """Samples of a whole trial, over all processes."""

    @property
    def marks(self) -> tuple[int, ...]:
        """The samples at which each trial is validated."""

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        """Run a trial from the frozen state. Out of memory and metrics that are not finite are answers, not errors."""

    def wait(self, seconds: float) -> None:
        """Let time pass, while another worker of the same study has to finish something."""


def samples_to_target(curve: list[tuple[int, float]], target: float, mode: Mode) -> float | None:
    """Tell the samples at which a learning curve first reaches a target.

    Between its points it is taken to be straight in the logarithm of the samples, as learning curves nearly are.

    >>> samples_to_target([(100, 3.0), (400, 1.0)], target=2.0, mode="min")
    200.0
    >>> samples_to_target([(100, 0.5), (200, 0.75)], target=0.9, mode="max") is None
    True

    Args:
        curve: Samples trained on, ascending, each with the metric there.
        target: The metric to reach. A first point that is past it counts with its own samples: what was before it is
            not known.
        mode: "min" where less is better, "max" where more is.
    """
    sign = 1 if mode == "min" else -1
    before: tuple[int, float] | None = None
    for samples, metric in curve:
        if sign * metric <= sign * target:
            if before is None or metric == before[1]:
                return float(samples)
            share = (before[1] - target) / (before[1] - metric)
            return float(before[0] * (samples / before[0]) ** share)
        before = (samples, metric) if math.isfinite(metric) else None
    return None


def metric_at(curve: Sequence[Mark], samples: float) -> float:
    """Tell the metric of a learning curve after so many samples, straight in their logarithm between its validations.

    >>> metric_at([Mark(100, 3.0, 0.0), Mark(400, 1.0, 0.0)], 200)
    2.0

    Args:
        curve: The validations of a trial, in order.
        samples: So many; before the first validation and after the last, those count.
    """
    after = next((index for index, mark in enumerate(curve) if mark.samples >= samples), len(curve) - 1)
    high, low = curve[after], curve[max(0, after - 1)]
    if high.samples == low.samples or samples >= high.samples:
        return high.metric
    share = math.log(samples / low.samples) / math.log(high.samples / low.samples)
    return low.metric + max(0.0, share) * (high.metric - low.metric)


def curve_doubling(curve: Sequence[Mark], mode: Mode) -> float:
    """Tell what the last doubling of the samples has brought a curve, in its metric: a unit to compare ends in.

    It means the same for a loss, an accuracy or a perplexity, of which nobody knows where they begin and end.

    >>> curve_doubling([Mark(100, 3.0, 0.0), Mark(400, 1.0, 0.0)], "min")
    1.0

    Args:
        curve: The validations of a trial, in order.
        mode: "min" where less of the metric is better, "max" where more is.
    """
    last = metric_at(curve, curve[-1].samples / 2) - curve[-1].metric
    # Not from the first validation on, as far as others tell: where the start was hot, it says how hot.
    progress = median(mark.metric for mark in curve) - curve[-1].metric or curve[0].metric - curve[-1].metric
    return max(last if mode == "min" else -last, _LEAST_DOUBLING * abs(progress))
