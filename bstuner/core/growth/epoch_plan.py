"""The optimizer steps of one epoch of a plan, and the micro-batches that each is made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

__all__ = ["EpochPlan", "PlannedStep", "Stretch"]


class PlannedStep(NamedTuple):
    """One optimizer step of a plan.

    Args:
        start_sample: Samples of the run before it, over all processes.
        batch_size: Its samples, over all processes.
        first_batch: Micro-batches of its epoch before it, on each process.
        micros: The sizes of its micro-batches, in samples, on each process.
        accumulate: What `accumulate_grad_batches` must be during it: the number of its micro-batches; more where the
            last step of an epoch cannot have as many.
        lr_factor: What the nominal learning rate at its start is multiplied by.
    """

    start_sample: int
    batch_size: int
    first_batch: int
    micros: tuple[int, ...]
    accumulate: int
    lr_factor: float


class Stretch(NamedTuple):
    """Steps in a row that differ only in their place."""

    first: PlannedStep
    steps: int

    @property
    def end(self) -> int:
        """Micro-batches of the epoch before the step that follows."""
        return self.first.first_batch + self.steps * len(self.first.micros)

    def steps_before(self, sample: int) -> int:
        """How many of the steps start before a sample of the run."""
        return min(self.steps, max(0, -((self.first.start_sample - sample) // self.first.batch_size)))

    def step(self, index: int) -> PlannedStep:
        """One of the steps, by its place in the row."""
        first = self.first
        return first._replace(
            start_sample=first.start_sample + index * first.batch_size,
            first_batch=first.first_batch + index * len(first.micros),
        )


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch, on each process.

    >>> from bstuner.core.growth.batch_plan import BatchPlan
    >>> from bstuner.core.growth.phases import Phase
    >>> epoch = BatchPlan([Phase(0, 32), Phase(64, 128, 4.0)], samples=240, fits=64).epoch(0)
    >>> epoch.sizes(), epoch.step_count, epoch.step_of(batch=3).start_sample
    ([32, 32, 64, 64, 48], 4, 64)

    Args:
        stretches: Its steps, in order.
    """

    stretches: tuple[Stretch, ...]

    @property
    def step_count(self) -> int:
        """Number of optimizer steps."""
        return sum(stretch.steps for stretch in self.stretches)

    def __len__(self) -> int:
        """Number of micro-batches on each process."""
        return self.stretches[-1].end

    def sizes(self) -> list[int]:
        """The size of each micro-batch on each process, in order."""
        return [size for stretch in self.stretches for size in stretch.first.micros * stretch.steps]

    def steps(self) -> Iterator[PlannedStep]:
        """The optimizer steps, in order."""
        return (stretch.step(index) for stretch in self.stretches for index in range(stretch.steps))

    def steps_before(self, sample: int) -> int:
        """Count the optimizer steps that start before a sample of the run."""
        return sum(stretch.steps_before(sample) for stretch in self.stretches)

    def step_of(self, batch: int) -> PlannedStep:
        """Return the step that a micro-batch belongs to, by its number in the epoch."""
        stretch = self.stretches[bisect_right(self._ends, batch)]
        return stretch.step((batch - stretch.first.first_batch) // len(stretch.first.micros))

    @cached_property
    def _ends(self) -> list[int]:
        return [stretch.end for stretch in self.stretches]
