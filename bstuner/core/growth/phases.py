"""How a learning rate schedule becomes a batch-size schedule with the same noise at every sample."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bstuner.core import Rule, check, is_whole, scale_lr
from bstuner.errors import InvalidSetting

__all__ = ["Phase", "Rounding", "check_phases", "phase_at", "plan_growth", "update_count"]

Rounding = Literal["power", "nearest", "integer"]

# Schedules are computed in floating point: a ratio this little below 2 is meant as 2.
_SLACK = 1e-9


class Phase(NamedTuple):
    """A part of a run with one batch size; it lasts until the next one starts.

    Args:
        start_sample: Samples of the run before it, over all processes.
        batch_size: Samples per optimizer step, over all processes.
        lr_factor: What the nominal learning rate is multiplied by.
    """

    start_sample: int
    batch_size: int
    lr_factor: float = 1.0


def plan_growth(
    lrs: Sequence[float] | NDArray[np.float64],
    batch_size: int,
    rule: Rule = "linear",
    max_batch_size: int | None = None,
    rounding: Rounding = "power",
    starts: Sequence[int] | NDArray[np.int64] | None = None,
) -> list[Phase]:
    """Turn a learning rate schedule into batch sizes: where it would fall, the batch grows instead.

    >>> plan_growth([0.05, 0.1, 0.1, 0.02, 0.01], batch_size=32)
    [Phase(start_sample=0, batch_size=32, lr_factor=1.0), Phase(start_sample=96, batch_size=128, lr_factor=4.0), \
Phase(start_sample=128, batch_size=256, lr_factor=8.0)]

    With r the peak over the nominal learning rate, the batch is r times as large, up to `max_batch_size`. The noise of
    SGD goes by LR/B (Smith et al. 2018, arXiv 1711.00489), that of Adam-like optimizers by LR/sqrt(B) (Meterez et al.
    2025, arXiv 2510.14717); the learning rate used, which is nominal times `lr_factor`, keeps that ratio exactly
    whatever the rounding. The same batches serve both rules: with r and no more, neither LR (SGD) nor LR x sqrt(B)
    (Adam-like) rises above its peak. At the largest batch the learning rate falls again by itself. Up to the peak
    nothing changes; after it the batch shrinks only where the nominal learning rate rises again, as at a warm restart.

    Args:
        lrs: Nominal learning rate of each nominal step of `batch_size` samples, warm-up included.
        batch_size: The user's own: samples per optimizer step, over all processes.
        rule: "linear" (SGD) or "sqrt" (Adam-like). "none" is refused: where the learning rate falls by itself, growing
            the batch as well would anneal twice.
        max_batch_size: The largest batch, in samples over all processes; needed where the learning rate falls to 0.
        rounding: "power" for `batch_size` times the power of two below, "nearest" for the nearest such by ratio, which
            may exceed the stable batch by up to sqrt(2), "integer" for the whole number below.
        starts: Samples before each nominal step, where that is no multiple of `batch_size`: the last step of an epoch
            may be a smaller one.

    Raises:
        InvalidSetting: An argument is out of range, or the batch would have to grow without end.
    """
    nominal, positions = _schedule(lrs, batch_size, starts)
    check(rule in ("linear", "sqrt"), "rule", "'linear' or 'sqrt', which keep the noise as it was", rule)
    check(rounding in ("power", "nearest", "integer"), "rounding", "'power', 'nearest' or 'integer'", rounding)
    if max_batch_size is not None:
        valid = is_whole(max_batch_size) and max_batch_size >= batch_size
        check(valid, "max_batch_size", f"None or a whole number of at least batch_size={batch_size}", max_batch_size)

    # Not the very highest: of restarts to one and the same peak, rounding errors may put a later one a hair above.
    peak = int(np.argmax(nominal >= nominal.max() * (1 - _SLACK)))
    with np.errstate(divide="ignore", over="ignore"):
        ratio = np.maximum(nominal.max() / nominal[peak:], 1.0)
        endless = np.isinf(2.0 * batch_size * ratio)
    if max_batch_size is None and endless.any():
        raise InvalidSetting(
            f"max_batch_size: expected a number, because the learning rate falls to {nominal[peak:].min()} after "
            f"{positions[peak + int(np.argmax(endless))]:,} samples and the batch would grow without end, found None."
        )
    sizes = np.full(len(nominal), float(batch_size))
    sizes[peak:] = _sizes(ratio * (1 + _SLACK), batch_size, max_batch_size, rounding)

    changes = [0, *(np.flatnonzero(sizes[1:] != sizes[:-1]) + 1).tolist()]
    return [
        Phase(start, int(size), scale_lr(1.0, int(size), batch_size, rule))
        for start, size in zip(positions[changes].tolist(), sizes[changes].tolist(), strict=True)
    ]


def phase_at(phases: Sequence[Phase], sample: int) -> Phase:
    """Return the phase that a step belongs to, by the sample at which it starts.

    >>> phase_at([Phase(0, 256), Phase(1000, 512)], sample=1000)
    Phase(start_sample=1000, batch_size=512, lr_factor=1.0)

    Args:
        phases: Those of a run, by their starts.
        sample: Samples of the run before the step, over all processes.
    """
    return phases[bisect_right(phases, sample, key=attrgetter("start_sample")) - 1]


def update_count(phases: Sequence[Phase], samples: int) -> int:
    """Count the optimizer steps of a run: its samples over their batch sizes, rounded once at the end.

    >>> update_count([Phase(0, 100), Phase(1000, 400)], samples=3000)
    15

    Args:
        phases: Those of the run, by their starts.
        samples: Samples of the whole run, over all processes.
    """
    ends = [*(phase.start_sample for phase in phases[1:]), samples]
    spans = (max(0, min(end, samples) - phase.start_sample) for phase, end in zip(phases, ends, strict=True))
    return round(math.fsum(span / phase.batch_size for span, phase in zip(spans, phases, strict=True)))


def check_phases(phases: Sequence[Phase]) -> None:
    """Refuse phases that are no plan.

    Raises:
        InvalidSetting: There is none, the first does not start at 0, they do not ascend, or a batch size is none.
    """
    check(len(phases) > 0, "phases", "at least one", list(phases))
    starts = [phase.start_sample for phase in phases]
    check(starts[0] == 0, "phases", "a first one that starts at sample 0", starts[0])
    for phase, before in zip(phases[1:], starts, strict=False):
        check(phase.start_sample > before, "phases", f"a start after that of the phase before, {before}", phase)
    for phase in phases:
        check(is_whole(phase.batch_size), "phases", "batch sizes that are whole numbers of at least 1", phase)
        check(0 < phase.lr_factor < math.inf, "phases", "a positive, finite lr_factor", phase)


def _schedule(
    lrs: Sequence[float] | NDArray[np.float64],
    batch_size: int,
    starts: Sequence[int] | NDArray[np.int64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    check(is_whole(batch_size), "batch_size", "a whole number of at least 1", batch_size)
    nominal = np.asarray(lrs, dtype=np.float64)
    check(nominal.ndim == 1 and nominal.size > 0, "lrs", "one learning rate per step, at least one", nominal.shape)
    wrong = np.flatnonzero(~(np.isfinite(nominal) & (nominal >= 0)))
    if wrong.size:
        raise InvalidSetting(
            f"lrs: expected finite learning rates of at least 0, found {nominal[wrong[0]]} at step {wrong[0]:,}."
        )
    check(nominal.max() > 0, "lrs", "a learning rate above 0 somewhere", 0.0)
    if starts is None:
        return nominal, np.arange(nominal.size, dtype=np.int64) * batch_size
    positions = np.asarray(starts, dtype=np.int64)
    fitting = positions.shape == nominal.shape and positions[0] == 0 and bool((np.diff(positions) > 0).all())
    check(fitting, "starts", f"{nominal.size:,} ascending numbers of samples from 0 on, one per step", starts)
    return nominal, positions


def _sizes(
    ratio: NDArray[np.float64], batch_size: int, max_batch_size: int | None, rounding: Rounding
) -> NDArray[np.float64]:
    """The batch sizes for ratios of at least 1, which may be infinite where there is a largest batch."""
    if rounding == "integer":
        return np.minimum(np.floor(batch_size * ratio), math.inf if max_batch_size is None else max_batch_size)
    doublings = np.floor(np.log2(ratio) + (0.5 if rounding == "nearest" else 0.0))
    most = math.inf if max_batch_size is None else (max_batch_size // batch_size).bit_length() - 1
    return batch_size * np.exp2(np.minimum(doublings, most))
