"""The findings of a search as a block of text and a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bstuner.core.result import FindResult, Probe
from bstuner.device.limit import format_bytes

__all__ = ["device_words", "find_summary", "fits_words", "knee_words"]


def find_summary(result: FindResult) -> RenderableType:
    """The block printed at the end of a search: the verdict line by line, then every probe.

    Args:
        result: what was found.

    """
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Device", device_words(result))
    facts.add_row("Fits", fits_words(result))
    if result.accumulate_grad_batches > 1 or result.world_size > 1:
        facts.add_row("Step", _step(result))
    if result.validation_batch_size is not None:
        facts.add_row("Validates", f"{result.validation_batch_size} per device, beside that")
    if result.reference_batch_size is not None:
        facts.add_row("Was", f"{result.reference_batch_size}, as {result.holder}")
    if result.knee is not None:
        facts.add_row("Knee", knee_words(result, result.knee))
    facts.add_row("Limit", _limit(result))
    for setting in result.changed_settings:
        facts.add_row("Note", setting)
    for warning in result.warnings:
        facts.add_row("Warning", Text(warning, style="yellow"))
    return Group(facts, _probes(result))


def device_words(result: FindResult) -> str:
    """The device, its memory, and how much of that a batch may take."""
    margin = 1 - result.usable_bytes / result.capacity_bytes
    return (
        f"{result.device}, {format_bytes(result.capacity_bytes)}, "
        f"{format_bytes(result.usable_bytes)} usable ({margin:.0%} kept free)"
    )


def fits_words(result: FindResult) -> str:
    """The largest batch that fits, and what it took to find it."""
    measured = f"{format_bytes(result.peak_bytes)} measured" if result.peak_bytes is not None else "measured"
    beyond = ""
    if result.limited_by == "memory" and result.memory_slope is not None and result.memory_intercept is not None:
        needed = result.memory_intercept + result.memory_slope * 2 * result.batch_size
        beyond = f"; {2 * result.batch_size} would need {format_bytes(int(needed))}"
    count = sum(probe.peak_bytes is not None or not probe.fits for probe in result.probes)  # not those only timed
    return f"{result.batch_size} per device ({measured}{beyond}) after {count} probes, {result.seconds:.1f} s"


def _step(result: FindResult) -> str:
    accumulated = f" x {result.accumulate_grad_batches} accumulated" if result.accumulate_grad_batches > 1 else ""
    processes = f" x {result.world_size} processes" if result.world_size > 1 else ""
    return f"{result.global_batch_size:,} samples = {result.batch_size}{accumulated}{processes}"


def knee_words(result: FindResult, knee: int) -> str:
    """Where throughput hardly rises any more."""
    rates = result.throughput
    largest = max(rates)
    if knee >= largest:
        return f"{knee}: throughput still rises up to the largest size measured"
    if knee not in rates:
        return f"{knee}: at least 90% of the throughput of {largest}, by the fitted step time"
    return f"{knee}: {rates[knee] / rates[largest]:.0%} of the throughput of {largest}"


def _limit(result: FindResult) -> str:
    if result.limited_by == "memory":
        return "memory"
    if result.limited_by == "global_batch_size":
        return "the global batch size that is wanted"
    if result.limited_by == "max_val":
        return "max_val: a larger batch may fit"
    held = f" of {result.dataset_size:,} samples" if result.dataset_size is not None else ""
    return f"dataset: a larger batch would not leave one full batch{held}"


def _probes(result: FindResult) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("batch size", justify="right")
    table.add_column("peak", justify="right")
    table.add_column("samples/s", justify="right")
    table.add_column("verdict")
    for probe in sorted(result.probes, key=lambda probe: probe.batch_size):
        chosen = "bold green" if probe.batch_size == result.batch_size else ""
        table.add_row(
            str(probe.batch_size),
            "-" if probe.peak_bytes is None else format_bytes(probe.peak_bytes),
            "-" if probe.samples_per_second is None else f"{probe.samples_per_second:,.0f}",
            _verdict(probe),
            style=chosen,
        )
    return table


def _verdict(probe: Probe) -> str:
    if not probe.fits:
        return probe.reason
    return "fits" if probe.peak_bytes is not None else "timed"
