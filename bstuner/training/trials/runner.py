"""Run short trainings inside a fit, each from the same frozen state, in the user's own loops on the user's own data."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bstuner.core import BatchLayout, EpochData, Mark, TrialRequest, TrialRun, Watch
from bstuner.device import DeviceMemory, is_out_of_memory
from bstuner.errors import PeerError
from bstuner.ranks import Peers, run_on_all
from bstuner.training._lightning import install_trial_loop, run_fit_loop
from bstuner.training.freezing import FrozenFit, FrozenStart
from bstuner.training.run import bystanders_inert, call_fit_start, noting, wrap_for_probe
from bstuner.training.settings import SettingsInPlace
from bstuner.training.trials.watch import TrialOver, TrialWatch

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

__all__ = ["FitRunner", "TrialPlan"]


@dataclass(frozen=True)
class TrialPlan:
    """What is the same for every trial of a fit.

    Args:
        monitor: the metric to read at each validation.
        marks: samples, over all processes, at which to validate; the last one ends the trial.
        share: the part of the fit's samples that a trial has; None where the fit has no end.
        data: what the training loaders hold, on the process that has the least.
        layout: tells how a global batch is laid out.

    """

    monitor: str
    marks: tuple[int, ...]
    share: float | None
    data: EpochData
    layout: Callable[[int], BatchLayout]


class FitRunner:
    """Runs trials inside a fit, on all of its processes at once; see `TrialRunner`.

    The process of rank 0 asks for them, with `run`; the others `follow`.

    Args:
        trainer: a Trainer inside `fit`, at `on_fit_start`.
        plan: what is the same for every trial.
        in_place: puts a batch and a learning rate in place.
        frozen: the run as it is now.
        start: the run as it was before it had optimizers.
        memory: the device.
        peers: the processes of the run.
        clock: tells the time in seconds.

    Attributes:
        callbacks_for: makes the callbacks that a learning rate needs besides the user's own.

    """

    def __init__(
        self,
        trainer: Trainer,
        plan: TrialPlan,
        in_place: SettingsInPlace,
        frozen: FrozenFit,
        start: FrozenStart,
        memory: DeviceMemory,
        peers: Peers,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._trainer = trainer
        self._plan = plan
        self._in_place = in_place
        self._frozen = frozen
        self._start = start
        self._memory = memory
        self._peers = peers
        self._clock = clock
        self._together = True
        self.callbacks_for: Callable[[float], Sequence[Callback]] = lambda lr: ()

    @property
    def budget(self) -> int:
        """Samples of a whole trial, over all processes."""
        return self.marks[-1]

    @property
    def marks(self) -> tuple[int, ...]:
        """The samples at which each trial is validated."""
        return self._plan.marks

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        """Run a trial and leave the run as it was frozen."""
        self._peers.share(request)
        return self._run(request, watch)

    def changed(self) -> list[str]:
        """What the user should know of what trials changed on this process and could not put back."""
        return self._frozen.changed()

    def wait(self, seconds: float) -> None:
        """Let time pass, on all processes: none may wait for the others too long."""
        self._peers.share(seconds)
        time.sleep(seconds)

    def dismiss(self, failure: str = "") -> None:
        """Let the processes that follow go on, or have them end with this one's failure."""
        if self._together:
            self._peers.share(failure)

    def follow(self) -> None:
        """Run what rank 0 runs, until it dismisses this process.

        Raises:
            PeerError: rank 0 failed.

        """
        asked: Any = None
        while not isinstance(asked := self._peers.share(asked), str):
            if isinstance(asked, TrialRequest):
                self._run(asked, _go_on)
            else:
                time.sleep(asked)
        if asked:
            raise PeerError(
                f"Expected the search to run on all {self._peers.size} processes, but process 0 failed with {asked}. "
                "Its own output tells more."
            )

    def _run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        layout = self._plan.layout(request.global_batch_size)
        peak: list[int] = []
        watching = TrialWatch(
            lambda index: layout.world * self._plan.data.batch(layout.micro, index),
            self._plan.marks,
            self._plan.monitor,
            self._plan.share,
            request.seed,
            watch,
            self._memory,
            self._peers,
            self._clock,
        )

        def attempt() -> None:
            with _seeded(self._start, request.seed), self._measured(peak), noting(_in_words(layout, request.lr)):
                self._train(layout, request.lr, watching)

        self._together = False  # until it is known that no process has failed
        reasons = run_on_all(self._peers, attempt, put_back=self._put_back, excuse=self._out_of_memory)
        self._together = True
        reason = next((f"{words}{_on(rank, self._peers)}" for rank, words in enumerate(reasons) if words), "")
        run = TrialRun(
            request,
            layout,
            ending="out of memory" if reason else watching.ending,
            marks=_timed(watching),
            samples=watching.samples,
            steps=watching.steps,
            samples_per_second=watching.samples_per_second,
            peak_bytes=None if reason or not peak else peak[0],
            reason=reason or ("the loss or the metric is not finite" if watching.ending == "not finite" else ""),
        )
        peaks = [each for each in self._peers.gather(run.peak_bytes) if each is not None]
        return replace(self._peers.share(run), peak_bytes=max(peaks, default=None))  # clocks differ

    def _train(self, layout: BatchLayout, lr: float, watching: TrialWatch) -> None:
        with bystanders_inert(self._trainer):
            self._run_fit(layout, lr, watching)

    def _run_fit(self, layout: BatchLayout, lr: float, watching: TrialWatch) -> None:
        trainer = self._trainer
        trainer.callbacks = [*trainer.callbacks, *self.callbacks_for(lr), watching]
        trainer.check_val_every_n_epoch = 1
        trainer.should_stop = False
        install_trial_loop(trainer)
        self._in_place.prepare(trainer, layout)
        trainer.val_check_interval = 1.0
        wrap_for_probe(trainer, self._peers)
        self._in_place.build(trainer, layout, lr)
        call_fit_start(trainer)
        with contextlib.suppress(TrialOver):
            run_fit_loop(trainer)
            watching.validate_the_rest(trainer)

    @contextlib.contextmanager
    def _measured(self, peak: list[int]) -> Iterator[None]:
        if self._memory.slows_steps:  # then a trial that is measured tells nothing of its time
            yield
            return
        with self._memory.measure(self._frozen.tensors) as reading:
            yield
        peak.append(reading.peak_bytes)

    def _put_back(self) -> None:
        self._frozen.restore()
        self._memory.release()

    def _out_of_memory(self, error: BaseException) -> str:
        return "out of memory" if is_out_of_memory(error) else ""


def _timed(watching: TrialWatch) -> tuple[Mark, ...]:
    """The validations of a trial, with times by its throughput as a whole: the first ones had none to go by."""
    speed = watching.samples_per_second
    return tuple(mark._replace(seconds=mark.samples / speed) if speed else mark for mark in watching.marks)


def _in_words(layout: BatchLayout, lr: float) -> str:
    return f"a trial of batch size {layout.global_batch_size}, {layout.micro} per device, at learning rate {lr:g}"


def _go_on(mark: Mark) -> bool:
    return True


def _on(rank: int, peers: Peers) -> str:
    return f" on process {rank}" if peers.size > 1 else ""


@contextlib.contextmanager
def _seeded(start: FrozenStart, seed: int | None) -> Iterator[None]:
    """The generators of the run as at its start, or those of another seed."""
    start.restore()
    if seed is None:
        yield
        return
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    # By this name Lightning tells the samplers of several processes, and its workers, the seed.
    name = "PL_GLOBAL_SEED"
    before: Any = os.environ.get(name)
    os.environ[name] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
