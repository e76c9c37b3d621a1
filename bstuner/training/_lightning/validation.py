"""When a fit validates, and a validation out of turn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["batch_of_fit", "run_validation", "validate_every", "validates", "validates_by_time"]


def validates(trainer: Trainer) -> bool:
    """Whether the run validates: the user's code has what it takes, and the Trainer's limits leave batches."""
    return trainer.enable_validation  # undocumented: where Lightning itself looks


def validates_by_time(trainer: Trainer) -> bool:
    """Whether the fit validates by the clock, not by batches."""
    return trainer._val_check_time_interval is not None  # kept nowhere public


def validate_every(trainer: Trainer, batches: int | None) -> None:
    """Have the fit validate after each batch whose number, from 1, divides by another; None for never."""
    # val_check_batch: what Lightning makes of the user's val_check_interval when it makes the loaders. No batch has a
    # number that divides by the largest one.
    trainer.val_check_batch = sys.maxsize if batches is None else batches


def batch_of_fit(trainer: Trainer) -> int:
    """Return the number of the running batch in the whole fit, from 0."""
    return trainer.fit_loop.total_batch_idx  # undocumented: what Lightning counts by over epochs


def run_validation(trainer: Trainer) -> None:
    """Validate now, in the middle of a fit, as after a batch."""
    trainer.validating = True  # nothing public sets the stage without starting a run
    trainer.fit_loop.epoch_loop.val_loop.run()
