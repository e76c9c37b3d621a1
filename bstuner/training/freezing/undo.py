"""How to undo what happens to one object: a tensor, a container, an instance, a class.

Each function notes the state now and returns what puts it back, in place: afterwards it is the same object with the old
contents, and nothing was touched that had not changed.
"""

from __future__ import annotations

import functools
import operator
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import chain
from types import CellType, MemberDescriptorType
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "CONTAINERS",
    "Undo",
    "attributes_of",
    "items_of",
    "slots_of",
    "undo_class",
    "undo_container",
    "undo_object",
    "undo_tensor",
]

Undo = Callable[[], Any]

# Most special first: a container is read and written by its base's own methods, which no subclass can bend.
CONTAINERS: tuple[Any, ...] = (OrderedDict, dict, list, deque, set)
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_UNSET = object()


def undo_tensor(tensor: Tensor) -> Undo:
    """Memory, gradient, hooks and `requires_grad` of a tensor."""
    leaf, requires_grad = tensor.is_leaf, tensor.requires_grad
    grad = tensor.grad if leaf else None
    hooks = [(name, list((getattr(tensor, name) or {}).items())) for name in _TENSOR_HOOKS]
    put_memory_back = _undo_memory(tensor)

    def undo() -> None:
        if leaf and not tensor.is_leaf:
            tensor.detach_()  # an in-place operation has hung a graph on it
        if leaf and tensor.requires_grad and not requires_grad:
            tensor.requires_grad_(False)  # first: its data may become integers again
        put_memory_back()
        if leaf and requires_grad and not tensor.requires_grad:
            tensor.requires_grad_(True)
        if leaf and tensor.grad is not grad:
            tensor.grad = grad
        for name, items in hooks:
            if (now := getattr(tensor, name)) is not None:
                now.clear()
                now.update(items)

    return undo


def _undo_memory(tensor: Tensor) -> Undo:
    """Bytes are what is saved: every dtype, stride and overlap is the same there, and autograd sees no write."""
    if hasattr(tensor, "__tensor_flatten__"):
        return lambda: None  # a wrapper: the tensors with the memory are among its attributes
    if tensor.is_meta:
        return lambda: None
    if tensor.layout != torch.strided or tensor.is_nested:
        return functools.partial(tensor.copy_, tensor.detach().to("cpu", copy=True))
    alias, storage, unit = tensor.data, tensor.untyped_storage(), tensor.element_size()
    size, start = storage.nbytes(), tensor.storage_offset() * unit
    span = unit + unit * sum((n - 1) * step for n, step in zip(alias.shape, alias.stride(), strict=True))
    memory = torch.empty(0, dtype=torch.uint8, device=storage.device)
    if alias.numel() and start + span <= size:  # or else its memory was taken away, for a while, by its owner
        memory.set_(storage, start, (span,), (1,))
    saved = memory.to("cpu", copy=True)

    def undo() -> None:
        if storage.nbytes() != size:
            storage.resize_(size)
        if _place(tensor) != _place(alias):
            tensor.data = alias  # the memory itself was exchanged, as `module.to()` does
        if memory.device.type != "cpu" or not torch.equal(memory, saved):
            memory.copy_(saved)  # never without need: a file may be mapped there, for reading only

    return undo


def _place(tensor: Tensor) -> Any:
    data = tensor.data  # a lazy parameter refuses to tell its shape
    return data.device, data.dtype, data.data_ptr(), data.shape, data.stride()


def items_of(container: Any, base: Any) -> list[Any]:
    """The items of a container, pairs for a dictionary, read by the methods of `base`, one of `CONTAINERS`."""
    if base is dict:
        return list(dict.items(container))
    items = list(base.__iter__(container))
    return [(key, dict.__getitem__(container, key)) for key in items] if base is OrderedDict else items


def undo_container(container: Any, base: Any, items: list[Any]) -> Undo:
    """What a container holds, and in which order; `items` is what it holds now."""
    flat = chain.from_iterable if issubclass(base, dict) else iter

    def undo() -> None:
        now = items_of(container, base)
        if len(now) == len(items) and all(map(operator.is_, flat(now), flat(items))):
            return  # nothing happened: no need to touch a container that may be watched or shared
        base.clear(container)
        if issubclass(base, dict):
            for key, value in items:
                base.__setitem__(container, key, value)
        else:
            (base.update if base is set else base.extend)(container, items)

    return undo


def attributes_of(obj: Any) -> Any:
    """The `__dict__` of an object, past any `__getattr__` of its own; None where it has none."""
    try:
        return object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return None


def slots_of(obj: Any, kind: Any) -> list[tuple[Any, Any]]:
    """The places outside `__dict__` where an object keeps values, each with its value."""
    slotted = chain.from_iterable(vars(base).values() for base in kind.__mro__ if "__slots__" in vars(base))
    places = [place for place in slotted if isinstance(place, MemberDescriptorType)]
    if kind is CellType:
        places = [CellType.cell_contents]
    return [(place, _read(place, obj)) for place in places]


def _read(place: Any, obj: Any) -> Any:
    try:
        return place.__get__(obj)
    except (AttributeError, ValueError):  # an empty cell raises the latter
        return _UNSET


def undo_object(obj: Any, kind: Any, attributes: Any, slots: list[tuple[Any, Any]]) -> Undo:
    """Class, slots and identity of the `__dict__` of an object; what the `__dict__` holds is a container's matter."""

    def undo() -> None:
        if type(obj) is not kind:
            object.__setattr__(obj, "__class__", kind)  # a lazy module, or one that was parametrized
        if attributes is not None and attributes_of(obj) is not attributes:
            object.__setattr__(obj, "__dict__", attributes)
        for place, value in slots:
            if _read(place, obj) is not value:
                place.__delete__(obj) if value is _UNSET else place.__set__(obj, value)

    return undo


def undo_class(kind: Any) -> Undo:
    """The attributes of a class."""

    def own() -> dict[str, Any]:
        return {name: value for name, value in vars(kind).items() if not name.startswith("__")}

    saved = own()

    def undo() -> None:
        now = own()
        for name in now.keys() - saved.keys():
            type.__delattr__(kind, name)
        for name, value in saved.items():
            if now.get(name, _UNSET) is not value:
                type.__setattr__(kind, name, value)

    return undo
