"""The clock and the allocator's retries around each step of a probe."""

from __future__ import annotations

import time

from bstuner.device import DeviceMemory

__all__ = ["Timing"]


class Timing:
    """What the clock and the allocator said about the steps of a probe.

    Args:
        memory: the device, which is waited for before the clock is read.
        window: how many batches make one step (gradient accumulation).
        warm_up: how many steps to leave out, because they allocate, compile and choose algorithms.

    """

    def __init__(self, memory: DeviceMemory, window: int = 1, warm_up: int = 1) -> None:
        self._memory = memory
        self._window = window
        self._warm_up = warm_up
        self._durations: list[float] = []
        self._started = 0.0
        self._retries = 0
        self.retried = False

    def start(self) -> None:
        """A batch begins."""
        self._memory.synchronize()
        self._retries = self._memory.retries()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """A batch has ended."""
        self._memory.synchronize()
        self._durations.append(time.perf_counter() - self._started)
        self.retried = self._memory.retries() > self._retries

    @property
    def seconds(self) -> float:
        """Seconds of a batch in the least disturbed step after the warm-up."""
        steps = [
            sum(self._durations[i : i + self._window]) / self._window
            for i in range(0, len(self._durations) - self._window + 1, self._window)
        ]
        return min(steps[self._warm_up :] or steps)
