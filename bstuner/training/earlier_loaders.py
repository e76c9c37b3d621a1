"""Loaders that a fit has made before its batches are planned, where the user's code asks for the number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer

from bstuner.training._lightning import has_loaders, substitute_train_loaders
from bstuner.training.random_state import RandomState

__all__ = ["EarlierLoaders"]


class EarlierLoaders:
    """Notes with which random numbers training loaders are made, so that others in their place can be made with them.

    Otherwise a fit would draw twice, and go through the samples in another order than it does without a plan.

    Args:
        trainer: a Trainer in `setup`.

    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._drawn: RandomState | None = None
        self._take_back = substitute_train_loaders(trainer, self._note)

    def end(self) -> RandomState | None:
        """Note no more; the random generators before the loaders were made that the fit has, None if it has none."""
        self._take_back()
        return self._drawn if has_loaders(self._trainer) else None

    def _note(self, users: Callable[[], Any]) -> Any:
        self._drawn = RandomState()
        return users()
