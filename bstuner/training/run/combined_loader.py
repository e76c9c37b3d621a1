"""Loaders as a user combines them: one, a collection of them, or a CombinedLoader."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch.utilities import CombinedLoader

__all__ = ["combined", "flat_loaders", "with_loaders"]


def combined(loaders: Any, role: str) -> CombinedLoader:
    """What a user passed or returned, as Lightning combines it: a loader, a collection, a CombinedLoader."""
    if isinstance(loaders, CombinedLoader):
        return loaders
    return CombinedLoader(loaders, "max_size_cycle" if role == "train" else "sequential")


def flat_loaders(loaders: Any) -> list[Any]:
    """The single loaders in what a user passed or returned."""
    # The same in every mode. An empty collection is a leaf to Lightning, and no loader.
    return [loader for loader in combined(loaders, "train").flattened if not (_is_collection(loader) and not loader)]


def _is_collection(loader: Any) -> bool:
    return isinstance(loader, (list, tuple, dict))


def with_loaders(loaders: CombinedLoader, flat: list[Any]) -> CombinedLoader:
    """The same combination of other loaders."""
    other = copy.copy(loaders)
    other.flattened = flat
    return other
