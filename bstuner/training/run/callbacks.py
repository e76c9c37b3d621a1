"""Which callbacks take part in a probe or a trial, and the base of bstuner's own."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from bstuner.training._lightning import LightningCallback, each_lightning, lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["OwnCallback", "call_fit_start", "lightnings_searches", "shows_progress", "takes_part"]

# These only watch, save, write, stop or search: none holds device memory that training needs, and none may act on a
# probe.
_BYSTANDERS = (
    "BasePredictionWriter",
    "BatchSizeFinder",
    "Checkpoint",
    "DeviceStatsMonitor",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LearningRateFinder",
    "LearningRateMonitor",
    "ModelSummary",
    "ProgressBar",
    "Timer",
)


class OwnCallback(LightningCallback):
    """The base of bstuner's own callbacks: they run probes and are never part of one, subclasses of users included."""


def takes_part(callback: Callback) -> bool:
    """Whether a callback belongs to the training itself, so that a probe without it would measure too little."""
    return not isinstance(callback, (OwnCallback, *_bystanders()))


@functools.cache
def _bystanders() -> tuple[type, ...]:
    # Of either package: a Trainer does not ask of which class a callback is, and takes what only looks like one.
    return tuple(getattr(kinds, name) for kinds in each_lightning("callbacks") for name in _BYSTANDERS)


def lightnings_searches(trainer: Trainer) -> tuple[type, ...]:
    """Return Lightning's own kinds of callbacks that search for a batch size or a learning rate."""
    kinds = lightning_of(trainer, "callbacks")
    return kinds.BatchSizeFinder, kinds.LearningRateFinder


def call_fit_start(trainer: Trainer) -> None:
    """Call the `on_fit_start` hooks, in Lightning's order."""
    module: LightningModule = trainer.lightning_module
    for callback in trainer.callbacks:
        callback.on_fit_start(trainer, module)
    module.on_fit_start()


def shows_progress(trainer: Trainer) -> bool:
    """Whether the user wants to see progress: the Trainer's bar is on, and this is the process that shows it."""
    bar = trainer.progress_bar_callback
    return bar is not None and bar.is_enabled and trainer.is_global_zero
