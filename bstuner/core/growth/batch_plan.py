"""The batches of a run whose batch size is planned: every one by its place in the data."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from bstuner.core import BatchLayout, Rule, scale_lr
from bstuner.core.growth.epoch_plan import EpochPlan, PlannedStep, Stretch
from bstuner.core.growth.phases import Phase, check_phases
from bstuner.errors import InvalidSetting

__all__ = ["BatchPlan", "layout_within", "lr_factor_at"]


@dataclass(frozen=True)
class BatchPlan:
    """What every batch of a run holds, from its place in the data alone.

    A step has the batch size of the phase in which it starts, met by the fewest micro-batches that fit and make it
    exactly; where none do, it is the nearest size below that can be met. Two things make a step smaller than planned.

    Lightning clears the gradients where the number of micro-batches before divides by `accumulate_grad_batches`, and
    steps where the number after does. So a change of accumulation starts at the first step where the epoch's count
    divides by the new value; until then, a step has as many of the new micro-batches as divide both. And the last step
    of an epoch holds what is left, split as evenly as possible.

    The learning rate follows the size that a step really has, but stays at least nominal: at batches smaller than the
    user's own, the user's own code leaves it as it is.

    >>> plan = BatchPlan([Phase(0, 32), Phase(96, 128, 4.0)], samples=240, fits=64, unit=32)
    >>> [(step.batch_size, step.micros, step.lr_factor) for step in plan.epoch(0).steps()]
    [(32, (32,), 1.0), (32, (32,), 1.0), (32, (32,), 1.0), (64, (64,), 2.0), (80, (40, 40), 2.5)]

    Args:
        phases: The planned batch sizes, by their starts.
        samples: Samples that an epoch trains on, on each process; with `drop_last`, what the user's own batches leave
            out is not among them, and the plan leaves out nothing more.
        fits: The largest micro-batch that fits, in samples.
        world: Number of processes that train together.
        rule: How the learning rate follows where a step's size is not the planned one: that of `plan_growth`, or "none"
            where the plan leaves the learning rate alone.
        unit: Every micro-batch is a multiple of it, in samples; where `samples` is no such multiple, the last step of
            an epoch takes the rest too. With the user's own micro-batch as unit, the last step is never left with fewer
            samples than the last batch without a plan.
        least: Where the last step of an epoch would hold fewer samples than this on each process, it shares with the
            step before: BatchNorm refuses a single one, where the user's own batches would leave none.
        end: Samples of the whole fit, over all processes, where it ends within an epoch: there a step ends too.

    Raises:
        InvalidSetting: The phases are no plan, an argument is below 1, or `fits` or a batch size is below the unit.
    """

    phases: Sequence[Phase]
    samples: int
    fits: int
    world: int = 1
    rule: Rule = "linear"
    unit: int = 1
    least: int = 1
    end: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no batch."""
        check_phases(self.phases)
        for name in ("samples", "fits", "world", "unit"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name}: expected a whole number of at least 1, found {getattr(self, name)!r}.")
        if self.fits < self.unit:
            raise InvalidSetting(f"fits: expected at least unit={self.unit}, found {self.fits}.")
        smallest = min(phase.batch_size for phase in self.phases)
        if smallest < self._chunk:
            raise InvalidSetting(
                f"phases: expected batch sizes of at least {self._chunk}, {self.unit} for each of {self.world} "
                f"processes, found {smallest}. Plan larger batches."
            )

    @property
    def samples_per_epoch(self) -> int:
        """Samples that an epoch trains on, over all processes."""
        return self.samples * self.world

    def epoch(self, number: int) -> EpochPlan:
        """Return the batches of an epoch, the first of which has number 0."""
        return EpochPlan(tuple(self._stretches(number)))

    def step_count(self, epochs: int) -> int:
        """Count the optimizer steps of the first epochs."""
        length = self.samples_per_epoch
        # Between those in which a phase starts, or the fit ends, all are alike.
        places = [*self._starts, epochs * length if self.end is None else self.end]
        cuts = {cut for place in places for cut in (place // length, -(-place // length))}
        edges = sorted({*(min(cut, epochs) for cut in cuts), epochs})
        return sum((end - begin) * self.epoch(begin).step_count for begin, end in pairwise(edges))

    @property
    def _chunk(self) -> int:
        """What a full step is a multiple of: one unit on each process."""
        return self.unit * self.world

    @cached_property
    def _starts(self) -> list[int]:
        return [phase.start_sample for phase in self.phases]

    def _stretches(self, epoch: int) -> Iterator[Stretch]:
        """The steps of an epoch."""
        done, batches = 0, 0  # samples and micro-batches of the epoch so far, on each process
        while done < self.samples:
            start = epoch * self.samples_per_epoch + done * self.world
            index = bisect_right(self._starts, start) - 1
            phase = self.phases[index]
            layout = layout_within(self._share(phase), self.fits // self.unit)
            count = math.gcd(batches, layout.accumulate)
            micros, steps = (layout.micro * self.unit,) * count, 1
            until = self._until(epoch, done)
            size, left, last = sum(micros), until - done, until == self.samples
            if size > left and last:
                yield Stretch(self._last_step(phase, start, left, batches, count), 1)
                return
            if size > left:
                micros = self._up_to(left, batches, count)
            elif count == layout.accumulate:  # aligned now, and so after every step of its own
                steps = left // size
                if index + 1 < len(self._starts):
                    steps = min(steps, -((start - self._starts[index + 1]) // (size * self.world)))
            if 0 < left - steps * size < self.least:
                half = (left - (steps - 1) * size) // 2
                if steps > 1:
                    steps -= 1
                elif half >= count:
                    micros = _split(half, count)
            stretch = Stretch(self._step(phase, start, batches, micros, len(micros)), steps)
            yield stretch
            batches = stretch.end
            done += steps * sum(micros)

    def _until(self, epoch: int, done: int) -> int:
        """The samples of an epoch on each process before which a step has to end: those of it, or of the fit."""
        if self.end is None:
            return self.samples
        end = -((epoch * self.samples_per_epoch - self.end) // self.world)
        return end if done < end < self.samples else self.samples

    def _share(self, phase: Phase) -> int:
        """Units on each process in a step of a phase."""
        share = phase.batch_size // self._chunk
        # A batch beyond the epoch is one step of all of it, however far beyond; halves of it are as good, and ways to
        # lay out an endless one need not be tried.
        while share * self.unit > 4 * (self.samples + self.unit):
            share //= 2
        return share

    def _last_step(self, phase: Phase, start: int, left: int, batches: int, most: int) -> PlannedStep:
        """The step that takes what is left; `most` micro-batches are aligned and hold more than that."""
        fewest = -(-left // (self.fits // self.unit * self.unit))
        accumulate = next(count for count in range(fewest, most + 1) if batches % count == 0)
        grain = self._grain(left)
        micros = _split(left, min(accumulate, left // grain), grain)
        return self._step(phase, start, batches, micros, accumulate)

    def _up_to(self, left: int, batches: int, most: int) -> tuple[int, ...]:
        """The micro-batches of an aligned step that takes what is left of a fit; where none can, one that takes less.

        Inside an epoch, a step has as many micro-batches as are accumulated.
        """
        largest, grain = self.fits // self.unit * self.unit, self._grain(left)
        fewest = -(-left // largest)
        for count in range(fewest, min(most, left // grain) + 1):
            if batches % count == 0:
                return _split(left, count, grain)
        return (largest,) * next(count for count in range(fewest - 1, 0, -1) if batches % count == 0)

    def _grain(self, left: int) -> int:
        return 1 if left % self.unit else self.unit

    def _step(self, phase: Phase, start: int, batches: int, micros: tuple[int, ...], accumulate: int) -> PlannedStep:
        size = sum(micros) * self.world
        # Lightning divides the loss by `accumulate`: where there are fewer micro-batches, each counts as in a step that
        # has them all.
        counted = size * accumulate // len(micros)
        return PlannedStep(start, size, batches, micros, accumulate, lr_factor_at(phase, counted, self.rule))


def _split(samples: int, count: int, grain: int = 1) -> tuple[int, ...]:
    """Micro-batches as equal as can be, each a multiple of the grain."""
    share, rest = divmod(samples // grain, count)
    return (grain * (share + 1),) * rest + (grain * share,) * (count - rest)


def lr_factor_at(phase: Phase, size: int, rule: Rule) -> float:
    """Return what the nominal learning rate is multiplied by in a step that is smaller than its phase asks for.

    >>> lr_factor_at(Phase(0, 128, 4.0), 80, "linear"), lr_factor_at(Phase(0, 128, 4.0), 8, "linear")
    (2.5, 1.0)

    Args:
        phase: That of the step.
        size: Samples of the step, over all processes.
        rule: How the learning rate follows the batch size.
    """
    return min(phase.lr_factor, max(1.0, scale_lr(phase.lr_factor, size, phase.batch_size, rule)))


@lru_cache(maxsize=4096)
def layout_within(share: int, fits: int) -> BatchLayout:
    """Return how one process meets its share of a global batch, or of the nearest size below that can be met.

    The micro-batches are equal, so that their mean is the mean of the batch, and the fewest that are.

    >>> layout_within(256, fits=100), layout_within(1009, fits=100).global_batch_size
    (BatchLayout(micro=64, accumulate=4, world=1), 1008)

    Args:
        share: Samples per optimizer step on one process.
        fits: The largest micro-batch that fits, in samples.
    """
    fewest = -(-share // fits)
    # Up to twice as many: with micro-batches of less than half of what fits, a device stands half empty.
    count = max(range(fewest, min(share, 2 * fewest) + 1), key=lambda count: share // count * count)
    return BatchLayout(share // count, count)
