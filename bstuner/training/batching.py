"""Where the batch size of a run lives, and how to change it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lightning.pytorch import Trainer

# Undocumented but without an underscore: it writes every holder at once, as Lightning's own finder does.
from lightning.pytorch.utilities.parsing import lightning_getattr, lightning_setattr

from bstuner.device.loaders import batch_size_of, cuts_batches, known_batch_size, set_batch_size
from bstuner.errors import BatchSizeNotSettable, EmptyDataset
from bstuner.training._lightning import hook_of, request_loaders, resize_when_rebuilt
from bstuner.training.combination import flat_loaders

__all__ = [
    "AttributeBatching",
    "Batching",
    "HookBatching",
    "LoaderBatching",
    "resizing_hook",
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

    def follows(self, trainer: Trainer, role: str) -> list[bool]:
        """For each loader of a role, whether its batch size follows."""


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

    def follows(self, trainer: Trainer, role: str) -> list[bool]:
        """For each loader of a role, whether its batch size follows the attribute; taken to, where that cannot be seen.

        User code runs.
        """
        before = _sizes(trainer, role)
        self.apply(2 * (self.reference or 1))
        try:
            after = _sizes(trainer, role)
        except Exception:  # the hook does not take this value: it has read the attribute, then
            return [True] * len(before)
        finally:
            if self.reference is not None:
                self.apply(self.reference)
        return [size is None or size != now for size, now in zip(before, after, strict=True)]


class LoaderBatching:
    """The batch size is that of the loaders passed to the Trainer, changed in place.

    Args:
        trainer: the Trainer of the run.
        role: "train", "val", "validate", "test" or "predict".

    """

    def __init__(self, trainer: Trainer, role: str) -> None:
        self._loaders = request_loaders(trainer, role)
        self._sizes = _sizes_to_change(self._loaders, role)
        self.reference: int | None = self._sizes[0]
        self.holder = f"{_in_words(self._sizes)} passed to the Trainer"

    def apply(self, size: int) -> None:
        """Change the loaders."""
        _resize(flat_loaders(self._loaders), self._sizes, size)

    def follows(self, trainer: Trainer, role: str) -> list[bool]:
        """For each loader of a role, whether it is one of these."""
        ours = {id(loader) for loader in flat_loaders(self._loaders)}
        return [id(loader) in ours for loader in flat_loaders(request_loaders(trainer, role))]


class HookBatching:
    """The batch size is that of the loaders a `*_dataloader()` hook returns, which reads no attribute.

    The hook is hidden behind one that changes the loaders on their way out.

    Args:
        trainer: the Trainer of the run.
        role: "train", "val", "validate", "test" or "predict".

    """

    def __init__(self, trainer: Trainer, role: str) -> None:
        self._role = role
        self._owner, self._name = hook_of(trainer, role)
        sizes = _sizes_to_change(request_loaders(trainer, role), role)
        self.reference: int | None = sizes[0]
        # Of a hook that is hidden already, the sizes that the user wrote: rounding must not wear their ratio down.
        hidden = resizing_hook(self._owner, self._name)
        self._sizes = hidden.sizes if hidden else sizes
        self.holder = f"{_in_words(self._sizes)} that {type(self._owner).__name__}.{self._name}() returns"

    def apply(self, size: int) -> None:
        """Have the hook return loaders of this size."""
        hidden = resizing_hook(self._owner, self._name)
        hook = hidden.__wrapped__ if hidden else getattr(self._owner, self._name)
        # An instance attribute hides the method, for Lightning and for whoever else calls it.
        vars(self._owner)[self._name] = _ResizingHook(hook, self._sizes, size)

    def follows(self, trainer: Trainer, role: str) -> list[bool]:
        """For each loader of a role, whether it comes from this hook."""
        return [role == self._role] * len(flat_loaders(request_loaders(trainer, role)))


class _ResizingHook:
    """A `*_dataloader()` hook whose loaders are given other sizes; an object, so that it can be pickled."""

    def __init__(self, hook: Any, sizes: Sequence[int], size: int) -> None:
        self.__wrapped__ = hook  # by this name Lightning finds what the user wrote
        self.sizes = sizes
        self._size = size

    def __call__(self) -> Any:
        loaders = self.__wrapped__()
        _resize(flat_loaders(loaders), self.sizes, self._size)
        return loaders


def resizing_hook(owner: Any, name: str) -> _ResizingHook | None:
    """What hides a hook of the user's, if something of ours does."""
    hidden = vars(owner).get(name)
    return hidden if isinstance(hidden, _ResizingHook) else None


def _sizes(trainer: Trainer, role: str) -> list[int | None]:
    return [known_batch_size(loader) for loader in flat_loaders(request_loaders(trainer, role))]


def _sizes_to_change(loaders: Any, role: str) -> list[int]:
    sizes = [batch_size_of(loader) for loader in flat_loaders(loaders)]
    if not sizes:
        raise EmptyDataset(f"Expected at least one {role} loader, found an empty collection. Return or pass one.")
    return sizes


def _resize(loaders: Sequence[Any], sizes: Sequence[int], first: int) -> None:
    """Give loaders sizes in the ratio of `sizes`, the first of them `first`: they are mixed as the user mixes them."""
    done: set[int] = set()
    for index, loader in enumerate(loaders):
        if id(loader) in done:
            continue
        done.add(id(loader))
        # A hook may return more loaders than it did at first.
        own = sizes[index] if index < len(sizes) else batch_size_of(loader)
        size = max(1, round(first * own / sizes[0]))
        set_batch_size(loader, size)
        if cuts_batches(loader):
            resize_when_rebuilt(loader, size)


def _in_words(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return "the batch_size of the loader"
    ratio = "" if len(set(sizes)) == 1 else f", in their ratio of {' : '.join(map(str, sizes))},"
    return f"the batch_size of each of the {len(sizes)} loaders{ratio}"
