"""`bstuner schedule`: how the batch would grow in an unmodified training script."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace
from rich.console import RenderableType

from bstuner.api import schedule
from bstuner.callbacks import BatchSizeScheduler
from bstuner.cli.result_files import Overlay, ResultFiles, writable
from bstuner.cli.script import ScriptRun
from bstuner.cli.script_command import ScriptCommand
from bstuner.core.growth import RunPlan
from bstuner.report import plan_as_dict
from bstuner.report.figures import check_plot, save_plot
from bstuner.report.terminal import render_schedule

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

__all__ = ["COMMAND", "SCHEDULE_FILE", "Schedule"]

SCHEDULE_FILE = "bstuner-schedule.json"


class _Planned(NamedTuple):
    """A plan, and whether the script has a `BatchSizeScheduler` of its own."""

    plan: RunPlan
    has_own: bool


class Schedule(ScriptCommand[_Planned]):
    """How the batch would grow instead of the learning rate falling."""

    name = "schedule"
    description = """Show how the batch would grow instead of the learning rate falling, for an
unmodified training script.

The script runs up to its call of trainer.fit(); in its place the plan is made,
memory is probed for the largest micro-batch (--fits does without), and no step
of training is taken. The plan is printed, written to bstuner-schedule.json and,
with --plot, drawn. A BatchSizeScheduler in the script's own callbacks is asked
for its plan, unless options are given here. With --apply the fit trains by the
plan, and the script runs to its end.

  bstuner schedule train.py --data ./corpus
  bstuner schedule --plot plan.png --max_batch_size 4096 main.py fit -c config.yaml
  bstuner schedule --plan "0:256 30ep:512 60ep:1024" train.py
"""
    callback = BatchSizeScheduler
    stays = True
    methods = ("fit",)
    shown_by_callback = False
    label_width = 9

    def add_options(self, parser: ArgumentParser) -> None:
        """The callback's arguments, and a file for a picture."""
        super().add_options(parser)
        words = "file for a picture of the plan: .png, .svg or .pdf; needs matplotlib, bstuner[plot]"
        parser.add_argument("--plot", type=Path | None, default=None, help=words)

    def prepare(self, options: Namespace) -> None:
        """Find out whether the plan can be drawn and written."""
        super().prepare(options)
        if options.plot is not None:
            check_plot(options.plot)
            options.plot = writable(options.plot.parent) / options.plot.name

    def search(self, trainer: Trainer, method: str, data: dict[str, Any], settings: dict[str, Any]) -> RunPlan:
        """By `bstuner.schedule`."""
        return schedule(trainer, **data, **_chosen(settings))

    def replaces(self, trainer: Trainer) -> tuple[type, ...]:
        """A plan of the script's own."""
        return (BatchSizeScheduler,)

    def searching(self, trainer: Trainer, settings: dict[str, Any]) -> Callback:
        """The script's own, unless options are given."""
        own, chosen = _own(trainer), _chosen(settings)
        return own[0] if own and not chosen else BatchSizeScheduler(**chosen)

    def result_of(self, callback: Callback) -> RunPlan | None:
        """The plan."""
        assert isinstance(callback, BatchSizeScheduler)
        return callback.plan

    def before(self, trainer: Trainer) -> bool:
        """Whether the script has one of its own."""
        return bool(_own(trainer))

    def found(self, result: RunPlan, trainer: Trainer, before: bool) -> _Planned:
        """The plan, and whether the script had one of its own."""
        return _Planned(result, before)

    def summary(self, found: _Planned) -> RenderableType:
        """The plan as a table."""
        return render_schedule(found.plan)

    def result_files(self, found: _Planned, run: ScriptRun, options: Namespace, with_overlay: str) -> ResultFiles:
        """The plan, and the callback that trains by it."""
        chosen = _chosen(self.settings(options))
        overlay = {} if found.has_own else _overlay(run, chosen)
        if overlay:
            step = with_overlay
        elif not found.has_own:
            step = f"put {_in_code(chosen)} into the callbacks of your Trainer and train"
        elif chosen:
            step = f"put {_in_code(chosen)} in the place of the one among your callbacks and train"
        else:
            step = "train: this is the plan of the BatchSizeScheduler among your callbacks"
        code = f"trainer = L.Trainer(callbacks=[{_in_code(chosen)}])  # beside your own arguments"
        snippet = "" if found.has_own and not chosen else f"from bstuner import BatchSizeScheduler\n\n{code}"
        return ResultFiles(plan_as_dict(found.plan), overlay, snippet, [step], SCHEDULE_FILE)

    def save(self, files: ResultFiles, found: _Planned, options: Namespace) -> list[str]:
        """Write the files, and draw the plan."""
        saved = super().save(files, found, options)
        if options.plot is None:
            return saved
        save_plot(found.plan, options.plot)
        return [*saved, options.plot.name if options.plot.parent == options.output else str(options.plot)]


COMMAND = Schedule()


def _own(trainer: Trainer) -> list[BatchSizeScheduler]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it, where mypy cannot see it
    return [callback for callback in callbacks if isinstance(callback, BatchSizeScheduler)]


def _chosen(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not the callback's own defaults."""
    parameters = inspect.signature(BatchSizeScheduler).parameters
    return {name: value for name, value in settings.items() if value != parameters[name].default}


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
