"""A fit that runs by a plan on a stream of samples, which has no places to plan by."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import torch
from lightning.pytorch import Trainer

# Undocumented but without an underscore: how Lightning itself tells the samples in a batch.
from lightning.pytorch.utilities.data import extract_batch_size
from torch.utils.data import BatchSampler

from bstuner.core.batch_plan import PlannedStep, layout_within
from bstuner.core.growth import phase_at
from bstuner.core.scaling import scale_lr
from bstuner.training._lightning import begin_epoch_in_full, restore_metrics, set_epoch_length, set_step_limits
from bstuner.training.combination import combined, flat_loaders, with_loaders
from bstuner.training.growth_plan import RunPlan
from bstuner.training.planned_batches import check_can_be_planned
from bstuner.training.planned_fit import PlannedFit
from bstuner.training.strategy import replicas

__all__ = ["StreamedFit"]


class StreamedFit(PlannedFit):
    """Runs a fit by a plan: the micro-batch changes where an epoch starts, the accumulation at any step.

    A change of accumulation waits for its place as a planned one does (see `BatchPlan`). Samples are counted as they
    come.

    Args:
        trainer: a Trainer in `on_fit_start`.
        plan: its batches.
        saved: what a checkpoint holds of the fit that goes on, as `state` told it; empty for a fit from its beginning.

    """

    def __init__(self, trainer: Trainer, plan: RunPlan, saved: dict[str, Any]) -> None:
        super().__init__(trainer, plan, saved)
        self._seen = self._epoch_start = saved.get("samples", 0)  # before the step that is being taken
        self._since = 0  # of the batches whose gradients wait for a step
        self._before = 0
        self._steps = 0
        self._loader: Any = None

    def train_starts(self) -> None:
        """The loaders exist, and Lightning's counters are those of the checkpoint, if there is one."""
        trainer = self._trainer
        self._at_step.watch(trainer.optimizers)
        self._steps = trainer.global_step
        if self._saved:
            restore_metrics(trainer, self._saved["metrics"])
            if self._saved["between"]:
                begin_epoch_in_full(trainer)
            self._restore_generators()

    def epoch_starts(self) -> None:
        """Before the epoch's first batch is fetched, except for the first epoch's."""
        trainer = self._trainer
        self._epoch, self._batches, self._validated, self._between = trainer.current_epoch, 0, False, False
        self._since, self._epoch_start = 0, self._seen
        self._revise(self._seen)
        self._resize()
        if math.isfinite(trainer.num_training_batches):
            batches = len(self._loader)
            set_epoch_length(trainer, batches)
            trainer.val_check_batch = max(1, int(batches * trainer.val_check_interval))
        self._await_validation(due=False, batch=0)

    def batch_starts(self, batch: int) -> None:
        """Before Lightning asks for the accumulation, and the optimizer steps."""
        if self._since:
            return
        phase = phase_at(self.plan.phases, self._seen)
        micro, world = self._loader.batch_sampler.batch_size, self.plan.batches.world
        accumulate = math.gcd(batch, max(1, phase.batch_size // (micro * world)))
        size = micro * world * accumulate
        factor = min(phase.lr_factor, max(1.0, scale_lr(phase.lr_factor, size, phase.batch_size, self.plan.rule)))
        self.step = PlannedStep(self._seen, size, batch, (micro,) * accumulate, accumulate, factor)
        self._trainer.accumulate_grad_batches = accumulate

    def batch_ends(self, batch: int, content: Any) -> bool:
        """After the optimizer has stepped, if it does after this batch; tells whether it does."""
        trainer = self._trainer
        self._batches, self._validated = batch + 1, False
        self._since += self._global_size(content)
        over = trainer.global_step > self._steps
        if over:
            self._steps, self._before = trainer.global_step, self._seen
            self._seen, self._since = self._seen + self._since, 0
            self.step = self.step._replace(batch_size=self._seen - self._before)
            self._step_schedulers()
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

    def _planned(self, loaders: Any) -> Any:
        flat = flat_loaders(loaders)
        loader: Any = flat[0]
        check_can_be_planned(loader)
        own = loader.batch_sampler
        self._loader = copy.copy(loader)
        vars(self._loader)["batch_sampler"] = BatchSampler(own.sampler, own.batch_size, own.drop_last)
        vars(self._loader)["_iterator"] = None
        self._resize()
        return self._loader if loaders is loader else with_loaders(combined(loaders, "train"), [self._loader])

    def _resize(self) -> None:
        """The micro-batch of the epoch that starts."""
        batches = self.plan.batches
        share = max(1, phase_at(self.plan.phases, self._seen).batch_size // batches.world)
        size = layout_within(share, batches.fits).micro
        self._loader.batch_sampler.batch_size = vars(self._loader)["batch_size"] = size

    def _global_size(self, content: Any) -> int:
        size, trainer = extract_batch_size(content), self._trainer
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
            self._trainer.fit_loop,
            most if most < 0 else step if seen >= most * nominal else sys.maxsize,
            least if not least else step if seen >= least * nominal else sys.maxsize,
        )

    def _await_validation(self, due: bool, batch: int) -> None:
        # A share of an epoch is Lightning's own to tell, where the epoch has a length.
        if isinstance(self._trainer.val_check_interval, int):
            self._plan_validation(due, batch)

    def _nominal_batches_at(self, sample: int, whole: bool) -> int:
        layout = self.plan.layout
        return (sample - (0 if whole else self._epoch_start)) // (layout.micro * layout.world)

    def _refuse_long_interval(self) -> None:
        """Nothing is known to compare it with."""
