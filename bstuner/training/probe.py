"""Probe a run at one batch size: does it fit, how much memory does it take, how long is a step?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

# Undocumented but without an underscore: Lightning's own test for "did the user write this hook".
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

from bstuner.core.result import Probe
from bstuner.device.loaders import batch_size_of
from bstuner.device.memory import DeviceMemory
from bstuner.device.oom import is_out_of_memory
from bstuner.device.samples import ProbeBatches, Samples, largest_samples, pick_samples
from bstuner.training._lightning import request_loaders
from bstuner.training.batching import Batching, flat_loaders, require_one
from bstuner.training.rehearsal import BatchSource, rehearse_evaluation, rehearse_fit
from bstuner.training.state import FrozenFit
from bstuner.training.timing import Timing

__all__ = ["ProbeData", "Prober"]

ScanProgress = Callable[[int, int], None]


class ProbeData:
    """Batches of the largest samples that the run's loaders hold.

    Args:
        trainer: a Trainer inside `fit`, `validate`, `test` or `predict`.
        stage: which of the four.
        batching: where the batch size lives.
        probe_with: the user's own choice of a sample (an index, or a function of the dataset), or None.
        progress: called with (samples looked at, samples to look at).

    """

    def __init__(
        self,
        trainer: Trainer,
        stage: str,
        batching: Batching,
        probe_with: int | Callable[[Any], Any] | None,
        progress: ScanProgress | None,
    ) -> None:
        self._trainer = trainer
        self._batching = batching
        self._probe_with = probe_with
        self._progress = progress
        self._role = "train" if stage == "fit" else stage
        self._known: dict[tuple[str, int], tuple[Samples, ProbeBatches]] = {}
        self.loaders = flat_loaders(request_loaders(trainer, self._role))
        if stage == "fit":
            require_one(self.loaders)
        self._before = batch_size_of(self.loaders[0])
        for index, loader in enumerate(self.loaders):
            self._learn(self._role, index, loader)

    @property
    def samples(self) -> Samples:
        """What the scan of the first loader's dataset found."""
        return self._known[self._role, 0][0]

    def main(self, size: int) -> list[BatchSource]:
        """For each loader whose size is searched for, its batches as they are with `size` applied."""
        loaders = flat_loaders(request_loaders(self._trainer, self._role))
        self._batching.check_follows(size, self._before, batch_size_of(loaders[0]))
        return [self._source(self._role, index, loader) for index, loader in enumerate(loaders)]

    def validation(self) -> list[BatchSource]:
        """For each validation loader of a fit, its batches, of the size that the loader has now."""
        if not self._trainer.enable_validation:
            return []
        loaders = flat_loaders(request_loaders(self._trainer, "val"))
        return [self._source("val", index, loader) for index, loader in enumerate(loaders)]

    def _source(self, role: str, index: int, loader: Any) -> BatchSource:
        if not isinstance(loader, DataLoader):
            # Only a validation loader can be of another kind here; it keeps its size, so its own batch will do.
            return BatchSource(lambda: next(iter(loader)), loader)
        _, batches = self._learn(role, index, loader)
        size, device = batch_size_of(loader), self._batch_device()
        return BatchSource(lambda: batches.make(size, device), loader)

    def _learn(self, role: str, index: int, loader: DataLoader[Any]) -> tuple[Samples, ProbeBatches]:
        if (role, index) not in self._known:
            if self._probe_with is not None and role == self._role:
                samples = pick_samples(loader.dataset, self._probe_with)
            else:
                samples = largest_samples(loader.dataset, progress=self._progress)
            self._known[role, index] = samples, ProbeBatches(samples.items, loader.collate_fn)
        return self._known[role, index]

    def _batch_device(self) -> torch.device | None:
        """Where batches may be made: on the device at once, unless user code expects to see them on the host."""
        hooks = ("on_before_batch_transfer", "transfer_batch_to_device")
        for owner in (self._trainer.lightning_module, self._trainer.datamodule):
            if owner is not None and any(is_overridden(hook, owner) for hook in hooks):
                return None
        return self._trainer.strategy.root_device


class Prober:
    """Runs probes inside a fit or an evaluation, each from the same frozen state.

    Args:
        trainer: a Trainer inside `fit`, `validate`, `test` or `predict`.
        stage: which of the four.
        batching: where the batch size lives.
        data: the batches.
        memory: the device.
        frozen: the state to start each probe from.
        usable_bytes: a size whose peak is above this does not fit.
        steps: optimizer steps (or evaluation batches) of a probe.
        fresh: whether the fit has yet to call its `on_fit_start` hooks.

    """

    def __init__(
        self,
        trainer: Trainer,
        stage: str,
        batching: Batching,
        data: ProbeData,
        memory: DeviceMemory,
        frozen: FrozenFit,
        usable_bytes: int,
        steps: int,
        fresh: bool,
    ) -> None:
        self._trainer = trainer
        self._stage = stage
        self._batching = batching
        self._data = data
        self._memory = memory
        self._frozen = frozen
        self._usable = usable_bytes
        self._steps = steps
        self._fresh = fresh
        self._epoch = trainer.current_epoch
        # Two batches show all that accumulation adds: gradients that stay alive during the next forward pass.
        self._accumulate = min(2, _accumulation(trainer))

    def probe(self, size: int) -> Probe:
        """Run one size for memory and time, and leave the run as it was frozen."""
        reason, timing = "", Timing(self._memory, self._accumulate)
        try:
            run = self._prepare(size)
            with self._memory.measure(self._frozen.tensors) as reading:
                run(timing, self._steps, self._fresh, validate=True)
            if self._memory.slows_steps and reading.peak_bytes <= self._usable:
                # The steps just measured have warmed everything up; one more, without the counter, is a steady one.
                timing = Timing(self._memory, self._accumulate, warm_up=0)
                run(timing, 1, fresh=False, validate=False)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory in {_stage_in_words(self._trainer)}"
        finally:
            # After the except block, whose traceback pins every tensor of the frames it went through.
            self._frozen.restore()
            self._memory.release()
        if reason:
            return Probe(size, None, None, fits=False, reason=reason)
        if timing.retried:
            return Probe(size, None, timing.seconds, fits=False, reason="ran only by allocator retries")
        fits = reading.peak_bytes <= self._usable
        return Probe(size, reading.peak_bytes, timing.seconds, fits, reason="" if fits else "over the margin")

    def time(self, size: int) -> float | None:
        """Seconds of one steady step at a size that is known to fit; None should memory run out all the same."""
        timing = Timing(self._memory, self._accumulate)
        try:
            self._prepare(size)(timing, 2, self._fresh, validate=False)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            self._frozen.restore()
            self._memory.release()
        return timing.seconds

    def _prepare(self, size: int) -> Callable[..., None]:
        """Apply a size and ask for the loaders, while the Trainer still has the user's loops."""
        self._batching.apply(size)
        batches = self._data.main(size)
        validation = self._data.validation() if self._stage == "fit" else []

        def run(timing: Timing, steps: int, fresh: bool, validate: bool) -> None:
            if self._stage == "fit":
                rehearse_fit(
                    self._trainer,
                    batches[0],
                    validation if validate else [],
                    timing,
                    steps=steps,
                    accumulate=self._accumulate,
                    epoch=self._epoch,
                    fresh=fresh,
                )
            else:
                rehearse_evaluation(self._trainer, self._stage, batches, timing, steps=steps)

        return run


def _accumulation(trainer: Trainer) -> int:
    planned = [
        factor
        for callback in trainer.callbacks
        if isinstance(callback, GradientAccumulationScheduler)
        for factor in callback.scheduling.values()
    ]
    return max([trainer.accumulate_grad_batches, *planned])


def _stage_in_words(trainer: Trainer) -> str:
    stage = trainer.state.stage.value if trainer.state.stage else ""
    words = {"train": "training", "validate": "validation", "test": "testing", "predict": "prediction"}
    return words.get(stage, stage)
