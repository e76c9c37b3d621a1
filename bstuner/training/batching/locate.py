"""Find where the batch size of a run lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bstuner.errors import BatchSizeNotSettable
from bstuner.training._lightning import hook_of, lightning_hasattr, loaders_come_from_hooks, request_loaders
from bstuner.training.batching.places import AttributeBatching, Batching, HookBatching, LoaderBatching, resizing_hook
from bstuner.training.run import flat_loaders

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["locate_batching", "locate_validation_batching"]

DEFAULT_NAME = "batch_size"  # what a user who names no attribute may have, and need not


def locate_batching(trainer: Trainer, role: str, name: str) -> tuple[Batching, str]:
    """Find the place to change, and a warning about it if there is one; user code runs.

    Args:
        trainer: the Trainer of the run.
        role: "train", "validate", "test" or "predict".
        name: attribute that holds the batch size where loaders come from hooks.

    Raises:
        BatchSizeNotSettable: an attribute was named that is not there, or no attribute, and the loaders are of a kind
            that cannot be changed.

    """
    if not loaders_come_from_hooks(trainer, role):
        return LoaderBatching(trainer, role), ""
    found = lightning_hasattr(trainer.lightning_module, name)
    if not found and name != DEFAULT_NAME:
        raise _no_such_attribute(trainer, role, name)
    if not found or resizing_hook(*hook_of(trainer, role)):
        return HookBatching(trainer, role), ""
    attribute = AttributeBatching(trainer, name)
    try:
        if any(attribute.shares(trainer, role)):
            return attribute, ""
    except BatchSizeNotSettable as error:
        if name != DEFAULT_NAME:
            raise
        hook = HookBatching(trainer, role)
        return hook, f"{attribute.holder} cannot be set ({error.__cause__!r}): changed is {hook.holder}."
    hook = HookBatching(trainer, role)
    return hook, (
        f"{attribute.holder} is not what the loader is built with, and stays as it is: changed is {hook.holder}. "
        "If the loader should follow the attribute, build it with that."
    )


def locate_validation_batching(trainer: Trainer) -> Batching:
    """Find the place where the validation loaders of a fit can be changed, apart from the training loaders.

    Raises:
        BatchSizeNotSettable: loaders of a kind that cannot be changed, or the very loaders that training uses.

    """
    training, validation = (flat_loaders(request_loaders(trainer, role)) for role in ("train", "val"))
    if any(one is other or _share_sampler(one, other) for one in training for other in validation):
        raise BatchSizeNotSettable(
            "Expected validation loaders apart from the training loaders with validation=True, found one loader in "
            "both roles, which can have only one batch size. Build a DataLoader for each, or leave validation=True out."
        )
    return HookBatching(trainer, "val") if loaders_come_from_hooks(trainer, "val") else LoaderBatching(trainer, "val")


def _share_sampler(one: Any, other: Any) -> bool:
    sampler = getattr(one, "batch_sampler", None)
    return sampler is not None and sampler is getattr(other, "batch_sampler", None)


def _no_such_attribute(trainer: Trainer, role: str, name: str) -> BatchSizeNotSettable:
    module, datamodule = trainer.lightning_module, trainer.datamodule
    places = f"{type(module).__name__} or its hparams"
    if datamodule is not None:
        places += f", {type(datamodule).__name__} or its hparams"
    return BatchSizeNotSettable(
        f"Expected an attribute {name!r} on {places}, which {hook_of(trainer, role)[1]}() reads; found none. "
        f"Set self.{name} in __init__ and build the loader with batch_size=self.{name}, or leave batch_arg_name out: "
        "then the batch size of the loader itself is changed."
    )
