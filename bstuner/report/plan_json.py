"""The growth plan of a fit in plain types: for JSON, and for the study that a report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bstuner.core.growth import RunPlan, Span, drawn_together, phase_at, schedule_spans

__all__ = ["plan_as_dict", "plan_for_study"]

# More points than these show nothing more on a page, and some databases keep no more than 64 KiB of one value.
_MOST_POINTS = 150


def plan_as_dict(plan: RunPlan) -> dict[str, Any]:
    """A plan in plain types, for JSON.

    Args:
        plan: that of a fit.

    """
    return {**_totals(plan), "phases": [_row(plan, [span]) for span in schedule_spans(plan)]}


def plan_for_study(plan: RunPlan) -> dict[str, Any]:
    """A plan in plain types and few, for a table and a figure.

    Args:
        plan: that of a fit.

    Returns:
        What `plan_as_dict` returns, with phases drawn together where they are many: each has the largest batch of them
        and its layout, and `smallest_batch_size`. Beside that `sizes`, where each batch size starts, and `points`:
        samples, your own learning rate there, and the one that is used.

    """
    spans, phases = schedule_spans(plan), plan.phases
    starts = [int(start) for start in plan.nominal.starts(len(plan.lrs))] if plan.lrs else []
    changes = [span.start_sample for span in _thinned(spans)]
    around = [sample for change in changes for sample in (change - 1, change)] if starts else []
    points = []
    for sample in sorted({*_thinned(starts), *starts[-1:], *(sample for sample in around if sample >= 0)}):
        own = plan.nominal_lr(sample)
        points.append([sample, own, own * phase_at(phases, sample).lr_factor])
    return {
        **_totals(plan),
        "phases": [
            {**_row(plan, group), "smallest_batch_size": min(span.batch_size for span in group)}
            for group in drawn_together(spans)
        ],
        "sizes": [[span.start_sample, span.batch_size] for span in _thinned(spans)],
        "points": points,
    }


def _totals(plan: RunPlan) -> dict[str, Any]:
    layout = plan.layout
    return {
        "own": {"batch_size": layout.global_batch_size, **vars(layout), "steps": plan.nominal_steps},
        "steps": plan.planned_steps,
        "samples": plan.samples,
        "samples_per_epoch": plan.nominal.samples_per_epoch,
        "rule": plan.rule,
        "max_batch_size": plan.max_batch_size,
        "capped_by": plan.capped_by,
        "remarks": list(plan.remarks),
    }


def _row(plan: RunPlan, spans: Sequence[Span]) -> dict[str, Any]:
    """Spans as one: from the first one's start, with the largest one's batch."""
    length, first = plan.nominal.samples_per_epoch, spans[0]
    largest = max(spans, key=lambda span: span.batch_size)
    return {
        "start_sample": first.start_sample,
        "start_epoch": None if length is None else first.start_sample / length,
        "batch_size": largest.batch_size,
        **vars(largest.layout),
        "lr": first.lr,
        "own_lr": first.own_lr,
        "steps": _sum([span.steps for span in spans]),
        "own_steps": _sum([span.own_steps for span in spans]),
        "steps_while_aligning": sum(span.aligning for span in spans),
    }


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _thinned(items: Sequence[Any]) -> Sequence[Any]:
    return items[:: -(-len(items) // _MOST_POINTS) or 1]
