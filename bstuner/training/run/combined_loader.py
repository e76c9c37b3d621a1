"""Loaders as a user combines them: one, a collection of them, or a CombinedLoader."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

from bstuner.training._lightning import each_lightning, lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities import CombinedLoader

__all__ = ["combined", "flat_loaders", "with_loaders"]


def combined(trainer: Trainer, loaders: Any, role: str) -> CombinedLoader:
    """What a user passed or returned, as Lightning combines it: a loader, a collection, a CombinedLoader.

    Args:
        trainer: the Trainer of the run.
        loaders: what the user passed or returned.
        role: "train", "val", "validate", "test" or "predict".

    """
    kind = lightning_of(trainer, "utilities").CombinedLoader
    if not isinstance(loaders, kind):
        loaders = kind(loaders, "max_size_cycle" if role == "train" else "sequential")
    return cast("CombinedLoader", loaders)


def flat_loaders(loaders: Any) -> list[Any]:
    """The single loaders in what a user passed or returned."""
    # The loaders may come without a Trainer, and are flattened alike in both packages and in every mode.
    kinds = tuple(package.CombinedLoader for package in each_lightning("utilities"))
    whole = loaders if isinstance(loaders, kinds) else kinds[0](loaders)
    # An empty collection is a leaf to Lightning, and no loader.
    return [loader for loader in whole.flattened if not (_is_collection(loader) and not loader)]


def _is_collection(loader: Any) -> bool:
    return isinstance(loader, (list, tuple, dict))


def with_loaders(loaders: CombinedLoader, flat: list[Any]) -> CombinedLoader:
    """The same combination of other loaders."""
    other = copy.copy(loaders)
    other.flattened = flat
    return other
