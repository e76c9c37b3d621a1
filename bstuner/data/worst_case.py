"""Batches of any size that take as much as any that a loader could make."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice, zip_longest
from typing import Any

from torch.utils.data import DataLoader

from bstuner.data.probe_batches import ProbeBatches
from bstuner.data.reading import read_samples
from bstuner.data.sample_size import sample_elements, sample_extents
from bstuner.data.samples import KEEP, KEPT_ELEMENTS, Samples

__all__ = ["batch_of", "worst_batches"]

# Where nothing is padded, so many others stand among the largest.
_FEW_OTHERS = 3


def worst_batches(samples: Samples, collate_fn: Callable[[list[Any]], Any], size: int = 1) -> ProbeBatches:
    """Batches of different samples that take as much as any that a loader could make of them.

    >>> import numpy as np
    >>> from bstuner.data import largest_samples
    >>> def pad(images):
    ...     height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    ...     return np.zeros((len(images), height, width))
    >>> images = [np.zeros(shape) for shape in [(5, 5), (2, 9), (9, 2)]]
    >>> found = largest_samples(DataLoader(images, collate_fn=pad))
    >>> worst_batches(found, pad).make(7).shape
    (7, 9, 9)

    Where samples are padded to the longest, a batch is a mixture: samples that lie far apart in the dataset, among them
    the largest and those that are longest in one direction. Where they are not, it is made of copies of the largest
    and a few others. Where the `collate_fn` takes only samples of one size together, only the copies are left.

    Args:
        samples: The samples found.
        collate_fn: The loader's `collate_fn`.
        size: A batch size that the user's own code makes, and so accepts.
    """
    items = samples.items
    alike = [each for each in items if _kind(each) == _kind(items[0])]
    patterns = [alike]
    if samples.differ:
        others = [each for pair in zip_longest(items[1:], samples.spread) for each in pair]
        mixture = _unlike(samples.extremes, items[:1], others)
        patterns = [mixture[: max(len(samples.extremes) + 1, len(samples.spread))], _mostly(samples), alike]
    for rows in (None, size):
        made: list[ProbeBatches] = []
        for place, pattern in enumerate(patterns):
            filled = _filled(pattern, rows)
            try:
                made.append(_batches(filled, collate_fn, samples.elements))
            except Exception:  # the user's code has never seen just these together, and may refuse to
                continue
            # What is padded is no smaller than copies of the largest; if nothing is, it may be by its extremes.
            if place > 0 or made[0].elements >= len(filled) * samples.elements:
                break
        if made:
            best = max(made, key=lambda each: each.elements / each.rows)
            best.learn()  # now, since what it takes is no part of a training step
            return best
    return ProbeBatches(items, collate_fn, learn=False)  # at the sizes of the probes it may be another matter


def _mostly(samples: Samples) -> list[Any]:
    """The largest samples repeated, and a few others near the start, so that small batches have some too."""
    others = [each for each in _unlike(samples.spread) if not any(each is item for item in samples.items)]
    few = [samples.items[0], *others[:_FEW_OTHERS]]
    return [*few, *islice(cycle(samples.items), 8 * len(few) - len(few))]


def _batches(samples: list[Any], collate_fn: Callable[[list[Any]], Any], elements: int) -> ProbeBatches:
    if len(samples) <= KEEP or len(samples) * elements <= KEPT_ELEMENTS:
        return ProbeBatches(samples, collate_fn)
    # Too much to hold several times over for learning how batches grow.
    of_two = ProbeBatches(samples[:2], collate_fn)
    batches = ProbeBatches(samples, collate_fn, learn=False)
    batches.elements = of_two.elements * len(samples) // 2
    return batches


def _unlike(*groups: list[Any]) -> list[Any]:
    """All samples of some lists, each once."""
    return list({id(each): each for group in groups for each in group if each is not None}.values())


def _filled(pattern: list[Any], rows: int | None) -> list[Any]:
    """Samples repeated to some number of rows, by default the next power of two above one."""
    return list(islice(cycle(pattern), rows or max(2, 1 << (len(pattern) - 1).bit_length())))


def batch_of(loader: DataLoader[Any], keys: list[Any]) -> ProbeBatches:
    """The batch that a loader makes of some keys, again and again.

    >>> batch_of(DataLoader("abcd", collate_fn=list), [3, 1]).make(2)
    ['d', 'b']

    Args:
        loader: A `DataLoader` that cuts batches.
        keys: Keys of its dataset.
    """
    return ProbeBatches(list(read_samples(loader, keys, list)), loader.collate_fn, learn=False)


def _kind(sample: Any) -> tuple[int, dict[Any, int]]:
    return sample_elements(sample), sample_extents(sample)
