"""Read samples the way a loader does: in its workers, with its `worker_init_fn`, through `__getitems__`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

__all__ = ["read_samples"]

# So many samples are read at once at most, and so few that it takes less than this time.
_MOST_AT_ONCE = 64
_SECONDS_AT_ONCE = 0.02


def read_samples(loader: Any, keys: Iterable[Any] | None, look: Callable[[list[Any]], list[Any]]) -> Iterator[Any]:
    """Yield what `look` makes of each sample that a loader's dataset has for some keys.

    >>> list(read_samples(DataLoader("abcd"), [3, 1], list))
    ['d', 'b']

    Args:
        loader: A `DataLoader`. Where it has workers, its dataset is read in workers too, and stays unopened here.
        keys: Keys of a dataset; None to read a stream from its start.
        look: Called, in the worker where there is one, with a list of samples, for a list of as many.
    """
    chunks = _Chunks(keys or ())
    options: dict[str, Any] = {"batch_size": 1} if keys is None else {"batch_sampler": chunks}
    reader: DataLoader[Any] = DataLoader(
        loader.dataset,
        num_workers=loader.num_workers,
        collate_fn=look,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator(),  # or else it would draw from the one that training draws from
        **options,
    )
    started = time.perf_counter()
    batches: Any = iter(reader)
    try:
        for looked in batches:
            chunks.grow(time.perf_counter() - started)
            yield from looked
            started = time.perf_counter()
    finally:
        # Who has seen enough leaves workers that read on, until somebody collects them.
        if loader.num_workers:
            batches._shutdown_workers()


class _Chunks:
    """Keys in lists, longer as long as reading turns out fast."""

    def __init__(self, keys: Iterable[Any]) -> None:
        self._keys = keys
        self._size = 1

    def grow(self, seconds: float) -> None:
        if 2 * seconds < _SECONDS_AT_ONCE:
            self._size = min(2 * self._size, _MOST_AT_ONCE)
        elif seconds > _SECONDS_AT_ONCE:
            self._size = max(1, self._size // 2)

    def __iter__(self) -> Iterator[list[Any]]:
        keys = iter(self._keys)
        while chunk := list(islice(keys, self._size)):
            yield chunk
