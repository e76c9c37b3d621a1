"""What of a run is there in a probe or a trial, and does nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bstuner.training._lightning import LightningCallback, loggers_set_aside
from bstuner.training.run.callbacks import OwnCallback, takes_part

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["bystanders_inert", "noting"]

_HOOKS = [name for name in dir(LightningCallback) if name.startswith("on_") or name in ("setup", "teardown")]


@contextlib.contextmanager
def bystanders_inert(trainer: Trainer) -> Iterator[None]:
    """Have what only watches, saves or stops do nothing inside the block, but be there for user code that looks at it.

    Callbacks are the user's own, with hooks that do nothing; loggers are stand-ins; checkpoints are not written. The
    caller restores the attributes of the Trainer and of its callbacks.

    Args:
        trainer: a Trainer inside a run that is frozen.

    """
    trainer.callbacks = [callback for callback in trainer.callbacks if not _is_ours(callback)]
    for callback in trainer.callbacks:
        if not takes_part(callback):
            for hook in _HOOKS:
                object.__setattr__(callback, hook, _nothing)
    for saves in (trainer, trainer.strategy):
        vars(saves)["save_checkpoint"] = _nothing
    with loggers_set_aside(trainer):
        yield


def _is_ours(callback: Any) -> bool:
    return isinstance(callback, OwnCallback) and not takes_part(callback)


def _nothing(*_: Any, **__: Any) -> None:
    pass


@contextlib.contextmanager
def noting(words: str) -> Iterator[None]:
    """Have an error that user code raises inside the block say where in the search it did.

    Args:
        words: what was run, as in "a probe of batch size 8".

    """
    try:
        yield
    except Exception as error:
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"This happened in a search, while bstuner ran {words}, before training.")
        raise
