"""Run a user's training script, unmodified, up to its first call of the Trainer."""

from __future__ import annotations

import contextlib
import functools
import inspect
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from pytorch_lightning import Trainer as TrainerOfOtherRoot

from bstuner.errors import BstunerError, ScriptError
from bstuner.training._lightning import processes_started_with

__all__ = ["ScriptRun", "rank", "run_until_trainer"]

METHODS = ("fit", "validate", "test", "predict")


@dataclass
class ScriptRun:
    """What happened in the script."""

    cli: LightningCLI | None = None
    method: str | None = None
    result: Any = None
    failure: BstunerError | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def rank() -> int:
    """The number of this process among those of the run, from 0, as far as it is known already."""
    return rank_zero_only.rank or 0  # type: ignore[attr-defined]  # Lightning sets it, where mypy cannot see it


class _Stop(SystemExit):
    """Ends the script as `sys.exit()` would: its `finally` blocks run, its `except Exception` blocks do not."""


def run_until_trainer(
    script: str,
    arguments: list[str],
    action: Callable[[Trainer, str, dict[str, Any]], Any],
    command: Sequence[str],
    methods: Sequence[str] = METHODS,
) -> ScriptRun:
    """Run a script until it calls one of some methods of a Trainer; run `action` in its place.

    Args:
        script: path of the script.
        arguments: the script's own arguments.
        action: called with the Trainer, the method's name and the arguments it was called with.
        command: what the process of a further rank is started with, in front of the script and its arguments.
        methods: their names; what else the script calls of the Trainer runs as it is.

    Returns:
        The run, with the action's result. The script has ended.

    Raises:
        ScriptError: there is no such script, or it ended without calling a Trainer that can search.

    """
    path = Path(script).absolute()  # the script may change directories
    if not path.is_file():
        raise ScriptError(f"Expected a Python script, found no file at {script!r}.")
    run = ScriptRun()
    with _intercepted(run, action, methods), _as_main(path, arguments), processes_started_with([*command, str(path)]):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except (Exception, SystemExit) as error:
            # Before the search, an error or a refusal (of a wrong argument, say) is the script's own and says why.
            searched = run.result is not None or run.failure is not None
            if not searched and not (isinstance(error, SystemExit) and not error.code):
                raise
    if run.result is None:
        what = "calling a Trainer" if len(methods) > 1 else "training"
        raise run.failure or ScriptError(f"{script} ended without {what}. Expected it to call {_in_words(methods)}.")
    return run


@contextlib.contextmanager
def _intercepted(
    run: ScriptRun, action: Callable[[Trainer, str, dict[str, Any]], Any], methods: Sequence[str]
) -> Iterator[None]:
    originals = {(kind, name): getattr(kind, name) for kind in (Trainer, TrainerOfOtherRoot) for name in methods}
    instantiate = LightningCLI.instantiate_trainer

    def instead_of(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def called(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if run.result is None:
                bound = inspect.signature(original).bind(trainer, *args, **kwargs).arguments
                del bound["self"]
                run.method, run.arguments = name, dict(bound)
                restore()  # the action itself calls the Trainer
                try:
                    if not isinstance(trainer, Trainer):
                        raise ScriptError(_OTHER_ROOT)
                    run.result = action(trainer, name, run.arguments)
                except BstunerError as error:
                    run.failure = error
                    raise
                finally:
                    intercept()
            # Also when a script has caught the first one and goes on: nothing is trained.
            raise _Stop(0)

        return called

    def capture(cli: LightningCLI, **kwargs: Any) -> Trainer:
        run.cli = cli
        return instantiate(cli, **kwargs)

    def restore() -> None:
        for (kind, name), original in originals.items():
            setattr(kind, name, original)
        LightningCLI.instantiate_trainer = instantiate  # type: ignore[method-assign]

    def intercept() -> None:
        for (kind, name), original in originals.items():
            setattr(kind, name, instead_of(name, original))
        LightningCLI.instantiate_trainer = capture  # type: ignore[method-assign,assignment]

    intercept()
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def _as_main(path: Path, arguments: list[str]) -> Iterator[None]:
    """The interpreter as `python script.py ...` would find it."""
    argv, search_path = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, search_path


def _in_words(methods: Sequence[str]) -> str:
    *others, last = (f"trainer.{methods[0]}()", *(f"{name}()" for name in methods[1:]))
    return f"{', '.join(others)} or {last}" if others else last


_OTHER_ROOT = (
    "Expected the script to use the Trainer of lightning.pytorch, found that of pytorch_lightning, which is another "
    "class: write `import lightning.pytorch as pl` instead of `import pytorch_lightning as pl`, everywhere in it."
)
