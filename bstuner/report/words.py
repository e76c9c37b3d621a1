"""Numbers and findings in words, the same in every report."""

from __future__ import annotations

from typing import Any

from bstuner.core import FindResult, TrialSummary, TuneResult, format_bytes

__all__ = [
    "alike_words",
    "confirmed_words",
    "data_words",
    "device_words",
    "edge_words",
    "fastest_words",
    "fits_words",
    "format_lr",
    "format_metric",
    "format_ratio",
    "format_saved",
    "format_seconds",
    "format_settings",
    "format_sooner",
    "growth_words",
    "knee_words",
    "quality",
]


def format_lr(lr: float) -> str:
    """A learning rate to three digits.

    >>> [format_lr(lr) for lr in (0.0004, 0.006432, 0.05, 1.0)]
    ['4e-4', '6.43e-3', '0.05', '1']
    """
    if lr == 0 or lr >= 0.01:
        return f"{lr:.3g}"
    digits, exponent = f"{lr:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_seconds(seconds: float) -> str:
    """A time in the unit that reads best.

    >>> [format_seconds(time) for time in (0.0321, 3.21, 97.3, 312.0, 7510.0)]
    ['0.032 s', '3.2 s', '97 s', '5 min 12 s', '2 h 5 min']
    """
    if seconds < 1:
        return f"{seconds:.2g} s"
    if round(seconds) < 120:
        return f"{seconds:.1f} s" if seconds < 20 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_metric(value: float) -> str:
    """A metric to four digits."""
    return f"{value:.4g}"


def format_ratio(ratio: float) -> str:
    """How many times: to one digit after the point, or two where one would hide the difference.

    >>> format_ratio(6.04), format_ratio(1.04)
    ('6.0x', '1.04x')
    """
    return f"{ratio:.1f}x" if ratio >= 1.1 else f"{ratio:.2f}x"


def format_sooner(result: TuneResult) -> str:
    """How many times sooner the best is, from what to what where that is known; empty for another objective."""
    if result.speedup is None:
        return ""
    if result.speedup_interval is None:
        return f"{format_ratio(result.speedup)} sooner"
    low, high = result.speedup_interval
    return f"{format_ratio(low)} to {format_ratio(high)} sooner"


def alike_words(result: TuneResult) -> str:
    """How many other pairs cannot be told apart from the best; empty for none."""
    others = len(result.as_good)
    if not others or result.best.number == result.baseline.number:
        return ""
    return f"{others} other {'pair is' if others == 1 else 'pairs are'} as good"


def edge_words(result: TuneResult) -> str:
    """How many pairs were ahead and are not taken, since a higher learning rate is worse; empty for none."""
    count = len(result.at_edge)
    if not count:
        return ""
    pairs = "1 pair that was ahead sits" if count == 1 else f"{count} pairs that were ahead sit"
    return f"{pairs} at the edge: a higher learning rate is worse, so a long training may not survive there"


def format_settings(trial: TrialSummary) -> str:
    """Batch size, how it is laid out where it is not simply one batch, and learning rate."""
    parts = [f"{trial.batch_size:,}"]
    world = trial.global_batch_size // (trial.batch_size * trial.accumulate_grad_batches)
    if trial.accumulate_grad_batches > 1:
        parts.append(f"{trial.accumulate_grad_batches} accumulated")
    if world > 1:
        parts.append(f"{world} processes")
    layout = f" = {' x '.join(parts)}" if len(parts) > 1 else ""
    return f"batch {trial.global_batch_size:,}{layout}, lr {format_lr(trial.lr)}"


def quality(trial: TrialSummary, mode: str) -> float:
    """The best metric that a trial was seen at."""
    metrics = [mark.metric for mark in trial.curve] or [trial.metric if trial.metric is not None else float("nan")]
    return min(metrics) if mode == "min" else max(metrics)


def confirmed_words(result: TuneResult) -> str:
    """How the best and your own settings did with another order of the data; empty where that was not tried."""
    if result.confirmed is None or not result.confirmation:
        return ""
    again = f"with another order of the data{' too' if result.confirmed else ''}"
    if len(result.confirmation) != 2:
        return f"{again}: {result.confirmation[0].verdict}"
    yours, mine = result.confirmation
    how = [_race(mine, yours)] if result.objective == "time" else []
    ends = [format_metric(trial.curve[-1].metric) for trial in (mine, yours) if trial.curve]
    if len(ends) == 2:
        how.append(f"{result.monitor} {ends[0]} against {ends[1]} at the end")
    return f"{again}: {', '.join(how)}"


def _race(mine: TrialSummary, yours: TrialSummary) -> str:
    if mine.seconds is None or yours.seconds is None:
        ended = f" ({mine.verdict})" if mine.verdict in ("out of memory", "not finite") else ""
        return f"{'it' if mine.seconds is None else 'your own'} did not reach the target{ended}"
    return f"{format_seconds(mine.seconds)} against {format_seconds(yours.seconds)}"


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


def knee_words(result: FindResult, knee: int) -> str:
    """Where throughput hardly rises any more."""
    rates = result.throughput
    if knee >= max(rates):
        return f"{knee}: throughput still rises up to the largest size measured"
    fastest = max(rates, key=lambda size: (rates[size], size))
    if knee not in rates:
        return f"{knee}: at least 90% of the throughput of {fastest}, by the fitted step time"
    if knee == fastest:
        return f"{knee}: no size measured has a higher throughput"
    return f"{knee}: {rates[knee] / rates[fastest]:.0%} of the throughput of {fastest}"


def fastest_words(result: FindResult, fastest: int) -> str:
    """The size that trains fastest per sample, where that is not the largest that fits."""
    rates, largest = result.throughput, result.batch_size
    return (
        f"{fastest} per device, by samples per second: {largest}, the largest that fits, has "
        f"{rates[largest] / rates[fastest]:.0%} of its throughput. `bstuner tune` finds which one trains sooner, and "
        "at which learning rate"
    )


def data_words(result: FindResult) -> str:
    """How many samples were looked at, and where the model waits for them."""
    if not result.scanned:
        return ""
    held = "" if result.dataset_size in (None, result.scanned) else f" of {result.dataset_size:,}"
    words = f"{result.scanned:,}{held} samples looked at for the largest"
    read, taken = result.read_per_second, result.taken_per_second
    if not result.waits_for_data or read is None or taken is None:
        return words
    return (
        f"{words}; about {_rounded(read)} are read in a second, where the model takes {_rounded(taken)}: it waits for "
        "them. More workers, or samples that are prepared beforehand, make it faster"
    )


def _rounded(rate: float) -> str:
    return f"{float(f'{rate:.2g}'):,.0f}"


def growth_words(plan: dict[str, Any]) -> str:
    """A growth plan in a sentence.

    Args:
        plan: It, in plain types.
    """
    low = min(phase["smallest_batch_size"] for phase in plan["phases"])
    high = max(phase["batch_size"] for phase in plan["phases"])
    words = f"batch {low:,} to {high:,}" if high > low else f"batch {low:,} throughout"
    if plan["steps"] is not None and plan["own"]["steps"] is not None:
        words += f": {plan['steps']:,} optimizer steps instead of {plan['own']['steps']:,}"
    return f"{words}, capped at {plan['max_batch_size']:,} by {plan['capped_by']}" if plan["capped_by"] else words


def format_saved(saved: float) -> str:
    """How many fewer steps, or more.

    >>> [format_saved(saved) for saved in (0.6304, 0.0, -0.12, 0.004)]
    ['63% fewer', 'as many', '12% more', '0.4% fewer']
    """
    if not saved:
        return "as many"
    share = f"{abs(saved):.0%}" if abs(saved) >= 0.01 else f"{abs(saved):.1%}"
    return f"{share} {'fewer' if saved > 0 else 'more'}"
