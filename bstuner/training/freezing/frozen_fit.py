"""Freeze a running fit and restore it, bit for bit."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bstuner.device import RandomState
from bstuner.training._lightning import forget_loaders
from bstuner.training.freezing.snapshot import Snapshot

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["FrozenFit", "FrozenStart", "wind_back"]


class FrozenFit:
    """Everything a probe may change in a run: weights, optimizers, generators, attributes, the Trainer itself.

    Loops, loggers and callbacks of the Trainer need no copies: a probe replaces them, and restoring the Trainer's
    attributes brings the user's own back.

    Args:
        trainer: a Trainer inside `fit`, `validate`, `test` or `predict`, after the strategy was set up.
        loaders: what the user passed to it, if anything.

    """

    def __init__(self, trainer: Trainer, loaders: Any = None) -> None:
        strategy = trainer.strategy
        module = trainer.lightning_module
        self._random = RandomState()
        self._state = Snapshot(
            [
                trainer,
                trainer.state,
                strategy,
                strategy.precision_plugin,
                module,
                *trainer.optimizers,
                *trainer.lr_scheduler_configs,
                # By name, because a list or dict of very many of them would pass for data.
                *module.parameters(),
                *module.buffers(),
                *(state for optimizer in trainer.optimizers for state in optimizer.state.values()),
            ]
        )
        self._data = Snapshot([trainer.datamodule, loaders], contents=False)

        self._from_hooks: dict[str, Snapshot] = {}

    def add(self, role: str, loaders: Any) -> None:
        """Also put back what hooks return: a dataset that is a global is met in no other way.

        Only the first loaders of a role are kept, for a hook may make a dataset of its own at each call.
        """
        if role not in self._from_hooks:
            self._from_hooks[role] = Snapshot([loaders], contents=False)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor of the run that was alive when it was frozen."""
        return self._state.tensors

    def changed(self) -> list[str]:
        """What the user should know of what is too large to be put back and has changed since."""
        parts = (self._state, self._data, *self._from_hooks.values())
        return [
            f"Your code changes {name} while it is searched with, and that is too large to be put back: training finds "
            "it as the search left it. Where that matters, do not write to it while bstuner.searching() is true."
            for name in dict.fromkeys(name for part in parts for name in part.changed())
        ]

    def restore(self) -> None:
        """Put the run back; may be called any number of times. An error is raised once all else is back."""
        with contextlib.ExitStack() as parts:
            for part in (self._random, *self._from_hooks.values(), self._data, self._state):  # the last one first
                parts.callback(part.restore)


class FrozenStart:
    """The generators and attributes of a run before its optimizers were made.

    Making optimizers runs the user's `configure_optimizers`, which may draw random numbers: a scheduler that asks
    for `estimated_stepping_batches` makes Lightning build the loaders. A search ends by making the optimizers again
    at the new batch size, and only from this earlier state is the result the run that was started by hand.
    """

    def __init__(self, trainer: Trainer, loaders: Any = None) -> None:
        self._random = RandomState()
        # An evaluation makes no optimizers, and has put the module into eval mode by the time it searches.
        module = trainer.lightning_module if trainer.state.fn == "fit" else None
        # Weights and data do not change on the way from here to the search.
        self._state = Snapshot([module, trainer.datamodule, loaders], contents=False, data=False)

    def restore(self) -> None:
        """Put generators and attributes back. An error is raised once all else is back."""
        try:
            self._state.restore()
        finally:
            self._random.restore()


def wind_back(trainer: Trainer, frozen: FrozenFit, start: FrozenStart) -> None:
    """Put a run back as it was before it had optimizers."""
    frozen.restore()
    start.restore()
    forget_loaders(trainer)
