"""`bstuner find`: the largest batch of an unmodified training script."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from rich.console import Console

from bstuner.api import find
from bstuner.cli.answer import OVERLAY_FILE, Overlay, save, writable
from bstuner.cli.script import ScriptRun, rank, run_until_trainer
from bstuner.core.result import FindResult
from bstuner.report.live import shows_progress
from bstuner.report.summary import find_summary
from bstuner.training._lightning import end_processes

__all__ = ["overlay", "run_find"]


def run_find(
    script: str, arguments: list[str], output: Path, settings: dict[str, Any], command: Sequence[str]
) -> FindResult:
    """Search in a script and, in the process of rank 0, write the answer; prints where.

    Args:
        script: path of the script.
        arguments: the script's own arguments.
        output: folder for the files.
        settings: the arguments of `BatchSizeFinder`.
        command: what starts this command again, for another rank, up to the script.

    """

    def search(trainer: Trainer, method: str, called_with: dict[str, Any]) -> FindResult:
        data = ("model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")
        given = {name: value for name, value in called_with.items() if name in data}
        try:
            result = find(trainer, method=method, **given, **settings)  # type: ignore[arg-type]  # one of METHODS
        finally:
            end_processes(trainer)
        # The script's bars may be off, but who types a command wants to see its answer.
        if trainer.is_global_zero and not shows_progress(trainer):
            Console().print(find_summary(result))
        return result

    if rank() == 0:
        output = writable(output)
    run = run_until_trainer(script, arguments, search, command)
    result: FindResult = run.result
    if rank() != 0:
        return result
    content = overlay(run, settings["batch_arg_name"], result)
    print(f"Saved   {save(output, result.as_dict(), content)} in {output}")
    if content:
        print(f"Next    {shlex.join(['python', script, *arguments, '-c', str(output / OVERLAY_FILE)])}")
        if result.validation_batch_size is not None:
            print(f"        with the batch size of the validation loaders set to {result.validation_batch_size}")
    else:
        print(f"Next    set {result.holder} to {result.batch_size}{_also(result, settings)} and train")
    return result


def _also(result: FindResult, settings: dict[str, Any]) -> str:
    """What else to set by hand."""
    also = ""
    if settings["global_batch_size"] is not None:
        also += f", accumulate_grad_batches to {result.accumulate_grad_batches}"
    if result.validation_batch_size is not None:
        also += f", the batch size of the validation loaders to {result.validation_batch_size}"
    return also


def overlay(run: ScriptRun, name: str, result: FindResult) -> dict[str, Any]:
    """The part of a LightningCLI configuration that sets the answer; empty where no key holds the batch size.

    Args:
        run: a script that was run.
        name: the attribute that holds the batch size, by convention also the argument that sets it.
        result: the answer.

    """
    if run.cli is None or not result.holder.endswith(f".{name}"):  # the answer lives in the loader itself
        return {}
    part = Overlay(run.cli)
    if part.set_argument(name, result.batch_size) and result.stage == "fit":
        part.set_trainer("accumulate_grad_batches", result.accumulate_grad_batches)
    return part.content
