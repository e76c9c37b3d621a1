"""`bstuner schedule`: how the batch would grow in an unmodified training script."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from rich.console import Console

from bstuner.api import schedule
from bstuner.callbacks.scheduler import BatchSizeScheduler
from bstuner.cli.answer import OVERLAY_FILE, Overlay, writable
from bstuner.cli.script import ScriptRun, rank, run_until_trainer
from bstuner.report.files import write_json, write_yaml
from bstuner.report.schedule_plot import check_plot, save_plot
from bstuner.report.schedule_summary import schedule_spans, schedule_summary
from bstuner.training._lightning import end_processes
from bstuner.training.run_plan import RunPlan

__all__ = ["SCHEDULE_FILE", "as_dict", "run_schedule"]

SCHEDULE_FILE = "bstuner-schedule.json"

# As wide as the labels of the plan above them.
_LABEL = 9


class _Planned(NamedTuple):
    """A plan, and whether the script has a `BatchSizeScheduler` of its own."""

    plan: RunPlan
    has_own: bool


def run_schedule(
    script: str,
    arguments: list[str],
    output: Path,
    settings: dict[str, Any],
    command: Sequence[str],
    plot: Path | None = None,
) -> RunPlan:
    """Plan the fit of a script and, in the process of rank 0, show and write the plan.

    Args:
        script: path of the script.
        arguments: the script's own arguments.
        output: folder for the files.
        settings: the arguments of `BatchSizeScheduler`.
        command: what starts this command again, for another rank, up to the script.
        plot: file for a picture of the plan.

    """
    chosen = _chosen(settings)

    def plan_fit(trainer: Trainer, method: str, called_with: dict[str, Any]) -> _Planned:
        data = ("model", "train_dataloaders", "val_dataloaders", "datamodule")
        given = {name: value for name, value in called_with.items() if name in data}
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it, where mypy cannot see it
        has_own = any(isinstance(callback, BatchSizeScheduler) for callback in callbacks)
        try:
            return _Planned(schedule(trainer, **given, **chosen), has_own)
        finally:
            end_processes(trainer)

    if rank() == 0:
        output = writable(output)
        if plot is not None:
            check_plot(plot)
            # The script may change directories.
            plot = writable(plot.parent) / plot.name
    run = run_until_trainer(script, arguments, plan_fit, command, methods=("fit",))
    planned: _Planned = run.result
    plan = planned.plan
    if rank() != 0:
        return plan
    Console().print(schedule_summary(plan))
    overlay = {} if planned.has_own else _overlay(run, chosen)
    _say("Saved", f"{', '.join(_save(plan, output, overlay, plot))} in {output}")
    if overlay:
        _say("Next", shlex.join(["python", script, *arguments, "-c", str(output / OVERLAY_FILE)]))
    elif not planned.has_own:
        _say("Next", f"put {_in_code(chosen)} into the callbacks of your Trainer and train")
    elif chosen:
        _say("Next", f"put {_in_code(chosen)} in the place of the one among your callbacks and train")
    else:
        _say("Next", "train: this is the plan of the BatchSizeScheduler among your callbacks")
    return plan


def as_dict(plan: RunPlan) -> dict[str, Any]:
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


def _say(label: str, words: str) -> None:
    print(f"{label:<{_LABEL}}{words}")


def _chosen(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not the callback's own defaults."""
    parameters = inspect.signature(BatchSizeScheduler).parameters
    return {name: value for name, value in settings.items() if value != parameters[name].default}


def _save(plan: RunPlan, output: Path, overlay: dict[str, Any], plot: Path | None) -> list[str]:
    """Write the files; their names."""
    write_json(output / SCHEDULE_FILE, as_dict(plan))
    saved = [SCHEDULE_FILE]
    if overlay:
        write_yaml(output / OVERLAY_FILE, overlay)
        saved.append(OVERLAY_FILE)
    if plot is not None:
        save_plot(plan, plot)
        saved.append(plot.name if plot.parent == output else str(plot))
    return saved


def _overlay(run: ScriptRun, chosen: dict[str, Any]) -> dict[str, Any]:
    """The part of a LightningCLI configuration that adds the callback; empty for another script."""
    if run.cli is None:
        return {}
    overlay = Overlay(run.cli)
    overlay.add_callback(BatchSizeScheduler, **chosen)
    return overlay.content


def _in_code(chosen: dict[str, Any]) -> str:
    words = [repr(value) if name == "plan" else f"{name}={value!r}" for name, value in chosen.items()]
    return f"{BatchSizeScheduler.__name__}({', '.join(words)})"
