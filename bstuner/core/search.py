"""Find the largest batch size that fits, from the line that peak memory draws over the batch size.

Peak memory is `max(flat, intercept + slope * size)`: past a flat start, where the optimizer step sets the
peak, each sample adds the same number of bytes. So a few cheap probes tell where the limit is, the size just
below it is run for real, and the line, not an out-of-memory error, rules out the next one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from bstuner.core.memory_line import (
    RISE,
    TOLERANCE,
    MemoryLine,
    Point,
    approach,
    largest_possible,
    line_through,
    reach,
    rising,
)
from bstuner.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BatchSizeSearch"]


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

    With `sizes`, the answer is one of them. Where the next one may be far too large, a power of two below it is
    probed first, for its peak alone:

    >>> search = BatchSizeSearch(capacity=16 * 2**30, margin=0.1, sizes=[1, 3, 337, 1011])
    >>> while (size := search.next_size()) is not None:
    ...     search.record(size, 2**30 + size * 20 * 2**20)
    ...     print(size)
    2
    8
    128
    337
    >>> search.best, search.limited_by
    (337, 'memory')

    Where peaks follow `max(flat, intercept + slope * size)` within 1.88 %, and no size fits above one that does
    not, `best` is the largest power of two, or of `sizes`, that fits; within 2 % too, unless three peaks stray by
    more than 1.88 % at once, each in the worst direction: then `best` may be one step too small. In mode
    "binsearch" it is the largest integer where they follow to the byte, and a few percent below it at worst where
    they stray. Whatever the peaks, the search ends, never asks a size twice or above one that failed, and `best`
    has run and fitted. As no sample takes less than a byte, no size above the capacity in bytes is asked.

    Args:
        capacity: Memory of the device, in bytes.
        low: The first size probed. Not a floor: if it does not fit, smaller ones are tried. Size 1 is asked
            only after 2 did not fit (BatchNorm cannot train on one sample), or if nothing else can be the answer.
        high: The largest size that may be asked. None: only memory limits.
        margin: Share of the capacity to keep free: a size fits up to `capacity * (1 - margin)`.
        mode: "power" asks powers of two (`low` is rounded down to one), "binsearch" any integer.
        predict: Predict from the memory line. False: double until a size fails, then bisect.
        sizes: The only sizes that may be the answer, ascending; then `mode` decides nothing. None: all of the mode.

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
        sizes: Sequence[int] | None = None,
    ) -> None:
        """Start a search; `next_size` has the first size."""
        _check(0 < capacity < math.inf, "capacity", "bytes above 0", capacity, "pass the device's memory")
        _check(low >= 1, "low", "a batch size of at least 1", low, "start at 2 or above")
        enough = high is None or high >= low
        _check(enough, "high", f"None or at least low={low}", high, "raise high or lower low")
        _check(0 <= margin < 1, "margin", "a share in [0, 1)", margin, "pass 0.1 to keep a tenth free")
        _check(mode in ("power", "binsearch"), "mode", "'power' or 'binsearch'", mode, "pass one of the two")
        if sizes is not None:
            ascending = len(sizes) > 0 and sizes[0] >= 1 and all(a < b for a, b in pairwise(sizes))
            _check(ascending, "sizes", "ascending batch sizes of at least 1", sizes, "sort them, each once")
            high = sizes[-1] if high is None else high
            _check(high >= sizes[0], "high", f"at least the smallest of sizes, {sizes[0]}", high, "raise high")
        self._usable = capacity * (1 - margin)
        self._mode = mode if sizes is None else "listed"
        self._sizes = tuple(sizes or ())
        self._predict = predict
        self._low = low
        self._high = high
        self._top = self._on_grid(max(1, min(capacity, math.inf if high is None else high)))
        self._peaks: dict[int, float | None] = {}
        self._asked = self._choose()

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
        """The largest size that ran and fitted so far and may be the answer, or None."""
        fitted = (size for size, peak in self._peaks.items() if self._fits(peak))
        return max((size for size in fitted if size == self._on_grid(size)), default=None)

    @property
    def line(self) -> MemoryLine | None:
        """The memory line through the largest sizes measured, or None before two of them differ clearly."""
        chain = rising(self._measured())
        return line_through(*chain[:2]) if len(chain) > 1 else None

    @property
    def limited_by(self) -> Literal["memory", "high"] | None:
        """What keeps `best` from being larger, or None if nothing fits."""
        if self.best is None:
            return None
        return "high" if self._high is not None and self.best == self._on_grid(self._high) else "memory"

    def _on_grid(self, size: float) -> int:
        """The largest size at or below `size` that may be the answer; 0 if none may."""
        if self._mode == "listed":
            at = bisect_right(self._sizes, size)
            return self._sizes[at - 1] if at else 0
        return _power_of_two(size) if self._mode == "power" else int(size)

    def _towards(self, target: float, fitted: int) -> int:
        """The size to probe for `target`, above `fitted`."""
        size = self._on_grid(target)
        if self._mode != "listed":
            return max(size, 2 * fitted if self._mode == "power" else fitted + 1)
        if size > fitted and 2 * size > target:
            return size
        beyond = self._sizes[bisect_right(self._sizes, max(target, fitted))]
        if beyond <= RISE * target:
            return beyond  # so little beyond that no probe below could rule it out
        return min(beyond, max(_power_of_two(target), 2 * _power_of_two(fitted)))

    def _fits(self, peak: float | None) -> bool:
        return peak is not None and peak <= self._usable

    def _measured(self) -> list[Point]:
        return sorted((size, peak) for size, peak in self._peaks.items() if peak is not None)

    def _choose(self) -> int | None:
        failed = min((size for size, peak in self._peaks.items() if not self._fits(peak)), default=None)
        top = self._top if failed is None else self._on_grid(failed - 1)
        fitting = [(size, peak) for size, peak in self._measured() if peak <= self._usable]
        fitted = fitting[-1][0] if fitting else 0
        if fitting and self._predict:
            top = self._on_grid(min(top, largest_possible(fitting, self._usable)))
        if top <= fitted:  # no answer is left above; of `sizes`, the largest one left may not have run yet
            return None if top == 0 or top in self._peaks else top
        target: float | None
        if not fitting:
            target = max(2, self._low if failed is None else math.isqrt(failed))
        elif self._predict:
            target = self._predicted(fitting, top, failed)
        elif failed is None:
            target = 2 * fitted
        else:
            target = (fitted + failed) // 2 if self._mode == "binsearch" else math.isqrt(fitted * failed)
        return None if target is None else self._towards(min(target, top), fitted)

    def _predicted(self, fitting: list[Point], top: int, failed: int | None) -> float | None:
        """Where the line leads; None where it can tell no more."""
        fitted = fitting[-1][0]
        chain = rising(self._measured())
        on_line = len(chain) > 2  # both of the largest are past the flat start
        guess = reach(chain, self._usable)
        if self._mode == "binsearch" and on_line and guess < fitted + 1:
            return None
        if failed is None:
            return approach(fitting, min(guess, top), on_line, self._usable)
        if on_line and guess < failed:
            return guess
        if self._mode == "binsearch" and on_line and failed - fitted <= TOLERANCE / 2 * fitted:
            return None  # the line was refuted, so peaks stray: closer than this, they say nothing
        return (fitted + failed) / 2


def _check(valid: bool, name: str, expected: str, found: object, todo: str) -> None:
    if not valid:
        raise InvalidSetting(f"{name}: expected {expected}, found {found!r}; {todo}.")


def _power_of_two(size: float) -> int:
    """The largest power of two at or below `size`; 0 below 1."""
    return 1 << (int(size).bit_length() - 1) if size >= 1 else 0
