"""What a loader's samplers draw: the keys that training reads of a dataset, and how many of them make a batch."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import (
    BatchSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

__all__ = ["DrawnKeys", "drawn_batches", "drawn_keys", "has_own_batches"]

# A sampler that never ends is left after so many keys.
_MOST_KEYS = 2**20


@dataclass(frozen=True)
class DrawnKeys:
    """The keys that a loader's samplers draw.

    Args:
        keys: Each of them once, where they can be told apart.
        total: How many there are; None where the sampler did not come to an end.
    """

    keys: Sequence[Any]
    total: int | None


def drawn_keys(loader: Any, seconds: float) -> DrawnKeys | None:
    """Tell which samples of a dataset a loader reads, by the keys that its sampler draws; None for a stream.

    >>> from torch.utils.data import DataLoader
    >>> drawn_keys(DataLoader(range(9), sampler=SubsetRandomSampler([5, 2])), seconds=1).keys
    [2, 5]

    Of torch's own samplers all keys are known that they could ever draw. Any other draws epochs until one brings no new
    key, which may advance its generators: whoever asks puts them back.

    Args:
        loader: A `DataLoader` that cuts batches.
        seconds: A sampler that has not ended by then is left.
    """
    if isinstance(loader.dataset, IterableDataset):
        return None
    own_batches = has_own_batches(loader)
    sampler = loader.batch_sampler if own_batches else loader.batch_sampler.sampler
    known = None if own_batches else _known(sampler)
    if known is None and iter(sampler) is sampler:
        known = _whole(loader.dataset)  # drawing from an iterator would take the keys away from training
    if known is not None:
        return DrawnKeys(known, len(known))
    keys: list[Any] = []
    until = time.perf_counter() + seconds
    known_so_far, ended, epochs = -1, True, 0
    while ended and len(found := _once(keys)) > known_so_far:  # an epoch may draw what the one before has not
        known_so_far, epochs = len(found), epochs + 1
        for drawn in sampler:
            keys.extend(drawn) if own_batches else keys.append(drawn)
            if len(keys) >= _MOST_KEYS or time.perf_counter() > until:
                ended = False
                break
        if any(not isinstance(key, Hashable) for key in keys[:1]):
            found = keys  # which cannot be told apart
            break
    if epochs > 2 and len(found) != len(_whole(loader.dataset) or ()):
        ended = False  # what is drawn is another matter each time, so that there may be more
    return DrawnKeys(_once(keys), len(found) if ended else None)


def has_own_batches(loader: Any) -> bool:
    """Whether a batch sampler of the user's chooses which samples make a batch.

    >>> from torch.utils.data import DataLoader
    >>> has_own_batches(DataLoader(range(9), batch_size=2))
    False

    Args:
        loader: A `DataLoader` that cuts batches.
    """
    return not isinstance(loader.dataset, IterableDataset) and type(loader.batch_sampler) is not BatchSampler


def drawn_batches(loader: Any, most: int, seconds: float) -> tuple[list[list[Any]], bool]:
    """Draw the keys of an epoch's batches at the size that a loader has now, and tell whether that was all of them.

    >>> from torch.utils.data import DataLoader
    >>> drawn_batches(DataLoader(range(5), batch_size=2), most=2, seconds=1)
    ([[0, 1], [2, 3]], False)

    Args:
        loader: A `DataLoader` that cuts batches.
        most: The most batches to draw.
        seconds: A batch sampler that has not ended by then is left.
    """
    batches: list[list[Any]] = []
    until = time.perf_counter() + seconds
    for batch in loader.batch_sampler:
        if len(batches) >= most or time.perf_counter() > until:
            return batches, False
        batches.append(list(batch))
    return batches, True


def _known(sampler: Any) -> Sequence[Any] | None:
    """All keys that one of torch's samplers could draw; None for a sampler of another class, of which nobody knows."""
    kind = type(sampler)
    if kind in (SequentialSampler, RandomSampler):
        return range(len(sampler.data_source))
    if kind is SubsetRandomSampler:
        return _once(sampler.indices)
    if kind is WeightedRandomSampler:
        return [index for index, weight in enumerate(sampler.weights.tolist()) if weight > 0]
    if kind is DistributedSampler and sampler.shuffle:
        return range(len(sampler.dataset))
    return None


def _whole(dataset: Any) -> Sequence[Any] | None:
    try:
        return range(len(dataset))
    except (TypeError, NotImplementedError):
        return None


def _once(keys: Iterable[Any]) -> list[Any]:
    """Each key once, and numbers in their order: two epochs of a random sampler are then looked at alike."""
    found = list(keys)
    try:
        found = list(dict.fromkeys(found))
    except TypeError:  # lists, say
        return found
    return sorted(found) if all(type(key) is int for key in found) else found
