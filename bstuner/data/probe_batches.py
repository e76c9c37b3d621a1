"""Batches of any size made of a few samples, through the user's own `collate_fn`."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bstuner.data.sample_size import sample_elements

__all__ = ["ProbeBatches"]

# Makes one part of a batch: from the number of samples, and the device or None for where the part is.
_Recipe = Callable[[int, "torch.device | None"], Any]


class ProbeBatches:
    """Make batches by repeating a few samples.

    >>> from torch.utils.data import default_collate
    >>> batches = ProbeBatches([(1.0, "cat"), (2.0, "dog")], default_collate)
    >>> batches.make(3)
    [tensor([1., 2., 1.], dtype=torch.float64), ('cat', 'dog', 'cat')]

    At first the samples go through `collate_fn` once as they are and once repeated three times. If the second
    batch is the first with its rows repeated, so are all others made, right on the device. If not (random
    choices, packed offsets, time-major layouts, types not known here, a size that is refused), each batch is collated
    for real.

    Every batch has tensors of its own, and nothing is kept of it. `collate_fn` gets copies of the samples, so
    it may change their containers, tensors and arrays; of other objects the copies are shallow.

    Args:
        samples: The samples to repeat, at least one.
        collate_fn: The loader's `collate_fn`.
        learn: Whether to collate the samples now, which raises what `collate_fn` does; else each batch is collated
            for real.

    Attributes:
        rows: How many samples there are.
        elements: The elements in a batch of them; 0 where it was not made.
    """

    def __init__(self, samples: list[Any], collate_fn: Callable[[list[Any]], Any], learn: bool = True) -> None:
        """Collate the samples once as they are."""
        self._samples = samples
        self._collate_fn = collate_fn
        self.rows, self.elements = len(samples), 0
        self._recipe: _Recipe = self._collate
        self._base: tuple[Any] | None = None
        if learn:
            self._base = (self._collate(self.rows),)
            self.elements = sample_elements(self._base)

    def make(self, size: int, device: torch.device | None = None) -> Any:
        """Make one batch.

        >>> ProbeBatches([torch.ones(3)], torch.stack).make(2).shape
        torch.Size([2, 3])

        Args:
            size: How many samples it holds.
            device: Where to make it; a batch that is collated for real stays where `collate_fn` puts it.
        """
        self.learn()
        return self._recipe(size, device)

    def learn(self) -> None:
        """Collate the samples a second time, unless that is done, to learn how batches grow."""
        if self._base is None:
            return
        base, self._base = self._base[0], None
        try:
            self._recipe = _recipe(base, self._collate(3 * self.rows), self.rows)
        except Exception:  # not its rows repeated; or three times as many are refused, which the size asked may not be
            self._recipe = self._collate

    def _collate(self, size: int, device: torch.device | None = None) -> Any:
        return self._collate_fn([_copy(sample) for sample in islice(cycle(self._samples), size)])


def _copy(value: Any) -> Any:
    """Copy what a `collate_fn` might change in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    if type(value) is list or isinstance(value, tuple):
        return _rebuild(value, [_copy(item) for item in value])
    try:
        return copy.copy(value)
    except (TypeError, copy.Error):  # it holds a lock, say: collate_fn gets the sample itself
        return value


class _NotTileableError(Exception):
    """A batch is not its rows repeated: it has to be collated."""


def _recipe(base: Any, triple: Any, rows: int) -> _Recipe:
    """Find how a part of a batch depends on the number of samples.

    Args:
        base: The part in a batch of `rows` samples.
        triple: The part in a batch of the same samples, three times over.
        rows: The number of samples in `base`; 0 where the part belongs to one sample and must not grow.
    """
    if type(base) is not type(triple):
        raise _NotTileableError
    if isinstance(base, Tensor):
        return _tensor_recipe(base, triple, rows)
    if type(base) is list or isinstance(base, tuple):
        return _sequence_recipe(base, triple, rows)
    if isinstance(base, dict):
        return _mapping_recipe(base, triple, rows)
    if isinstance(base, UserDict) or dataclasses.is_dataclass(base):
        return _object_recipe(base, triple, rows)
    constant = base is None or isinstance(base, (bool, int, float, complex, str, bytes))
    if constant and (base == triple or (base != base and triple != triple)):  # NaN is not equal to itself
        return lambda size, device: base
    raise _NotTileableError


def _tensor_recipe(base: Tensor, triple: Tensor, rows: int) -> _Recipe:
    if {base.layout, triple.layout} != {torch.strided} or base.is_nested:
        raise _NotTileableError

    unseen = _rows_as_bytes(base) if rows > 0 and base.shape[:1] == (rows,) else None

    def repeat(size: int, device: torch.device | None) -> Tensor:
        if unseen is not None and device in (None, base.device):
            taken = torch.from_numpy(unseen[np.arange(size) % rows])
            return taken.view(base.dtype).view(size, *base.shape[1:])
        there = base if device in (None, base.device) else base[:size].to(device)
        return there.index_select(0, torch.arange(size, device=there.device) % rows)

    def clone(size: int, device: torch.device | None) -> Tensor:
        return base.to(device or base.device, copy=True)

    grows = rows > 0 and base.shape[:1] == (rows,) and triple.shape[:1] == (3 * rows,)
    if not _identical(repeat(3 * rows, None) if grows else base, triple):
        raise _NotTileableError
    return repeat if grows else clone


def _rows_as_bytes(base: Tensor) -> np.ndarray[Any, Any] | None:
    """The rows of a tensor in host memory; taken from here, no op is given the tensor, which is no part of a batch."""
    plain = type(base) is Tensor and base.device.type == "cpu" and base.is_contiguous() and not base.requires_grad
    if not plain or base.numel() == 0 or base.is_conj() or base.is_neg():
        return None
    return base.reshape(len(base), -1).view(torch.uint8).numpy()


def _identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors cannot be told apart; compared by their bits, so that NaN equals itself."""
    kinds = [(type(each), each.dtype, each.device, each.shape, each.stride()) for each in (one, other)]
    if kinds[0] != kinds[1]:
        return False
    bits = [each.detach().contiguous().flatten().view(torch.uint8) for each in (one, other)]
    return torch.equal(*bits)


def _sequence_recipe(base: Any, triple: Any, rows: int) -> _Recipe:
    if len(base) == rows and len(triple) == 3 * rows:  # one entry per sample
        per_sample = [_recipe(base[i % rows], triple[i], 0) for i in range(3 * rows)]
        return lambda size, device: _rebuild(base, [per_sample[i % rows](size, device) for i in range(size)])
    if len(base) != len(triple):
        raise _NotTileableError
    parts = [_recipe(*pair, rows) for pair in zip(base, triple, strict=True)]
    return lambda size, device: _rebuild(base, [part(size, device) for part in parts])


def _mapping_recipe(base: dict[Any, Any], triple: dict[Any, Any], rows: int) -> _Recipe:
    if list(base) != list(triple) or (type(base) is not dict and _attributes(base)):
        raise _NotTileableError
    parts = {key: _recipe(base[key], triple[key], rows) for key in base}

    def make(size: int, device: torch.device | None) -> dict[Any, Any]:
        made = copy.copy(base)
        made.update({key: part(size, device) for key, part in parts.items()})
        return made

    return make


def _object_recipe(base: Any, triple: Any, rows: int) -> _Recipe:
    if list(_attributes(base)) != list(_attributes(triple)):
        raise _NotTileableError
    parts = {name: _recipe(value, getattr(triple, name), rows) for name, value in _attributes(base).items()}

    def make(size: int, device: torch.device | None) -> Any:
        made = copy.copy(base)
        for name, part in parts.items():
            object.__setattr__(made, name, part(size, device))  # frozen dataclasses too
        return made

    return make


def _attributes(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):  # with __slots__ they have no __dict__
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(getattr(value, "__dict__", {}))


def _rebuild(like: Any, items: list[Any]) -> Any:
    """A list, tuple or named tuple of the same type as `like`."""
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)
