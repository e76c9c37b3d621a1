"""The learning-rate schedule of a whole fit, run through in the few samples of a trial."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bstuner.core import calls_by_epoch, calls_by_step
from bstuner.training._lightning import shadow_scheduler_step

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["TrialSchedule"]


class TrialSchedule:
    """Steps the user's schedulers faster than the optimizer, so that a trial sees all of their schedule.

    The schedulers are those of the whole fit, built by the user's code for its horizon, whatever way it counts that in:
    at a tenth of the trial they stand where a tenth of the fit would have brought them. A fit without an end has no
    horizon to run through, and its schedulers are left to Lightning. One that waits for a metric (ReduceLROnPlateau) is
    stepped at each validation, as in a fit. With manual optimization, each step of a scheduler that the user's code
    takes becomes as many as it would have taken in the fit.

    Args:
        trainer: a Trainer inside a trial, with the schedulers and loaders of that trial.
        share: the part of the fit's samples that the trial has; None where the fit has no end.

    """

    def __init__(self, trainer: Trainer, share: float | None) -> None:
        self._trainer = trainer
        self._step: Callable[..., Any] = trainer.lightning_module.lr_scheduler_step
        self._configs = [config for config in trainer.lr_scheduler_configs if not config.reduce_on_plateau]
        self._done = [0] * len(self._configs)
        steps = trainer.estimated_stepping_batches
        self.on = share is not None and math.isfinite(steps)
        if not self.on:
            return
        self._steps = int(steps)
        # Of an epoch without a known length there is no end to be seen.
        self._batches = int(min(trainer.num_training_batches, (self._steps + 1) * trainer.accumulate_grad_batches))
        if trainer.lightning_module.automatic_optimization:
            shadow_scheduler_step(trainer.lightning_module)
        else:
            for config in self._configs:
                _hasten(config.scheduler, 1 / (share or 1.0))

    def at(self, position: float) -> None:
        """An optimizer step has been taken.

        Args:
            position: the part of the trial that is over, from 0 to 1.

        """
        if not self.on or not self._trainer.lightning_module.automatic_optimization:
            return
        # The slack is for positions that rounding has put just below a whole step.
        step = math.floor(min(position, 1.0) * self._steps + 1e-9)
        for index, config in enumerate(self._configs):
            calls = calls_by_step if config.interval == "step" else calls_by_epoch
            due = calls(step, self._batches, self._trainer.accumulate_grad_batches, config.frequency)
            for _ in range(due - self._done[index]):
                self._step(config.scheduler, None)
            self._done[index] = max(due, self._done[index])

    def validated(self) -> None:
        """A validation is over: the schedulers that wait for a metric hear of it."""
        if not self.on or not self._trainer.lightning_module.automatic_optimization:
            return
        for config in self._trainer.lr_scheduler_configs:
            metric = self._trainer.callback_metrics.get(config.monitor or "") if config.reduce_on_plateau else None
            if metric is not None:
                self._step(config.scheduler, metric)


def _hasten(scheduler: Any, speed: float) -> None:
    """Make each step of a scheduler as many as `speed` says, on average."""
    step, due = scheduler.step, 0.0

    def steps(*args: Any, **kwargs: Any) -> None:
        nonlocal due
        due += speed
        for _ in range(math.floor(due + 1e-9)):
            due -= 1
            step(*args, **kwargs)

    scheduler.step = steps
