"""The batch sizes that a planned fit really has, one span each, beside what the user's own code would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from bstuner.core import BatchLayout
from bstuner.core.growth.epoch_plan import Stretch
from bstuner.core.growth.phases import phase_at
from bstuner.core.growth.run_plan import RunPlan

__all__ = ["Span", "drawn_together", "schedule_spans", "steps_saved"]


# More rows than this are drawn together: a table is read, a list of hundreds is not.
_MOST_ROWS = 12


class Span(NamedTuple):
    """A part of a fit with one batch size.

    Args:
        start_sample: samples of the fit before its first optimizer step, over all processes.
        batch_size: samples per optimizer step, over all processes.
        layout: how a step is laid out.
        steps: its optimizer steps; None where it has no end.
        own_steps: the steps that your own code takes on the same samples; None likewise.
        lr: the learning rate used at its first step of that size; None where the schedule could not be told.
        own_lr: your own learning rate there.
        aligning: how many of its steps are smaller, until the accumulation can change.

    """

    start_sample: int
    batch_size: int
    layout: BatchLayout
    steps: int | None
    own_steps: int | None
    lr: float | None
    own_lr: float | None
    aligning: int


def steps_saved(plan: RunPlan) -> float | None:
    """The share of your own optimizer steps that the plan does without; below 0 where it takes more."""
    if plan.planned_steps is None or not plan.nominal_steps:
        return None
    return 1 - plan.planned_steps / plan.nominal_steps


def schedule_spans(plan: RunPlan) -> list[Span]:
    """The batch sizes that a fit really has, in order; planned ones that no step starts in are left out.

    Args:
        plan: that of a fit. Where it has no end, neither has the last span.

    """
    phases = plan.phases
    groups: list[list[Stretch]] = []
    phase = None
    for stretch in _stretches(plan):
        here = phase_at(phases, stretch.first.start_sample)
        if here is not phase:
            groups.append([])
        phase = here
        groups[-1].append(stretch)
    starts = [group[0].first.start_sample for group in groups]
    ends: list[int | None] = [*starts[1:], plan.samples]
    return [_span(plan, group, end) for group, end in zip(groups, ends, strict=True)]


def _stretches(plan: RunPlan) -> Iterator[Stretch]:
    """All steps of the fit; of one without end, those of the epochs up to the first that has the last batch size."""
    length = plan.samples_per_epoch
    end = plan.samples
    epochs = plan.phases[-1].start_sample // length + 2 if end is None else -(-end // length)
    for epoch in range(epochs):
        for stretch in plan.batches.epoch(epoch).stretches:
            if end is not None:
                left = -((stretch.first.start_sample - end) // stretch.first.batch_size)
                if left <= 0:
                    return
                stretch = stretch._replace(steps=min(stretch.steps, left))
            yield stretch


def _span(plan: RunPlan, stretches: Sequence[Stretch], end: int | None) -> Span:
    first, full = stretches[0].first, max((stretch.first for stretch in stretches), key=lambda step: step.batch_size)
    own_lr = plan.nominal_lr(full.start_sample) if plan.lrs else None
    own_steps = None if end is None else _own_before(plan, end) - _own_before(plan, first.start_sample)
    return Span(
        start_sample=first.start_sample,
        batch_size=full.batch_size,
        layout=BatchLayout(max(full.micros), len(full.micros), plan.batches.world),
        steps=None if end is None else sum(stretch.steps for stretch in stretches),
        own_steps=own_steps,
        lr=None if own_lr is None else own_lr * full.lr_factor,
        own_lr=own_lr,
        aligning=sum(stretch.steps for stretch in stretches if _aligns(plan, stretch)),
    )


def _own_before(plan: RunPlan, sample: int) -> int:
    """How many of your own steps start before a sample."""
    return plan.nominal.at(sample - 1) + 1 if sample else 0


def _aligns(plan: RunPlan, stretch: Stretch) -> bool:
    first = stretch.first
    end = first.start_sample + stretch.steps * first.batch_size
    # Until the accumulation can change, a step has at most half of its micro-batches; rounding costs less than that.
    halved = 2 * first.batch_size <= phase_at(plan.phases, first.start_sample).batch_size
    return halved and bool(end % plan.samples_per_epoch) and end != plan.samples


def drawn_together(spans: Sequence[Span]) -> list[Sequence[Span]]:
    """Spans in groups few enough for a table, as equal in number as possible.

    Args:
        spans: those of a plan, in order.

    """
    rows = min(len(spans), _MOST_ROWS)
    edges = [len(spans) * row // rows for row in range(rows + 1)]
    return [spans[start:end] for start, end in pairwise(edges)]
