"""Find the largest batch that fits, inside a run, and put the run back."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from lightning.pytorch import Trainer

from bstuner.core.result import FindResult, LimitedBy, Probe
from bstuner.core.search import BatchSizeSearch
from bstuner.core.step_time import StepTime
from bstuner.device.limit import format_bytes
from bstuner.device.memory import DeviceMemory, memory_of
from bstuner.errors import NothingFits
from bstuner.training.batching import Batching, locate_batching
from bstuner.training.constraints import (
    changed_settings,
    largest_allowed,
    last_batch_trouble,
    refuse_contradictions,
)
from bstuner.training.garbage import short_collections
from bstuner.training.probe import ProbeData, Prober
from bstuner.training.state import FrozenFit

__all__ = ["FindSettings", "Observer", "find_largest", "verify_size"]


@dataclass(frozen=True)
class FindSettings:
    """What a user may choose; the meaning of each is documented at `BatchSizeFinder`."""

    mode: Literal["power", "binsearch"] = "power"
    steps_per_trial: int = 2
    init_val: int = 2
    max_val: int | None = None
    batch_arg_name: str = "batch_size"
    margin: float = 0.1
    memory_limit: int | None = None
    probe_with: int | Callable[[Any], Any] | None = None


class Observer(Protocol):
    """Hears how a search goes on, to show it."""

    def scanning(self, done: int, total: int) -> None:
        """Samples are being looked at."""

    def probing(self, size: int) -> None:
        """A size is about to run."""

    def probed(self, probe: Probe) -> None:
        """A size has run."""


class _Search:
    """One search inside one run."""

    def __init__(self, trainer: Trainer, stage: str, settings: FindSettings, observer: Observer, fresh: bool) -> None:
        self.trainer = trainer
        self.stage = stage
        self.settings = settings
        self.observer = observer
        self.batching: Batching = locate_batching(
            trainer, "train" if stage == "fit" else stage, settings.batch_arg_name
        )
        self.frozen = FrozenFit(trainer, self.batching.passed_loaders)
        device, limit = trainer.strategy.root_device, settings.memory_limit
        self.memory: DeviceMemory = memory_of(device, limit, self.frozen.tensors)
        self.usable = int(self.memory.capacity * (1 - settings.margin))
        self.fresh = fresh
        self.probes: list[Probe] = []

    def open(self) -> None:
        """Look at the data. From here on user code runs, so from here on there is something to restore."""
        settings = self.settings
        self.data = ProbeData(self.trainer, self.stage, self.batching, settings.probe_with, self.observer.scanning)
        self.prober = Prober(
            self.trainer,
            self.stage,
            self.batching,
            self.data,
            self.memory,
            self.frozen,
            self.usable,
            settings.steps_per_trial,
            self.fresh,
        )

    def close(self) -> None:
        """Put the run back."""
        self.frozen.restore()
        self.memory.release()
        if self.memory.slows_steps and "torch._dynamo" in sys.modules:
            # Under the byte counter compiled modules ran eagerly, and would be remembered as not to be compiled.
            torch.compiler.reset()

    def probe(self, size: int) -> Probe:
        self.observer.probing(size)
        try:
            probe = self.prober.probe(size)
        except Exception as error:
            if size == 1 and self.probes:
                # Many models cannot train on one sample (BatchNorm refuses it): that is why 1 comes last.
                raise NothingFits(
                    f"{self._nothing_fits()} A batch of 1 fails for another reason: {type(error).__name__}: {error}"
                ) from error
            raise
        self.probes.append(probe)
        self.observer.probed(probe)
        return probe

    def run(self) -> FindResult:
        started = time.perf_counter()
        self._check_resident()
        settings = self.settings
        high = largest_allowed(self.trainer, self.stage, self.data.loaders)
        limit: LimitedBy = "dataset"
        if settings.max_val is not None and (high is None or settings.max_val < high):
            high, limit = settings.max_val, "max_val"
        low = settings.init_val if high is None else min(settings.init_val, high)
        search = BatchSizeSearch(self.memory.capacity, low=low, high=high, margin=settings.margin, mode=settings.mode)
        while (size := search.next_size()) is not None:
            probe = self.probe(size)
            search.record(size, probe.peak_bytes)
        if search.best is None:
            raise NothingFits(self._nothing_fits())
        answer, warning = self._avoid_last_batch_of_one(search.best)
        if answer != search.best:
            limit = "dataset"
        elif search.limited_by == "memory":
            limit = "memory"
        step_time = self._time_smaller_sizes(answer)
        refuse_contradictions(self.trainer, self.stage, self.data.loaders, answer)
        line = search.line
        reference = self.batching.reference
        return FindResult(
            batch_size=answer,
            probes=tuple(self.probes),
            limited_by=limit,
            capacity_bytes=self.memory.capacity,
            usable_bytes=self.usable,
            device=self.memory.label,
            stage=self.stage,
            seconds=time.perf_counter() - started,
            holder=self.batching.holder,
            reference_batch_size=reference,
            accumulate_grad_batches=self.trainer.accumulate_grad_batches if self.stage == "fit" else 1,
            world_size=self.trainer.world_size,
            lr=self._learning_rate(),
            memory_intercept=line.intercept if line else None,
            memory_slope=line.slope if line else None,
            knee=step_time.knee if step_time else None,
            scanned=self.data.samples.scanned,
            dataset_size=self.data.samples.total,
            changed_settings=changed_settings(self.trainer, self.stage, reference, answer),
            warnings=tuple(text for text in (warning, self._missed_samples()) if text),
        )

    def _missed_samples(self) -> str:
        samples = self.data.samples
        if not samples.missed:
            return ""
        of = f" of {samples.total:,}" if samples.total is not None else ""
        return (
            f"Samples differ in size, and {samples.scanned:,}{of} were looked at: if a larger one than "
            f"{samples.elements:,} elements exists, name it with probe_with."
        )

    def _learning_rate(self) -> float | None:
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        return next((group["lr"] for group in groups if "lr" in group), None) if self.stage == "fit" else None

    def _check_resident(self) -> None:
        resident = self.memory.allocated(self.frozen.tensors)
        if resident > self.usable:
            raise NothingFits(
                f"Expected the model to leave room for a batch; its weights and state alone take "
                f"{format_bytes(resident)} of the {format_bytes(self.usable)} usable "
                f"({format_bytes(self.memory.capacity)} less the margin of {self.settings.margin:.0%}). "
                "Raise memory_limit, lower margin, or use a smaller model or precision."
            )

    def _nothing_fits(self) -> str:
        smallest = min(self.probes, key=lambda probe: probe.batch_size)
        return (
            f"Expected some batch to fit into {format_bytes(self.usable)} ({format_bytes(self.memory.capacity)} on "
            f"{self.memory.label} less the margin of {self.settings.margin:.0%}), but a batch of "
            f"{smallest.batch_size} does not: {smallest.reason}. "
            "Free memory on the device, raise memory_limit, or shrink the model, its inputs or its precision."
        )

    def _avoid_last_batch_of_one(self, best: int) -> tuple[int, str]:
        """A smaller size, probed too, if `best` would leave BatchNorm a last batch of one sample."""
        trouble = last_batch_trouble(self.trainer, self.stage, self.data.loaders)
        if trouble is None or not trouble.at(best):
            return best, ""
        candidates = [best >> k for k in range(1, best.bit_length() - 1)]
        if self.settings.mode == "binsearch":
            candidates.insert(0, best - 1)
        for size in candidates:
            known = next((p for p in self.probes if p.batch_size == size), None)
            if not trouble.at(size) and (known or self.probe(size)).fits:
                return size, ""
        return best, trouble.words

    def _time_smaller_sizes(self, answer: int) -> StepTime | None:
        """Time a quarter and a sixteenth of the answer, and fit the step time through all that was timed."""
        timed = {p.batch_size: p.seconds for p in self.probes if p.seconds is not None and p.fits}
        for size in (answer // 4, answer // 16):
            if size >= 2 and size not in timed:
                self.observer.probing(size)
                seconds = self.prober.time(size)
                if seconds is not None:
                    timed[size] = seconds
                    self.probes.append(Probe(size, None, seconds, fits=True))
        if len(timed) < 2:
            return None
        return StepTime.fit(list(timed), list(timed.values()))


def find_largest(
    trainer: Trainer, stage: str, settings: FindSettings, observer: Observer, *, fresh: bool
) -> tuple[FindResult, Batching]:
    """Search; afterwards the run is as it was, and the answer is yet to be applied.

    Args:
        trainer: a Trainer inside `fit`, `validate`, `test` or `predict`.
        stage: which of the four.
        settings: the user's choices.
        observer: hears how it goes on.
        fresh: whether the fit has yet to call its `on_fit_start` hooks.

    """
    with _open(trainer, stage, settings, observer, fresh) as search:
        return search.run(), search.batching


def verify_size(
    trainer: Trainer, stage: str, settings: FindSettings, observer: Observer, size: int, *, fresh: bool
) -> tuple[Probe, Batching]:
    """Probe one size; afterwards the run is as it was."""
    with _open(trainer, stage, settings, observer, fresh) as search:
        return search.probe(size), search.batching


@contextlib.contextmanager
def _open(trainer: Trainer, stage: str, settings: FindSettings, observer: Observer, fresh: bool) -> Iterator[_Search]:
    search = _Search(trainer, stage, settings, observer, fresh)
    with short_collections(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the user's code says of a few made-up batches is noise
        try:
            search.open()
            yield search
        finally:
            search.close()
