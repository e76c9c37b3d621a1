"""Run a user's training script, unmodified, with something else in the place of its first call of the Trainer."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_utilities.core.rank_zero import rank_zero_only

from bstuner.cli.target import Target
from bstuner.errors import BstunerError, ScriptError
from bstuner.training._lightning import each_lightning, is_served, is_tried_by_tuner, processes_started_with

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningCLI

__all__ = ["METHODS", "Call", "ScriptRun", "rank", "run_script"]

METHODS = ("fit", "validate", "test", "predict")


class Call(NamedTuple):
    """What a script wants of a Trainer.

    Attributes:
        trainer: the script's.
        method: the name of what it calls.
        arguments: what it calls it with, by name.
        proceed: does what the script wants.

    """

    trainer: Trainer
    method: str
    arguments: dict[str, Any]
    proceed: Callable[[], Any]


@dataclass
class ScriptRun:
    """What happened in the script."""

    cli: LightningCLI | None = None
    searched: bool = False
    result: Any = None
    failure: BstunerError | None = None


def rank() -> int:
    """The number of this process among those of the run, from 0, as far as it is known already."""
    return getattr(rank_zero_only, "rank", None) or 0  # Lightning sets it


class _Stop(SystemExit):
    """Ends the script as `sys.exit()` would: its `finally` blocks run, its `except Exception` blocks do not."""


def run_script(
    target: Target,
    action: Callable[[Call, ScriptRun], Any],
    command: Sequence[str],
    methods: Sequence[str] = METHODS,
    *,
    goes_on: bool = False,
) -> ScriptRun:
    """Run a script, and `action` in the place of its first call of one of some methods of a Trainer.

    Args:
        target: the script.
        action: what to do in the place of the call.
        command: what the process of a further rank is started with, in front of what names the script.
        methods: their names; what else the script calls of the Trainer runs as it is.
        goes_on: whether the script goes on afterwards, with the action's result as that of its call; without, it ends
            there.

    Returns:
        The run, with the action's result. The script has ended.

    Raises:
        ScriptError: there is no such script, or it ended without calling a Trainer that can search.

    """
    run = ScriptRun()
    again = [*command, *target.again]
    with _intercepted(run, action, methods, goes_on), target.as_main(), processes_started_with(again):
        try:
            target.run()
        except (Exception, SystemExit) as error:
            # Before the search, and where the script goes on behind it, an error or an exit (that of a wrong argument,
            # say) is the script's own and says why.
            ours = run.failure is not None or (run.searched and not goes_on)
            if not ours and not (isinstance(error, SystemExit) and not error.code):
                raise
    if run.failure is not None and run.result is None:
        raise run.failure
    if not run.searched:
        what = "calling a Trainer" if len(methods) > 1 else "training"
        raise ScriptError(
            f"{target.name} ended without {what}. Expected it to call {_in_words(methods)}. What it starts in another "
            "process is not seen."
        )
    return run


@contextlib.contextmanager
def _intercepted(
    run: ScriptRun, action: Callable[[Call, ScriptRun], Any], methods: Sequence[str], goes_on: bool
) -> Iterator[None]:
    trainers = [package.Trainer for package in each_lightning()]
    originals = {(kind, name): getattr(kind, name) for kind in trainers for name in methods}
    kinds = [module.LightningCLI for module in each_lightning("cli")]
    instantiates = {kind: kind.instantiate_trainer for kind in kinds}

    def instead_of(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def called(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
            if is_tried_by_tuner(trainer):
                return original(trainer, *args, **kwargs)  # it tries out, and does not train
            if run.searched:
                raise _Stop(0)  # a script has caught the first one and goes on: nothing is trained
            arguments = dict(inspect.signature(original).bind(trainer, *args, **kwargs).arguments)
            del arguments["self"]
            run.searched = goes_on
            restore()  # the action itself calls the Trainer
            try:
                if not is_served(trainer):
                    raise ScriptError(_OTHER_ROOT)
                proceed = functools.partial(original, trainer, *args, **kwargs)
                run.result = action(Call(trainer, name, arguments, proceed), run)
            except BstunerError as error:
                run.failure = error
                raise
            finally:
                if not goes_on:
                    intercept()
            run.searched = True
            if not goes_on:
                raise _Stop(0)
            return run.result

        return called

    def capturing(instantiate: Callable[..., Trainer]) -> Callable[..., Trainer]:
        def capture(cli: LightningCLI, **kwargs: Any) -> Trainer:
            run.cli = cli
            return instantiate(cli, **kwargs)

        return capture

    def restore() -> None:
        for (kind, name), original in originals.items():
            setattr(kind, name, original)
        for kind, instantiate in instantiates.items():
            kind.instantiate_trainer = instantiate

    def intercept() -> None:
        for (kind, name), original in originals.items():
            setattr(kind, name, instead_of(name, original))
        for kind, instantiate in instantiates.items():
            kind.instantiate_trainer = capturing(instantiate)

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
