"""A fit whose batches are not the user's own: what it changes of the Trainer for its time, and what it remembers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import distributed

from bstuner.core.growth import PlannedStep, RunPlan
from bstuner.device import RandomState
from bstuner.optim import LRAtStep
from bstuner.training._lightning import forget_loaders, last_reload, set_step_limits, substitute_train_loaders
from bstuner.training.growing.data import IndexedData
from bstuner.training.growing.nominal_trainer import NominalTrainer
from bstuner.training.growing.schedulers import NominalSchedulers
from bstuner.training.growing.validation import ValidationClock

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["GrowingFit"]

# What of the Trainer such a fit changes for its time.
_SETTINGS = ("accumulate_grad_batches", "limit_train_batches")


class GrowingFit(ABC):
    """Runs a fit by a plan. Its methods are called at the hooks of the same names.

    Args:
        trainer: a Trainer in `on_fit_start`.
        plan: its batches.
        saved: what a checkpoint holds of the fit that goes on, as `state` told it; empty for a fit from its beginning.
        drawn: the random generators before the loaders were made that the planned ones are to replace.

    Attributes:
        plan: the plan as it is now; a scheduler that waits for a metric may have changed it.
        step: the optimizer step that is being taken.

    """

    plan: RunPlan
    step: PlannedStep
    _data: IndexedData

    def __init__(
        self, trainer: Trainer, plan: RunPlan, saved: dict[str, Any], drawn: RandomState | None = None
    ) -> None:
        self._trainer = trainer
        self._first_plan = plan
        self._cuts: list[tuple[int, float]] = [(step, share) for step, share in saved.get("cuts", [])]
        self.plan = plan.with_cuts(self._cuts)
        self._users = {name: getattr(trainer, name) for name in _SETTINGS}
        self._users_limits = trainer.max_steps, trainer.min_steps
        self._saved = saved
        self._epoch, self._batches = saved.get("epoch", 0), saved.get("batches", 0)
        self._validated = self._between = False
        # Batches of an epoch at the user's own batch size, on each process.
        self._users_batches = -(-plan.batches.samples // plan.layout.micro)
        self._clock = ValidationClock(trainer, self._users_batches)
        batches = None if plan.streams else self._users_batches
        self._nominal_trainer = NominalTrainer(trainer, lambda: self.plan.planned_steps, plan.nominal_steps, batches)
        self._schedulers = NominalSchedulers(
            trainer, self._users_batches, plan.layout.accumulate, self._step_schedulers, self._nominal_trainer.users
        )
        self._at_step = LRAtStep(lambda lr: lr * self.step.lr_factor)
        self._undo: list[Callable[[], None]] = []
        self._drawn = drawn
        self._now: RandomState | None = None

    # --- the fit begins and ends

    def install(self) -> None:
        """Put the plan in place, before the fit asks for its loaders."""
        trainer = self._trainer
        self._undo.append(substitute_train_loaders(trainer, self._loaders))
        self._undo.append(self._schedulers.take_over())
        self._undo.append(self._nominal_trainer.install())
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
        self._clock.put_back()
        set_step_limits(self._trainer, *self._users_limits)

    @abstractmethod
    def train_starts(self) -> None:
        """The loaders exist, and Lightning's counters are those of the checkpoint, if there is one."""

    def _loaders(self, users: Callable[[], Any]) -> Any:
        """What to train on in the place of the user's loaders."""
        if self._drawn is not None:
            self._now = RandomState()
            self._drawn.restore()
            self._drawn = None
        return self._data.loaders(users())

    def _forget_draws(self) -> None:
        """Go on with the random numbers that follow, where loaders were made with those of earlier ones."""
        if self._now is not None:
            self._now.restore()
            self._now = None

    @abstractmethod
    def _set_step_limits(self) -> None:
        """End the fit where the user's number of steps would end it."""

    # --- epoch by epoch, batch by batch

    @abstractmethod
    def epoch_starts(self) -> None:
        """Before the epoch's first batch is fetched, but for workers, which fetch that of the first epoch earlier."""

    @abstractmethod
    def batch_starts(self, batch: int, content: Any) -> None:
        """Before Lightning asks for the accumulation, and the optimizer steps."""

    @abstractmethod
    def batch_ends(self, batch: int) -> bool:
        """After the optimizer has stepped, if it does after this batch; tells whether it does."""

    def validated(self) -> None:
        """A validation is over."""
        self._validated = True

    def epoch_ends(self) -> None:
        """All batches of the epoch are over, and its validation."""
        self._epoch, self._batches, self._validated, self._between = self._trainer.current_epoch + 1, 0, False, True

    @property
    def samples(self) -> int:
        """Samples of the fit, up to the end of the step that is being taken."""
        return self.step.start_sample + self.step.batch_size

    def _epoch_begins(self, sample: int) -> None:
        """A checkpoint stands before the epoch's first batch from here on, and the plan is that of now.

        Args:
            sample: samples of the fit before the epoch.

        """
        self._epoch, self._batches, self._validated, self._between = self._trainer.current_epoch, 0, False, False
        self._revise(sample)

    def _is_validation_due(self) -> bool:
        """Whether validation comes after the step that is over."""
        return self._clock.is_due(self._users_batches_at(self.step.start_sample), self._users_batches_at(self.samples))

    @abstractmethod
    def _users_batches_at(self, sample: int) -> int:
        """How many of the user's own batches end up to a sample: of its epoch, or of the whole fit."""

    def _step_schedulers(self) -> None:
        """Step the user's schedulers as often as the user's own steps on the same samples would have."""
        self._schedulers.advance(*self._users_steps())

    def _users_steps(self) -> tuple[int, int]:
        """How many of the user's own steps are over before the step that is being taken, and after it."""
        nominal = self.plan.nominal
        return nominal.at(self.step.start_sample), nominal.at(self.samples)

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
        self._set_step_limits()

    # --- what a checkpoint holds

    def state(self) -> dict[str, Any]:
        """Where the fit is, in plain values; to be called on all processes."""
        here = self._data.state(self._epoch)
        processes: list[Any] = [here]
        if self._trainer.world_size > 1 and distributed.is_initialized():
            processes = [None] * self._trainer.world_size
            distributed.all_gather_object(processes, here)
        return {
            "plan": self.plan.facts(),
            "cuts": [list(cut) for cut in self._cuts],
            "epoch": self._epoch,
            "batches": self._batches,
            "validated": self._validated,
            "between": self._between,
            "reloaded": last_reload(self._trainer),
            "metrics": {name: value.detach().cpu() for name, value in self._trainer.callback_metrics.items()},
            "processes": processes,
        }

    @property
    def order_differs(self) -> bool:
        """Whether the order of the resumed epoch could not be drawn again."""
        return self._data.order_differs

    @property
    @abstractmethod
    def resumes_within_a_step(self) -> bool:
        """Whether the checkpoint was saved between two batches of one optimizer step."""
