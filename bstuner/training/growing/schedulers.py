"""The user's schedulers in a fit whose batches are not the user's own: stepped as the user's own steps would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from bstuner.core import is_due
from bstuner.training._lightning import hide_scheduler_step

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities.types import LRSchedulerConfig

__all__ = ["NominalSchedulers"]


class NominalSchedulers:
    """Steps the schedulers of a fit by the user's own optimizer steps; epochs and metrics are left to Lightning.

    Args:
        trainer: a Trainer in `on_fit_start`.
        batches: the user's own batches in an epoch, on each process.
        accumulate: the user's own batches per optimizer step.
        catch_up: advances them to the end of the step that is being taken. Where an epoch ends, Lightning steps those
            that count steps before those that count epochs, and the order may matter.
        users: within what it returns, the Trainer is as the user's code has it.

    """

    def __init__(
        self,
        trainer: Trainer,
        batches: int,
        accumulate: int,
        catch_up: Callable[[], None],
        users: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._trainer = trainer
        self._batches = batches
        self._accumulate = accumulate
        self._catch_up = catch_up
        self._users = users
        self._users_step: Callable[[Any, Any], None] = trainer.lightning_module.lr_scheduler_step
        self._reached = 0  # of the user's own steps
        self._plateaus: list[tuple[LRSchedulerConfig, int]] = []  # that count steps, with their frequency

    def take_over(self) -> Callable[[], None]:
        """Keep Lightning from stepping them with the steps that are taken; what is returned takes that back."""
        configs = [each for each in self._trainer.lr_scheduler_configs if each.interval == "step"]
        self._plateaus = [(each, each.frequency) for each in configs if each.reduce_on_plateau]
        uncover = hide_scheduler_step(self._trainer.lightning_module, self._step)

        def take_back() -> None:
            uncover()
            for config, frequency in self._plateaus:
                config.frequency = frequency

        return take_back

    def advance(self, before: int, after: int) -> None:
        """Step them from one of the user's own optimizer steps to another, as far as that has not been done."""
        configs = [each for each in self._trainer.lr_scheduler_configs if each.interval == "step"]
        for step in range(max(before, self._reached) + 1, after + 1):
            for config in configs:
                if not config.reduce_on_plateau and self._is_due(step, config.frequency):
                    self._own_step(config.scheduler, None)
        self._reached = max(after, self._reached)

    def announce(self, before: int, after: int) -> None:
        """Tell Lightning which of those that wait for a metric to step, once, after validation."""
        for config, frequency in self._plateaus:
            due = any(self._is_due(step, frequency) for step in range(before + 1, after + 1))
            config.frequency = 1 if due else sys.maxsize

    def _is_due(self, step: int, frequency: int) -> bool:
        return is_due(step, self._batches, self._accumulate, frequency)

    def _step(self, scheduler: Any, metric: Any) -> None:
        """What Lightning calls in the place of the module's `lr_scheduler_step`."""
        configs = self._trainer.lr_scheduler_configs
        config = next(config for config in configs if config.scheduler is scheduler)
        if config.interval == "epoch" and not config.reduce_on_plateau:
            self._catch_up()
        if config.interval == "epoch" or config.reduce_on_plateau:
            self._own_step(scheduler, metric)

    def _own_step(self, scheduler: Any, metric: Any) -> None:
        with self._users():
            self._users_step(scheduler, metric)
