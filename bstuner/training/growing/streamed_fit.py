"""A fit that runs by a plan on a stream of samples, which has no places to plan by."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import torch

from bstuner.core.growth import PlannedStep, RunPlan, layout_within, lr_factor_at, phase_at
from bstuner.device import RandomState
from bstuner.training._lightning import (
    begin_epoch_again,
    begin_epoch_in_full,
    extract_batch_size,
    replicas,
    restore_metrics,
    set_epoch_length,
    set_last_reload,
    set_step_limits,
)
from bstuner.training.growing.data import StreamedData
from bstuner.training.growing.fit import GrowingFit

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["StreamedFit"]


class StreamedFit(GrowingFit):
    """Runs a fit by a plan: the micro-batch changes where an epoch starts, the accumulation at any step.

    A change of accumulation waits for its place as a planned one does (see `BatchPlan`). Samples are counted as they
    come.

    Args:
        trainer: a Trainer in `on_fit_start`.
        plan: its batches.
        saved: what a checkpoint holds of the fit that goes on, as `state` told it; empty for a fit from its beginning.
        drawn: the random generators before the loaders were made that the planned ones are to replace.

    """

    _data: StreamedData

    def __init__(
        self, trainer: Trainer, plan: RunPlan, saved: dict[str, Any], drawn: RandomState | None = None
    ) -> None:
        super().__init__(trainer, plan, saved, drawn)
        self._seen = self._epoch_start = saved.get("samples", 0)  # before the step that is being taken
        self._since = 0  # of the batches whose gradients wait for a step
        self._steps = 0
        self._data = StreamedData(trainer, self._micro, saved)

    def train_starts(self) -> None:
        """The loaders exist, and Lightning's counters are those of the checkpoint, if there is one."""
        trainer = self._trainer
        self._forget_draws()
        self._at_step.watch(trainer.optimizers)
        self._steps = trainer.global_step
        if self._saved:
            restore_metrics(trainer, self._saved["metrics"])
            set_last_reload(trainer, self._saved["reloaded"])
            if self._saved["between"]:
                begin_epoch_in_full(trainer)
            elif self._epoch and not self._batches:
                begin_epoch_again(trainer)
            self._data.restore_generators()

    def epoch_starts(self) -> None:
        """Before the epoch's first batch is fetched, but for workers, which fetch that of the first epoch earlier."""
        trainer = self._trainer
        self._epoch_begins(self._seen)
        self._since, self._epoch_start = 0, self._seen
        self._data.resize()
        if math.isfinite(trainer.num_training_batches):
            batches = len(self._data.loader)
            set_epoch_length(trainer, batches)
            self._clock.announce_share(batches)
        self._await_validation(due=False, batch=0)

    def batch_starts(self, batch: int, content: Any) -> None:
        """Before Lightning asks for the accumulation, and the optimizer steps."""
        phase = phase_at(self.plan.phases, self._seen)
        if not self._since:
            micro = self._data.micro
            accumulate = math.gcd(batch, max(1, phase.batch_size // (micro * self.plan.batches.world)))
            self.step = PlannedStep(self._seen, 0, batch, (), accumulate, phase.lr_factor)
            self._trainer.accumulate_grad_batches = accumulate
        # As many as there really are: where an epoch of the stream ends, the last batch may hold fewer.
        self._since += self._global_size(content)
        micros = (*self.step.micros, extract_batch_size(self._trainer, content))
        factor = lr_factor_at(phase, self._since * self.step.accumulate // len(micros), self.plan.rule)
        self.step = self.step._replace(batch_size=self._since, micros=micros, lr_factor=factor)

    def batch_ends(self, batch: int) -> bool:
        """After the optimizer has stepped, if it does after this batch; tells whether it does."""
        trainer = self._trainer
        self._batches, self._validated = batch + 1, False
        over = trainer.global_step > self._steps
        if over:
            self._steps = trainer.global_step
            self._step_schedulers()
            self._schedulers.announce(*self._users_steps())
            self._seen, self._since = self._seen + self._since, 0
            self._set_step_limits()
        self._await_validation(over and self._is_validation_due(), batch)
        return over

    def state(self) -> dict[str, Any]:
        """Where the fit is, in plain values; to be called on all processes."""
        return {**super().state(), "samples": self._seen}

    @property
    def resumes_within_a_step(self) -> bool:
        """Not to be told apart: within an epoch, a stream begins anew in any case."""
        return False

    def _micro(self) -> int:
        """The micro-batch of the epoch that starts, in samples."""
        batches = self.plan.batches
        share = max(1, phase_at(self.plan.phases, self._seen).batch_size // batches.world)
        return layout_within(share, batches.fits).micro

    def _global_size(self, content: Any) -> int:
        trainer = self._trainer
        size = extract_batch_size(trainer, content)
        if trainer.world_size == 1:
            return size
        # Every process must take the same steps, whatever its own part of the stream holds.
        total = trainer.strategy.reduce(torch.tensor(size, device=trainer.strategy.root_device), reduce_op="sum")
        return int(total) * replicas(trainer) // trainer.world_size

    def _set_step_limits(self) -> None:
        """End the fit with the step in which the user's last one ends."""
        nominal, (most, least) = self.plan.nominal.batch_size, self._users_limits
        seen, step = self._seen, self._trainer.global_step
        set_step_limits(
            self._trainer,
            most if most < 0 else step if seen >= most * nominal else sys.maxsize,
            least if not least else step if seen >= least * nominal else sys.maxsize,
        )

    def _await_validation(self, due: bool, batch: int) -> None:
        # A share of an epoch is Lightning's own to tell, where the epoch has a length.
        if self._clock.counts_batches:
            self._clock.announce(due, batch)

    def _users_batches_at(self, sample: int) -> int:
        layout = self.plan.layout
        return (sample - (0 if self._clock.over_epochs else self._epoch_start)) // (layout.micro * layout.world)
