"""Where the batch size of a run lives, and how to change it there."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader

# Undocumented but without an underscore: it writes every holder at once, as Lightning's own finder does.
from lightning.pytorch.utilities.parsing import lightning_getattr, lightning_hasattr, lightning_setattr

from bstuner.device.loaders import batch_size_of, set_batch_size
from bstuner.errors import BatchSizeNotSettable
from bstuner.training._lightning import loaders_come_from_hooks, request_loaders

__all__ = ["AttributeBatching", "Batching", "LoaderBatching", "flat_loaders", "locate_batching"]


class AttributeBatching:
    """The batch size is an attribute that the `*_dataloader()` hooks read.

    Args:
        trainer: the Trainer of the run.
        name: the attribute, looked for on the module, the datamodule and their hparams; all holders are written.

    """

    passed_loaders = None

    def __init__(self, trainer: Trainer, name: str) -> None:
        self._module = trainer.lightning_module
        self._name = name
        value = lightning_getattr(self._module, name)
        self.reference: int | None = value if isinstance(value, int) else None
        data = trainer.datamodule
        owner = data if data is not None and (hasattr(data, name) or name in data.hparams) else self._module
        self.holder = f"{type(owner).__name__}.{name}"

    def apply(self, size: int) -> None:
        """Write the attribute.

        Raises:
            BatchSizeNotSettable: it cannot be written.

        """
        try:
            lightning_setattr(self._module, self._name, size)
        except AttributeError as error:
            raise BatchSizeNotSettable(
                f"Expected {self.holder} to be an attribute that can be set, found one that refuses: {error}. "
                f"Hold the batch size in a plain attribute, or name another one with batch_arg_name=..."
            ) from error

    def check_follows(self, asked: int, before: int, now: int) -> None:
        """Refuse an attribute that the hook does not read."""
        if asked not in (now, self.reference) and now == before:
            raise BatchSizeNotSettable(
                f"With {self._name}={asked} set, the hook still returned a DataLoader of batch size {now}. "
                f"Expected the hook to build its DataLoader with batch_size=self.{self._name}."
            )


class LoaderBatching:
    """The batch size is that of the DataLoaders passed to the Trainer, changed in place.

    Args:
        loaders: the DataLoaders whose size is searched for.

    """

    def __init__(self, loaders: list[Any]) -> None:
        self.passed_loaders = loaders
        self.reference: int | None = batch_size_of(loaders[0])
        self.holder = "the batch_size of the DataLoader that is passed to the Trainer"

    def apply(self, size: int) -> None:
        """Change the loaders."""
        for loader in self.passed_loaders:
            set_batch_size(loader, size)

    def check_follows(self, asked: int, before: int, now: int) -> None:
        """A loader that was changed in place follows by construction."""


Batching = AttributeBatching | LoaderBatching


def locate_batching(trainer: Trainer, role: str, name: str) -> Batching:
    """Find the place to change, or say what to expose.

    Args:
        trainer: the Trainer of the run.
        role: "train", "validate", "test" or "predict".
        name: attribute that holds the batch size where loaders come from hooks.

    Raises:
        BatchSizeNotSettable: no such attribute, or loaders of a kind that is not supported.

    """
    module, datamodule = trainer.lightning_module, trainer.datamodule
    if not loaders_come_from_hooks(trainer, role):
        loaders = flat_loaders(request_loaders(trainer, role))
        if role == "train":
            require_one(loaders)
        return LoaderBatching(loaders)
    if lightning_hasattr(module, name):
        return AttributeBatching(trainer, name)
    places = f"{type(module).__name__} or its hparams"
    if datamodule is not None:
        places += f", {type(datamodule).__name__} or its hparams"
    hook = "train_dataloader" if role == "train" else f"{'val' if role == 'validate' else role}_dataloader"
    raise BatchSizeNotSettable(
        f"Expected an attribute {name!r} on {places}, which {hook}() reads; found none. "
        f"Set self.{name} in __init__ and build the loader with batch_size=self.{name}, "
        f"name another attribute with batch_arg_name=..., or pass the DataLoader to the Trainer."
    )


def require_one(loaders: list[Any]) -> Any:
    """The only training loader, or an error that says how many there are."""
    if len(loaders) != 1:
        raise BatchSizeNotSettable(
            f"Expected one training DataLoader, found {len(loaders)}. "
            "Searching over several training loaders at once is not supported yet: train with one."
        )
    return loaders[0]


def flat_loaders(loaders: Any) -> list[Any]:
    """The single loaders in what a user passed or returned: a loader, a collection, a CombinedLoader."""
    if isinstance(loaders, CombinedLoader):
        return list(loaders.flattened)
    return list(CombinedLoader(loaders, "sequential").flattened)
