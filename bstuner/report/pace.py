"""How far a search has come, and how long it may still take."""

from __future__ import annotations

from collections.abc import Callable

from bstuner.core.tune_result import Role

__all__ = ["Pace"]


class Pace:
    """Tells from the trials so far when the last one may end.

    Trials are counted by their numbers, so that those of other workers of the same study count too.

    Args:
        clock: tells the time, in seconds.

    Attributes:
        n_trials: trials of the whole search, the baseline among them; None where unknown.

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.n_trials: int | None = None
        self._clock = clock
        self._number: int | None = None  # of the last trial that started
        self._started = 0.0
        self._baseline: float | None = None  # seconds that it took
        self._first: tuple[int, float] | None = None  # number and start of the first trial that is not the baseline
        self._last: float | None = None  # when such a trial last ended
        self._confirming = False

    @property
    def done(self) -> int:
        """Trials before the one that runs; fewer than there are to be, though some may have to be repeated."""
        done = self._number or 0
        return done if self.n_trials is None else min(done, self.n_trials - 1)

    def started(self, number: int | None, role: Role) -> None:
        """A trial starts."""
        self._confirming = number is None
        if number is None:
            return
        self._number, self._started = number, self._clock()
        if role != "baseline" and self._first is None:
            self._first = number, self._started

    def ended(self, role: Role) -> None:
        """The trial has ended."""
        if role == "baseline":
            self._baseline = self._clock() - self._started
        elif not self._confirming:
            self._last = self._clock()

    def share(self, of_this_one: float) -> float | None:
        """The part of the search that is done, from 0 to 1; None where its length is unknown.

        Args:
            of_this_one: the part of the running trial that is done, from 0 to 1.

        """
        if not self.n_trials:
            return None
        return 1.0 if self._confirming else (self.done + of_this_one) / self.n_trials

    def left(self) -> str:
        """How long the trials to come will take, in words; empty where nothing can be said."""
        if self.n_trials is None or self._confirming or self._number is None:
            return ""
        to_come = self.n_trials - self.done  # with the one that runs
        running = self._clock() - self._started
        if self._first is not None and self._last is not None and self._number > self._first[0]:
            each = (self._last - self._first[1]) / (self._number - self._first[0])
            return f"about {_roughly(each * to_come - running)} left"
        if self._baseline is not None and self._first is not None:
            # Trials are cut off, mostly long before they have taken as long as the baseline.
            return f"at most about {_roughly(self._baseline * to_come - running)} left"
        return ""


def _roughly(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
