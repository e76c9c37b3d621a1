"""Which callbacks take part in a probe or a trial, and the base of bstuner's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    Timer,
)

__all__ = ["CallbackOfOtherRoot", "OwnCallback", "call_fit_start", "takes_part"]


if TYPE_CHECKING:

    class CallbackOfOtherRoot:
        """To the type checker, two classes of the same hooks for different Trainers contradict each other."""

else:
    from pytorch_lightning import Callback as CallbackOfOtherRoot


# These only watch, save, stop or search: none holds device memory that training needs, and none may act on a probe.
_BYSTANDERS = (
    BatchSizeFinder,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    Timer,
)


class OwnCallback(Callback, CallbackOfOtherRoot):
    """The base of bstuner's own callbacks: they run probes and are never part of one, subclasses of users included.

    A Trainer of the package pytorch_lightning, which has classes of its own, accepts it too, if only to be told in
    `setup` that it is not supported; with another class it would stop before, with an error that says nothing.
    """


def takes_part(callback: Callback) -> bool:
    """Whether a callback belongs to the training itself, so that a probe without it would measure too little."""
    return not isinstance(callback, (OwnCallback, *_BYSTANDERS))


def call_fit_start(trainer: Trainer) -> None:
    """Call the `on_fit_start` hooks, in Lightning's order."""
    module: LightningModule = trainer.lightning_module
    for callback in trainer.callbacks:
        callback.on_fit_start(trainer, module)
    module.on_fit_start()
