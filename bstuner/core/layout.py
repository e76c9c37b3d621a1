"""How a global batch is laid out: samples per device and pass, times passes per optimizer step, times processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

from bstuner.errors import InvalidSetting, LayoutImpossible

__all__ = ["BatchLayout", "fuller_layouts", "nearest_layouts", "possible_micro_batches"]


@dataclass(frozen=True)
class BatchLayout:
    """The one place where micro-batch, accumulation and number of processes are multiplied.

    >>> BatchLayout(micro=32, accumulate=4, world=8).global_batch_size
    1024

    Args:
        micro: Samples per device and forward pass.
        accumulate: Micro-batches per optimizer step.
        world: Number of processes that train together.

    Raises:
        InvalidSetting: One of the three is not a whole number of at least 1.
    """

    micro: int
    accumulate: int = 1
    world: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be multiplied."""
        for name in ("micro", "accumulate", "world"):
            _check_whole(name, getattr(self, name))

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step, over all processes."""
        return self.micro * self.accumulate * self.world


def possible_micro_batches(global_batch_size: int, world: int = 1) -> list[int]:
    """Return every micro-batch that meets a global batch size exactly, with some accumulation, ascending.

    >>> possible_micro_batches(96, world=8)
    [1, 2, 3, 4, 6, 12]

    Args:
        global_batch_size: Samples per optimizer step, over all processes.
        world: Number of processes that share them equally.

    Raises:
        InvalidSetting: An argument is not a whole number of at least 1.
        LayoutImpossible: The processes cannot share the global batch equally.
    """
    _check_whole("global_batch_size", global_batch_size)
    _check_whole("world", world)
    share, rest = divmod(global_batch_size, world)
    if rest:
        above = f"{(share + 1) * world}"
        nearest = f"The nearest are {share * world} and {above}." if share else f"The nearest is {above}."
        raise LayoutImpossible(
            f"Expected a global batch size that {world} processes can share equally, found {global_batch_size}. "
            f"{nearest}"
        )
    return _divisors(share)


def nearest_layouts(wanted: int, world: int, fits: int, smallest: int = 1) -> tuple[BatchLayout | None, BatchLayout]:
    """Return the layouts next below and next above a global batch size that a usable micro-batch can meet.

    Each has the largest micro-batch that fits and meets its global batch size; None where nothing below is possible.

    >>> below, above = nearest_layouts(1021, world=1, fits=256, smallest=2)
    >>> below, above
    (BatchLayout(micro=255, accumulate=4, world=1), BatchLayout(micro=146, accumulate=7, world=1))

    Args:
        wanted: Samples per optimizer step, over all processes; not itself among the answers.
        world: Number of processes that train together.
        fits: The largest micro-batch that fits, in samples.
        smallest: The smallest usable micro-batch, in samples; 2 where the model cannot train on one sample.

    Raises:
        InvalidSetting: An argument is not a whole number of at least 1, or `smallest` is above `fits`.
    """
    for name, value in (("wanted", wanted), ("world", world), ("fits", fits), ("smallest", smallest)):
        _check_whole(name, value)
    if smallest > fits:
        raise InvalidSetting(f"smallest: expected at most fits={fits}, found {smallest}; lower it.")

    def layout(share: int) -> BatchLayout | None:
        micro = max(size for size in _divisors(share) if size <= fits)
        return BatchLayout(micro, share // micro, world) if micro >= smallest else None

    # Each ends within `smallest` steps, at a multiple of it; where `fits` is twice that, within a few dozen.
    below = next(filter(None, map(layout, range((wanted - 1) // world, smallest - 1, -1))), None)
    above = next(filter(None, map(layout, count(wanted // world + 1))))
    return below, above


def fuller_layouts(layout: BatchLayout, fits: int) -> list[BatchLayout]:
    """Return the layouts next to a wasteful one, in global batch size, whose micro-batch is at least half of what fits.

    Wasteful is to accumulate micro-batches smaller than that: the device is left half empty or more. A layout
    that is not wasteful has none.

    >>> [f"{near.global_batch_size} = {near.micro} x {near.accumulate}" for near in
    ...  fuller_layouts(BatchLayout(micro=1, accumulate=1021), fits=256)]
    ['1020 = 255 x 4', '1022 = 146 x 7']
    >>> fuller_layouts(BatchLayout(micro=250, accumulate=4), fits=256)
    []

    Args:
        layout: The layout with the largest micro-batch that fits and meets the wanted global batch size.
        fits: The largest micro-batch that fits, in samples, whether it meets the wanted size or not.

    Raises:
        InvalidSetting: `fits` is not a whole number of at least 1.
    """
    _check_whole("fits", fits)
    if layout.accumulate == 1 or 2 * layout.micro >= fits:
        return []
    near = nearest_layouts(layout.global_batch_size, layout.world, fits, smallest=(fits + 1) // 2)
    return [fuller for fuller in near if fuller is not None]


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSetting(f"{name}: expected a whole number of at least 1, found {value!r}; pass 1 or more.")


def _divisors(number: int) -> list[int]:
    """All divisors, ascending; only up to the square root is tried, so 10**9 takes milliseconds."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    large = [number // size for size in reversed(small)]
    return small + large[large[0] == small[-1] :]
