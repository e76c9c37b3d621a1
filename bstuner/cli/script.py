"""Run a user's training script, unmodified, up to its first call of the Trainer."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from pytorch_lightning import Trainer as TrainerOfOtherRoot

from bstuner.cli.target import Target
from bstuner.errors import BstunerError, ScriptError
from bstuner.training._lightning import processes_started_with

__all__ = ["METHODS", "Call", "ScriptRun", "rank", "run_until_trainer"]

METHODS = ("fit", "validate", "test", "predict")


class Call(NamedTuple):
    """What a script wants of a Trainer.

    Attributes:
        trainer: the script's.
        method: the name of what it calls.
        arguments: what it calls it with, by name.

    """

    trainer: Trainer
    method: str
    arguments: dict[str, Any]


@dataclass
class ScriptRun:
    """What happened in the script."""

    cli: LightningCLI | None = None
    result: Any = None
    failure: BstunerError | None = None


def rank() -> int:
    """The number of this process among those of the run, from 0, as far as it is known already."""
    return rank_zero_only.rank or 0  # type: ignore[attr-defined]  # Lightning sets it, where mypy cannot see it


class _Stop(SystemExit):
    """Ends the script as `sys.exit()` would: its `finally` blocks run, its `except Exception` blocks do not."""


def run_until_trainer(
    target: Target, action: Callable[[Call], Any], command: Sequence[str], methods: Sequence[str] = METHODS
) -> ScriptRun:
    """Run a script until it calls one of some methods of a Trainer; run `action` in its place.

    Args:
        target: the script.
        action: what to do in the place of the call.
        command: what the process of a further rank is started with, in front of what names the script.
        methods: their names; what else the script calls of the Trainer runs as it is.

    Returns:
        The run, with the action's result. The script has ended.

    Raises:
        ScriptError: there is no such script, or it ended without calling a Trainer that can search.

    """
    run = ScriptRun()
    with _intercepted(run, action, methods), target.as_main(), processes_started_with([*command, *target.again]):
        try:
            target.run()
        except (Exception, SystemExit) as error:
            # Before the search, an error or a refusal (of a wrong argument, say) is the script's own and says why.
            searched = run.result is not None or run.failure is not None
            if not searched and not (isinstance(error, SystemExit) and not error.code):
                raise
    if run.result is None:
        what = "calling a Trainer" if len(methods) > 1 else "training"
        raise run.failure or ScriptError(
            f"{target.name} ended without {what}. Expected it to call {_in_words(methods)}. What it starts in another "
            "process is not seen."
        )
    return run


@contextlib.contextmanager
def _intercepted(run: ScriptRun, action: Callable[[Call], Any], methods: Sequence[str]) -> Iterator[None]:
    originals = {(kind, name): getattr(kind, name) for kind in (Trainer, TrainerOfOtherRoot) for name in methods}
    instantiate = LightningCLI.instantiate_trainer

    def instead_of(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def called(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if run.result is None:
                arguments = dict(inspect.signature(original).bind(trainer, *args, **kwargs).arguments)
                del arguments["self"]
                restore()  # the action itself calls the Trainer
                try:
                    if not isinstance(trainer, Trainer):
                        raise ScriptError(_OTHER_ROOT)
                    run.result = action(Call(trainer, name, arguments))
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


def _in_words(methods: Sequence[str]) -> str:
    *others, last = (f"trainer.{methods[0]}()", *(f"{name}()" for name in methods[1:]))
    return f"{', '.join(others)} or {last}" if others else last


_OTHER_ROOT = (
    "Expected the script to use the Trainer of lightning.pytorch, found that of pytorch_lightning, which is another "
    "class: write `import lightning.pytorch as pl` instead of `import pytorch_lightning as pl`, everywhere in it."
)
