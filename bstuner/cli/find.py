"""`bstuner find`: the largest batch of an unmodified training script."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from rich.console import Console

from bstuner.api import find
from bstuner.cli.script import ScriptRun, rank, run_until_trainer
from bstuner.core.result import FindResult
from bstuner.errors import InvalidSetting
from bstuner.report.files import write_json, write_yaml
from bstuner.report.live import shows_progress
from bstuner.report.summary import find_summary
from bstuner.training._lightning import end_processes

__all__ = ["overlay", "run_find"]

RESULT_FILE = "bstuner-result.json"
OVERLAY_FILE = "bstuner-overlay.yaml"


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
        output = _writable(output)
    run = run_until_trainer(script, arguments, search, command)
    result: FindResult = run.result
    if rank() != 0:
        return result
    content = overlay(run, settings["batch_arg_name"], result)
    write_json(output / RESULT_FILE, result.as_dict())
    if content:
        write_yaml(output / OVERLAY_FILE, content)
    print(f"Saved   {', '.join([RESULT_FILE, *([OVERLAY_FILE] if content else [])])} in {output}")
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


def _writable(folder: Path) -> Path:
    """The folder for the answer, made and tried out before the script runs (which may change directories)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except OSError as error:
        raise InvalidSetting(f"Expected --output to be a folder that can be written to, found {error}.") from error


def overlay(run: ScriptRun, name: str, result: FindResult) -> dict[str, Any]:
    """The part of a LightningCLI configuration that sets the answer; empty where no key holds the batch size.

    Args:
        run: a script that was run.
        name: the attribute that holds the batch size, by convention also the argument that sets it.
        result: the answer.

    """
    if run.cli is None or not result.holder.endswith(f".{name}"):  # the answer lives in the loader itself
        return {}
    config = _configuration(run.cli)
    content: dict[str, Any] = {}
    for part in ("model", "data"):
        for path in ((part, name), (part, "init_args", name)):
            if config.get(".".join(path)) is not None:
                _set(content, path, result.batch_size)
    if content and result.stage == "fit" and result.accumulate_grad_batches != config.trainer.accumulate_grad_batches:
        _set(content, ("trainer", "accumulate_grad_batches"), result.accumulate_grad_batches)
    return content


def _configuration(cli: LightningCLI) -> Namespace:
    config: Namespace = cli.config
    return config[cli.subcommand] if cli.subcommand else config


def _set(content: dict[str, Any], path: tuple[str, ...], value: int) -> None:
    for key in path[:-1]:
        content = content.setdefault(key, {})
    content[path[-1]] = value
