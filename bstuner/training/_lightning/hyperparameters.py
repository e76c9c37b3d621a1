"""Hyperparameters that a search has changed, recorded as if the run had begun with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bstuner.training._lightning.roots import lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["hyperparameters_recorded"]

_MISSING = object()


@contextlib.contextmanager
def hyperparameters_recorded(trainer: Trainer) -> Iterator[None]:
    """Have what the block writes into `hparams` be what the run began with, and tell loggers that heard otherwise."""
    owners = [owner for owner in (trainer.lightning_module, trainer.datamodule) if _held(owner, "_hparams")]
    before = [dict(_held(owner, "_hparams")) for owner in owners]
    yield
    changed = False
    for owner, old in zip(owners, before, strict=True):
        # _hparams_initial: a copy made by save_hyperparameters(), and what loggers are told; nothing public changes it.
        initial = _held(owner, "_hparams_initial")
        for name, value in _held(owner, "_hparams").items():
            if name in initial and value is not old.get(name, _MISSING):
                initial[name], changed = value, True
    if changed and trainer.state.status == "running":  # after a search alone there is no run to log
        lightning_of(trainer, "loggers.utilities")._log_hyperparams(trainer)


def _held(owner: Any, name: str) -> Any:
    return getattr(owner, name, None) or {}
