"""Where the batch size of a run lives, and how to change it there."""

from __future__ import annotations

import contextlib
import numbers
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bstuner.data import batch_size_of, cuts_batches, known_batch_size
from bstuner.errors import BatchSizeNotSettable, EmptyDataset
from bstuner.training._lightning import (
    hook_of,
    lightning_getattr,
    lightning_setattr,
    request_loaders,
    resize,
    resize_when_rebuilt,
)
from bstuner.training.run import flat_loaders

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

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

    def shares(self, trainer: Trainer, role: str) -> list[float | None]:
        """For each loader of a role, its batch size in units of the one applied; None where it does not follow."""


class AttributeBatching:
    """The batch size is an attribute that the `*_dataloader()` hooks read.

    Args:
        trainer: the Trainer of the run.
        name: the attribute, looked for on the module, the datamodule and their hparams; all holders are written.

    """

    def __init__(self, trainer: Trainer, name: str) -> None:
        self._module = trainer.lightning_module
        self._name = name
        self._original = lightning_getattr(self._module, name)
        self.reference = _whole(self._original)
        self._shares: dict[str, list[float | None]] = {}
        data = trainer.datamodule
        owner = data if data is not None and (hasattr(data, name) or name in data.hparams) else self._module
        self.holder = f"{type(owner).__name__}.{name}"

    def apply(self, size: Any) -> None:
        """Write the attribute.

        Raises:
            BatchSizeNotSettable: it cannot be written.

        """
        try:
            lightning_setattr(self._module, self._name, size)
        except Exception as error:  # a property without a setter, a frozen object, a config that is read-only
            raise BatchSizeNotSettable(
                f"Expected {self.holder} to be an attribute that can be set, found one that refuses: {error!r}. "
                f"Hold the batch size in a plain attribute, or name another one with batch_arg_name=..."
            ) from error

    def shares(self, trainer: Trainer, role: str) -> list[float | None]:
        """For each loader of a role, its batch size in units of the attribute; None where it does not follow.

        Where a loader tells no size, it is taken to follow. User code runs, with two values of the attribute.
        """
        if role not in self._shares:
            self._shares[role] = self._learn(trainer, role)
        return self._shares[role]

    def _learn(self, trainer: Trainer, role: str) -> list[float | None]:
        # Where the user's own value is no number, two others: neither is likely to be a default.
        lower = self.reference or 24
        try:
            if self.reference is None:
                self.apply(lower)
            before = _sizes(trainer, role)
            self.apply(2 * lower)
            try:
                after = _sizes(trainer, role)
            except Exception:  # the hook does not take this value: it has read the attribute, then
                after = [None if size is None else size + size for size in before]
        finally:
            self.apply(self._original)
        return [
            1.0 if size is None or now is None else (now - size) / lower or None
            for size, now in zip(before, after, strict=True)
        ]


class LoaderBatching:
    """The batch size is that of the loaders passed to the Trainer, changed in place.

    Args:
        trainer: the Trainer of the run.
        role: "train", "val", "validate", "test" or "predict".

    """

    def __init__(self, trainer: Trainer, role: str) -> None:
        self._loaders = request_loaders(trainer, role)
        sizes = _sizes_to_change(self._loaders, role)
        self.reference: int | None = sizes[0]
        self._sizes = [_of_the_user(*pair) for pair in zip(flat_loaders(self._loaders), sizes, strict=True)]
        self.holder = f"{_in_words(self._sizes)} passed to the Trainer"

    def apply(self, size: int) -> None:
        """Change the loaders."""
        _resize(flat_loaders(self._loaders), self._sizes, size)

    def shares(self, trainer: Trainer, role: str) -> list[float | None]:
        """For each loader of a role, its size in units of the first of these; None where it is none of these."""
        own = {
            id(each): size / self._sizes[0] for each, size in zip(flat_loaders(self._loaders), self._sizes, strict=True)
        }
        return [own.get(id(loader)) for loader in flat_loaders(request_loaders(trainer, role))]


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

    def shares(self, trainer: Trainer, role: str) -> list[float | None]:
        """For each loader of a role, its size in units of the first of this hook's; None where it comes elsewhere."""
        if role == self._role:
            return [size / self._sizes[0] for size in self._sizes]
        return [None] * len(flat_loaders(request_loaders(trainer, role)))


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


# The size that the user gave a loader that was changed in place, and the one it was given: rounding must not wear the
# ratio of several loaders down from search to search.
_CHANGED: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()


def _of_the_user(loader: Any, size: int) -> int:
    try:
        own, given = _CHANGED.get(loader, (size, size))
    except TypeError:
        return size
    return own if given == size else size


def _whole(value: Any) -> int | None:
    """A batch size, where a value is one."""
    whole = isinstance(value, (numbers.Integral, float)) and not isinstance(value, bool) and value == int(value)
    return int(value) if whole and value >= 1 else None


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
        resize(loader, size)
        with contextlib.suppress(TypeError):  # a loader that cannot be referred to weakly
            _CHANGED[loader] = own, size
        if cuts_batches(loader):
            resize_when_rebuilt(loader, size)


def _in_words(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return "the batch_size of the loader"
    ratio = "" if len(set(sizes)) == 1 else f", in their ratio of {' : '.join(map(str, sizes))},"
    return f"the batch_size of each of the {len(sizes)} loaders{ratio}"
