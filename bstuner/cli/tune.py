"""`bstuner tune`: the batch size and learning rate that reach the quality of an unmodified training script soonest."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import Namespace
from rich.console import RenderableType

from bstuner.api import tune
from bstuner.callbacks import BatchSizeTuner, LearningRateWarmup
from bstuner.cli.result_files import Overlay, ResultFiles
from bstuner.cli.script import ScriptRun
from bstuner.cli.script_command import ScriptCommand
from bstuner.core import TuneResult
from bstuner.errors import InvalidSetting
from bstuner.report import python_snippet
from bstuner.report.terminal import render_tune
from bstuner.study import DEFAULT_FILE, open_storage, storage_in_words

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["COMMAND", "Tune"]

# Of the Trainer: what an answer may change besides the batch size and the learning rate.
_COUNTED = ("accumulate_grad_batches", "max_steps", "min_steps", "val_check_interval", "limit_train_batches")


class _Tuned(NamedTuple):
    """An answer, and the Trainer's settings that it changes."""

    result: TuneResult
    settings: dict[str, Any]


class Tune(ScriptCommand[_Tuned]):
    """Batch size and learning rate together."""

    name = "tune"
    description = """Find the batch size and learning rate that reach your own quality soonest,
for an unmodified training script.

The script runs up to its call of trainer.fit(); in its place the largest batch
that fits is found, short trainings are run, and nothing else is trained. The
answer is printed and written to bstuner-result.json, and ready for use to
bstuner-overlay.yaml, a second -c where the script is a LightningCLI, or else to
bstuner-snippet.py, lines to copy. With --apply the fit goes on with it, and the
script runs to its end. The study is kept: name it with --study_name, and the
same command goes on with it, on this machine or, with --storage
postgresql://..., on many.

  bstuner tune train.py --data ./corpus
  bstuner tune --monitor val_acc --mode max --n_trials 30 main.py fit -c config.yaml
"""
    callback = BatchSizeTuner
    left_out = frozenset({"study", "sampler", "pruner"})  # objects that no command line can name
    as_text = {  # noqa: RUF012  # declared a ClassVar in the base
        "storage": "where the study is kept: an Optuna URL (postgresql://..., for many machines) or a path of a "
        "journal file that ends in .log. None for the file bstuner-study.log in the Trainer's default_root_dir."
    }
    methods = ("fit",)
    label_width = 11

    def check(self, options: Namespace) -> None:
        """The storage is one, and there is an answer to go on with."""
        super().check(options)
        storage_in_words(options.storage)  # refuses what is no storage
        if options.apply and options.objective == "both" and options.take is None:
            raise InvalidSetting("take: expected 'metric' or 'speed' with --objective both and --apply, found None.")

    def prepare(self, options: Namespace) -> None:
        """Find out whether the storage can be reached, if it is that of a server."""
        super().prepare(options)
        if "://" in (options.storage or "") and not options.storage.startswith("sqlite"):
            open_storage(options.storage)

    def search(self, trainer: Trainer, method: str, data: dict[str, Any], settings: dict[str, Any]) -> TuneResult:
        """By `bstuner.tune`."""
        return tune(trainer, **data, **settings)

    def before(self, trainer: Trainer) -> dict[str, Any]:
        """What the Trainer counts in steps."""
        return {name: getattr(trainer, name) for name in _COUNTED}

    def found(self, result: TuneResult, trainer: Trainer, before: dict[str, Any]) -> _Tuned:
        """The pair, and what the Trainer counts otherwise now."""
        after = self.before(trainer)
        return _Tuned(result, {name: value for name, value in after.items() if value != before[name]})

    def summary(self, found: _Tuned) -> RenderableType:
        """As the callback shows it."""
        return render_tune(found.result)

    def result_files(self, found: _Tuned, run: ScriptRun, options: Namespace, with_overlay: str) -> ResultFiles:
        """The pair, where it goes, and what goes with it."""
        part = _overlay(run, options.batch_arg_name, found)
        overlay = part.content if part else {}
        steps = _steps(found, part, with_overlay)
        return ResultFiles(found.result.as_dict(), overlay, _snippet(found.result), steps, see=_report(found.result))


COMMAND = Tune()


def _report(result: TuneResult) -> str:
    """The command that shows the study."""
    by_default = result.storage == str(Path.cwd() / DEFAULT_FILE)
    command = ["bstuner", "report", *([] if by_default else ["--storage", result.storage])]
    return shlex.join(command)


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


def _steps(tuned: _Tuned, part: _Part | None, with_overlay: str) -> list[str]:
    """What to do now: run with the overlay, and set by hand what it does not."""
    result = tuned.result
    if result.objective == "both" and result.best.number == result.baseline.number:
        return [f"choose: the same command with --study_name {result.study_name} and --take metric or --take speed"]
    if result.answer.number == result.baseline.number:
        why = "were the best that was found" if result.confirmed is None else "stay, since the win did not hold"
        return [f"train as you did: your own settings {why}"]
    steps = [with_overlay] if part else []
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


def _snippet(result: TuneResult) -> str:
    """The lines of Python that set it; none where it is the user's own settings."""
    if result.answer.number == result.baseline.number:
        return ""
    # The rest has a line of its own.
    lines = (LearningRateWarmup.__name__, "accumulate_grad_batches:", f"{result.lr_holder}:")
    also = [change for change in (*result.set_values, *result.by_hand) if not change.startswith(lines)]
    batch, accumulate, lr = result.batch_size, result.answer.accumulate_grad_batches, result.lr
    return python_snippet(batch, accumulate, lr, _holder(result), result.lr_holder, warmup=result.warmup, also=also)


def _holder(result: TuneResult) -> str:
    return result.find.holder if result.find else "batch_size"
