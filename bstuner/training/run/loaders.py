"""The loaders that the user passed to the Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bstuner.training._lightning import loaders_come_from_hooks, request_loaders

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["passed_loaders"]


def passed_loaders(trainer: Trainer, stage: str) -> list[Any]:
    """The loaders that the user passed to the Trainer."""
    roles = ("train", "val") if stage == "fit" else (stage,)
    return [request_loaders(trainer, role) for role in roles if not loaders_come_from_hooks(trainer, role)]
