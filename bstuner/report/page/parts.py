"""What the report is made of besides figures: numbers, settings to copy, tables. Users' words are escaped here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

from bstuner.core import TrialSummary, TuneResult, format_bytes
from bstuner.report import (
    alike_words,
    format_lr,
    format_metric,
    format_ratio,
    format_seconds,
    json_snippet,
    python_snippet,
    quality,
    yaml_snippet,
)
from bstuner.study import Findings

__all__ = [
    "Row",
    "environment_list",
    "phase_table",
    "settings_tabs",
    "settings_texts",
    "tiles",
    "trial_rows",
    "trial_table",
]


def tiles(findings: Findings) -> Iterator[str]:
    """The numbers that matter, each with what it is compared with."""
    result, find = findings.result, findings.find
    shown: list[tuple[str, str]] = []
    if result is not None:
        answer, baseline = result.answer, result.baseline
        yours = answer.number == baseline.number
        for name, mine, theirs in (
            ("batch size", f"{answer.global_batch_size:,}", f"{baseline.global_batch_size:,}"),
            ("learning rate", format_lr(answer.lr), format_lr(baseline.lr)),
        ):
            shown.append((mine, f"{name}, {'your own' if yours or mine == theirs else f'instead of {theirs}'}"))
        shown += _gain(result)
    if find is not None:
        shown.append((f"{find.batch_size:,}", f"samples fit at a time, of {format_bytes(find.usable_bytes)} usable"))
    if shown:
        cells = "".join(f"<div><strong>{escape(a)}</strong><span>{escape(b)}</span></div>" for a, b in shown)
        yield f'<div class="cards">{cells}</div>'


def _gain(result: TuneResult) -> Iterator[tuple[str, str]]:
    answer, baseline = result.answer, result.baseline
    if result.objective == "time" and answer.seconds is not None:
        than = "" if answer.number == baseline.number else f", instead of {format_seconds(baseline.seconds or 0.0)}"
        if result.speedup_interval is not None and answer.number != baseline.number:
            low, high = map(format_ratio, result.speedup_interval)
            yield f"{low} to {high}", f"sooner at what your own settings reach in a whole fit{_alike(result)}"
        yield format_seconds(answer.seconds), f"to {result.monitor} {format_metric(result.target)} in a trial{than}"
    elif result.objective != "time" and answer.curve:
        mine, yours = (format_metric(quality(trial, result.mode)) for trial in (answer, baseline))
        yield mine, f"{result.monitor}{'' if answer.number == baseline.number else f', instead of {yours}'}"


def _alike(result: TuneResult) -> str:
    words = alike_words(result)
    return f"; {words}" if words else ""


def settings_tabs(result: TuneResult, findings: Findings) -> str:
    """The answer to copy, as Python, YAML and JSON."""
    texts = settings_texts(result, findings)
    labels = "".join(
        f'<input type="radio" name="format" id="{name}"{" checked" if name == "python" else ""}>'
        f'<label for="{name}">{title}</label>'
        for name, (title, _) in texts.items()
    )
    copy = '<button class="copy" type="button">Copy</button>'
    blocks = "".join(
        f'<div class="{name}">{copy}<pre tabindex="0">{escape(text)}</pre></div>' for name, (_, text) in texts.items()
    )
    return f'<div class="tabs">{labels}{blocks}</div>'


def settings_texts(result: TuneResult, findings: Findings) -> dict[str, tuple[str, str]]:
    """The answer as text in each format: the format's name, and the text."""
    answer = result.answer
    holder = "batch_size" if findings.find is None else findings.find.holder
    places = (answer.batch_size, answer.accumulate_grad_batches, answer.lr, holder, result.lr_holder)
    kept = answer.number == result.baseline.number
    more: dict[str, Any] = {"warmup": None if kept else result.warmup, "also": [] if kept else _also(result)}
    return {
        "python": ("Python", python_snippet(*places, **more)),
        "yaml": ("YAML", yaml_snippet(*places, model=findings.facts.model, **more)),
        "json": ("JSON", json_snippet(*places, **more)),
    }


def _also(result: TuneResult) -> list[str]:
    """What else is to change beside what the settings themselves say."""
    told = (f"{result.lr_holder}:", "LearningRateWarmup(")
    return [change for change in dict.fromkeys((*result.set_values, *result.by_hand)) if not change.startswith(told)]


class Row(NamedTuple):
    """A trial in the table: for each column what is shown and what it is sorted by."""

    kind: str
    cells: dict[str, tuple[str, Any]]


_WORDS = ("outcome", "why")


def trial_rows(findings: Findings) -> list[Row]:
    """The trials in order, those that run at the end."""
    rows = [_row(trial, findings) for trial in findings.trials]
    for trial in findings.running:
        cells = {
            "trial": (str(trial.number), trial.number),
            "batch": _number(trial.global_batch_size),
            "lr": _NONE if trial.lr is None else (format_lr(trial.lr), trial.lr),
            "outcome": ("running", "running"),
            "why": (f"on {trial.host}" if trial.host else "", ""),
        }
        rows.append(Row("running", cells))
    return rows


def trial_table(rows: Sequence[Row], monitor: str) -> str:
    """The table of trials, which is sorted by a click on a column's name; columns that tell nothing are left out."""
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    names = [name for name in names if not _tells_nothing(name, rows)]
    names = [*(name for name in names if name not in _WORDS), *_WORDS]
    heads = "".join(
        f'<th scope="col"{_css(name)}><button type="button">{escape(name or monitor)}</button></th>' for name in names
    )
    lines = []
    for row in rows:
        cells = ((name, *row.cells.get(name, _NONE)) for name in names)
        shown = "".join(f'<td{_css(name)} data-value="{escape(str(v))}">{escape(text)}</td>' for name, text, v in cells)
        lines.append(f'<tr class="{row.kind}">{shown}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="wide" tabindex="0"><table id="trial-table"><thead><tr>{heads}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _tells_nothing(name: str, rows: Sequence[Row]) -> bool:
    told = [row for row in rows if row.cells.get(name, _NONE) != _NONE]
    if name == "per device":
        return all(row.cells[name] == row.cells["batch"] for row in told)
    return all(row.cells[name] == ("1", 1) for row in told) if name == "accumulated" else not told


def _css(name: str) -> str:
    return ' class="text"' if name in _WORDS else ""


def _row(trial: TrialSummary, findings: Findings) -> Row:
    result = findings.result
    kind = "yours" if trial.verdict == "baseline" else "best" if result and trial.number == result.best.number else ""
    cells = {
        "trial": (str(trial.number), trial.number),
        "batch": _number(trial.global_batch_size),
        "per device": _number(trial.batch_size),
        "accumulated": _number(trial.accumulate_grad_batches),
        "lr": (format_lr(trial.lr), trial.lr),
        "": _NONE if trial.metric is None else (format_metric(trial.metric), trial.metric),  # the metric's own name
        "seconds": _NONE if trial.seconds is None else (f"{trial.seconds:.3g}", trial.seconds),
        "samples": _number(trial.samples),
        "samples/s": _NONE if not trial.samples_per_second else _number(round(trial.samples_per_second)),
        "peak": _NONE if trial.peak_bytes is None else (format_bytes(trial.peak_bytes), trial.peak_bytes),
        "outcome": (_became(trial, findings), _became(trial, findings)),
        "why": (trial.reason, trial.reason),
    }
    return Row(kind, cells)


def _became(trial: TrialSummary, findings: Findings) -> str:
    result, names = findings.result, []
    if trial.verdict == "baseline":
        names.append("yours")
    elif result is not None and trial in result.at_edge:
        names.append("at the edge")
    if result is not None and trial.number == result.best.number != result.baseline.number:
        names.append("taken" if result.objective == "both" else "best")
    if result is not None and result.objective == "both" and trial in result.pareto_front:
        names.append("on the front")
    verdict = "was best" if trial.verdict == "best" else trial.verdict
    return ", ".join(names) or (f"neighbour, {verdict}" if trial.role == "edge" else verdict)


_NONE = ("-", "")


def _number(value: int | None) -> tuple[str, Any]:
    return _NONE if value is None else (f"{value:,}", value)


def phase_table(plan: dict[str, Any]) -> str:
    """The batch sizes of a growth plan."""
    names = ("from sample", "batch", "per device", "accumulated", "lr", "your lr", "steps", "your steps")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = []
    for phase in plan["phases"]:
        low, high = phase["smallest_batch_size"], phase["batch_size"]
        batch = f"{low:,} to {high:,}" if low < high else f"{high:,}"
        sizes = [f"{phase['start_sample']:,}", batch, f"{phase['micro']:,}", f"{phase['accumulate']:,}"]
        rates = ["-" if phase[name] is None else format_lr(phase[name]) for name in ("lr", "own_lr")]
        steps = ["-" if phase[name] is None else f"{phase[name]:,}" for name in ("steps", "own_steps")]
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in (*sizes, *rates, *steps))}</tr>")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide" tabindex="0"><table>{body}</table></div>'


def environment_list(findings: Findings) -> str:
    """Where the trials ran, and with what."""
    where = findings.environment
    memory = "" if where.memory_gib is None else f", {where.memory_gib:.1f} GiB"
    processes = f"{where.world_size} {'process' if where.world_size == 1 else 'processes'}"
    shown = {
        "Device": f"{where.device}{memory}",
        "Trained by": f"{processes}{f', {where.strategy}' if where.strategy else ''}, precision {where.precision}",
        "Machines": ", ".join(where.hosts),
        "System": where.system,
        "Versions": ", ".join(f"{name} {version}" for name, version in where.versions.items()),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in shown.items() if value)
    return f"<dl>{rows}</dl>"
