"""`bstuner tune`: the batch size and learning rate that reach the quality of an unmodified training script soonest."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from rich.console import Console

from bstuner.api import tune
from bstuner.callbacks.warmup import LearningRateWarmup
from bstuner.cli.answer import OVERLAY_FILE, Overlay, save, writable
from bstuner.cli.script import ScriptRun, rank, run_until_trainer
from bstuner.core.tune_result import TuneResult
from bstuner.report.live import shows_progress
from bstuner.report.tune_summary import tune_summary
from bstuner.training._lightning import end_processes

__all__ = ["run_tune"]

# Of the Trainer: what an answer may change besides the batch size and the learning rate.
_COUNTED = ("accumulate_grad_batches", "max_steps", "min_steps", "val_check_interval", "limit_train_batches")


class _Tuned(NamedTuple):
    """An answer, and the Trainer's settings that it changes."""

    result: TuneResult
    settings: dict[str, Any]


# As wide as the labels of the findings above them.
_LABEL = 11


def run_tune(
    script: str, arguments: list[str], output: Path, settings: dict[str, Any], command: Sequence[str]
) -> TuneResult:
    """Search in a script and, in the process of rank 0, write the answer; prints where.

    Args:
        script: path of the script.
        arguments: the script's own arguments.
        output: folder for the files.
        settings: the arguments of `BatchSizeTuner`.
        command: what starts this command again, for another rank, up to the script.

    """

    def search(trainer: Trainer, method: str, called_with: dict[str, Any]) -> _Tuned:
        data = ("model", "train_dataloaders", "val_dataloaders", "datamodule")
        given = {name: value for name, value in called_with.items() if name in data}
        before = {name: getattr(trainer, name) for name in _COUNTED}
        try:
            result = tune(trainer, **given, **settings)
        finally:
            end_processes(trainer)
        # The script's bars may be off, but who types a command wants to see its answer.
        if trainer.is_global_zero and not shows_progress(trainer):
            Console().print(tune_summary(result))
        after = {name: getattr(trainer, name) for name in _COUNTED}
        return _Tuned(result, {name: value for name, value in after.items() if value != before[name]})

    if rank() == 0:
        output = writable(output)
    run = run_until_trainer(script, arguments, search, command, methods=("fit",))
    tuned: _Tuned = run.result
    result = tuned.result
    if rank() != 0:
        return result
    part = _overlay(run, settings["batch_arg_name"], tuned)
    content = part.content if part else {}
    _say("Saved", f"{save(output, result.as_dict(), content)} in {output}")
    command_line = shlex.join(["python", script, *arguments, "-c", str(output / OVERLAY_FILE)])
    for place, step in enumerate(_steps(tuned, part, command_line)):
        _say("" if place else "Next", step)
    return result


def _say(label: str, words: str) -> None:
    print(f"{label:<{_LABEL}}{words}")


class _Part(NamedTuple):
    """The part of a LightningCLI configuration that sets an answer; whether it sets batch size and learning rate."""

    content: dict[str, Any]
    batch_size: bool
    lr: bool


def _overlay(run: ScriptRun, batch_arg_name: str, tuned: _Tuned) -> _Part | None:
    if run.cli is None:
        return None
    overlay, result = Overlay(run.cli), tuned.result
    # In other cases the loader itself holds it.
    held = _holder(result).endswith(f".{batch_arg_name}")
    batch_size = held and overlay.set_argument(batch_arg_name, result.batch_size)
    lr = overlay.set_argument(*_lr_argument(result))
    for name, value in tuned.settings.items():
        overlay.set_trainer(name, value)
    if result.warmup is not None:
        samples, start_factor = result.warmup
        overlay.add_callback(LearningRateWarmup, samples=samples, start_factor=start_factor)
    return _Part(overlay.content, batch_size, lr)


def _lr_argument(result: TuneResult) -> tuple[str, float, tuple[str, ...]]:
    """The argument that sets the learning rate, by convention named as the attribute; its value; where it may be."""
    if result.lr_holder.startswith("max_lr of "):
        return "max_lr", result.lr, ("lr_scheduler",)
    if " of " in result.lr_holder:
        return "lr", result.lr, ("optimizer",)
    return result.lr_holder.rpartition(".")[2], result.lr, ("model", "data")


def _steps(tuned: _Tuned, part: _Part | None, command_line: str) -> list[str]:
    """What to do now: run with the overlay, and set by hand what it does not."""
    result = tuned.result
    if result.objective == "both" and result.best.number == result.baseline.number:
        return [f"choose: the same command with --study_name {result.study_name} and --take metric or --take speed"]
    if result.answer.number == result.baseline.number:
        why = "were the best that was found" if result.confirmed is None else "stay, since the win did not hold"
        return [f"train as you did: your own settings {why}"]
    steps = [command_line] if part else []
    if not (part and part.batch_size):
        steps.append(f"set {_holder(result)} to {result.batch_size}")
    if not (part and part.lr) and " of " not in result.lr_holder:
        steps.append(f"set {result.lr_holder} to {result.lr!r}")
    if not part:
        steps += [f"set {name} of the Trainer to {value!r}" for name, value in tuned.settings.items()]
    steps += [f"change {change}" for change in result.set_values if change.partition(":")[0] not in tuned.settings]
    for change in result.by_hand:
        if change.startswith(LearningRateWarmup.__name__):
            steps += [] if part else [f"put {change} of the Trainer"]
        elif not (part and part.lr and change.startswith(f"{result.lr_holder}:")):
            steps.append(f"change {change}")
    return [*steps, "and train"] if not part else steps


def _holder(result: TuneResult) -> str:
    return result.find.holder if result.find else "batch_size"
