"""How large a sample is, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["sample_elements", "sample_extents"]


def sample_elements(sample: Any) -> int:
    """Count the elements in a sample, whatever it is made of.

    >>> sample_elements({"image": np.zeros((3, 8, 8)), "label": 1, "text": "a cat"})
    198

    A tensor or array counts its elements, an image width x height x bands, a text its characters, a number
    one, None nothing. Containers, dataclasses and other plain objects count what they hold.

    Args:
        sample: One item of a dataset.
    """
    return _elements(sample, set())


def sample_extents(sample: Any) -> dict[Any, int]:
    """Tell how far a sample extends in each direction that a `collate_fn` may pad.

    >>> sample_extents({"image": np.zeros((3, 8, 9)), "label": 1, "text": "a cat"})
    {('image', 0): 3, ('image', 1): 8, ('image', 2): 9, ('text',): 5}

    Directions are the sides of tensors, arrays and images, and the lengths of texts, lists and sets.

    Args:
        sample: One item of a dataset.
    """
    return _extents(sample, (), frozenset())


def _elements(value: Any, parents: set[int]) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if isinstance(value, (int, float, complex, np.generic)):
        return 1
    if _is_image(value):
        return int(value.width * value.height * len(value.getbands()))
    if id(value) in parents:
        return 0
    return sum(_elements(part, parents | {id(value)}) for _, part in _parts(value))


def _extents(value: Any, path: tuple[Any, ...], parents: frozenset[int]) -> dict[Any, int]:
    if isinstance(value, (Tensor, np.ndarray)):
        return {(*path, side): int(length) for side, length in enumerate(value.shape)}
    if isinstance(value, (str, bytes, bytearray)):
        return {path: len(value)}
    if _is_image(value):
        return {(*path, "width"): int(value.width), (*path, "height"): int(value.height)}
    if value is None or isinstance(value, (int, float, complex, np.generic)) or id(value) in parents:
        return {}
    found = {path: len(value)} if isinstance(value, (list, Set)) else {}
    for name, part in _parts(value):
        for direction, length in _extents(part, (*path, name), parents | {id(value)}).items():
            found[direction] = max(length, found.get(direction, 0))
    return found


def _is_image(value: Any) -> bool:
    return callable(getattr(value, "getbands", None))  # PIL's, without importing PIL


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """What a value holds, each by its name; the items of a list have one name together."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, tuple):
        return enumerate(value)
    if isinstance(value, (list, Set)):
        return (("items", item) for item in value)
    if isinstance(value, (type, ModuleType)) or callable(value):
        return ()  # code, not data
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    slotted = [(name, getattr(value, name, None)) for name in slots if not name.startswith("__")]
    return [*getattr(value, "__dict__", {}).items(), *slotted]
