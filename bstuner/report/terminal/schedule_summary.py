"""The growth plan of a fit as a block of text and a table: one row per batch size, your own code beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bstuner.core import BatchLayout
from bstuner.core.growth import RunPlan, Span, drawn_together, schedule_spans, steps_saved
from bstuner.report import format_lr, format_saved

__all__ = ["render_schedule"]


_RULES = {
    "linear": "linear: LR / batch size stays that of your own schedule",
    "sqrt": "sqrt: LR / sqrt(batch size) stays that of your own schedule",
    "none": "none: the learning rate stays that of your own schedule",
}


def render_schedule(plan: RunPlan) -> RenderableType:
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
