"""Whether a search is on, for user code that asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["search_is_on", "searching"]

_depth = 0


def searching() -> bool:
    """Tell whether bstuner is running your code to measure it, and not to train.

    Example:
        >>> import bstuner
        >>> if not bstuner.searching():
        ...     print("upload the samples")
        upload the samples

    In a probe or a trial your hooks, steps and datasets run as in training. What they do outside the process (upload,
    send, export) is not undone: ask here first. Worker processes of your data loaders that are forked in a search
    answer as the process they come from.
    """
    return _depth > 0


@contextmanager
def search_is_on() -> Iterator[None]:
    """Have `searching` say yes inside the block; blocks may be nested."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
