"""The growth plan of a fit as a block of text and a table: one row per batch size, your own code beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bstuner.core.epoch_plan import Stretch
from bstuner.core.growth import phase_at
from bstuner.core.layout import BatchLayout
from bstuner.report.tune_summary import format_lr
from bstuner.training.run_plan import RunPlan

__all__ = [
    "Span",
    "drawn_together",
    "format_saved",
    "schedule_spans",
    "schedule_summary",
    "steps_saved",
]

# More rows than this are drawn together: a table is read, a list of hundreds is not.
_MOST_ROWS = 12

_RULES = {
    "linear": "linear: LR / batch size stays that of your own schedule",
    "sqrt": "sqrt: LR / sqrt(batch size) stays that of your own schedule",
    "none": "none: the learning rate stays that of your own schedule",
}


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


def schedule_summary(plan: RunPlan) -> RenderableType:
    """The block that shows a plan: the totals line by line, then the batch sizes.

    Args:
        plan: that of a fit.

    """
    spans = schedule_spans(plan)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Yours", Text(_yours(plan)))
    facts.add_row("Planned", Text(_planned(plan, spans)))
    facts.add_row("Rule", Text(_RULES[plan.rule]))
    if plan.max_batch_size is not None:
        facts.add_row("Capped", Text(_capped(plan, spans)))
    for note in _notes(plan, spans):
        facts.add_row("Note", Text(note, style="yellow"))
    return Group(facts, _table(plan, spans))


def steps_saved(plan: RunPlan) -> float | None:
    """The share of your own optimizer steps that the plan does without; below 0 where it takes more."""
    if plan.planned_steps is None or not plan.nominal_steps:
        return None
    return 1 - plan.planned_steps / plan.nominal_steps


def format_saved(saved: float) -> str:
    """How many fewer steps, or more.

    >>> [format_saved(saved) for saved in (0.6304, 0.0, -0.12, 0.004)]
    ['63% fewer', 'as many', '12% more', '0.4% fewer']
    """
    if not saved:
        return "as many"
    share = f"{abs(saved):.0%}" if abs(saved) >= 0.01 else f"{abs(saved):.1%}"
    return f"{share} {'fewer' if saved > 0 else 'more'}"


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


def _yours(plan: RunPlan) -> str:
    words = f"batch {_batch(plan.layout)}"
    if plan.lrs:
        words += f", lr {format_lr(max(plan.lrs))} at its peak"
    if plan.samples is None or plan.nominal_steps is None:
        return f"{words}: a fit without end"
    words += f": {_count(plan.nominal_steps)} on {plan.samples:,} samples"
    if plan.streams:
        return words
    epochs = _epochs(plan.samples, plan)
    return f"{words} ({epochs} epoch{'' if epochs == '1' else 's'})"


def _planned(plan: RunPlan, spans: Sequence[Span]) -> str:
    sizes = [span.batch_size for span in spans]
    words = f"batch {_range(min(sizes), max(sizes))}"
    if len(set(sizes)) == 1:
        words += " throughout"
    saved = steps_saved(plan)
    if saved is not None and plan.planned_steps is not None:
        about = "about " if plan.streams else ""
        words += f": {about}{_count(plan.planned_steps)}, {format_saved(saved)}"
    return words


def _capped(plan: RunPlan, spans: Sequence[Span]) -> str:
    if plan.capped_by:
        return f"at {plan.max_batch_size:,} by {plan.capped_by}"
    if len(spans) > 1:
        return "by nothing: the batch grows by all that your learning rate falls"
    if plan.waits_for:
        return "by nothing: what a metric will have the learning rate do is not known yet"
    return "by nothing: your learning rate does not fall far enough for a larger batch"


def _notes(plan: RunPlan, spans: Sequence[Span]) -> Iterator[str]:
    aligning = sum(span.aligning for span in spans)
    if plan.streams:
        yield (
            "The data is a stream: the micro-batch grows only where an epoch of it ends, and steps are counted as if "
            "it could anywhere."
        )
    elif aligning:
        steps = "1 step is" if aligning == 1 else f"{aligning:,} steps are"
        yield (
            f"{steps} smaller than the table says: a new accumulation starts where the micro-batches of the epoch so "
            "far divide by it."
        )
    yield from plan.remarks


def _table(plan: RunPlan, spans: Sequence[Span]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    layout = "per device\nx accumulated" + ("\nx processes" if plan.layout.world > 1 else "")
    for name in ("from\nsample", "epoch", "batch", layout, "lr", "your\nlr", "steps", "your\nsteps"):
        table.add_column(Text(name, justify="right"), justify="right", vertical="bottom")
    for group in drawn_together(spans):
        table.add_row(*_cells(plan, group))
    if plan.samples is not None and plan.planned_steps is not None and plan.nominal_steps is not None:
        totals = (f"{plan.planned_steps:,}", f"{plan.nominal_steps:,}")
        table.add_row(f"{plan.samples:,}", _epochs(plan.samples, plan), "end", "", "", "", *totals, style="bold")
    return table


def drawn_together(spans: Sequence[Span]) -> list[Sequence[Span]]:
    """Spans in groups few enough for a table, as equal in number as possible.

    Args:
        spans: those of a plan, in order.

    """
    rows = min(len(spans), _MOST_ROWS)
    edges = [len(spans) * row // rows for row in range(rows + 1)]
    return [spans[start:end] for start, end in pairwise(edges)]


def _cells(plan: RunPlan, spans: Sequence[Span]) -> tuple[str, ...]:
    first, sizes = spans[0], [span.batch_size for span in spans]
    largest = max(spans, key=lambda span: span.batch_size)
    layout = _layout(largest.layout)
    if len(spans) > 1 or largest.layout.global_batch_size != largest.batch_size:
        layout = f"up to {layout}"
    return (
        f"{first.start_sample:,}",
        _epochs(first.start_sample, plan),
        _range(min(sizes), max(sizes)),
        layout,
        "-" if first.lr is None else format_lr(first.lr),
        "-" if first.own_lr is None else format_lr(first.own_lr),
        _sum([span.steps for span in spans]),
        _sum([span.own_steps for span in spans]),
    )


def _sum(counts: Sequence[int | None]) -> str:
    """A sum; nothing for what has no end."""
    known = [count for count in counts if count is not None]
    return f"{sum(known):,}" if len(known) == len(counts) else "-"


def _count(steps: int) -> str:
    return f"{steps:,} optimizer step{'' if steps == 1 else 's'}"


def _epochs(sample: int, plan: RunPlan) -> str:
    if plan.streams:  # whose epochs have no known length
        return "-"
    return f"{sample / plan.samples_per_epoch:,.2f}".rstrip("0").rstrip(".")


def _range(smallest: int, largest: int) -> str:
    return f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"


def _layout(layout: BatchLayout) -> str:
    parts = [layout.micro, layout.accumulate, *([layout.world] if layout.world > 1 else [])]
    return " x ".join(map(str, parts))


def _batch(layout: BatchLayout) -> str:
    alone = layout.accumulate == layout.world == 1
    return f"{layout.global_batch_size:,}" + ("" if alone else f" ({_layout(layout)})")
