"""A fit every batch of which is planned, by its place in the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bstuner.core.growth import EpochPlan, RunPlan
from bstuner.device import RandomState
from bstuner.training._lightning import (
    begin_epoch_again,
    begin_epoch_in_full,
    end_epoch_in_full,
    go_on_after_batch,
    restore_metrics,
    set_epoch_length,
    set_last_reload,
    set_step_limits,
    step_plateaus_after_batch,
    validates,
)
from bstuner.training.growing.data import IndexedData
from bstuner.training.growing.fit import GrowingFit

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["IndexedFit"]


class IndexedFit(GrowingFit):
    """Runs a fit by a plan: the sizes of an epoch's batches are known before it starts.

    Args:
        trainer: a Trainer in `on_fit_start`.
        plan: its batches.
        saved: what a checkpoint holds of the fit that goes on, as `state` told it; empty for a fit from its beginning.
        drawn: the random generators before the loaders were made that the planned ones are to replace.

    """

    def __init__(
        self, trainer: Trainer, plan: RunPlan, saved: dict[str, Any], drawn: RandomState | None = None
    ) -> None:
        super().__init__(trainer, plan, saved, drawn)
        self._planned: tuple[int, RunPlan, EpochPlan] | None = None  # the last epoch that was asked for
        self._data = IndexedData(trainer, lambda epoch: self._epoch_plan(epoch).sizes(), saved)
        self._clock.refuse_a_long_interval()

    def train_starts(self) -> None:
        """The loaders exist, and Lightning's counters are those of the checkpoint, if there is one."""
        trainer = self._trainer
        self._forget_draws()
        self._at_step.watch(trainer.optimizers)
        self._clock.put_back()
        self._clock.announce(False, 0)
        if not self._saved:
            return
        restore_metrics(trainer, self._saved["metrics"])
        set_last_reload(trainer, self._saved["reloaded"])
        if self._saved["between"]:
            begin_epoch_in_full(trainer)
        elif self._batches:
            self._go_on()
        elif self._epoch:
            begin_epoch_again(trainer)

    def _go_on(self) -> None:
        """By the batch that is over, Lightning is to know what was still to follow it."""
        trainer = self._trainer
        self.step = self._epoch_plan(self._epoch).step_of(self._batches - 1)
        trainer.accumulate_grad_batches = self.step.accumulate
        over = self._is_over(self._batches - 1)
        due = over and self._is_validation_due()
        self._clock.announce(due, self._batches - 1)
        if over:
            self._schedulers.announce(*self._users_steps())
        validate = due and validates(trainer)
        if not self._saved["validated"] and (validate or self._batches == len(self._epoch_plan(self._epoch))):
            end_epoch_in_full(trainer, self._epoch, validate=validate)
        elif over and not validate:
            step_plateaus_after_batch(trainer)
        go_on_after_batch(trainer)

    def epoch_starts(self) -> None:
        """Before the epoch's first batch is fetched, but for workers, which fetch that of the first epoch earlier."""
        trainer, epoch = self._trainer, self._trainer.current_epoch
        self._data.refuse_other_length(epoch)
        self._epoch_begins(epoch * self.plan.samples_per_epoch)
        self._clock.put_back()  # the loaders may have been made anew
        set_epoch_length(trainer, len(self._epoch_plan(epoch)))

    def batch_starts(self, batch: int, content: Any) -> None:
        """Before Lightning asks for the accumulation, and the optimizer steps."""
        self.step = self._epoch_plan(self._trainer.current_epoch).step_of(batch)
        self._trainer.accumulate_grad_batches = self.step.accumulate

    def batch_ends(self, batch: int) -> bool:
        """After the optimizer has stepped, if it does after this batch; tells whether it does."""
        self._batches, self._validated = batch + 1, False
        over = self._is_over(batch)
        self._clock.announce(over and self._is_validation_due(), batch)
        if over:
            self._step_schedulers()
            self._schedulers.announce(*self._users_steps())
        return over

    @property
    def resumes_within_a_step(self) -> bool:
        """Whether the checkpoint was saved between two batches of one optimizer step."""
        batches = self._saved.get("batches", 0)
        if not batches:
            return False
        step = self._epoch_plan(self._saved["epoch"]).step_of(batches - 1)
        return bool(batches != step.first_batch + len(step.micros))

    def _loaders(self, users: Callable[[], Any]) -> Any:
        self._clock.forget_lengths()
        return super()._loaders(users)

    def _epoch_plan(self, epoch: int) -> EpochPlan:
        if self._planned is None or self._planned[:2] != (epoch, self.plan):
            self._planned = epoch, self.plan, self.plan.batches.epoch(epoch)
        return self._planned[2]

    def _is_over(self, batch: int) -> bool:
        return batch + 1 == self.step.first_batch + len(self.step.micros)

    def _set_step_limits(self) -> None:
        """End the fit after the samples that the user's number of steps takes."""
        most, least = self._users_limits
        set_step_limits(
            self._trainer,
            self.plan.steps_before(self.plan.sample_of(most)) if most >= 0 else most,
            self.plan.steps_before(self.plan.sample_of(least)) if least else least,
        )

    def _users_batches_at(self, sample: int) -> int:
        length, layout = self.plan.samples_per_epoch, self.plan.layout
        epoch = self.step.start_sample // length
        inside = sample - epoch * length
        # The last batch of an epoch may hold fewer samples than the others.
        batches = self._users_batches if inside == length else inside // (layout.micro * layout.world)
        return batches + (epoch * self._users_batches if self._clock.over_epochs else 0)
