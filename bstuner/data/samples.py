"""The largest sample in a dataset, and batches of any size made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from typing import Any

from torch.utils.data import IterableDataset

from bstuner.data.probe_batches import ProbeBatches
from bstuner.data.sample_size import sample_elements, sample_extents
from bstuner.errors import EmptyDataset, InvalidSetting

__all__ = ["ProbeBatches", "Samples", "largest_samples", "pick_samples", "worst_batches"]

# The samples that are kept hold so many elements together, unless a single one holds more.
_KEPT_ELEMENTS = 2**20
# So many samples of one size, spread over the whole dataset, and the rest is taken to be of that size too.
_ENOUGH = 64
# The most samples kept for being the longest in one direction, out of as many directions as samples may have.
_KEPT_EXTREMES = 4
_MOST_DIRECTIONS = 64


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples to probe with, and how they were found.

    Attributes:
        items: The largest samples, all of the same number of elements.
        scanned: How many samples were looked at.
        total: How many there are in the dataset, or None where it does not say.
        elements: The elements in each of `items`; see `sample_elements`.
        missed: Whether larger ones may have been missed: sizes differ, and not all were looked at.
        extremes: Samples that are smaller than `items` but longer in one direction: a wide image, a long label.
    """

    items: list[Any]
    scanned: int
    total: int | None
    elements: int
    missed: bool = False
    extremes: list[Any] = dataclasses.field(default_factory=list)


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
    kinds: set[Any] = set()
    longest: dict[Any, tuple[int, Any]] = {}
    largest, scanned = -1, 0
    for sample in scan:
        scanned += 1
        elements, extents = sample_elements(sample), sample_extents(sample)
        kinds.add((elements, *extents.items()))
        for direction, length in extents.items():
            if direction in longest:
                if length > longest[direction][0]:
                    longest[direction] = length, sample
            elif len(longest) < _MOST_DIRECTIONS:
                longest[direction] = length, sample
        if elements > largest:
            largest, items = elements, []
        if elements == largest and len(items) < keep:
            items.append(sample)
        if progress is not None:
            progress(scanned, planned)
        if total is not None and scanned == _ENOUGH and len(kinds) == 1:
            break
    if not items:
        raise EmptyDataset(
            f"The dataset {type(dataset).__qualname__} must hold at least one sample to probe with, but it "
            f"is empty. Check the path or the filter it was built with."
        )
    kept = max(1, min(keep, _KEPT_ELEMENTS // max(1, largest)))
    missed = len(kinds) > 1 and (scanned == bound if total is None else scanned < total)
    return Samples(items[:kept], scanned, total, largest, missed, _extremes(items[:kept], longest))


def _extremes(items: list[Any], longest: dict[Any, tuple[int, Any]]) -> list[Any]:
    """Few of the samples that are longer in some direction than any of `items`, together in all such directions."""
    reached: dict[Any, int] = {}
    found: list[Any] = []
    for sample in items:
        reached.update({way: max(length, reached.get(way, 0)) for way, length in sample_extents(sample).items()})
    for direction, (length, sample) in longest.items():
        if length > reached.get(direction, 0) and len(found) < _KEPT_EXTREMES:
            found.append(sample)
            reached.update({way: max(length, reached.get(way, 0)) for way, length in sample_extents(sample).items()})
    return found


def worst_batches(samples: Samples, collate_fn: Callable[[list[Any]], Any]) -> ProbeBatches:
    """Batches of the largest samples; of these and of the longest in each direction, where padding makes that more.

    >>> import numpy as np
    >>> def pad(images):
    ...     height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    ...     return np.zeros((len(images), height, width))
    >>> images = [np.zeros(shape) for shape in [(5, 5), (2, 9), (9, 2)]]
    >>> worst_batches(largest_samples(images), pad).make(7).shape
    (7, 9, 9)
    >>> [image.shape for image in worst_batches(largest_samples(images), list).make(2)]
    [(5, 5), (5, 5)]

    Args:
        samples: The samples found.
        collate_fn: The loader's `collate_fn`.
    """
    largest = ProbeBatches(samples.items, collate_fn)
    if not samples.extremes:
        return largest
    # The extremes come first, so that a small batch holds them too.
    mixture = [*samples.extremes, *islice(cycle(samples.items), max(len(samples.items), len(samples.extremes)))]
    try:
        mixed = ProbeBatches(mixture, collate_fn)
        if sample_elements(mixed.make(len(mixture))) > sample_elements(largest.make(len(mixture))):
            return mixed
    except Exception:  # the user's code has never seen these samples together, and may refuse to
        return largest
    return largest


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
