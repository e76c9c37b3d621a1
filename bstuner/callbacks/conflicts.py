"""What may not stand beside our callbacks in a Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bstuner.callbacks.finder import BatchSizeFinder
from bstuner.errors import SettingRefused
from bstuner.training._lightning import lightning_of
from bstuner.training.batching import plans_accumulation
from bstuner.training.run import lightnings_searches

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["refuse_beside_scheduler", "refuse_beside_tuner"]


def refuse_beside_scheduler(trainer: Trainer) -> None:
    """Refuse what a planned fit cannot go with.

    Raises:
        SettingRefused: the module steps its optimizers itself, or a callback changes the batch or its schedule too.

    """
    if not trainer.lightning_module.automatic_optimization:
        raise SettingRefused(
            "Expected automatic optimization, found a module that steps its optimizers itself: BatchSizeScheduler "
            "cannot tell which batches make a step. Train with automatic optimization, or without a growing batch."
        )
    if plans_accumulation(trainer):
        raise SettingRefused(
            "Expected no GradientAccumulationScheduler beside BatchSizeScheduler, found one: both would set "
            "accumulate_grad_batches. Leave one of them out; BatchSizeScheduler('0:256 4ep:512') grows the batch at "
            "epochs too."
        )
    averaging = lightning_of(trainer, "callbacks").StochasticWeightAveraging
    for callback in trainer.callbacks:
        if isinstance(callback, averaging):
            raise SettingRefused(
                "Expected no StochasticWeightAveraging beside BatchSizeScheduler, found one: it replaces the learning "
                "rate schedule in the middle of the fit, after the batch has grown by what that schedule would fall. "
                "Leave one of them out; EMAWeightAveraging averages weights and leaves the schedule as it is."
            )
        if isinstance(callback, BatchSizeFinder) and callback.milestones:
            raise SettingRefused(
                f"Expected no searches in the middle of a planned fit, found BatchSizeFinder(milestones="
                f"{callback.milestones}). Leave milestones out."
            )


def refuse_beside_tuner(trainer: Trainer) -> None:
    """Refuse another callback that searches.

    Raises:
        SettingRefused: there is one.

    """
    # They would change afterwards what the tuner has put in place.
    searches = (BatchSizeFinder, *lightnings_searches(trainer))
    for other in trainer.callbacks:
        if isinstance(other, searches):
            raise SettingRefused(
                "Expected BatchSizeTuner to be the only callback that searches, found another "
                f"{type(other).__name__}. Take one of them out of the callbacks: the tuner itself finds the "
                "largest batch that fits and the learning rate that goes with its answer."
            )
