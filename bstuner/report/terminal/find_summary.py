"""The findings of a search as a block of text and a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bstuner.core import FindResult, Probe, format_bytes
from bstuner.report import data_words, device_words, fastest_words, fits_words, knee_words

__all__ = ["render_find"]


def render_find(result: FindResult) -> RenderableType:
    """The block printed at the end of a search: the verdict line by line, then every probe.

    Args:
        result: what was found.

    """
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Device", device_words(result))
    if result.fastest is not None:
        facts.add_row("Fastest", fastest_words(result, result.fastest))
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
    if result.waits_for_data:
        facts.add_row("Data", data_words(result))
    for setting in result.changed_settings:
        facts.add_row("Note", setting)
    for warning in result.warnings:
        facts.add_row("Warning", Text(warning, style="yellow"))
    return Group(facts, _probes(result))


def _step(result: FindResult) -> str:
    accumulated = f" x {result.accumulate_grad_batches} accumulated" if result.accumulate_grad_batches > 1 else ""
    processes = f" x {result.world_size} processes" if result.world_size > 1 else ""
    return f"{result.global_batch_size:,} samples = {result.batch_size}{accumulated}{processes}"


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
