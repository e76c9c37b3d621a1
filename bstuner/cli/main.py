"""`bstuner`: the command line."""

from __future__ import annotations

import argparse
import re
import sys

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from bstuner.cli.command import Command
from bstuner.cli.find import Find
from bstuner.cli.schedule import Schedule
from bstuner.cli.script import rank
from bstuner.cli.tune import Tune
from bstuner.errors import BstunerError, InvalidSetting, PeerLost, ScriptError

__all__ = ["COMMANDS", "main"]

COMMANDS: tuple[Command, ...] = (
    Find(),
    Tune(),
    Schedule(),
)

FAILED, INTERRUPTED = 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 found, 1 failed with a reason, 2 usage, 130 interrupted.

    With several processes, a failure that all of them share is told by that of rank 0; the others exit with 0.

    Args:
        arguments: the command line without the program's name; None for that of the process.

    """
    parser = _parser()
    typed = sys.argv[1:] if arguments is None else arguments
    parsed = parser.parse_args(typed)
    command = next(each for each in COMMANDS if each.name == parsed.subcommand)
    options = parsed[command.name]
    try:
        command.check(options)
    except InvalidSetting as error:
        parser.error(str(error))
    try:
        command.run(options, typed)
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
    parser = ArgumentParser(prog="bstuner", description="Which batch size? Measured, for PyTorch Lightning.")
    commands = parser.add_subcommands(required=True, metavar="COMMAND", help="what to do")
    for command in COMMANDS:
        its_own = ArgumentParser(description=command.description, formatter_class=_Formatter)
        command.add_options(its_own)
        commands.add_subcommand(command.name, its_own, help=command.help)
    return parser
