"""How long a fit is, in samples and in optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bstuner.core import BatchLayout, EpochData
from bstuner.training._lightning import lightning_of
from bstuner.training.run.limits import limit_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["Horizon", "horizon_of", "steps_of"]


@dataclass(frozen=True)
class Horizon:
    """The length of a fit, over all processes.

    Args:
        fit: samples of the whole fit; None where it has no end.
        epoch: samples of an epoch; None where unknown.
        seconds: seconds after which the Trainer ends it; None for no such limit.

    """

    fit: int | None
    epoch: int | None
    seconds: float | None = None


def horizon_of(trainer: Trainer, layout: BatchLayout, data: EpochData) -> Horizon:
    """Tell how long the fit is as the user's settings have it, by epochs or by steps, whichever end comes first.

    Args:
        trainer: a Trainer inside `fit`, with the user's settings.
        layout: the user's own batch.
        data: what the loaders hold for one process.

    """
    here = data.samples_per_epoch(layout.micro, limit_of(trainer, "fit"))
    epoch = None if here is None else here * layout.world
    ends: list[float] = []
    if trainer.max_epochs not in (None, -1) and epoch is not None:
        ends.append((trainer.max_epochs or 0) * epoch)
    if trainer.max_steps >= 0:
        steps = trainer.max_steps
        module = trainer.lightning_module
        if module is not None and not module.automatic_optimization:
            # Lightning counts the steps of every optimizer; each is taken to step once per batch.
            steps //= max(1, len(trainer.optimizers))
        batches = data.batches(layout.micro, limit_of(trainer, "fit"))
        epochs, rest = divmod(steps, -(-batches // layout.accumulate)) if batches and epoch else (0, steps)
        ends.append(epochs * (epoch or 0) + min(rest * layout.global_batch_size, epoch or math.inf))
    return Horizon(int(min(ends)) if ends else None, epoch, _most_seconds(trainer))


def _most_seconds(trainer: Trainer) -> float | None:
    """The shortest of the Trainer's timers, whose time also counts validation."""
    timers = [
        callback for callback in trainer.callbacks if isinstance(callback, lightning_of(trainer, "callbacks").Timer)
    ]
    left = [timer.time_remaining("train") for timer in timers]
    return min((seconds for seconds in left if seconds is not None), default=None)


def steps_of(trainer: Trainer, layout: BatchLayout, data: EpochData) -> int | None:
    """Tell how many optimizer steps the fit takes with a batch; None where it has no end or no known length.

    Unlike the Trainer's own `estimated_stepping_batches`, it makes no loaders, and so draws no random numbers.

    Args:
        trainer: a Trainer inside `fit`, with its settings for that batch.
        layout: the batch.
        data: what the loaders hold for one process.

    """
    batches = data.batches(layout.micro, limit_of(trainer, "fit"))
    ends = []
    if trainer.max_epochs not in (None, -1) and batches is not None:
        ends.append((trainer.max_epochs or 0) * -(-batches // layout.accumulate))
    if trainer.max_steps >= 0:
        ends.append(trainer.max_steps)
    return min(ends, default=None)
