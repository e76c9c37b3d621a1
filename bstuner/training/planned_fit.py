"""A fit that runs by a plan: its loaders, its counters, its schedulers and its validations."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import distributed

from bstuner.core.batch_plan import EpochPlan, PlannedStep
from bstuner.core.scheduler_calls import calls_by_step
from bstuner.errors import SettingRefused
from bstuner.training._lightning import (
    begin_epoch_in_full,
    end_epoch_in_full,
    forget_loaders,
    go_on_after_batch,
    hide_scheduler_step,
    prepared_loader,
    restore_metrics,
    set_epoch_length,
    set_step_limits,
    substitute_train_loaders,
    validates_by_time,
)
from bstuner.training.combination import combined, flat_loaders, with_loaders
from bstuner.training.growth_plan import RunPlan
from bstuner.training.lr_at_step import LRAtStep
from bstuner.training.planned_batches import (
    Draw,
    EpochOrder,
    check_can_be_planned,
    own_generators,
    with_planned_batches,
)
from bstuner.training.random_state import RandomState

__all__ = ["PlannedFit"]

# What of the Trainer a planned fit changes for its time.
_SETTINGS = ("accumulate_grad_batches", "limit_train_batches", "val_check_interval")


class PlannedFit:
    """Runs a fit by a plan.

    Args:
        trainer: a Trainer in `on_fit_start`.
        plan: its batches.
        saved: what a checkpoint holds of the fit that goes on, as `state` told it; empty for a fit from its beginning.

    Attributes:
        plan: the plan as it is now; a scheduler that waits for a metric may have changed it.
        step: the optimizer step that is being taken.

    """

    plan: RunPlan
    step: PlannedStep

    def __init__(self, trainer: Trainer, plan: RunPlan, saved: dict[str, Any]) -> None:
        self._trainer = trainer
        self._first_plan = plan
        self._cuts: list[tuple[int, float]] = [(step, share) for step, share in saved.get("cuts", [])]
        self.plan = plan.with_cuts(self._cuts)
        self._users = {name: getattr(trainer, name) for name in _SETTINGS}
        self._users_limits = trainer.max_steps, trainer.min_steps
        self._epochs: dict[int, EpochPlan] = {}
        self._saved = saved
        self._epoch, self._batches = saved.get("epoch", 0), saved.get("batches", 0)
        self._validated = self._between = False
        self._to_restore: dict[str, Any] | None = None
        self._again: Draw | None = None
        if saved:
            here = saved["processes"][trainer.global_rank]
            self._to_restore = here
            self._again = None if here["draw"] is None else Draw.of_values(here["draw"])
        self._order: EpochOrder | None = None
        self._generators: list[torch.Generator] = []
        self._sampler: Any = None
        self._at_step = LRAtStep(self._scaled)
        self._own_step: Callable[[Any, Any], None] = trainer.lightning_module.lr_scheduler_step
        self._undo: list[Callable[[], None]] = []
        self._refuse_long_interval()

    # --- the fit begins and ends

    def install(self) -> None:
        """Put the plan in place, before the fit asks for its loaders."""
        trainer = self._trainer
        self._undo.append(substitute_train_loaders(trainer, self._planned))
        self._undo.append(hide_scheduler_step(trainer.lightning_module, self._step_scheduler))
        self._undo.append(_tell_planned_steps(trainer, lambda: self.plan.planned_steps))
        trainer.limit_train_batches = 1.0  # the plan has the user's limit in it
        self._set_step_limits()
        forget_loaders(trainer)

    def put_back(self) -> None:
        """Leave the Trainer as the user's code has made it."""
        self._at_step.let_go()
        if not self._undo:
            return
        while self._undo:
            self._undo.pop()()
        for name, value in self._users.items():
            setattr(self._trainer, name, value)
        set_step_limits(self._trainer.fit_loop, *self._users_limits)

    def train_starts(self) -> None:
        """The loaders exist, and Lightning's counters are those of the checkpoint, if there is one."""
        trainer = self._trainer
        self._at_step.watch(trainer.optimizers)
        trainer.val_check_interval = self._users["val_check_interval"]
        self._plan_validation(False, 0)
        if not self._saved:
            return
        restore_metrics(trainer, self._saved["metrics"])
        if self._saved["between"]:
            begin_epoch_in_full(trainer)
        elif self._batches:
            self._go_on()

    def _go_on(self) -> None:
        """By the batch that is over, Lightning is to know what was still to follow it."""
        trainer = self._trainer
        self.step = self._epoch_plan(self._epoch).step_of(self._batches - 1)
        trainer.accumulate_grad_batches = self.step.accumulate
        due = self._is_over(self._batches - 1) and self._is_validation_due()
        self._plan_validation(due, self._batches - 1)
        validate = due and trainer.enable_validation
        if not self._saved["validated"] and (validate or self._batches == len(self._epoch_plan(self._epoch))):
            end_epoch_in_full(trainer, self._epoch, validate=validate)
        go_on_after_batch(trainer)

    # --- the data

    def _planned(self, loaders: Any) -> Any:
        """What to train on in the place of the user's loaders."""
        trainer = self._trainer
        if isinstance(trainer.val_check_interval, int):
            # Lightning would compare it with the planned batches; put back where training starts.
            trainer.val_check_interval = 1.0
        flat = flat_loaders(loaders)
        loader = prepared_loader(trainer, "train", flat[0])
        check_can_be_planned(loader)
        self._generators = own_generators(loader)
        self._sampler = loader.batch_sampler.sampler
        if self._saved and self._seed is not None:
            # A DistributedSampler orders epochs by it, and has it from the seed of the script.
            self._sampler.seed = self._saved["processes"][trainer.global_rank]["seed"]
        self._order = EpochOrder(self._generators, self._restore_generators, self._again)
        planned = with_planned_batches(loader, self._order, self._sizes, self._position)
        return planned if loaders is flat[0] else with_loaders(combined(loaders, "train"), [planned])

    @property
    def _seed(self) -> int | None:
        seed = getattr(self._sampler, "seed", None)
        return seed if isinstance(seed, int) else None

    def _sizes(self) -> list[int]:
        return self._epoch_plan(self._trainer.current_epoch).sizes()

    def _position(self) -> tuple[int, int]:
        epoch = self._trainer.current_epoch
        return epoch, self._saved["batches"] if self._saved and epoch == self._saved["epoch"] else 0

    def _restore_generators(self) -> None:
        """Go on with the random numbers of the run that is resumed, from where it was saved."""
        if self._to_restore is not None:
            RandomState.of_values(self._to_restore["now"]).restore()
            if self._generators and self._to_restore["own"] is not None:
                self._generators[0].set_state(self._to_restore["own"])
            self._to_restore = None

    def _epoch_plan(self, epoch: int) -> EpochPlan:
        if epoch not in self._epochs:
            self._epochs = {epoch: self.plan.batches.epoch(epoch)}
        return self._epochs[epoch]

    # --- epoch by epoch, batch by batch

    def epoch_starts(self) -> None:
        """Before the epoch's first batch is fetched, if there are workers too."""
        trainer, epoch = self._trainer, self._trainer.current_epoch
        self._epoch, self._batches, self._validated, self._between = epoch, 0, False, False
        trainer.val_check_interval = self._users["val_check_interval"]  # the loaders may have been made anew
        self._revise(epoch * self.plan.samples_per_epoch)
        set_epoch_length(trainer, len(self._epoch_plan(epoch)))

    def batch_starts(self, batch: int) -> None:
        """Before Lightning asks for the accumulation, and the optimizer steps."""
        self.step = self._epoch_plan(self._trainer.current_epoch).step_of(batch)
        self._trainer.accumulate_grad_batches = self.step.accumulate

    def batch_ends(self, batch: int, content: Any) -> bool:
        """After the optimizer has stepped, if it does after this batch; tells whether it does."""
        self._batches, self._validated = batch + 1, False
        over = self._is_over(batch)
        self._plan_validation(over and self._is_validation_due(), batch)
        if over:
            self._step_schedulers()
        return over

    def validated(self) -> None:
        """A validation is over."""
        self._validated = True

    def epoch_ends(self) -> None:
        """All batches of the epoch are over, and its validation."""
        self._epoch, self._batches, self._validated, self._between = self._trainer.current_epoch + 1, 0, False, True

    def _is_over(self, batch: int) -> bool:
        return batch + 1 == self.step.first_batch + len(self.step.micros)

    @property
    def samples(self) -> int:
        """Samples of the fit, up to the end of the step that is being taken."""
        return self.step.start_sample + self.step.batch_size

    # --- learning rates

    def _scaled(self, lr: Any) -> Any:
        return lr * self.step.lr_factor

    def _step_schedulers(self) -> None:
        """Step the user's schedulers as often as the user's own steps on the same samples would have."""
        trainer, nominal = self._trainer, self.plan.nominal
        before, after = nominal.at(self.step.start_sample), nominal.at(self.samples)
        batches, accumulate = self._nominal_batches, self.plan.layout.accumulate
        for config in trainer.lr_scheduler_configs:
            if config.interval != "step" or config.reduce_on_plateau:
                continue
            done, due = (calls_by_step(step, batches, accumulate, config.frequency) for step in (before, after))
            for _ in range(due - done):
                self._own_step(config.scheduler, None)

    def _step_scheduler(self, scheduler: Any, metric: Any) -> None:
        """What Lightning calls in the place of the module's `lr_scheduler_step`."""
        configs = self._trainer.lr_scheduler_configs
        config = next(config for config in configs if config.scheduler is scheduler)
        if config.interval == "epoch" or config.reduce_on_plateau:
            self._own_step(scheduler, metric)

    def _revise(self, sample: int) -> None:
        """Grow the batch, from a sample on, where a scheduler that waits for a metric has cut the learning rate."""
        step = self.plan.nominal.at(sample)
        if not self.plan.waits_for or step >= len(self._first_plan.lrs) or not self._first_plan.lrs[step]:
            return
        share = float(self._trainer.optimizers[0].param_groups[0]["lr"]) / self._first_plan.lrs[step]
        if math.isclose(share, self._cuts[-1][1] if self._cuts else 1.0, rel_tol=1e-9):
            return
        self._cuts.append((step, share))
        self.plan = self._first_plan.with_cuts(self._cuts)
        self._epochs.clear()
        self._set_step_limits()

    def _set_step_limits(self) -> None:
        """End the fit after the samples that the user's number of steps takes."""
        most, least = self._users_limits
        set_step_limits(
            self._trainer.fit_loop,
            self.plan.steps_before(self.plan.sample_of(most)) if most >= 0 else most,
            self.plan.steps_before(self.plan.sample_of(least)) if least else least,
        )

    # --- validation

    @property
    def _nominal_batches(self) -> int:
        """Batches of an epoch at the user's own batch size, on each process."""
        return -(-self.plan.batches.samples // self.plan.layout.micro)

    def _interval(self) -> int:
        """After how many of the user's own batches validation is due."""
        interval = self._users["val_check_interval"]
        return int(interval) if isinstance(interval, int) else max(1, int(self._nominal_batches * interval))

    def _is_validation_due(self) -> bool:
        """Whether validation comes after the step that is over: the first that holds the samples it waits for."""
        if validates_by_time(self._trainer):
            return False
        whole, interval = self._trainer.check_val_every_n_epoch is None, self._interval()
        before, after = (self._nominal_batches_at(sample, whole) for sample in (self.step.start_sample, self.samples))
        return bool(after // interval > before // interval)

    def _nominal_batches_at(self, sample: int, whole: bool) -> int:
        """How many of the user's own batches end up to a sample: of its epoch, or of the whole fit."""
        start = self._epoch_of_step() * self.plan.samples_per_epoch
        inside = sample - start
        if inside == self.plan.samples_per_epoch:
            batches = self._nominal_batches
        else:
            batches = inside // (self.plan.layout.micro * self.plan.layout.world)
        return batches + (self._epoch_of_step() * self._nominal_batches if whole else 0)

    def _epoch_of_step(self) -> int:
        return self.step.start_sample // self.plan.samples_per_epoch

    def _plan_validation(self, due: bool, batch: int) -> None:
        trainer = self._trainer
        if validates_by_time(trainer):
            return
        # Lightning validates where the count of batches divides by this.
        counted = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch
        trainer.val_check_batch = counted + 1 if due else sys.maxsize

    def _refuse_long_interval(self) -> None:
        trainer, interval = self._trainer, self._users["val_check_interval"]
        per_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches
        if per_epoch and isinstance(interval, int) and interval > self._nominal_batches:
            raise SettingRefused(
                f"Expected Trainer(val_check_interval={interval}) to be at most the {self._nominal_batches} batches "
                "that your own batch size makes of an epoch. Lower it, or set check_val_every_n_epoch=None to count "
                "over epochs."
            )

    # --- what a checkpoint holds

    def state(self) -> dict[str, Any]:
        """Where the fit is, in plain values; to be called on all processes."""
        order = self._order
        draw = order.drawn if order is not None else None
        here = {
            "draw": None if draw is None or draw.epoch != self._epoch else draw.as_values(),
            "now": RandomState().as_values(),
            "seed": self._seed,
            "own": self._generators[0].get_state() if self._generators else None,
        }
        processes: list[Any] = [here]
        if self._trainer.world_size > 1 and distributed.is_initialized():
            processes = [None] * self._trainer.world_size
            distributed.all_gather_object(processes, here)
        return {
            "plan": facts_of(self.plan),
            "cuts": [list(cut) for cut in self._cuts],
            "epoch": self._epoch,
            "batches": self._batches,
            "validated": self._validated,
            "between": self._between,
            "metrics": {name: value.detach().cpu() for name, value in self._trainer.callback_metrics.items()},
            "processes": processes,
        }

    @property
    def order_differs(self) -> bool:
        """Whether the order of the resumed epoch could not be drawn again."""
        return self._order is not None and self._order.differs

    @property
    def resumes_within_a_step(self) -> bool:
        """Whether the checkpoint was saved between two batches of one optimizer step."""
        batches = self._saved.get("batches", 0)
        if not batches:
            return False
        step = self._epoch_plan(self._saved["epoch"]).step_of(batches - 1)
        return bool(batches != step.first_batch + len(step.micros))


def _tell_planned_steps(trainer: Trainer, steps: Callable[[], int | None]) -> Callable[[], None]:
    """Have `trainer.estimated_stepping_batches` tell the planned steps; what is returned takes that back.

    Computed from the batches of one epoch, it would be wrong where epochs differ. A property can only be hidden by a
    class.
    """
    own = type(trainer)
    known = {"estimated_stepping_batches": property(lambda _: math.inf if steps() is None else steps())}
    trainer.__class__ = type(own.__name__, (own,), known)

    def take_back() -> None:
        trainer.__class__ = own

    return take_back


def facts_of(plan: RunPlan) -> dict[str, Any]:
    """What makes a plan the one it is, in plain values."""
    batches, layout = plan.batches, plan.layout
    return {
        "phases": [list(phase) for phase in plan.phases],
        "samples": batches.samples,
        "fits": batches.fits,
        "world": batches.world,
        "rule": batches.rule,
        "unit": batches.unit,
        "batch_size": layout.micro,
        "accumulate_grad_batches": layout.accumulate,
    }
