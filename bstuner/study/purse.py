"""What a search may cost, as a share of the fit that follows, and what is left of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from optuna.trial import TrialState

from bstuner.study.pace import expected_paces
from bstuner.study.record import StudyView, role_of
from bstuner.study.space import SearchSpace

__all__ = ["FitLength", "Purse"]

# What a trial will take is known to a few percent.
_CAREFUL = 0.97


@dataclass(frozen=True)
class FitLength:
    """How long the fit is that a search is for.

    Args:
        samples: Samples of the fit, over all processes; None where it has no end.
        seconds: Seconds after which it is ended; None where nothing ends it by time.
        probed: Samples that the search for the largest batch has trained on already.
    """

    samples: int | None = None
    seconds: float | None = None
    probed: int = 0

    def training_seconds(self, pace: float) -> float | None:
        """Seconds of training that it has, at so many seconds per sample; None where it has no end."""
        ends = [] if self.samples is None else [self.samples * pace]
        return min([*ends, *([] if self.seconds is None else [self.seconds])], default=None)


@dataclass(frozen=True)
class Purse:
    """What a search may still spend, told from its study alone, so that all workers count together.

    Args:
        view: The study, with its baseline.
        space: The settings to choose from.
        budget: Samples of a whole trial.
        max_cost: The most that the search may cost, as a share of the fit's training time; None for no bound.
        fit: How long the fit is.
        step_seconds: Seconds of an optimizer step at some global batch sizes, where they were measured before.
    """

    view: StudyView
    space: SearchSpace
    budget: int
    max_cost: float | None
    fit: FitLength = FitLength()
    step_seconds: Mapping[int, float] = field(default_factory=dict)

    @property
    def fit_seconds(self) -> float | None:
        """Seconds of training of the fit with the user's own settings; None where it has no end."""
        return self.fit.training_seconds(self.view.paces[self.space.reference_batch_size])

    @property
    def share_of_fit(self) -> float | None:
        """Seconds of training that the search took, over those of the fit."""
        return self._spent / self.fit_seconds if self.fit_seconds else None

    @cached_property
    def left(self) -> float:
        """Seconds of training that are neither spent nor promised to a trial that runs."""
        if self.max_cost is None or self.fit_seconds is None:
            return math.inf
        promised = 0.0
        for trial in self.view.in_state(TrialState.RUNNING):
            size = trial.user_attrs.get("effective_batch_size", self.space.reference_batch_size)
            promised += self.whole(size)
            if role_of(trial) == "confirm":
                promised += self.whole(self.space.reference_batch_size)
        return _CAREFUL * self.max_cost * self.fit_seconds - self._spent - promised

    def whole(self, batch_size: int) -> float:
        """Seconds of training that a whole trial takes at a global batch size."""
        own = self.space.reference_batch_size
        if self._paces is None:  # steps of the same length below, samples of the same length above
            return self.budget * self.view.paces[own] * max(1.0, own / batch_size)
        return self.budget * self._paces.get(batch_size, self._paces[own])

    def for_confirmation(self, batch_size: int) -> float:
        """Seconds of training that confirming a winner of this batch size takes: it and the user's own, once more."""
        return self.whole(batch_size) + (
            0.0 if self.view.confirmations else self.whole(self.space.reference_batch_size)
        )

    def for_trial(self, batch_size: int, candidate: int | None) -> float:
        """Seconds of training that a trial may take, so that afterwards an answer can still be had.

        Whatever comes out best, two neighbours of it and the confirmation are still to be paid.

        Args:
            batch_size: Its global batch size.
            candidate: That of the best trial so far; None for none.
        """
        sizes = [batch_size] if candidate is None else [batch_size, candidate]
        return self.left - max(2 * self.whole(size) + self.for_confirmation(size) for size in sizes)

    def affords(self, batch_size: int, candidate: int | None) -> bool:
        """Whether a trial of this global batch size may be started."""
        return self.for_trial(batch_size, candidate) >= self.whole(batch_size)

    @property
    def _spent(self) -> float:
        return self.fit.probed * self.view.paces[self.space.reference_batch_size] + self.view.seconds_trained

    @cached_property
    def _paces(self) -> dict[int, float] | None:
        return expected_paces(self.view, self.step_seconds, self.space.batch_sizes)
