"""The user's schedulers in a fit whose batches are not the user's own: stepped as the user's own steps would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer

from bstuner.core.scheduler_calls import calls_by_step
from bstuner.training._lightning import hide_scheduler_step

__all__ = ["NominalSchedulers"]


class NominalSchedulers:
    """Steps the schedulers of a fit by the user's own optimizer steps; epochs and metrics are left to Lightning.

    Args:
        trainer: a Trainer in `on_fit_start`.
        batches: the user's own batches in an epoch, on each process.
        accumulate: the user's own batches per optimizer step.

    """

    def __init__(self, trainer: Trainer, batches: int, accumulate: int) -> None:
        self._trainer = trainer
        self._batches = batches
        self._accumulate = accumulate
        self._own_step: Callable[[Any, Any], None] = trainer.lightning_module.lr_scheduler_step

    def take_over(self) -> Callable[[], None]:
        """Keep Lightning from stepping them with the steps that are taken; what is returned takes that back."""
        return hide_scheduler_step(self._trainer.lightning_module, self._step)

    def advance(self, before: int, after: int) -> None:
        """Step them from one of the user's own optimizer steps to another."""
        for config in self._trainer.lr_scheduler_configs:
            if config.interval != "step" or config.reduce_on_plateau:
                continue
            done, due = (
                calls_by_step(step, self._batches, self._accumulate, config.frequency) for step in (before, after)
            )
            for _ in range(due - done):
                self._own_step(config.scheduler, None)

    def _step(self, scheduler: Any, metric: Any) -> None:
        """What Lightning calls in the place of the module's `lr_scheduler_step`."""
        configs = self._trainer.lr_scheduler_configs
        config = next(config for config in configs if config.scheduler is scheduler)
        if config.interval == "epoch" or config.reduce_on_plateau:
            self._own_step(scheduler, metric)
