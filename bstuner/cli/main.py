"""`bstuner`: the command line."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from bstuner.cli.command import Command
from bstuner.cli.usage import reworded
from bstuner.errors import BstunerError, InvalidSetting

__all__ = ["COMMANDS", "main", "parser_of"]

# Each is the COMMAND of a module of its name, imported when it is asked for: Lightning alone takes seconds.
COMMANDS = {
    "find": "the largest batch that fits",
    "tune": "the batch size and learning rate that train fastest",
    "schedule": "how the batch would grow instead of the learning rate falling",
    "report": "what a study holds, as one page and in short",
    "dashboard": "the studies in a browser, by optuna-dashboard",
}

FAILED, INTERRUPTED = 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 found, 1 failed with a reason, 2 usage, 130 interrupted.

    Args:
        arguments: the command line without the program's name; None for that of the process.

    """
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except BstunerError as error:
        print(f"bstuner: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # so Lightning ends what Ctrl-C has interrupted
            return _interrupted(error.__context__)
        raise
    return 0


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    words = interrupt.args[0] if interrupt.args else "interrupted"
    if words:  # none where a display has said it
        print(f"bstuner: {words}", file=sys.stderr)
    return INTERRUPTED


def _run(typed: list[str]) -> None:
    name = _parser().parse_args(typed[:1]).command
    command: Command = importlib.import_module(f"bstuner.cli.{name}").COMMAND
    parser = parser_of(command)
    options = parser.parse_args(command.arrange(typed[1:]))
    try:
        command.check(options)
    except InvalidSetting as error:
        parser.error(str(error))
    command.run(options, typed[1:])


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    parser = argparse.ArgumentParser(
        prog="bstuner",
        usage="bstuner COMMAND ...",
        description="Which batch size? Measured, for PyTorch Lightning.\n\ncommands:\n"
        + "".join(f"  {name:<{width}}{words}\n" for name, words in COMMANDS.items()),
        epilog="bstuner COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def parser_of(command: Command) -> ArgumentParser:
    """The parser of a command's options."""
    parser = _Parser(
        prog=f"bstuner {command.name}",
        usage=command.usage,
        description=command.description,
        formatter_class=_Formatter,
    )
    command.add_options(parser)
    return parser


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        super().error(reworded(message, options), ex)


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and leaves out what the words of an option say better."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return action.help or ""
        words = re.sub(r" \(type: .*?, default: ", " (default: ", super()._get_help_string(action) or "")
        return words.replace("None", "null")  # which is how it is typed
