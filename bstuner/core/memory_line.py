"""The line that peak memory draws over the batch size, and what follows from a few points of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "RISE",
    "TOLERANCE",
    "MemoryLine",
    "Point",
    "approach",
    "largest_possible",
    "line_through",
    "reach",
    "rising",
]

# Measured peaks stray from the line by up to 2 %. A size is ruled out from three of them, its own and two below it; a
# little less than 2 % each leaves out only that all three stray to the very edge at once, each in the worst direction.
# The figure was chosen by looking at the measured ladders: at 2 % one more of those 40 searches at margin 0 runs out of
# memory (four, not three), and no search is less exact.
TOLERANCE = 0.0188
# Two peaks further apart than both can stray: the larger one is past the flat start.
RISE = (1 + TOLERANCE) / (1 - TOLERANCE)
# Where the line may still start on the flat, assume that this share of the peak there grows with the size.
_GROWING_SHARE = 1 / 3
# The line is trusted up to this many times the largest size measured; further out, probe a share first.
_REACH = 32
_CHEAP_SHARE = 1 / 8

Point = tuple[int, float]  # a size and its peak in bytes


@dataclass(frozen=True)
class MemoryLine:
    """Peak memory as a line over the batch size, past its flat start.

    >>> MemoryLine(intercept=1000.0, slope=250.0).at(8)
    3000.0

    Args:
        intercept: Bytes there at any size: weights, gradients, optimizer state.
        slope: Bytes per sample.
    """

    intercept: float
    slope: float

    def at(self, size: float) -> float:
        """Return the peak at a batch size, in bytes."""
        return self.intercept + self.slope * size


def rising(points: list[Point]) -> list[Point]:
    """The points that lie clearly below the one before, from the largest size down.

    Of three or more, all but the last are past the flat start.
    """
    chain: list[Point] = []
    for size, peak in reversed(points):
        if not chain or peak * RISE < chain[-1][1]:
            chain.append((size, peak))
    return chain


def reach(chain: list[Point], usable: float) -> float:
    """The size at which the line through the largest points reaches `usable`."""
    size, peak = chain[0]
    line = line_through(*chain[:2]) if len(chain) > 1 else MemoryLine(peak, 0.0)
    if len(chain) < 3:
        # The lower point may lie on the flat start and make the line too shallow.
        intercept = min(line.intercept, (1 - _GROWING_SHARE) * chain[-1][1])
        line = MemoryLine(intercept, (peak - intercept) / size)
    # The last digit must not cost a sample.
    return (1 + 1e-12) * (usable - line.intercept) / line.slope if line.slope > 0 else math.inf


def approach(fitting: list[Point], guess: float, on_line: bool, usable: float) -> float:
    """The next size towards `guess` while every probe has fitted."""
    size, peak = fitting[-1]
    target = guess if guess <= _REACH * size else guess * _CHEAP_SHARE
    if on_line:
        return target
    if len(fitting) == 1:
        return min(target, size * usable / peak) if peak else target  # fits even if every byte grows
    flat = peak <= RISE * fitting[-2][1]
    return max(target, 4 * size) if flat else target  # no creeping along the flat start


def line_through(upper: Point, lower: Point) -> MemoryLine:
    """The line through two points; none of them can hold fewer than zero bytes at size zero."""
    slope = min((upper[1] - lower[1]) / (upper[0] - lower[0]), upper[1] / upper[0])
    return MemoryLine(upper[1] - slope * upper[0], slope)


def largest_possible(fitting: list[Point], usable: float) -> float:
    """The size above which none can fit, however the peaks stray within the tolerance.

    The true peak is convex: past the largest point it runs above the chord from any earlier one. So the
    steepest chord that the tolerance leaves certain rules out the most.
    """
    size, peak = fitting[-1][0], fitting[-1][1] / (1 + TOLERANCE)
    chords = [(peak - lower / (1 - TOLERANCE)) / (size - at) for at, lower in fitting[:-1]]
    slope = max(chords, default=0.0)
    return size + (usable / (1 - TOLERANCE) - peak) / slope if slope > 0 else math.inf
