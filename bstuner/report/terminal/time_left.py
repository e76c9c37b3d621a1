"""How far a search has come, and how long it may still take."""

from __future__ import annotations

from collections.abc import Callable

from bstuner.core import Role

__all__ = ["TimeLeft"]


class TimeLeft:
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
        self._done = 0
        self._started: float | None = None  # when the trial that runs started
        self._baseline: float | None = None  # seconds that it took
        # Trials that were done, and when: as the first trial after the baseline started, and as the last one ended.
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None
        self._confirming = False

    @property
    def done(self) -> int:
        """Trials that have ended. Never more than there are to be, though some may have to be repeated."""
        return self._done if self.n_trials is None else min(self._done, self.n_trials)

    def started(self, number: int | None, role: Role) -> None:
        """A trial starts."""
        self._confirming = number is None or role == "edge"
        if number is None or role == "edge":
            return
        self._done, self._started = number, self._clock()
        if role != "baseline" and self._first is None:
            self._first = self._done, self._started

    def ended(self, role: Role) -> None:
        """The trial has ended."""
        if self._confirming or self._started is None:
            return
        now = self._clock()
        self._done += 1
        if role == "baseline":
            self._baseline = now - self._started
        else:
            self._last = self._done, now
        self._started = None

    def share(self, of_this_one: float) -> float | None:
        """The part of the search that is done, from 0 to 1; None where its length is unknown.

        Args:
            of_this_one: the part of the running trial that is done, from 0 to 1.

        """
        if not self.n_trials:
            return None
        return 1.0 if self._confirming else min(1.0, (self.done + of_this_one) / self.n_trials)

    def left(self) -> str:
        """How long the trials to come will take, in words; empty where nothing can be said."""
        if self.n_trials is None or self._confirming:
            return ""
        running = 0.0 if self._started is None else self._clock() - self._started
        to_come = self.n_trials - self.done  # with the one that runs
        if self._first is not None and self._last is not None:
            each = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
            return f"about {_roughly(each * to_come - running)} left"
        if self._baseline is not None:
            # Trials are cut off, mostly long before they have taken as long as the baseline.
            return f"at most about {_roughly(self._baseline * to_come - running)} left"
        return ""


def _roughly(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
