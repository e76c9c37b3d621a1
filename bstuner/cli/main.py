"""`bstuner`: the command line."""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from bstuner.callbacks.finder import BatchSizeFinder
from bstuner.cli.find import run_find
from bstuner.cli.script import rank
from bstuner.errors import BstunerError, InvalidSetting, PeerLost, ScriptError

__all__ = ["main"]

FAILED, INTERRUPTED = 1, 130

IN_A_FIT: set[str | int] = {"milestones"}  # arguments that mean nothing where nothing is trained

_FIND = """Find the largest batch that fits, for an unmodified training script.

The script runs up to its first call of trainer.fit(), validate(), test() or predict(); in its place the search runs,
and nothing is trained. The answer is printed, written to bstuner-result.json and, where the script is a LightningCLI,
to bstuner-overlay.yaml for use as a second -c.

  bstuner find train.py --data ./corpus
  bstuner find --memory_limit 24GiB main.py fit -c config.yaml
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 found, 1 failed with a reason, 2 usage, 130 interrupted.

    With several processes, a failure that all of them share is told by that of rank 0; the others exit with 0.

    Args:
        arguments: the command line without the program's name; None for that of the process.

    """
    parser = _parser()
    typed = sys.argv[1:] if arguments is None else arguments
    chosen = parser.parse_args(typed).find
    options = typed[: len(typed) - len(chosen.arguments) - 1]  # all that stands in front of the script
    settings = {name: chosen[name] for name in inspect.signature(BatchSizeFinder).parameters if name not in IN_A_FIT}
    try:
        BatchSizeFinder(**settings)
    except InvalidSetting as error:
        parser.error(str(error))
    try:
        command = [sys.executable, "-m", "bstuner", *options]
        run_find(chosen.script, chosen.arguments, chosen.output, settings, command)
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
    """Keeps the lines of the description."""


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="bstuner",
        description="Which batch size? Measured, for PyTorch Lightning.",
    )
    commands = parser.add_subcommands(required=True, metavar="COMMAND", help="what to do")
    find = ArgumentParser(description=_FIND, formatter_class=_Formatter)
    find.add_argument("script", metavar="SCRIPT", help="the training script")
    find.add_argument("arguments", metavar="ARGS", nargs="...", help="the script's own arguments")
    find.add_argument("--output", type=Path, default=Path(), help="folder for the files with the answer")
    find.add_class_arguments(BatchSizeFinder, as_group=False, skip=IN_A_FIT)
    commands.add_subcommand("find", find, help="the largest batch that fits")
    return parser
