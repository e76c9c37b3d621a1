"""What a Trainer tells of the length of a fit whose batches are planned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["NominalTrainer"]

# What a planned fit changes of the Trainer, and the user's code may ask for.
_SETTINGS = ("accumulate_grad_batches", "limit_train_batches")


class NominalTrainer:
    """Has a Trainer tell the planned number of steps; and what the user's code has set, where that is asked for.

    A scheduler counts the user's own steps. Its functions, where they ask the Trainer for its length only when they are
    called, are to hear of these steps too.

    Args:
        trainer: a Trainer in `on_fit_start`, with the user's settings.
        planned: tells the planned number of steps; None for a fit without end.
        users: the user's own number of steps; None for a fit without end.
        batches: the user's own batches in an epoch, on each process; None to leave that to Lightning.

    """

    def __init__(
        self, trainer: Trainer, planned: Callable[[], int | None], users: int | None, batches: int | None
    ) -> None:
        self._trainer = trainer
        self._settings = {name: getattr(trainer, name) for name in _SETTINGS}
        self._users: dict[str, Any] = {
            "estimated_stepping_batches": math.inf if users is None else users,
            "max_steps": trainer.max_steps,
            "min_steps": trainer.min_steps,
        }
        if batches is not None:
            self._users["num_training_batches"] = batches
        self._planned = planned
        self._as_users = False

    def install(self) -> Callable[[], None]:
        """Put them in place; what is returned takes that back."""
        trainer, own = self._trainer, type(self._trainer)
        # A property can only be hidden by a class.
        trainer.__class__ = type(own.__name__, (own,), {name: self._property(own, name) for name in self._users})

        def take_back() -> None:
            trainer.__class__ = own

        return take_back

    @contextmanager
    def users(self) -> Iterator[None]:
        """Within it, the Trainer tells what the user's code has set."""
        trainer, now = self._trainer, {name: getattr(self._trainer, name) for name in _SETTINGS}
        try:
            self._as_users = True
            vars(trainer).update(self._settings)
            yield
        finally:
            self._as_users = False
            vars(trainer).update(now)

    def _property(self, own: type[Trainer], name: str) -> property:
        def answer(trainer: Trainer) -> Any:
            if self._as_users:
                return self._users[name]
            if name == "estimated_stepping_batches":
                # Computed from the batches of one epoch, it would be wrong where epochs differ.
                planned = self._planned()
                return math.inf if planned is None else planned
            return getattr(own, name).fget(trainer)

        return property(answer)
