"""The run as it was before it had optimizers, kept from a callback's `setup` until its search is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bstuner.training._lightning import before_optimizers_exist
from bstuner.training.freezing import FrozenStart
from bstuner.training.run import passed_loaders, refuse_unsupported

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

__all__ = ["SearchStart"]


class SearchStart:
    """Keeps that state: only from there are optimizers made again as in a run that is started by hand."""

    def __init__(self) -> None:
        self._start: FrozenStart | None = None
        self._cancel: Callable[[], None] = _nothing

    def watch(self, trainer: Trainer, stage: str, callback: Callback) -> None:
        """From `setup`: give a callback the first place, and remember the run as soon as its model is on its device."""
        refuse_unsupported(trainer)
        # First, so that the other callbacks' on_fit_start comes after the search, as without one.
        trainer.callbacks = [callback, *(other for other in trainer.callbacks if other is not callback)]

        def remember() -> None:
            self._start = FrozenStart(trainer, passed_loaders(trainer, stage))

        self._cancel = before_optimizers_exist(trainer, remember)

    def take(self) -> FrozenStart | None:
        """Hand the state over, once; None where the run has gone on since."""
        start, self._start = self._start, None
        return start

    def forget(self) -> None:
        """Leave nothing behind in the Trainer."""
        self._cancel()
        self._cancel, self._start = _nothing, None


def _nothing() -> None:
    """No arrangement to take back yet."""
