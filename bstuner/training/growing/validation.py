"""When a fit validates whose batches are not the user's own: after the samples that those would have taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bstuner.errors import SettingRefused
from bstuner.training._lightning import batch_of_fit, validate_every, validates_by_time

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["ValidationClock"]


class ValidationClock:
    """Has Lightning validate after the batches that the user counts, whatever the batches that are really taken.

    Args:
        trainer: a Trainer in `on_fit_start`, with the user's `val_check_interval`.
        batches: the user's own batches in an epoch, on each process.

    Attributes:
        over_epochs: whether the user counts over the whole fit, not from the start of each epoch.

    """

    def __init__(self, trainer: Trainer, batches: int) -> None:
        self._trainer = trainer
        self._batches = batches
        self._interval = None if validates_by_time(trainer) else trainer.val_check_interval
        self.over_epochs = trainer.check_val_every_n_epoch is None

    @property
    def counts_batches(self) -> bool:
        """Whether the interval is a number of batches, not a share of an epoch."""
        return isinstance(self._interval, int)

    def refuse_a_long_interval(self) -> None:
        """Refuse, before training, what Lightning would refuse of the user's own batches.

        Raises:
            SettingRefused: the interval is longer than an epoch.

        """
        trainer, interval = self._trainer, self._interval
        within = not self.over_epochs and trainer.limit_val_batches
        if within and isinstance(interval, int) and interval > self._batches:
            raise SettingRefused(
                f"Expected Trainer(val_check_interval={interval}) to be at most the {self._batches} batches "
                "that your own batch size makes of an epoch. Lower it, or set check_val_every_n_epoch=None to count "
                "over epochs."
            )

    def is_due(self, before: int, after: int) -> bool:
        """Whether validation comes after a step: the first that holds the batches it waits for.

        Args:
            before: how many of the user's own batches end before the step.
            after: how many end up to its end.

        """
        interval = self._interval
        if interval is None:  # validation goes by time
            return False
        every = interval if isinstance(interval, int) else max(1, int(self._batches * interval))
        return bool(after // every > before // every)

    def announce(self, due: bool, batch: int) -> None:
        """Tell Lightning whether validation follows a batch, by the number of that batch in its epoch."""
        trainer = self._trainer
        if self._interval is None:
            return
        number = batch_of_fit(trainer) if self.over_epochs else batch
        validate_every(trainer, number + 1 if due else None)

    def announce_share(self, batches: int) -> None:
        """Tell Lightning after how many batches validation comes, by how many the epoch really has."""
        if isinstance(self._interval, float):
            validate_every(self._trainer, max(1, int(batches * self._interval)))

    def forget_lengths(self) -> None:
        """Have Lightning not compare the interval with the planned batches while it makes loaders."""
        if self.counts_batches:
            self._trainer.val_check_interval = 1.0

    def put_back(self) -> None:
        """The user's interval, once the loaders are made; they may be made anew at any epoch."""
        if self._interval is not None:
            self._trainer.val_check_interval = self._interval
