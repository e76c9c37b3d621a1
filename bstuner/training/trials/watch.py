"""What follows one trial through Lightning's loop: its samples, its validations and its clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from bstuner.core import Ending, Mark, Watch
from bstuner.device import DeviceMemory
from bstuner.errors import MonitorMissing
from bstuner.ranks import Peers
from bstuner.training._lightning import run_validation, validate_every
from bstuner.training.run import OwnCallback
from bstuner.training.trials.reseed import reseed_loaders
from bstuner.training.trials.schedule import TrialSchedule

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["TrialOver", "TrialWatch"]

# Batches with an optimizer step before the clock starts: they allocate, compile, choose algorithms and start workers.
# Steps would not do: where several optimizers step after one batch, Lightning counts each.
WARM_UP = 3


class TrialOver(Exception):
    """Not an error: the trial has seen enough."""


class TrialWatch(OwnCallback):
    """Validates a trial at its marks, times it between them, and ends it.

    Args:
        samples_of: tells how many samples over all processes a batch has, by its place in the epoch.
        marks: the samples at which to validate, the last one the end.
        monitor: the metric.
        share: the part of the fit's samples that the trial has; None where the fit has no end.
        seed: for the order of the data; None for that of the run to come.
        watch: told of each validation, in the process of rank 0.
        memory: the device, which is waited for before the clock is read.
        peers: the processes that train together.
        clock: tells the time in seconds.

    """

    def __init__(
        self,
        samples_of: Callable[[int], int],
        marks: Sequence[int],
        monitor: str,
        share: float | None,
        seed: int | None,
        watch: Watch,
        memory: DeviceMemory,
        peers: Peers,
        clock: Callable[[], float],
    ) -> None:
        self._samples_of = samples_of
        self._due = list(marks)
        self._monitor = monitor
        self._share = share
        self._seed = seed
        self._watch = watch
        self._memory = memory
        self._peers = peers
        self._clock = clock
        self._budget = marks[-1]
        self._started = 0.0  # when the stretch of training that is being timed began, and at how many samples
        self._from = 0
        self._early, self._steady = [0.0, 0], [0.0, 0]  # seconds and samples, of the first steps and of the others
        self._updates = 0  # batches after which an optimizer has stepped
        self._diverged = False
        self._validating = False
        self.marks: list[Mark] = []
        self.samples = self.steps = 0
        self.ending: Ending = "finished"

    @property
    def samples_per_second(self) -> float | None:
        """Steady throughput so far; of a trial that has no steady part, that of its first steps."""
        seconds, samples = self._steady if self._steady[1] else self._early
        return samples / seconds if seconds > 0 else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loaders and schedulers exist from here on."""
        if self._seed is not None:
            reseed_loaders(trainer, self._seed)
        self._schedule = TrialSchedule(trainer, self._share)
        self._start_clock()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """None goes on without one that failed in its last step."""
        self._peers.meet()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and see whether a validation is due."""
        validate_every(trainer, None)  # never for Lightning's own reasons
        self.samples += self._samples_of(batch_idx)
        if trainer.global_step == self.steps:
            return  # gradients are being accumulated
        self.steps = trainer.global_step
        self._updates += 1
        self._schedule.at(self.samples / self._budget)
        if self._updates == WARM_UP:
            self._stop_clock()
            self._start_clock()
        if self.samples >= self._due[0]:
            while self._due and self._due[0] <= self.samples:
                self._due.pop(0)
            self._stop_clock()
            self._diverged = not _is_finite(outputs)
            self._validating = True
            validate_every(trainer, batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the metric, and tell whoever watches."""
        if not self._validating:
            return
        self._validating = False
        metric = trainer.callback_metrics.get(self._monitor)
        if metric is None:
            raise MonitorMissing(
                f"Expected validation to log monitor={self._monitor!r}, found {_in_words(trainer.callback_metrics)}. "
                "Name one of those, or log it in validation_step() with self.log()."
            )
        value = float(metric)
        self._schedule.validated()
        # Some metrics are not defined at first, such as the area under a curve before both classes were predicted.
        undefined = math.isnan(value) and not self.marks and bool(self._due)
        if not self._peers.meet(not self._diverged and (undefined or math.isfinite(value))):
            self.ending = "not finite"
            raise TrialOver
        if not self._peers.meet(not undefined):  # on one process is on all: each may have a metric of its own
            self._start_clock()
            return
        # What the first steps take says nothing of the others: until those come, no time counts against the trial.
        steady = self.samples_per_second if self._steady[1] else None
        mark = Mark(self.samples, value, self.samples / (steady or math.inf))
        self.marks.append(mark)
        go_on = self._watch(mark) if self._peers.rank == 0 else True
        if not self._due:
            raise TrialOver
        if not self._peers.meet(go_on):
            self.ending = "stopped"
            raise TrialOver
        self._start_clock()

    def validate_the_rest(self, trainer: Trainer) -> None:
        """Validate once more where the fit itself has ended before the last mark, by less than a step."""
        if self.samples > (self.marks[-1].samples if self.marks else 0):
            self._stop_clock()
            self._due.clear()
            self._validating = True
            run_validation(trainer)

    def _start_clock(self) -> None:
        self._memory.synchronize()
        self._from, self._started = self.samples, self._clock()

    def _stop_clock(self) -> None:
        self._memory.synchronize()
        timed = self._early if self._updates <= WARM_UP else self._steady
        timed[0] += self._clock() - self._started
        timed[1] += self.samples - self._from


def _is_finite(outputs: Any) -> bool:
    """Whether the loss that `training_step` returned is finite, where it returned one."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return not isinstance(loss, torch.Tensor) or bool(torch.isfinite(loss).all())


def _in_words(metrics: dict[str, Any]) -> str:
    return "none logged at all" if not metrics else "only " + ", ".join(map(repr, sorted(metrics)))
