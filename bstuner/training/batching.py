"""Where the batch size of a run lives, and how to change it there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader

# Undocumented but without an underscore: it writes every holder at once, as Lightning's own finder does.
from lightning.pytorch.utilities.parsing import lightning_getattr, lightning_hasattr, lightning_setattr

from bstuner.device.loaders import batch_size_of, cuts_batches, set_batch_size
from bstuner.errors import BatchSizeNotSettable
from bstuner.training._lightning import hook_of, loaders_come_from_hooks, request_loaders, resize_when_rebuilt

__all__ = [
    "AttributeBatching",
    "Batching",
    "HookBatching",
    "LoaderBatching",
    "combined",
    "flat_loaders",
    "locate_batching",
    "locate_validation_batching",
    "with_loaders",
]


class Batching(Protocol):
    """A place where a batch size lives.

    Attributes:
        reference: what the user's code asks for; None where it asks for none.
        holder: the place, in words.

    """

    @property
    def reference(self) -> int | None:
        """What the user's code asks for."""

    @property
    def holder(self) -> str:
        """The place, in words."""

    def apply(self, size: int) -> None:
        """Put a batch size in place."""


class AttributeBatching:
    """The batch size is an attribute that the `*_dataloader()` hooks read.

    Args:
        trainer: the Trainer of the run.
        name: the attribute, looked for on the module, the datamodule and their hparams; all holders are written.

    """

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

    def is_read(self, trainer: Trainer, role: str) -> bool:
        """Whether the loaders of a role follow the attribute; where that cannot be seen, they are taken to."""
        before = _sizes(trainer, role)
        self.apply(2 * (self.reference or 1))
        try:
            return _sizes(trainer, role) != before or set(before) == {None}
        finally:
            if self.reference is not None:
                self.apply(self.reference)


class LoaderBatching:
    """The batch size is that of the loaders passed to the Trainer, changed in place.

    Args:
        trainer: the Trainer of the run.
        role: "train", "val", "validate", "test" or "predict".

    """

    def __init__(self, trainer: Trainer, role: str) -> None:
        self._loaders = request_loaders(trainer, role)
        self._sizes = [batch_size_of(loader) for loader in flat_loaders(self._loaders)]
        self.reference: int | None = self._sizes[0]
        self.holder = f"{_in_words(self._sizes)} passed to the Trainer"

    def apply(self, size: int) -> None:
        """Change the loaders."""
        _resize(self._loaders, _in_proportion(self._sizes, size))


class HookBatching:
    """The batch size is that of the loaders a `*_dataloader()` hook returns, which reads no attribute.

    The hook is hidden behind one that changes the loaders on their way out.

    Args:
        trainer: the Trainer of the run.
        role: "train", "val", "validate", "test" or "predict".

    """

    def __init__(self, trainer: Trainer, role: str) -> None:
        self._owner, self._name = hook_of(trainer, role)
        self._sizes = [batch_size_of(loader) for loader in flat_loaders(request_loaders(trainer, role))]
        self.reference: int | None = self._sizes[0]
        self.holder = f"{_in_words(self._sizes)} that {type(self._owner).__name__}.{self._name}() returns"

    def apply(self, size: int) -> None:
        """Have the hook return loaders of this size."""
        hook = getattr(self._owner, self._name)
        if isinstance(hook, _ResizingHook):
            hook = hook.__wrapped__
        # An instance attribute hides the method, for Lightning and for whoever else calls it.
        vars(self._owner)[self._name] = _ResizingHook(hook, _in_proportion(self._sizes, size))


class _ResizingHook:
    """A `*_dataloader()` hook, and the sizes its loaders are given; an object, so that it can be pickled."""

    def __init__(self, hook: Any, sizes: Sequence[int]) -> None:
        self.__wrapped__ = hook  # by this name Lightning finds what the user wrote
        self._sizes = sizes

    def __call__(self) -> Any:
        loaders = self.__wrapped__()
        _resize(loaders, self._sizes)
        return loaders


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
    if not lightning_hasattr(trainer.lightning_module, name):
        if name != DEFAULT_NAME:
            raise _no_such_attribute(trainer, role, name)
        return HookBatching(trainer, role), ""
    attribute = AttributeBatching(trainer, name)
    if attribute.is_read(trainer, role):
        return attribute, ""
    hook = HookBatching(trainer, role)
    return hook, (
        f"{attribute.holder} is not what the loader is built with, and stays as it is: changed is {hook.holder}. "
        "If the loader should follow the attribute, build it with that."
    )


def locate_validation_batching(trainer: Trainer) -> Batching:
    """Find the place where the validation loaders of a fit can be changed, apart from the training loaders.

    Raises:
        BatchSizeNotSettable: loaders of a kind that cannot be changed.

    """
    return HookBatching(trainer, "val") if loaders_come_from_hooks(trainer, "val") else LoaderBatching(trainer, "val")


def combined(loaders: Any, role: str) -> CombinedLoader:
    """What a user passed or returned, as Lightning combines it: a loader, a collection, a CombinedLoader."""
    if isinstance(loaders, CombinedLoader):
        return loaders
    return CombinedLoader(loaders, "max_size_cycle" if role == "train" else "sequential")


def flat_loaders(loaders: Any) -> list[Any]:
    """The single loaders in what a user passed or returned."""
    return list(combined(loaders, "train").flattened)  # the same in every mode


def with_loaders(loaders: CombinedLoader, flat: list[Any]) -> CombinedLoader:
    """The same combination of other loaders."""
    other = copy.copy(loaders)
    other.flattened = flat
    return other


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


def _sizes(trainer: Trainer, role: str) -> list[int | None]:
    sizes: list[int | None] = []
    for loader in flat_loaders(request_loaders(trainer, role)):
        try:
            sizes.append(batch_size_of(loader))
        except BatchSizeNotSettable:
            sizes.append(None)
    return sizes


def _in_proportion(sizes: Sequence[int], first: int) -> list[int]:
    """Sizes in the ratio of `sizes`, the first of them `first`: several loaders are mixed as the user mixes them."""
    return [max(1, round(first * size / sizes[0])) for size in sizes]


def _resize(loaders: Any, sizes: Sequence[int]) -> None:
    for loader, size in zip(flat_loaders(loaders), sizes, strict=True):
        set_batch_size(loader, size)
        if cuts_batches(loader):
            resize_when_rebuilt(loader, size)


def _in_words(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return "the batch_size of the loader"
    ratio = "" if len(set(sizes)) == 1 else f", in their ratio of {' : '.join(map(str, sizes))},"
    return f"the batch_size of each of the {len(sizes)} loaders{ratio}"
