"""`bstuner tune`: the batch size and learning rate that reach the quality of an unmodified training script soonest."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from rich.console import Console

from bstuner.api import tune
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
    """An answer, and the Trainer's settings that go with it."""

    result: TuneResult
    settings: dict[str, Any]


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
        try:
            result = tune(trainer, **given, **settings)
        finally:
            end_processes(trainer)
        # The script's bars may be off, but who types a command wants to see its answer.
        if trainer.is_global_zero and not shows_progress(trainer):
            Console().print(tune_summary(result))
        return _Tuned(result, {name: getattr(trainer, name) for name in _COUNTED})

    if rank() == 0:
        output = writable(output)
    run = run_until_trainer(script, arguments, search, command, methods=("fit",))
    tuned: _Tuned = run.result
    result = tuned.result
    if rank() != 0:
        return result
    content = _overlay(run, settings, tuned)
    print(f"Saved   {save(output, result.as_dict(), content)} in {output}")
    if content:
        print(f"Next    {shlex.join(['python', script, *arguments, '-c', str(output / OVERLAY_FILE)])}")
    for step in _by_hand(result, settings, content):
        print(f"{'        and' if content else 'Next   '} {step}")
        content = content or {"": None}
    return result


def _overlay(run: ScriptRun, settings: dict[str, Any], tuned: _Tuned) -> dict[str, Any]:
    """The part of a LightningCLI configuration that sets the answer, as far as there are keys for it."""
    if run.cli is None:
        return {}
    part = Overlay(run.cli)
    result, holder = tuned.result, _holder(tuned.result)
    if holder.endswith(f".{settings['batch_arg_name']}"):
        part.set_argument(settings["batch_arg_name"], result.batch_size)
    attribute = result.lr_holder.rpartition(".")[2]
    if "." in result.lr_holder and attribute.isidentifier():
        part.set_argument(attribute, result.lr)
    else:
        part.set_argument("lr", result.lr, parts=("optimizer",))
    for name, value in tuned.settings.items():
        part.set_trainer(name, value)
    return part.content


def _by_hand(result: TuneResult, settings: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """What is left to set by hand."""
    steps = []
    written = {key for part in ("model", "data", "optimizer") for key in _keys(content.get(part, {}))}
    if settings["batch_arg_name"] not in written:
        steps.append(f"set {_holder(result)} to {result.batch_size}")
    if not written & {"lr", result.lr_holder.rpartition(".")[2]}:
        steps.append(f"set {result.lr_holder} to {result.lr!r}")
    if "trainer" not in content:
        steps += [f"in the Trainer, change {change}" for change in result.set_values]
    return steps


def _keys(part: dict[str, Any]) -> set[str]:
    return {*part, *part.get("init_args", {})}


def _holder(result: TuneResult) -> str:
    return result.find.holder if result.find else "batch_size"
