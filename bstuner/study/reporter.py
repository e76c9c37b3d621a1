"""Tell an Optuna pruner of a trial's validations."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from optuna.trial import Trial

from bstuner.core import Mark, Mode, Objective

__all__ = ["Reporter"]


class Reporter:
    """Reports metrics to Optuna and asks its pruner, on the shared grid of samples.

    Pruners compare trials at exactly equal steps. A trial is validated at the first step that reaches a mark, which is
    another sample for every batch size, so the mark itself is the step that is reported.

    Args:
        trial: The trial that runs.
        marks: The samples at which each trial is validated.
        objective: What the study optimizes; with two objectives nothing is reported.
        mode: "min" where less of the metric is better, "max" where more is.
        prunes: Whether the pruner may stop this trial.
    """

    def __init__(
        self, trial: Trial, marks: Sequence[int], objective: Objective, mode: Mode, *, prunes: bool = True
    ) -> None:
        self.pruned = False
        self._prunes = prunes
        self._trial = trial
        self._marks = marks
        self._reports = objective != "both"
        # Seconds are minimized whatever the metric: there, more of it has to look like less.
        self._sign = -1 if objective == "time" and mode == "max" else 1
        self._last = 0

    def report(self, mark: Mark, goes_on: bool = True) -> bool:
        """Report a validation; False where the trial is to stop.

        Args:
            mark: The validation.
            goes_on: Whether the trial would go on. If not, its end is reported, and the pruner is not asked.
        """
        passed = bisect_right(self._marks, mark.samples)
        if not self._reports or passed <= self._last:
            return goes_on
        self._last = passed
        self._trial.report(self._sign * mark.metric, step=self._marks[passed - 1])
        self.pruned = goes_on and self._prunes and self._trial.should_prune()
        return goes_on and not self.pruned
