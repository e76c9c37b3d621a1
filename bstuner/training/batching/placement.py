"""Put a batch layout in place in a run: the micro-batch where it lives, the accumulation in the Trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bstuner.training._lightning import hyperparameters_recorded, lightning_of
from bstuner.training.batching.places import Batching

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["Placement", "accumulation_of", "plans_accumulation"]


@dataclass(frozen=True)
class Placement:
    """An answer, and where it belongs.

    Args:
        batching: where the micro-batch size lives.
        micro: samples per device and forward pass.
        accumulate: batches per optimizer step, for the Trainer; None to leave it as it is.
        validation: where the batch size of the validation loaders lives, and that size; None to leave it alone.

    """

    batching: Batching
    micro: int
    accumulate: int | None = None
    validation: tuple[Batching, int] | None = None

    def apply(self, trainer: Trainer) -> None:
        """Write it all."""
        with hyperparameters_recorded(trainer):
            self.batching.apply(self.micro)
            if self.accumulate is not None:
                trainer.accumulate_grad_batches = self.accumulate
            if self.validation is not None:
                batching, size = self.validation
                batching.apply(size)


def accumulation_of(trainer: Trainer) -> int:
    """Batches per optimizer step, the most that the user's settings ask for at any epoch."""
    return max([trainer.accumulate_grad_batches, *_planned(trainer)])


def plans_accumulation(trainer: Trainer) -> bool:
    """Whether a callback of the user's changes the accumulation by epoch."""
    return bool(_planned(trainer))


def _planned(trainer: Trainer) -> list[int]:
    kind = lightning_of(trainer, "callbacks").GradientAccumulationScheduler
    schedulers = [call for call in trainer.callbacks if isinstance(call, kind)]
    return [factor for scheduler in schedulers for factor in scheduler.scheduling.values()]
