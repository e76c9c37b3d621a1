"""The largest sample in a dataset, and batches of any size made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset

from bstuner.device.probe_batches import ProbeBatches
from bstuner.errors import EmptyDataset, InvalidSetting

__all__ = ["ProbeBatches", "Samples", "largest_samples", "pick_samples", "sample_elements"]

# The samples that are kept hold so many elements together, unless a single one holds more.
_KEPT_ELEMENTS = 2**20
# So many samples of one size, spread over the whole dataset, and the rest is taken to be of that size too.
_ENOUGH = 64


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples to probe with, and how they were found.

    Attributes:
        items: The samples, all of the same number of elements.
        scanned: How many samples were looked at.
        total: How many there are in the dataset, or None where it does not say.
        elements: The elements in each of `items`; see `sample_elements`.
        missed: Whether larger ones may have been missed: sizes differ, and not all were looked at.
    """

    items: list[Any]
    scanned: int
    total: int | None
    elements: int
    missed: bool = False


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


def _elements(value: Any, parents: set[int]) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if isinstance(value, (int, float, complex, np.generic)):
        return 1
    if callable(getattr(value, "getbands", None)):  # a PIL image, without importing PIL
        return int(value.width * value.height * len(value.getbands()))
    if id(value) in parents:
        return 0
    parts = _parts(value)
    return sum(_elements(part, parents | {id(value)}) for part in parts)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple, Set)):
        return value
    if isinstance(value, (type, ModuleType)) or callable(value):
        return ()  # code, not data
    fields = list(getattr(value, "__dict__", {}).values())
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return fields + [getattr(value, name, None) for name in slots if not name.startswith("__")]


def largest_samples(
    dataset: Any,
    *,
    bound: int = 1000,
    keep: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Find the largest samples of a dataset by reading a bounded number of them.

    >>> largest_samples(["a", "ccc", "bb", "ddd"]).items
    ['ccc', 'ddd']

    Of a dataset with `__getitem__` and `__len__`, samples are read evenly spaced from the first to the last,
    all of them if there are at most `bound`. Reading stops after 64 spread over the whole that are all of one
    size. Of any other dataset the first `bound` samples are read. Reading runs the dataset's own code, random
    augmentation included.

    Args:
        dataset: Any dataset a `DataLoader` accepts.
        bound: The most samples to read.
        keep: The most samples to keep of those tied for the largest, in the order they were read; fewer of large
            ones.
        progress: Called after each sample with the number read and the number to read.

    Raises:
        EmptyDataset: There are no samples.
    """
    total = _length(dataset)
    if total is None:
        scan: Iterable[Any] = islice(iter(dataset), bound)
        planned = bound
    else:
        order = _scan_order(total, bound)
        scan = (dataset[index] for index in order)
        planned = len(order)
    items: list[Any] = []
    sizes: set[int] = set()
    largest, scanned = -1, 0
    for sample in scan:
        scanned += 1
        elements = sample_elements(sample)
        sizes.add(elements)
        if elements > largest:
            largest, items = elements, []
        if elements == largest and len(items) < keep:
            items.append(sample)
        if progress is not None:
            progress(scanned, planned)
        if total is not None and scanned == _ENOUGH and len(sizes) == 1:
            break
    if not items:
        raise EmptyDataset(
            f"The dataset {type(dataset).__qualname__} must hold at least one sample to probe with, but it "
            f"is empty. Check the path or the filter it was built with."
        )
    kept = max(1, min(keep, _KEPT_ELEMENTS // max(1, largest)))
    missed = len(sizes) > 1 and (scanned == bound if total is None else scanned < total)
    return Samples(items[:kept], scanned, total, largest, missed)


def pick_samples(dataset: Any, probe_with: int | Callable[[Any], Any]) -> Samples:
    """Take the sample the user chose.

    >>> pick_samples(["a", "ccc", "bb"], probe_with=2).items
    ['bb']
    >>> pick_samples(["a", "ccc", "bb"], probe_with=lambda dataset: dataset[0] * 4).items
    ['aaaa']

    Args:
        dataset: Any dataset a `DataLoader` accepts.
        probe_with: The index of a sample, from 0, or a function from the dataset to a sample.

    Raises:
        InvalidSetting: There is no sample with that index, or `probe_with` is something else.
    """
    total = _length(dataset)
    if callable(probe_with):
        sample = probe_with(dataset)
        return Samples([sample], 1, total, sample_elements(sample))
    expected = "probe_with must be the index of a sample or a function from the dataset to a sample"
    if isinstance(probe_with, bool) or not isinstance(probe_with, int):
        raise InvalidSetting(f"{expected}, but got {probe_with!r} ({type(probe_with).__name__}).")
    if probe_with < 0:
        raise InvalidSetting(f"{expected}, but got {probe_with}. Count from 0.")
    if total is None:
        found = list(islice(iter(dataset), probe_with, probe_with + 1))
    else:
        found = [dataset[probe_with]] if probe_with < total else []
    if not found:
        size = "fewer" if total is None else str(total)
        raise InvalidSetting(f"{expected}, but got {probe_with} for a dataset of {size} samples.")
    return Samples(found, 1, total, sample_elements(found[0]))


def _length(dataset: Any) -> int | None:
    """The length of a dataset that can be indexed, else None."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return None
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def _scan_order(total: int, bound: int) -> list[int]:
    """Evenly spaced indices; first few that already span the whole dataset, then those in between."""
    every = _evenly(total, bound)
    first = [every[position] for position in _evenly(len(every), _ENOUGH)]
    chosen = set(first)
    return first + [index for index in every if index not in chosen]


def _evenly(total: int, count: int) -> list[int]:
    if total <= count:
        return list(range(total))
    if count == 1:
        return [0]
    return [position * (total - 1) // (count - 1) for position in range(count)]
