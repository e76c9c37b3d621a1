"""What the commands that search in a training script have in common."""

from __future__ import annotations

import functools
import inspect
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console, RenderableType

from bstuner.callbacks import BatchSizeFinder, BatchSizeTuner
from bstuner.cli.apply import go_on
from bstuner.cli.command import Command
from bstuner.cli.result_files import OVERLAY_FILE, ResultFiles, writable
from bstuner.cli.script import METHODS, Call, ScriptRun, rank, run_script
from bstuner.cli.target import split, target_of
from bstuner.errors import BstunerError, InvalidSetting, PeerLost, ScriptError
from bstuner.training._lightning import end_processes
from bstuner.training.run import lightnings_searches, shows_progress

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

__all__ = ["ScriptCommand"]

Found = TypeVar("Found")
if TYPE_CHECKING:
    Tell = Callable[[Found, Trainer, ScriptRun], ResultFiles]

# The options that take no value.
_FLAGS = ("-h", "--help", "--apply")

_NOTHING_TO_FIND = "bstuner: there was nothing to search for: the values are those of the checkpoint, or your own."

_DATA = ("model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")


class ScriptCommand(Command, Generic[Found]):
    """A command that runs a training script up to its Trainer, and searches in the place of the training.

    Attributes:
        callback: the callback whose arguments are the options.
        left_out: those of its arguments that are no options.
        as_text: those that may be an object, of which a command line has the text alone: the words of the help.
        methods: of the Trainer: in the place of which of them the search runs.
        stays: whether it is itself a part of its answer.
        shown_by_callback: whether the callback itself shows the findings where the Trainer's bars are on.
        label_width: as wide as the labels of the findings.

    """

    callback: ClassVar[type[Callback]]
    stays: ClassVar[bool] = False
    left_out: ClassVar[frozenset[str]] = frozenset()
    as_text: ClassVar[dict[str, str]] = {}
    methods: ClassVar[Sequence[str]] = METHODS
    shown_by_callback: ClassVar[bool] = True
    label_width: ClassVar[int]

    @abstractmethod
    def search(self, trainer: Trainer, method: str, data: dict[str, Any], settings: dict[str, Any]) -> Any:
        """Search in the place of a method of the Trainer; the result.

        Args:
            trainer: the script's.
            method: its name.
            data: model and loaders that the script has called it with.
            settings: the callback's arguments.

        """

    def replaces(self, trainer: Trainer) -> tuple[type, ...]:
        """The kinds of callbacks of the script's own that it takes the place of, where the script goes on with it."""
        return BatchSizeFinder, BatchSizeTuner, *lightnings_searches(trainer)

    def searching(self, trainer: Trainer, settings: dict[str, Any]) -> Callback:
        """The callback that searches where the script goes on."""
        return self.callback(**settings)

    def result_of(self, callback: Callback) -> Any:
        """What the callback has found; None for nothing so far."""
        return callback.result  # type: ignore[attr-defined]  # those that search have one

    def before(self, trainer: Trainer) -> Any:
        """What to remember of the Trainer from before the search."""
        return None

    def found(self, result: Any, trainer: Trainer, before: Any) -> Found:
        """The result, with what else the answer depends on."""
        found: Found = result
        return found

    @abstractmethod
    def summary(self, found: Found) -> RenderableType:
        """What was found, for the terminal."""

    @abstractmethod
    def result_files(self, found: Found, run: ScriptRun, options: Namespace, with_overlay: str) -> ResultFiles:
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
        words = "go on with the answer in place: the script trains with it, and runs to its end"
        parser.add_argument("--apply", action="store_true", help=words)
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
        except (KeyboardInterrupt, SystemExit) as ended:
            if rank() != 0 and (interrupt := _interrupt_of(ended)):
                interrupt.args = ("",)  # that of rank 0 says so
            raise

    def _run(self, options: Namespace, typed: Sequence[str]) -> None:
        target = target_of(options.target)
        if rank() == 0:
            if misplaced := target.misplaced([f"--{option}" for option in vars(options)]):
                print(f"bstuner: {misplaced} An option of bstuner {self.name} stands in front.", file=sys.stderr)
            self.prepare(options)

        def tell(found: Found, trainer: Trainer, run: ScriptRun) -> ResultFiles:
            # The script's bars may be off, but who types a command wants to see its answer.
            if trainer.is_global_zero and not (self.shown_by_callback and shows_progress(trainer)):
                Console().print(self.summary(found))
            subcommand = run.cli.subcommand if run.cli else None
            return self.result_files(found, run, options, target.with_config(options.output / OVERLAY_FILE, subcommand))

        action = functools.partial(self._search_and_go_on if options.apply else self._search, options, tell)
        own, _ = split(typed, _FLAGS)
        again = [sys.executable, "-m", "bstuner", self.name, *own]
        # A batch that is put in place for an evaluation is too large for a fit that follows.
        methods = ("fit",) if options.apply else self.methods
        run = run_script(target, action, again, methods, goes_on=options.apply)
        if rank() == 0 and not options.apply:
            found, files = run.result
            self._save(found, files, options)
            for place, step in enumerate(files.steps):
                self._say("" if place else "Next", step)

    def _search(self, options: Namespace, tell: Tell[Found], call: Call, run: ScriptRun) -> tuple[Found, ResultFiles]:
        """Search in the place of the call."""
        data = {name: value for name, value in call.arguments.items() if name in _DATA}
        before = self.before(call.trainer)
        try:
            result = self.search(call.trainer, call.method, data, self.settings(options))
        finally:
            end_processes(call.trainer)
        found = self.found(result, call.trainer, before)
        return found, tell(found, call.trainer, run)

    def _search_and_go_on(self, options: Namespace, tell: Tell[Found], call: Call, run: ScriptRun) -> Any:
        """Do what the script calls for, with a search in front of it; what the call returns."""
        trainer = call.trainer
        callback, before = self.searching(trainer, self.settings(options)), self.before(trainer)
        saved = ""

        def announce() -> dict[str, Any]:
            nonlocal saved
            result = self.result_of(callback)
            if result is None:
                if trainer.is_global_zero:
                    print(_NOTHING_TO_FIND, file=sys.stderr)
                return {}
            found = self.found(result, trainer, before)
            files = tell(found, trainer, run)
            if trainer.is_global_zero:
                saved = self._save(found, files, options)
                self._say("Next", "the script goes on with it")
            return files.overlay

        try:
            return go_on(call, callback, announce, replaces=self.replaces(call.trainer), stays=self.stays)
        except (KeyboardInterrupt, SystemExit) as ended:
            if saved and (interrupt := _interrupt_of(ended)):
                interrupt.args = (f"interrupted behind the search, whose answer is kept: {saved}",)
            raise

    def _save(self, found: Found, files: ResultFiles, options: Namespace) -> str:
        """Write the files, and say which; their names and where they are."""
        names = self.save(files, found, options)
        saved = f"{', '.join(names)} in {options.output}"
        self._say("Saved", saved)
        for name in files.outdated(options.output, names):
            self._say("Old", f"{name} is of an earlier answer")
        if files.see:
            self._say("See", files.see)
        return saved

    def save(self, files: ResultFiles, found: Found, options: Namespace) -> list[str]:
        """Write the files; their names."""
        return files.save(options.output)

    def _say(self, label: str, words: str) -> None:
        print(f"{label:<{self.label_width}}{words}")


def _interrupt_of(ended: KeyboardInterrupt | SystemExit) -> KeyboardInterrupt | None:
    """What has ended a run, if it was Ctrl-C: Lightning makes an exit of it."""
    cause = ended if isinstance(ended, KeyboardInterrupt) else ended.__context__
    return cause if isinstance(cause, KeyboardInterrupt) else None
