"""`bstuner find`: the largest batch of an unmodified training script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.console import RenderableType

from bstuner.api import find
from bstuner.callbacks import BatchSizeFinder
from bstuner.cli.result_files import Overlay, ResultFiles
from bstuner.cli.script import ScriptRun
from bstuner.cli.script_command import ScriptCommand
from bstuner.core import FindResult
from bstuner.report import python_snippet
from bstuner.report.terminal import render_find

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["COMMAND", "Find"]


class Find(ScriptCommand[FindResult]):
    """The largest batch that fits."""

    name = "find"
    description = """Find the largest batch that fits, for an unmodified training script.

The script runs up to its first call of trainer.fit(), validate(), test() or
predict(); in its place the search runs, and nothing is trained. The answer is
printed and written to bstuner-result.json, and ready for use to
bstuner-overlay.yaml, a second -c where the script is a LightningCLI, or else to
bstuner-snippet.py, lines to copy. With --apply the script's first fit goes on
with it, and the script runs to its end.

  bstuner find train.py --data ./corpus
  bstuner find --memory_limit 24GiB main.py fit -c config.yaml
"""
    callback = BatchSizeFinder
    left_out = frozenset({"milestones"})  # they mean nothing where nothing is trained
    label_width = 8

    def search(self, trainer: Trainer, method: str, data: dict[str, Any], settings: dict[str, Any]) -> FindResult:
        """By `bstuner.find`."""
        return find(trainer, method=method, **data, **settings)  # type: ignore[arg-type]  # one of METHODS

    def summary(self, found: FindResult) -> RenderableType:
        """As the callback shows it."""
        return render_find(found)

    def result_files(self, found: FindResult, run: ScriptRun, options: Namespace, with_overlay: str) -> ResultFiles:
        """The batch size, where it goes, and what goes with it."""
        overlay = _overlay(run, options.batch_arg_name, found)
        validation = found.validation_batch_size
        also = [] if validation is None else [f"the batch size of the validation loaders: {validation}"]
        snippet = python_snippet(found.batch_size, found.accumulate_grad_batches, None, found.holder, "", also=also)
        if overlay:
            steps = [with_overlay]
            if validation is not None:
                steps.append(f"with the batch size of the validation loaders set to {validation}")
        else:
            more = ""
            if options.global_batch_size is not None:
                more += f", accumulate_grad_batches to {found.accumulate_grad_batches}"
            if validation is not None:
                more += f", the batch size of the validation loaders to {validation}"
            steps = [f"set {found.holder} to {found.batch_size}{more} and train"]
        return ResultFiles(found.as_dict(), overlay, snippet, steps)


COMMAND = Find()


def _overlay(run: ScriptRun, name: str, result: FindResult) -> dict[str, Any]:
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
