"""What a command searches in, and how Python would have started it: a script, a module, or configurations alone."""

from __future__ import annotations

import importlib.util
import runpy
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from bstuner.errors import ScriptError
from bstuner.training._lightning import each_lightning

__all__ = ["Target", "split", "target_of"]

WRONG_USAGE = 2
SUBCOMMANDS = ("fit", "validate", "test", "predict")
_CONFIG = ("-c", "--config")


def split(words: Sequence[str], flags: Collection[str]) -> tuple[list[str], list[str]]:
    """Part what was typed into the command's own options and what it is to search in, which begins with no option.

    >>> split(["--max_val", "64", "train.py", "--lr", "1"], flags=())
    (['--max_val', '64'], ['train.py', '--lr', '1'])

    Args:
        words: behind the command's name.
        flags: the options that take no value.

    """
    place = 0
    while place < len(words):
        word = words[place]
        if word not in flags and (not word.startswith("--") or word == "--" or word.partition("=")[0] in _CONFIG):
            break
        place += 1 if "=" in word or word in flags else 2
    return list(words[:place]), list(words[place:])


class Target(ABC):
    """Something that calls a Trainer in the end.

    Attributes:
        name: for the user.
        again: the words that name it from another folder.
        arguments: its own.

    """

    name: str
    again: list[str]
    arguments: list[str]

    @property
    @abstractmethod
    def by_hand(self) -> list[str]:
        """The command line that starts it without bstuner."""

    def with_config(self, path: Path, subcommand: str | None) -> str:
        """The command line that starts it, where it is a LightningCLI, with one more configuration.

        Args:
            path: of the configuration, which is one of the subcommand.
            subcommand: that of the LightningCLI, if it has any; a file may have named it.

        """
        named = subcommand is None or subcommand in self.arguments
        return shlex.join([*self.by_hand, *([] if named else [str(subcommand)]), "-c", str(path)])

    def misplaced(self, options: Collection[str]) -> str:
        """Say which of bstuner's options stand among the arguments: a script may pass over what it does not know."""
        names = [name for name in dict.fromkeys(word.partition("=")[0] for word in self.arguments) if name in options]
        return f"{', '.join(names)} is given to {self.name}, where it stands behind it." if names else ""

    @contextmanager
    def as_main(self) -> Iterator[None]:
        """The interpreter as Python would have it."""
        argv, search_path = sys.argv, list(sys.path)
        sys.argv = [self._program, *self.arguments]
        sys.path.insert(0, str(self._folder))
        try:
            yield
        finally:
            sys.argv, sys.path[:] = argv, search_path

    @abstractmethod
    def run(self) -> None:
        """Run it to its end, within `as_main`."""

    _program: str
    _folder: Path


class _Script(Target):
    def __init__(self, words: list[str]) -> None:
        self.name, *self.arguments = words
        self._path = Path(self.name).absolute()  # the script may change directories
        if not self._path.is_file():
            raise ScriptError(f"Expected a Python script, found no file at {self.name!r}.")
        if self._path.suffix in (".yaml", ".yml", ".json"):
            raise ScriptError(f"Expected a Python script, found {self.name}. A configuration is named by -c.")
        self.again = [str(self._path)]
        self._program, self._folder = str(self._path), self._path.parent.resolve()

    @property
    def by_hand(self) -> list[str]:
        return ["python", self.name, *self.arguments]

    def run(self) -> None:
        runpy.run_path(str(self._path), run_name="__main__")


class _Module(Target):
    def __init__(self, words: list[str]) -> None:
        self.name, *self.arguments = words
        self.again = ["-m", self.name]
        self._program, self._folder = "-m", Path().resolve()

    @property
    def by_hand(self) -> list[str]:
        return ["python", "-m", self.name, *self.arguments]

    def run(self) -> None:
        try:
            found = importlib.util.find_spec(self.name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.name}.".startswith(f"{error.name}."):
                raise  # by a package of the user's, as it was imported
            found = None
        if found is None:
            raise ScriptError(
                f"Expected a module as for `python -m`, found none named {self.name!r} from {self._folder} on. "
                "A script is named without -m."
            )
        runpy.run_module(self.name, run_name="__main__", alter_sys=True)


class _Configs(Target):
    """A LightningCLI of bstuner's own, for configurations that name all of their classes."""

    name = "The configuration"

    def __init__(self, words: list[str]) -> None:
        self.again = []
        self.arguments = words if any(word in SUBCOMMANDS for word in words) else _with_subcommand(words)
        self._program, self._folder = "bstuner", Path().resolve()

    @property
    def by_hand(self) -> list[str]:
        return ["python", "-c", "from lightning.pytorch.cli import LightningCLI; LightningCLI()", *self.arguments]

    def run(self) -> None:
        parsers: dict[str, Any] = {"exit_on_error": False, **{name: {"exit_on_error": False} for name in SUBCOMMANDS}}
        try:
            each_lightning("cli")[0].LightningCLI(parser_kwargs=parsers)
        except ArgumentError as error:
            print(f"bstuner: {error}\n{_ALL_CLASSES}", file=sys.stderr)
            raise SystemExit(WRONG_USAGE) from error


_ALL_CLASSES = """
Without a script, a configuration has to name its classes, and they are imported from this folder on:
  model:
    class_path: package.module.Model
Where a script builds the LightningCLI, name the script too: main.py fit -c config.yaml"""


def _with_subcommand(words: list[str]) -> list[str]:
    """Put the subcommand where a LightningCLI expects it: behind files that hold it as a key, before those without."""
    place = end = 0
    while place < len(words) and words[place].partition("=")[0] in _CONFIG:
        _, equals, path = words[place].partition("=")
        place += 1 if equals else 2
        if "fit" in _keys(path if equals else "".join(words[place - 1 : place])):
            end = place
    return [*words[:end], "fit", *words[end:]]


def _keys(path: str) -> Collection[str]:
    """The keys of a YAML file, none if it is not one: it will be read again by what can say why."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return content if isinstance(content, dict) else ()


def target_of(words: list[str]) -> Target:
    """What is to be searched in.

    Args:
        words: a script, `-m` and a module, `-c` and a configuration, or a LightningCLI's subcommand; and arguments.

    Raises:
        ScriptError: there is no such script.

    """
    first = words[0]
    if first == "-m":
        return _Module(words[1:])
    if first.partition("=")[0] in _CONFIG or (first in SUBCOMMANDS and not Path(first).exists()):
        return _Configs(words)
    return _Script(words)
