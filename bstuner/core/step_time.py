"""How long a training step takes at a batch size, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

from bstuner.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["StepTime", "contradicting"]

# The knee is where this share of the fastest size's throughput is reached; below so many sizes it is a guess.
_KNEE_SHARE = 0.9
_KNEE_SIZES = 3
# A step is clearly longer than another from here on.
_CLEARLY = 1.5


@dataclass(frozen=True)
class StepTime:
    """The time of a training step, `max(floor, overhead + per_sample * size)`.

    >>> step_time = StepTime.fit(sizes=[16, 64, 256, 1024], seconds=[0.080, 0.128, 0.320, 1.088])
    >>> step_time.knee
    512
    >>> round(step_time.seconds(512), 3), round(step_time.throughput(512))
    (0.576, 889)
    >>> round(step_time.time_optimal(critical_batch_size=512))
    181

    Args:
        overhead: Seconds per step on top of what the samples take.
        per_sample: Seconds per sample.
        floor: Seconds that a step takes at least: launching its kernels, however few samples they work on.
        measured: The median seconds at each size that was timed.
    """

    overhead: float
    per_sample: float
    floor: float
    measured: Mapping[int, float]

    @classmethod
    def fit(cls, sizes: Sequence[int], seconds: Sequence[float]) -> StepTime:
        """Fit the step time to timed steps by least absolute errors of log time.

        Absolute, not squared: one noisy timing then has no pull on the others. Relative, because a small size
        says as much as a large one. A floor is believed only where two sizes or more lie on it.

        >>> StepTime.fit([1, 2, 4, 8], [0.5, 0.5, 0.5, 0.9]).floor
        0.5

        Args:
            sizes: Batch sizes, in any order; a size timed more than once counts with its median.
            seconds: Seconds per step at each of them.

        Raises:
            InvalidSetting: Lengths differ, a number is not positive and finite, or only one size was timed.
        """
        if len(sizes) != len(seconds):
            raise InvalidSetting(
                f"seconds: expected one per size, found {len(seconds)} for {len(sizes)} sizes; pass pairs."
            )
        for name, values in (("sizes", sizes), ("seconds", seconds)):
            for value in values:
                if not 0 < value < math.inf:
                    raise InvalidSetting(
                        f"{name}: expected positive finite numbers, found {value!r}; leave that one out."
                    )
        measured = {
            size: median(s for other, s in zip(sizes, seconds, strict=True) if other == size)
            for size in sorted(set(sizes))
        }
        if len(measured) < 2:
            raise InvalidSetting(
                f"sizes: expected at least two different ones, found {list(measured)}; time another size."
            )
        overhead, per_sample, floor = _fit(list(measured.items()))
        return cls(overhead, per_sample, floor, measured)

    def seconds(self, size: float) -> float:
        """Return the fitted seconds of a step at a batch size."""
        return max(self.floor, self.overhead + self.per_sample * size)

    def throughput(self, size: int) -> float:
        """Return samples per second at a batch size: measured where it was timed, else fitted."""
        return size / self.measured.get(size, self.seconds(size))

    @property
    def knee(self) -> int | None:
        """The smallest power of two with at least 90 % of the throughput of the fastest size timed.

        None if fewer than three sizes were timed, or no power of two between the smallest and the largest
        reaches it.
        """
        if len(self.measured) < _KNEE_SIZES:
            return None
        smallest, largest = min(self.measured), max(self.measured)
        enough = _KNEE_SHARE * max(self.throughput(size) for size in self.measured)
        powers = (1 << k for k in range((smallest - 1).bit_length(), largest.bit_length()))
        return next((size for size in powers if self.throughput(size) >= enough), None)

    def time_optimal(self, critical_batch_size: float) -> float:
        """Return the batch size that reaches a given loss in the least time, memory aside.

        To reach a loss takes `1 + critical / size` times the fewest possible steps (McCandlish et al. 2018,
        "An Empirical Model of Large-Batch Training", equation 2.7), each of `seconds(size)`. The product is least
        at `sqrt(critical * overhead / per_sample)`, or where the floor ends if that is later. Infinite where
        larger batches take no longer; 0 where a step costs nothing but its samples.

        >>> StepTime(overhead=0.25, per_sample=0.01, floor=0.0, measured={}).time_optimal(100)
        50.0

        Args:
            critical_batch_size: The batch size, in samples, that takes twice the fewest possible steps.

        Raises:
            InvalidSetting: The critical batch size is negative or not a number.
        """
        if not critical_batch_size >= 0:
            raise InvalidSetting(
                f"critical_batch_size: expected 0 or more samples, found {critical_batch_size!r}; "
                "pass the measured one."
            )
        if self.per_sample == 0:
            return math.inf
        floor_ends = (self.floor - self.overhead) / self.per_sample
        on_line = math.sqrt(critical_batch_size * (self.overhead / self.per_sample)) if self.overhead else 0.0
        return max(floor_ends, on_line)


def contradicting(timed: Mapping[int, float]) -> list[int]:
    """Sizes whose step took clearly longer than that of a larger size: something got in its way, so time it again.

    >>> contradicting({2: 0.010, 8: 0.030, 32: 0.012})
    [8]

    Args:
        timed: Seconds per step at each size.
    """
    return [
        size
        for size, seconds in sorted(timed.items())
        if any(other > size and seconds > _CLEARLY * faster for other, faster in timed.items())
    ]


def _fit(points: list[tuple[int, float]]) -> tuple[float, float, float]:
    """The overhead, seconds per sample and floor with the least absolute error of log time.

    The best line in this sense runs through two of the points, so every pair is tried, with every floor.
    """

    def error(fit: tuple[float, float, float]) -> float:
        overhead, per_sample, floor = fit
        return sum(abs(math.log(max(floor, overhead + per_sample * size) / s)) for size, s in points)

    candidates = []
    for low, high in combinations(points, 2):
        overhead, per_sample = _line(low, high)
        # Two sizes on the floor at least, or it would follow the noise of the smallest.
        floors = {s for _, s in points if sum(overhead + per_sample * size < s for size, _ in points) >= 2}
        candidates += [(overhead, per_sample, floor) for floor in (0.0, *sorted(floors))]
    return min(candidates, key=error)


def _line(low: tuple[int, float], high: tuple[int, float]) -> tuple[float, float]:
    """Overhead and seconds per sample of the line through two points, neither of them negative."""
    if high[1] <= low[1]:
        return (low[1] + high[1]) / 2, 0.0
    per_sample = min((high[1] - low[1]) / (high[0] - low[0]), high[1] / high[0])
    return max(0.0, high[1] - per_sample * high[0]), per_sample
