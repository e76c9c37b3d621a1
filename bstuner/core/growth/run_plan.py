"""The batches of a whole fit, beside what the user's own code would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from bstuner.core import BatchLayout, Rule
from bstuner.core.growth.batch_plan import BatchPlan
from bstuner.core.growth.epoch_plan import PlannedStep
from bstuner.core.growth.nominal import NominalSteps
from bstuner.core.growth.phases import Phase, Rounding, plan_growth, update_count
from bstuner.core.growth.plan_text import format_plan

__all__ = ["RunPlan", "grown_phases"]


@dataclass(frozen=True)
class RunPlan:
    """The batches of a fit, beside what the user's own code would do.

    Args:
        batches: every batch, by its place in the data.
        lrs: the user's learning rate at each of the user's own optimizer steps; empty for a fit without end.
        nominal: where in the data those steps start.
        layout: the user's own batch.
        rule: how the learning rate follows the batch size.
        nominal_steps: how many optimizer steps the user's own code takes; None for a fit without end.
        planned_steps: how many the plan takes on the same samples.
        samples: those of the whole fit, over all processes.
        max_batch_size: the largest batch that the plan may have; None where the user's own words set it.
        capped_by: what kept the batch from growing further, in words; empty for nothing.
        remarks: what the user should know.
        waits_for: the schedulers that wait for a metric, or for the end of an epoch that cannot be told beforehand, by
            their classes: they may change the plan at epoch ends.
        streams: whether the data has no places to plan by: the plan is then one endless epoch, whose micro-batches grow
            where the stream's own epochs end, and the number of steps is not exact.

    """

    batches: BatchPlan
    lrs: tuple[float, ...]
    nominal: NominalSteps
    layout: BatchLayout
    rule: Rule
    nominal_steps: int | None
    planned_steps: int | None
    samples: int | None
    max_batch_size: int | None
    rounding: Rounding = "power"
    capped_by: str = ""
    remarks: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()
    streams: bool = False

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The planned batch sizes, by their starts."""
        return tuple(self.batches.phases)

    @property
    def samples_per_epoch(self) -> int:
        """Samples that an epoch trains on, over all processes."""
        return self.batches.samples_per_epoch

    def steps(self) -> Iterator[PlannedStep]:
        """Every planned optimizer step of the fit, in order; without end where the fit has none."""
        for epoch in count():
            for step in self.batches.epoch(epoch).steps():
                if self.samples is not None and step.start_sample >= self.samples:
                    return
                yield step

    def steps_before(self, sample: int) -> int:
        """How many of the planned optimizer steps start before a sample."""
        epochs, left = divmod(sample, self.samples_per_epoch)
        steps = self.batches.step_count(epochs)
        if not left:
            return steps
        return steps + self.batches.epoch(epochs).steps_before(sample)

    def sample_of(self, step: int) -> int:
        """Samples of the fit before one of the user's own steps."""
        return self.nominal.start(step)

    def nominal_lr(self, sample: int) -> float:
        """The learning rate of the user's own schedule at a sample; what is used is this times a step's `lr_factor`."""
        return self.lrs[min(self.nominal.at(sample), len(self.lrs) - 1)]

    def with_cuts(self, cuts: list[tuple[int, float]]) -> RunPlan:
        """The plan, where a scheduler that waits for a metric has cut the learning rate below the simulated one.

        Args:
            cuts: from which of the user's own steps on, and what share of the simulated learning rate was left.

        """
        if not cuts or not self.lrs:
            return self
        lrs = list(self.lrs)
        for (start, share), (end, _) in zip(cuts, [*cuts[1:], (len(lrs), 1.0)], strict=True):
            lrs[start:end] = [lr * share for lr in lrs[start:end]]
        phases = grown_phases(lrs, self.nominal, self.rule, self.max_batch_size, self.rounding)
        return replace(self, batches=replace(self.batches, phases=phases)).ended()

    def ended(self) -> RunPlan:
        """The plan with its number of steps, the last of which ends where the user's own code ends."""
        if self.samples is None:
            return self
        if self.streams:
            return replace(self, planned_steps=update_count(self.phases, self.samples))
        within_an_epoch = self.samples % self.samples_per_epoch
        plan = replace(self, batches=replace(self.batches, end=self.samples if within_an_epoch else None))
        return replace(plan, planned_steps=plan.steps_before(self.samples))

    def facts(self) -> dict[str, Any]:
        """What makes the plan the one it is, in plain values."""
        batches, layout = self.batches, self.layout
        return {
            "phases": [list(phase) for phase in self.phases],
            "samples": batches.samples,
            "fits": batches.fits,
            "world": batches.world,
            "rule": batches.rule,
            "unit": batches.unit,
            "batch_size": layout.micro,
            "accumulate_grad_batches": layout.accumulate,
            "end": batches.end,
        }

    def differences(self, saved: dict[str, Any], epoch: int) -> list[str]:
        """In what the plan of a fit so far was another one, in words; what is planned for later epochs may change.

        Args:
            saved: the facts of the plan by which the fit has run.
            epoch: the epoch that it is in, from 0.

        """
        reached = (epoch + 1) * self.samples_per_epoch

        def so_far(facts: dict[str, Any]) -> dict[str, Any]:
            end, phases = facts["end"], [list(phase) for phase in facts["phases"] if phase[0] < reached]
            return {**facts, "phases": phases, "end": None if end is None or end >= reached else end}

        was, now = so_far(saved), so_far(self.facts())
        return [f"{name} {now[name]} instead of {was[name]}" for name in now if was[name] != now[name]]

    def __str__(self) -> str:
        """The batch sizes, and the steps they take, in a line."""
        words = f"Batch sizes: {format_plan(self.phases, self.nominal.samples_per_epoch)}"
        if self.planned_steps is not None:
            words += f"; {self.planned_steps:,} optimizer steps instead of {self.nominal_steps:,}"
        return f"{words}; capped by {self.capped_by}" if self.capped_by else words


def grown_phases(
    lrs: tuple[float, ...] | list[float],
    nominal: NominalSteps,
    rule: Rule,
    max_batch_size: int | None,
    rounding: Rounding,
) -> list[Phase]:
    """The phases of `plan_growth`, where the user's own steps start at `nominal`'s places."""
    return plan_growth(lrs, nominal.batch_size, rule, max_batch_size, rounding, nominal.starts(len(lrs)))
