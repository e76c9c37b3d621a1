"""What the commands that search in a training script have in common."""

from __future__ import annotations

import inspect
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from rich.console import Console, RenderableType

from bstuner.cli.answer import OVERLAY_FILE, Answer, writable
from bstuner.cli.command import Command
from bstuner.cli.script import METHODS, Call, ScriptRun, rank, run_until_trainer
from bstuner.cli.target import Target, split, target_of
from bstuner.errors import BstunerError, InvalidSetting, PeerLost, ScriptError
from bstuner.report.live import shows_progress
from bstuner.training._lightning import end_processes

__all__ = ["ScriptCommand"]

Found = TypeVar("Found")

# The options that take no value.
_FLAGS = ("-h", "--help")

_DATA = ("model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")


class ScriptCommand(Command, Generic[Found]):
    """A command that runs a training script up to its Trainer, and searches in the place of the training.

    Attributes:
        callback: the callback whose arguments are the options.
        left_out: those of its arguments that are no options.
        as_text: those that may be an object, of which a command line has the text alone: the words of the help.
        methods: of the Trainer: in the place of which of them the search runs.
        shown_by_callback: whether the callback itself shows the findings where the Trainer's bars are on.
        label_width: as wide as the labels of the findings.

    """

    callback: ClassVar[type]
    left_out: ClassVar[frozenset[str]] = frozenset()
    as_text: ClassVar[dict[str, str]] = {}
    methods: ClassVar[Sequence[str]] = METHODS
    shown_by_callback: ClassVar[bool] = True
    label_width: ClassVar[int]

    @abstractmethod
    def search(self, trainer: Trainer, method: str, data: dict[str, Any], settings: dict[str, Any]) -> Found:
        """Search in the place of a method of the Trainer.

        Args:
            trainer: the script's.
            method: its name.
            data: model and loaders that the script has called it with.
            settings: the callback's arguments.

        """

    @abstractmethod
    def summary(self, found: Found) -> RenderableType:
        """What was found, for the terminal."""

    @abstractmethod
    def answer(self, found: Found, run: ScriptRun, options: Namespace, with_overlay: str) -> Answer:
        """What was found, ready to use.

        Args:
            found: by the search.
            run: the script that was searched in.
            options: of the command.
            with_overlay: the command line that trains with the overlay.

        """

    @property
    def usage(self) -> str:
        """The three ways to name what is to be searched in."""
        start = f"bstuner {self.name} [options]"
        return f"{start} SCRIPT [ARGS...]\n       {start} -m MODULE [ARGS...]\n       {start} -c CONFIG [ARGS...]"

    def add_options(self, parser: ArgumentParser) -> None:
        """What to search in, and the callback's arguments."""
        parser.add_argument(
            "target",
            metavar="SCRIPT",
            nargs="...",
            help="the training script, or -m and a module, as for python; or, without any, -c and a LightningCLI "
            "configuration that names its classes by class_path. All that follows belongs to it: options of bstuner "
            "stand in front.",
        )
        parser.add_argument("--output", type=Path, default=Path(), help="folder for the files with the answer")
        skipped: set[str | int] = {*self.left_out, *self.as_text}
        parser.add_class_arguments(self.callback, as_group=False, skip=skipped)
        for option, words in self.as_text.items():
            parser.add_argument(f"--{option}", type=str | None, default=None, help=words)

    def arrange(self, typed: Sequence[str]) -> list[str]:
        """With a mark where its own options end: what follows may look like one of them."""
        own, target = split(typed, _FLAGS)
        return [*own, "--", *target]

    def settings(self, options: Namespace) -> dict[str, Any]:
        """The callback's arguments."""
        return {
            name: options[name] for name in inspect.signature(self.callback).parameters if name not in self.left_out
        }

    def check(self, options: Namespace) -> None:
        """See that there is something to search in, and have the callback look at its arguments."""
        options.target = [word for place, word in enumerate(options.target) if place or word != "--"]
        if not options.target or options.target == ["-m"]:
            raise InvalidSetting("Expected a SCRIPT, -m MODULE or -c CONFIG, found none.")
        self.callback(**self.settings(options))

    def prepare(self, options: Namespace) -> None:
        """Find out, in the process of rank 0, whether the answer can be written; the script may change directories."""
        options.output = writable(options.output)

    def run(self, options: Namespace, typed: Sequence[str]) -> None:
        """Search and, in the process of rank 0, write the answer; prints where."""
        try:
            self._run(options, typed)
        except BstunerError as error:
            # All processes know, and that of rank 0 says so: an exit with 1 might get it killed before.
            if rank() == 0 or isinstance(error, (PeerLost, ScriptError)):
                raise

    def _run(self, options: Namespace, typed: Sequence[str]) -> None:
        settings = self.settings(options)

        def search(call: Call) -> Found:
            data = {name: value for name, value in call.arguments.items() if name in _DATA}
            try:
                found = self.search(call.trainer, call.method, data, settings)
            finally:
                end_processes(call.trainer)
            # The script's bars may be off, but who types a command wants to see its answer.
            if call.trainer.is_global_zero and not (self.shown_by_callback and shows_progress(call.trainer)):
                Console().print(self.summary(found))
            return found

        target = target_of(options.target)
        if rank() == 0:
            self._tell_misplaced(target, options)
            self.prepare(options)
        own, _ = split(typed, _FLAGS)
        again = [sys.executable, "-m", "bstuner", self.name, *own]
        run = run_until_trainer(target, search, again, self.methods)
        if rank() != 0:
            return
        with_overlay = target.with_config(options.output / OVERLAY_FILE, run.cli.subcommand if run.cli else None)
        answer = self.answer(run.result, run, options, with_overlay)
        self._say("Saved", f"{', '.join(self.save(answer, run.result, options))} in {options.output}")
        for place, step in enumerate(answer.steps):
            self._say("" if place else "Next", step)

    def _tell_misplaced(self, target: Target, options: Namespace) -> None:
        """Say which options go to the script, as it may pass over what it does not know."""
        typed = {word.partition("=")[0] for word in target.arguments}
        misplaced = [name for name in (f"--{option}" for option in vars(options)) if name in typed]
        if misplaced:
            print(
                f"bstuner: {', '.join(misplaced)} is given to {target.name}, where it stands behind it. An option of "
                f"bstuner {self.name} stands in front.",
                file=sys.stderr,
            )

    def save(self, answer: Answer, found: Found, options: Namespace) -> list[str]:
        """Write the files; their names."""
        return answer.save(options.output)

    def _say(self, label: str, words: str) -> None:
        print(f"{label:<{self.label_width}}{words}")
