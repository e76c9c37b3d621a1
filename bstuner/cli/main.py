"""`bstuner`: the command line."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from bstuner.callbacks.finder import BatchSizeFinder
from bstuner.callbacks.scheduler import BatchSizeScheduler
from bstuner.callbacks.tuner import BatchSizeTuner
from bstuner.cli.find import run_find
from bstuner.cli.schedule import run_schedule
from bstuner.cli.script import rank
from bstuner.cli.tune import run_tune
from bstuner.errors import BstunerError, InvalidSetting, PeerLost, ScriptError

__all__ = ["main"]

FAILED, INTERRUPTED = 1, 130

# Arguments that mean nothing where nothing is trained, and objects that no command line can name.
LEFT_OUT: dict[str, set[str | int]] = {
    "find": {"milestones"},
    "tune": {"study", "sampler", "pruner"},
    "schedule": set(),
}
# Arguments that may be an object, of which a command line has the text alone.
AS_TEXT: dict[str, dict[str, str]] = {
    "find": {},
    "tune": {
        "storage": "where the study is kept: an Optuna URL (postgresql://..., for many machines) or a path of a "
        "journal file that ends in .log. None for the file bstuner-study.log in the Trainer's default_root_dir."
    },
    "schedule": {},
}
CALLBACKS: dict[str, type] = {"find": BatchSizeFinder, "tune": BatchSizeTuner, "schedule": BatchSizeScheduler}
RUN: dict[str, Callable[..., object]] = {"find": run_find, "tune": run_tune, "schedule": run_schedule}

_FIND = """Find the largest batch that fits, for an unmodified training script.

The script runs up to its first call of trainer.fit(), validate(), test() or
predict(); in its place the search runs, and nothing is trained. The answer is
printed, written to bstuner-result.json and, where the script is a LightningCLI,
to bstuner-overlay.yaml for use as a second -c.

  bstuner find train.py --data ./corpus
  bstuner find --memory_limit 24GiB main.py fit -c config.yaml
"""

_TUNE = """Find the batch size and learning rate that reach your own quality soonest,
for an unmodified training script.

The script runs up to its call of trainer.fit(); in its place the largest batch
that fits is found, short trainings are run, and nothing else is trained. The
answer is printed, written to bstuner-result.json and, where the script is a
LightningCLI, to bstuner-overlay.yaml for use as a second -c. The study is kept:
name it with --study_name, and the same command goes on with it, on this machine
or, with --storage postgresql://..., on many.

  bstuner tune train.py --data ./corpus
  bstuner tune --monitor val_acc --mode max --n_trials 30 main.py fit -c config.yaml
"""

_SCHEDULE = """Show how the batch would grow instead of the learning rate falling, for an
unmodified training script.

The script runs up to its call of trainer.fit(); in its place the plan is made,
memory is probed for the largest micro-batch (--fits does without), and no step
of training is taken. The plan is printed, written to bstuner-schedule.json and,
with --plot, drawn. A BatchSizeScheduler in the script's own callbacks is asked
for its plan, unless options are given here.

  bstuner schedule train.py --data ./corpus
  bstuner schedule --plot plan.png --max_batch_size 4096 main.py fit -c config.yaml
  bstuner schedule --plan "0:256 30ep:512 60ep:1024" train.py
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 found, 1 failed with a reason, 2 usage, 130 interrupted.

    With several processes, a failure that all of them share is told by that of rank 0; the others exit with 0.

    Args:
        arguments: the command line without the program's name; None for that of the process.

    """
    parser = _parser()
    typed = sys.argv[1:] if arguments is None else arguments
    parsed = parser.parse_args(typed)
    command = parsed.subcommand
    chosen = parsed[command]
    options = typed[: len(typed) - len(chosen.arguments) - 1]  # all that stands in front of the script
    kind = CALLBACKS[command]
    settings = {name: chosen[name] for name in inspect.signature(kind).parameters if name not in LEFT_OUT[command]}
    try:
        kind(**settings)
    except InvalidSetting as error:
        parser.error(str(error))
    try:
        again = [sys.executable, "-m", "bstuner", *options]
        more = {"plot": chosen.plot} if command == "schedule" else {}
        RUN[command](chosen.script, chosen.arguments, chosen.output, settings, again, **more)
    except BstunerError as error:
        if rank() != 0 and not isinstance(error, (PeerLost, ScriptError)):
            return 0  # all processes know, and the one of rank 0 says so: an exit with 1 might get it killed before
        print(f"bstuner: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # so Lightning ends what Ctrl-C has interrupted
            return INTERRUPTED
        raise
    return 0


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and leaves out what the words of an option say better."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return action.help or ""
        words = re.sub(r" \(type: .*?, default: ", " (default: ", super()._get_help_string(action) or "")
        return words.replace("None", "null")  # which is how it is typed


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="bstuner",
        description="Which batch size? Measured, for PyTorch Lightning.",
    )
    commands = parser.add_subcommands(required=True, metavar="COMMAND", help="what to do")
    for name, description, help in (
        ("find", _FIND, "the largest batch that fits"),
        ("tune", _TUNE, "the batch size and learning rate that train fastest"),
        ("schedule", _SCHEDULE, "how the batch would grow instead of the learning rate falling"),
    ):
        command = ArgumentParser(description=description, formatter_class=_Formatter)
        command.add_argument("script", metavar="SCRIPT", help="the training script")
        command.add_argument("arguments", metavar="ARGS", nargs="...", help="the script's own arguments")
        command.add_argument("--output", type=Path, default=Path(), help="folder for the files with the answer")
        skipped = {*LEFT_OUT[name], *AS_TEXT[name]}
        command.add_class_arguments(CALLBACKS[name], as_group=False, skip=skipped)
        for option, words in AS_TEXT[name].items():
            command.add_argument(f"--{option}", type=str | None, default=None, help=words)
        if name == "schedule":
            words = "file for a picture of the plan: .png, .svg or .pdf; needs matplotlib, bstuner[plot]"
            command.add_argument("--plot", type=Path | None, default=None, help=words)
        commands.add_subcommand(name, command, help=help)
    return parser
