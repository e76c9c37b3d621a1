"""Find the largest batch size that fits, from the line that peak memory draws over the batch size.

Peak memory is `max(flat, intercept + slope * size)`: past a flat start, where the optimizer step sets the
peak, each sample adds the same number of bytes. So a few cheap probes tell where the limit is, the size just
below it is run for real, and the line, not an out-of-memory error, rules out the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bstuner.errors import InvalidSetting

__all__ = ["BatchSizeSearch", "MemoryLine"]

# Measured peaks stray from the line by up to 2 %. A size is ruled out from three of them, its own and two below it; a
# little less than 2 % each leaves out only that all three stray to the very edge at once, each in the worst direction.
# The figure was chosen by looking at the measured ladders: at 2 % one more of those 40 searches at margin 0 runs out of
# memory (four, not three), and no search is less exact.
_TOLERANCE = 0.0188
# Two peaks further apart than both can stray: the larger one is past the flat start.
_RISE = (1 + _TOLERANCE) / (1 - _TOLERANCE)
# Where the line may still start on the flat, assume that this share of the peak there grows with the size.
_GROWING_SHARE = 1 / 3
# The line is trusted up to this many times the largest size measured; further out, probe a share first.
_REACH = 32
_CHEAP_SHARE = 1 / 8

_Point = tuple[int, float]  # a size and its peak in bytes


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


class BatchSizeSearch:
    """Choose which batch sizes to probe until the largest one that fits is known.

    >>> search = BatchSizeSearch(capacity=16 * 2**30, margin=0.1)
    >>> while (size := search.next_size()) is not None:
    ...     search.record(size, 2**30 + size * 50 * 2**20)
    ...     print(size)
    2
    8
    128
    256
    >>> search.best, search.limited_by
    (256, 'memory')

    Where peaks follow `max(flat, intercept + slope * size)` within 1.88 %, and no size fits above one that does
    not, `best` is the largest power of two that fits; within 2 % too, unless three peaks stray by more than
    1.88 % at once, each in the worst direction: then `best` may be half of it. In mode "binsearch" it is the
    largest integer where they follow to the byte, and a few percent below it at worst where they stray.
    Whatever the peaks, the search ends, never asks a size twice or above one that failed, and `best` has run
    and fitted. As no sample takes less than a byte, no size above the capacity in bytes is asked.

    Args:
        capacity: Memory of the device, in bytes.
        low: The first size probed. Not a floor: if it does not fit, smaller ones are tried. Size 1 is asked
            only after 2 did not fit (BatchNorm cannot train on one sample), or if `high` is 1.
        high: The largest size that may be asked. None: only memory limits.
        margin: Share of the capacity to keep free: a size fits up to `capacity * (1 - margin)`.
        mode: "power" asks powers of two (`low` is rounded down to one), "binsearch" any integer.
        predict: Predict from the memory line. False: double until a size fails, then bisect.

    Raises:
        InvalidSetting: An argument is out of range.
    """

    def __init__(
        self,
        capacity: float,
        low: int = 2,
        high: int | None = None,
        margin: float = 0.1,
        mode: Literal["power", "binsearch"] = "power",
        predict: bool = True,
    ) -> None:
        """Start a search; `next_size` has the first size."""
        _check(0 < capacity < math.inf, "capacity", "bytes above 0", capacity, "pass the device's memory")
        _check(low >= 1, "low", "a batch size of at least 1", low, "start at 2 or above")
        enough = high is None or high >= low
        _check(enough, "high", f"None or at least low={low}", high, "raise high or lower low")
        _check(0 <= margin < 1, "margin", "a share in [0, 1)", margin, "pass 0.1 to keep a tenth free")
        _check(mode in ("power", "binsearch"), "mode", "'power' or 'binsearch'", mode, "pass one of the two")
        self._usable = capacity * (1 - margin)
        self._mode = mode
        self._predict = predict
        self._high = high
        self._top = self._on_grid(max(1, min(capacity, math.inf if high is None else high)))
        self._peaks: dict[int, float | None] = {}
        self._asked: int | None = min(self._on_grid(max(2, low)), self._top)

    def next_size(self) -> int | None:
        """Return the size to probe next, the same until it is recorded; None when the answer is known."""
        return self._asked

    def record(self, size: int, peak: float | None) -> None:
        """Tell what the probe of a size found.

        Args:
            size: The size `next_size` returned.
            peak: Its peak in bytes; None if it ran out of memory, or only passed by allocator retries.

        Raises:
            InvalidSetting: This size was not the one asked, or the peak is not a number of bytes.
        """
        todo = "nothing: the search has ended" if self._asked is None else f"the size asked, {self._asked}"
        _check(size == self._asked, "size", todo, size, "record each size once, as next_size() returns it")
        valid = peak is None or 0 <= peak < math.inf
        _check(valid, "peak", "bytes, or None for out of memory", peak, "pass the peak the device reports")
        self._peaks[size] = peak
        self._asked = self._choose()

    @property
    def best(self) -> int | None:
        """The largest size that ran and fitted so far, or None."""
        return max((size for size, peak in self._peaks.items() if self._fits(peak)), default=None)

    @property
    def line(self) -> MemoryLine | None:
        """The memory line through the largest sizes measured, or None before two of them differ clearly."""
        chain = _rising(self._measured())
        return _line(*chain[:2]) if len(chain) > 1 else None

    @property
    def limited_by(self) -> Literal["memory", "high"] | None:
        """What keeps `best` from being larger, or None if nothing fits."""
        if self.best is None:
            return None
        return "high" if self._high is not None and self.best == self._on_grid(self._high) else "memory"

    def _on_grid(self, size: float) -> int:
        """The largest size of this mode at or below `size` (at least 1)."""
        whole = max(1, int(size))
        return 1 << (whole.bit_length() - 1) if self._mode == "power" else whole

    def _fits(self, peak: float | None) -> bool:
        return peak is not None and peak <= self._usable

    def _measured(self) -> list[_Point]:
        return sorted((size, peak) for size, peak in self._peaks.items() if peak is not None)

    def _choose(self) -> int | None:
        best = self.best
        failed = min((size for size, peak in self._peaks.items() if not self._fits(peak)), default=None)
        if best is None:
            assert failed is not None  # what was recorded did not fit
            return None if failed == 1 else max(min(2, failed - 1), self._on_grid(math.isqrt(failed)))
        top = self._top if failed is None else self._on_grid(failed - 1)
        if top <= best:
            return None
        if self._predict:
            return self._choose_by_line(best, top, failed)
        if failed is None:
            return min(2 * best, top)
        return self._on_grid(math.isqrt(best * failed)) if self._mode == "power" else (best + failed) // 2

    def _choose_by_line(self, best: int, top: int, failed: int | None) -> int | None:
        measured = self._measured()
        fitting = [(size, peak) for size, peak in measured if peak <= self._usable]
        chain = _rising(measured)
        on_line = len(chain) > 2  # both of the largest are past the flat start
        guess = _guess(chain, self._usable)
        possible = self._on_grid(min(top, _largest_possible(fitting, self._usable)))
        if possible <= best or (self._mode == "binsearch" and on_line and guess < best + 1):
            return None
        if failed is None:
            target = _approach(fitting, min(guess, possible), on_line, self._usable)
        elif on_line and guess < failed:
            target = guess
        elif self._mode == "binsearch" and on_line and failed - best <= _TOLERANCE / 2 * best:
            return None  # the line was refuted, so peaks stray: closer than this, they say nothing
        else:
            target = (best + failed) / 2
        smallest = 2 * best if self._mode == "power" else best + 1
        return min(max(self._on_grid(min(target, possible)), smallest), possible)


def _check(valid: bool, name: str, expected: str, found: object, todo: str) -> None:
    if not valid:
        raise InvalidSetting(f"{name}: expected {expected}, found {found!r}; {todo}.")


def _rising(points: list[_Point]) -> list[_Point]:
    """The points that lie clearly below the one before, from the largest size down.

    Of three or more, all but the last are past the flat start.
    """
    chain: list[_Point] = []
    for size, peak in reversed(points):
        if not chain or peak * _RISE < chain[-1][1]:
            chain.append((size, peak))
    return chain


def _guess(chain: list[_Point], usable: float) -> float:
    """The size at which the line through the largest points reaches `usable`."""
    size, peak = chain[0]
    line = _line(*chain[:2]) if len(chain) > 1 else MemoryLine(peak, 0.0)
    if len(chain) < 3:
        # The lower point may lie on the flat start and make the line too shallow.
        intercept = min(line.intercept, (1 - _GROWING_SHARE) * chain[-1][1])
        line = MemoryLine(intercept, (peak - intercept) / size)
    # The last digit must not cost a sample.
    return (1 + 1e-12) * (usable - line.intercept) / line.slope if line.slope > 0 else math.inf


def _approach(fitting: list[_Point], guess: float, on_line: bool, usable: float) -> float:
    """The next size towards `guess` while every probe has fitted."""
    size, peak = fitting[-1]
    target = guess if guess <= _REACH * size else guess * _CHEAP_SHARE
    if on_line:
        return target
    if len(fitting) == 1:
        return min(target, size * usable / peak) if peak else target  # fits even if every byte grows
    flat = peak <= _RISE * fitting[-2][1]
    return max(target, 4 * size) if flat else target  # no creeping along the flat start


def _line(upper: _Point, lower: _Point) -> MemoryLine:
    """The line through two points; none of them can hold fewer than zero bytes at size zero."""
    slope = min((upper[1] - lower[1]) / (upper[0] - lower[0]), upper[1] / upper[0])
    return MemoryLine(upper[1] - slope * upper[0], slope)


def _largest_possible(fitting: list[_Point], usable: float) -> float:
    """The size above which none can fit, however the peaks stray within the tolerance.

    The true peak is convex: past the largest point it runs above the chord from any earlier one. So the
    steepest chord that the tolerance leaves certain rules out the most.
    """
    size, peak = fitting[-1][0], fitting[-1][1] / (1 + _TOLERANCE)
    chords = [(peak - lower / (1 - _TOLERANCE)) / (size - at) for at, lower in fitting[:-1]]
    slope = max(chords, default=0.0)
    return size + (usable / (1 - _TOLERANCE) - peak) / slope if slope > 0 else math.inf
