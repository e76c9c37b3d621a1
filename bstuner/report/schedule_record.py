"""The growth plan of a fit in plain types: for JSON, and for the study that a report is made from."""

from __future__ import annotations

from typing import Any

from bstuner.core.growth import phase_at
from bstuner.report.schedule_summary import planned_phases, schedule_spans
from bstuner.training.run_plan import RunPlan

__all__ = ["plan_as_dict", "plan_for_study"]

# More points than these show nothing more on a page, and a study is read often.
_MOST_POINTS = 300


def plan_as_dict(plan: RunPlan) -> dict[str, Any]:
    """A plan in plain types, for JSON.

    Args:
        plan: that of a fit.

    """
    layout, length = plan.layout, plan.nominal.samples_per_epoch
    return {
        "own": {"batch_size": layout.global_batch_size, **vars(layout), "steps": plan.nominal_steps},
        "steps": plan.planned_steps,
        "samples": plan.samples,
        "samples_per_epoch": length,
        "rule": plan.rule,
        "max_batch_size": plan.max_batch_size,
        "capped_by": plan.capped_by,
        "remarks": list(plan.remarks),
        "phases": [
            {
                "start_sample": span.start_sample,
                "start_epoch": None if length is None else span.start_sample / length,
                "batch_size": span.batch_size,
                **vars(span.layout),
                "lr": span.lr,
                "own_lr": span.own_lr,
                "steps": span.steps,
                "own_steps": span.own_steps,
                "steps_while_aligning": span.aligning,
            }
            for span in schedule_spans(plan)
        ],
    }


def plan_for_study(plan: RunPlan) -> dict[str, Any]:
    """A plan in plain types, with the learning rate along the way.

    Args:
        plan: that of a fit.

    Returns:
        What `plan_as_dict` returns, and `points`: samples, your own learning rate there, and the one that is used.

    """
    phases = planned_phases(plan)
    changes = [phase.start_sample for phase in phases]
    starts = [] if not plan.lrs else [int(start) for start in plan.nominal.starts(len(plan.lrs))]
    thinned = starts[:: -(-len(starts) // _MOST_POINTS) or 1]
    around = {sample for change in changes for sample in (change - 1, change) if sample >= 0}
    samples = sorted({*thinned, *starts[-1:], *around}) if starts else []
    points = []
    for sample in samples:
        own = plan.nominal_lr(sample)
        points.append([sample, own, own * phase_at(phases, sample).lr_factor])
    return {**plan_as_dict(plan), "points": points}
