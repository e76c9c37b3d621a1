"""How many batches an epoch has, and how large a batch may get before it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["EpochData", "LoaderData", "largest_useful_batch", "last_batch_of_one", "limited"]


def limited(batches: int, limit: int | float) -> int:
    """Apply Lightning's `limit_train_batches`: a number of batches, or a float share of them that is rounded down.

    >>> limited(100, 30), limited(100, 0.25), limited(100, 1.0)
    (30, 25, 100)

    Args:
        batches: Batches in an epoch.
        limit: A number of batches, or a float share of them.
    """
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)


def largest_useful_batch(samples: int, drop_last: bool, limit: int | float) -> int:
    """Find the largest batch size that leaves at least one batch to run in an epoch; 0 where none does.

    >>> largest_useful_batch(1000, drop_last=False, limit=1.0)
    1000
    >>> largest_useful_batch(1000, drop_last=True, limit=0.1)
    100

    Args:
        samples: Samples per epoch on one process.
        drop_last: Whether the loader leaves out a last batch that is not full.
        limit: As for `limited`.
    """
    needed = 1
    if isinstance(limit, float) and 0 < limit < 1:
        needed = math.ceil(1 / limit)
        # Rounding may move 1/share to either side of an integer; int() is how the share is applied.
        if needed > 1 and int((needed - 1) * limit) >= 1:
            needed -= 1
        elif int(needed * limit) < 1:
            needed += 1
    if drop_last or needed == 1:
        return samples // needed
    return (samples - 1) // (needed - 1)  # the last of the needed batches may hold a single sample


def last_batch_of_one(samples: int, size: int) -> bool:
    """Whether an epoch that drops no batch ends with a batch of one sample, which BatchNorm refuses.

    >>> last_batch_of_one(1025, size=64)
    True

    Args:
        samples: Samples per epoch on one process.
        size: Samples per batch.
    """
    return samples % size == 1


@dataclass(frozen=True)
class LoaderData:
    """What one loader holds for one process, and how its batch size goes with the one that is searched for.

    >>> unlabelled = LoaderData(samples=1000, share=7.0)
    >>> unlabelled.size(16), unlabelled.batches(16)
    (112, 9)

    Args:
        samples: Samples per epoch; None where unknown.
        drop_last: Whether it leaves out a last batch that is not full.
        share: Its batch size in units of the one that is searched for.
        fixed: Its batch size, where it does not follow the one that is searched for.
    """

    samples: int | None
    drop_last: bool = False
    share: float = 1.0
    fixed: int | None = None

    def size(self, batch_size: int) -> int:
        """Its own batch size when the one searched for is `batch_size`."""
        return self.fixed if self.fixed is not None else max(1, round(batch_size * self.share))

    def batches(self, batch_size: int) -> int | None:
        """Batches in an epoch; None where unknown."""
        if self.samples is None:
            return None
        size = self.size(batch_size)
        return self.samples // size if self.drop_last else -(-self.samples // size)

    def largest(self, limit: int | float) -> int | None:
        """The largest batch size searched for at which an own batch is full, within the limit; None for no bound."""
        if self.samples is None or self.fixed is not None:
            return None
        own = largest_useful_batch(self.samples, self.drop_last, limit)
        batch_size = int((own + 1) / self.share)  # at or above it, whichever way the share is rounded
        while batch_size > 0 and self.size(batch_size) > own:
            batch_size -= 1
        return batch_size


@dataclass(frozen=True)
class EpochData:
    """What all loaders of a run hold together.

    >>> data = EpochData((LoaderData(64, share=1.0), LoaderData(1000, share=7.0)))
    >>> data.batches(16), data.largest_batch(1.0)
    (9, 142)

    Args:
        loaders: Each of them.
        shortest_ends: Whether an epoch ends with the shortest loader, not with the longest.
    """

    loaders: tuple[LoaderData, ...]
    shortest_ends: bool = False

    @classmethod
    def least(cls, processes: Sequence[EpochData]) -> EpochData:
        """The data of the process that has least, loader by loader."""
        first = processes[0]
        samples = [[each.loaders[index].samples for each in processes] for index in range(len(first.loaders))]
        known = [None if None in counts else min(count for count in counts if count is not None) for counts in samples]
        loaders = tuple(replace(loader, samples=count) for loader, count in zip(first.loaders, known, strict=True))
        return replace(first, loaders=loaders)

    @property
    def searched(self) -> int:
        """Which loader's batch size is searched for, by its place: the first that follows."""
        return next((place for place, loader in enumerate(self.loaders) if loader.fixed is None), 0)

    @property
    def samples(self) -> int | None:
        """Samples of the loader whose batch size is searched for; None where unknown."""
        return self.loaders[self.searched].samples

    @property
    def smallest_pair(self) -> int:
        """The smallest batch size at which every loader that follows gives at least two samples."""
        return max([2, *(math.ceil(2 / loader.share) for loader in self.loaders if loader.fixed is None)])

    def batches(self, batch_size: int, limit: int | float = 1.0) -> int | None:
        """Batches in an epoch at a batch size, within Lightning's limit; None where that is unknown."""
        counts = [loader.batches(batch_size) for loader in self.loaders]
        known = [limited(count, limit) for count in counts if count is not None]
        if not known or len(known) < len(counts):
            return None
        return min(known) if self.shortest_ends else max(known)

    def batch(self, batch_size: int, index: int) -> int:
        """Samples in one batch of an epoch, by its place: the last one may hold fewer than the others."""
        loader = self.loaders[self.searched]
        size = loader.size(batch_size)
        if loader.samples is None or len(self.loaders) > 1 or index * size >= loader.samples:
            return size
        return min(size, loader.samples - index * size)

    def samples_per_epoch(self, batch_size: int, limit: int | float = 1.0) -> int | None:
        """Samples that an epoch trains on at a batch size, within Lightning's limit; None where that is unknown."""
        batches = self.batches(batch_size, limit)
        if not batches:
            return batches
        return (batches - 1) * self.batch(batch_size, 0) + self.batch(batch_size, batches - 1)

    def largest_batch(self, limit: int | float, full: bool = True) -> int | None:
        """The largest batch size that still makes one batch of the data; None where nothing in the data bounds it.

        Args:
            limit: As for `limited`.
            full: Also bound it where a larger batch would be none, but only be larger than all there is.
        """
        must: list[int] = []
        may: list[int] = []
        for loader in self.loaders:
            largest = loader.largest(limit)
            if largest is None:
                continue
            # Lightning refuses a loader that its limit leaves empty, and stops at one that drops all it has. Any other
            # has a batch at every size: larger than its samples, only the same one.
            if loader.drop_last or (isinstance(limit, float) and limit < 1):
                must.append(largest)
            else:
                may.append(max(1, largest))
        endless = any(loader.samples is None and loader.fixed is None for loader in self.loaders)
        if full and may and (self.shortest_ends or not endless):
            must.append(min(may) if self.shortest_ends else max(may + must))
        return min(must, default=None)
