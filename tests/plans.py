"""Growth plans, as their reports are given them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bstuner.core.growth.batch_plan import BatchPlan
from bstuner.core.growth.nominal import NominalSteps
from bstuner.core.growth.phases import Phase, plan_growth
from bstuner.core.growth.run_plan import RunPlan
from bstuner.core.layout import BatchLayout


def planned(
    lrs: Sequence[float],
    samples_per_epoch: int | None,
    layout: BatchLayout,
    fits: int,
    phases: Sequence[Phase] | None = None,
    **settings: Any,
) -> RunPlan:
    """The plan of a fit of as many steps as there are learning rates; without any, of a fit without end."""
    own, held = layout.global_batch_size, (samples_per_epoch or 2**50) // layout.world
    plan = RunPlan(
        batches=BatchPlan((Phase(0, own),), held, fits, layout.world),
        lrs=tuple(lrs),
        nominal=NominalSteps(own, samples_per_epoch),
        layout=layout,
        rule="linear",
        nominal_steps=len(lrs) or None,
        planned_steps=None,
        samples=None,
        max_batch_size=None,
        streams=samples_per_epoch is None,
    )
    plan = replace(plan, **settings)
    if phases is None:
        starts = plan.nominal.starts(len(lrs))
        phases = plan_growth(lrs, own, plan.rule, plan.max_batch_size, plan.rounding, starts)
    plan = replace(plan, batches=replace(plan.batches, phases=tuple(phases), rule=plan.rule))
    if not lrs:
        return plan
    plan = replace(plan, samples=plan.sample_of(len(lrs)))
    return replace(plan, planned_steps=sum(1 for _ in plan.steps()))


def cosine(steps: int, peak: float) -> list[float]:
    return [peak * 0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]


def multi_step(steps: int, peak: float, gamma: float, *milestones: int) -> list[float]:
    return [peak * gamma ** sum(step >= milestone for milestone in milestones) for step in range(steps)]


# 200 epochs of 1,000 samples; the factor of 5 is met by powers of two, and the tenth of an epoch caps the last one.
STEPS = planned(
    multi_step(200 * 63, 0.1, 0.2, 60 * 63, 120 * 63, 160 * 63),
    samples_per_epoch=1000,
    layout=BatchLayout(16),
    fits=64,
    max_batch_size=100,
    capped_by="a tenth of the 1,000 samples of an epoch",
)

# Four processes that accumulate twice already, and a note.
PROCESSES = planned(
    cosine(90 * 16, 4e-4),
    samples_per_epoch=1024,
    layout=BatchLayout(8, 2, 4),
    fits=8,
    rule="sqrt",
    max_batch_size=256,
    capped_by="memory: 8 samples fit at a time, 8 times per step",
    remarks=("ModelCheckpoint(every_n_train_steps=1000) counts the optimizer steps that are taken.",),
)

# Every whole number is a batch size; the fit ends within an epoch.
MANY = planned(
    cosine(3000, 4e-4),
    samples_per_epoch=9000,
    layout=BatchLayout(8),
    fits=64,
    rule="sqrt",
    max_batch_size=900,
    rounding="integer",
    capped_by="a tenth of the 9,000 samples of an epoch",
)

# In the user's own words, for a fit without end.
ENDLESS = planned(
    (),
    samples_per_epoch=1438,
    layout=BatchLayout(16),
    fits=64,
    phases=[Phase(0, 16), Phase(2157, 48), Phase(4314, 1000)],
    rule="none",
)

# The learning rate never falls.
CONSTANT = planned([0.1] * 100, samples_per_epoch=800, layout=BatchLayout(8), fits=64, max_batch_size=80)

# An IterableDataset, with max_steps.
STREAM = planned(cosine(1000, 0.1), None, BatchLayout(8), fits=16, max_batch_size=64, capped_by="max_batch_size=64")
STREAM_WITHOUT_END = planned((), None, BatchLayout(8), fits=16, phases=[Phase(0, 8), Phase(5000, 64)], rule="none")
