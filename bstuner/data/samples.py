"""The largest samples that a loader draws."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import islice, tee
from typing import Any, Literal

from torch.utils.data import DataLoader, IterableDataset

from bstuner.data.draws import drawn_keys, has_own_batches
from bstuner.data.reading import read_samples
from bstuner.data.sample_size import sample_elements, sample_extents
from bstuner.errors import EmptyDataset, InvalidSetting

__all__ = ["KEEP", "KEPT_ELEMENTS", "Samples", "Scan", "largest_samples", "pick_samples"]

# How far to look: seconds, a number of samples, or at all of them.
Scan = int | float | Literal["all"]

# So many samples are kept to make batches of, as long as they hold so many elements together; two in any case, since
# much of what users compute of a batch needs samples that differ.
KEEP = 16
KEPT_ELEMENTS = 2**24
_AT_LEAST = 2
# A shorter time than this, in seconds, does not tell how fast samples are read.
_TELLING = 0.05
# So many are looked at however long it takes.
_LOOKED_AT = 8
# The most samples kept for being the longest in one direction, out of as many directions as samples may have.
_KEPT_EXTREMES = 4
_MOST_DIRECTIONS = 64


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples to probe with, and how they were found.

    Attributes:
        items: The largest samples, all of the same number of elements.
        scanned: How many samples were looked at.
        total: How many the loader draws from, or None where it does not say.
        elements: The elements in each of `items`; see `sample_elements`.
        whole: Whether all samples were looked at.
        differ: Whether they differ in size.
        usual: The median of the elements in a sample.
        per_second: Samples read in a second, by the loader's workers where it has some; None where it took too little
            time to tell.
        extremes: Samples that are smaller than `items` but longer in one direction: a wide image, a long label.
        spread: The first samples looked at, which lie far apart in the dataset.
        sizes: The elements in each sample looked at by its key, where a batch sampler of the user's chooses what goes
            together; else empty.
    """

    items: list[Any]
    scanned: int
    total: int | None
    elements: int
    whole: bool = True
    differ: bool = False
    usual: float = 0.0
    per_second: float | None = dataclasses.field(default=None, compare=False)
    extremes: list[Any] = dataclasses.field(default_factory=list)
    spread: list[Any] = dataclasses.field(default_factory=list)
    sizes: dict[Any, int] = dataclasses.field(default_factory=dict)


def largest_samples(
    loader: DataLoader[Any],
    *,
    scan: Scan = 5.0,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Find the largest samples that a loader draws, by reading them as it does.

    >>> found = largest_samples(DataLoader(["a", "ccc", "bb", "dddd"], collate_fn=list))
    >>> found.items, found.scanned, found.whole
    (['dddd'], 4, True)

    Only what the sampler draws is read: the first and the last of it, then the rest in an even stride, so that what was
    looked at when time is up lies evenly over the whole. A stream is read from its start. Reading runs the dataset's
    own code, random augmentation included.

    Args:
        loader: A `DataLoader` that cuts batches.
        scan: How far to look: seconds (a float), a number of samples (an int), or "all". Eight samples are
            looked at in any case.
        progress: Called after each sample with the number read and the number to read.

    Raises:
        EmptyDataset: There are no samples.
    """
    seconds = scan if isinstance(scan, float) else math.inf
    most = scan if isinstance(scan, int) else None
    started = time.perf_counter()
    drawn = drawn_keys(loader, seconds / 2)
    keys = None if drawn is None else _evenly(drawn.keys)
    noted: Iterator[Any] = iter(())
    if keys is not None and has_own_batches(loader):
        keys, noted = tee(keys)
    sizes: dict[Any, int] = {}
    look, scanned, counts, first_came = _Look(), 0, Counter[int](), 0.0
    whole = drawn is None or drawn.total is not None
    planned = most if drawn is None else min(len(drawn.keys), most or len(drawn.keys))
    kinds: set[Any] = set()
    for elements, extents, sample in read_samples(loader, keys, _Look()):
        if (scanned >= _LOOKED_AT and time.perf_counter() - started > seconds) or (
            most is not None and scanned >= most
        ):
            whole = False
            break
        if not scanned:
            first_came = time.perf_counter()  # workers are up by then, and files open
        scanned += 1
        counts[elements] += 1
        for key in islice(noted, 1):
            if isinstance(key, Hashable):
                sizes[key] = elements
        if len(kinds) < 2:
            kinds.add((elements, *extents.items()))
        for one in sample:
            look.see(elements, extents, one)
        if progress is not None:
            progress(scanned, planned or scanned)
    if not scanned:
        raise EmptyDataset(
            f"The dataset {type(loader.dataset).__qualname__} must hold at least one sample to probe with, but it "
            f"is empty. Check the path or the filter it was built with."
        )
    reading = time.perf_counter() - first_came
    total = drawn.total if drawn is not None else scanned if whole else None
    return Samples(
        items=look.largest,
        scanned=scanned,
        total=total,
        elements=look.most,
        whole=whole,
        differ=len(kinds) > 1,
        usual=_median(counts),
        per_second=(scanned - 1) / reading if reading >= _TELLING else None,
        extremes=_extremes(look.largest, look.longest),
        spread=look.first,
        sizes=sizes,
    )


class _Look:
    """Measures samples, and keeps those that a batch should be made of.

    It is called where samples are read, with a list of them, and returns the size of each; of those that may be worth
    keeping also the sample, in a list, so that no other leaves its worker.
    """

    def __init__(self) -> None:
        self.most = -1
        self.largest: list[Any] = []
        self.first: list[Any] = []
        self.longest: dict[Any, tuple[int, Any]] = {}

    def __call__(self, samples: list[Any]) -> list[tuple[int, dict[Any, int], list[Any]]]:
        looked = []
        for sample in samples:
            elements, extents = sample_elements(sample), sample_extents(sample)
            looked.append((elements, extents, [sample] if self.see(elements, extents, None) else []))
        return looked

    def see(self, elements: int, extents: dict[Any, int], sample: Any) -> bool:
        """Keep a sample, should it be worth it; and tell whether it was."""
        wanted = False
        if elements > self.most:
            self.most, self.largest = elements, []
        keep = max(_AT_LEAST, min(KEEP, KEPT_ELEMENTS // max(1, self.most)))
        for kept, worth in ((self.largest, elements == self.most), (self.first, True)):
            if worth and len(kept) < keep:
                kept.append(sample)
                wanted = True
            del kept[keep:]
        for direction, length in extents.items():
            longer = direction in self.longest and length > self.longest[direction][0]
            if longer or (direction not in self.longest and len(self.longest) < _MOST_DIRECTIONS):
                self.longest[direction] = length, sample
                wanted = True
        return wanted


def _median(counts: Counter[int]) -> float:
    """The middle one of values, of which it is told how often each came."""
    passed, half = 0, sum(counts.values()) / 2
    for value in sorted(counts):
        passed += counts[value]
        if passed >= half:
            return value
    return 0


def _evenly(keys: Sequence[Any]) -> Iterator[Any]:
    """All of some keys: the ends, then in a stride that has no factor in common with their number.

    A golden section of the whole as stride leaves the places visited even at any time, and meets no rhythm in the data,
    as a power of two would that of labels which alternate.
    """
    total = len(keys)
    ends = {0, total - 1} if total else set()
    yield from (keys[place] for place in sorted(ends))
    stride = max(1, round(total * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, max(1, total)) > 1:
        stride += 1
    place = 0
    for _ in range(total):
        place = (place + stride) % total
        if place not in ends:
            yield keys[place]


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


def pick_samples(loader: DataLoader[Any], probe_with: int | Callable[[Any], Any]) -> Samples:
    """Take the sample the user chose.

    >>> pick_samples(DataLoader(["a", "ccc", "bb"]), probe_with=2).items
    ['bb']
    >>> pick_samples(DataLoader(["a", "ccc", "bb"]), probe_with=lambda dataset: dataset[0] * 4).items
    ['aaaa']

    Args:
        loader: A `DataLoader` that cuts batches.
        probe_with: The index of a sample in its dataset, from 0, or a function from the dataset to a sample.

    Raises:
        InvalidSetting: There is no sample with that index, or `probe_with` is something else.
    """
    dataset = loader.dataset
    total = _length(dataset)
    if callable(probe_with):
        sample = probe_with(dataset)
        return Samples([sample], 1, total, sample_elements(sample))
    expected = "probe_with must be the index of a sample or a function from the dataset to a sample"
    if isinstance(probe_with, bool) or not isinstance(probe_with, int):
        raise InvalidSetting(f"{expected}, but got {probe_with!r} ({type(probe_with).__name__}).")
    if probe_with < 0:
        raise InvalidSetting(f"{expected}, but got {probe_with}. Count from 0.")
    if isinstance(dataset, IterableDataset):
        found = list(islice(read_samples(loader, None, _as_they_are), probe_with, probe_with + 1))
    elif total is not None and probe_with >= total:
        found = []
    else:
        found = list(read_samples(loader, [probe_with], _as_they_are))
    if not found:
        size = "fewer" if total is None else str(total)
        raise InvalidSetting(f"{expected}, but got {probe_with} for a dataset of {size} samples.")
    return Samples(found, 1, total, sample_elements(found[0]))


def _as_they_are(samples: list[Any]) -> list[Any]:
    return samples


def _length(dataset: Any) -> int | None:
    """The length of a dataset that can be indexed, else None."""
    if isinstance(dataset, IterableDataset):
        return None
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None
