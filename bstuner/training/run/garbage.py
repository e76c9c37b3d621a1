"""Keep garbage collections short while many are needed."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["short_collections"]


@contextlib.contextmanager
def short_collections() -> Iterator[None]:
    """Spare collections inside the block the walk through everything that was there before it.

    What a probe leaves behind hangs together in cycles, so a collection follows each; among all the objects of a
    training program one takes longer than the steps of a small model.
    """
    frozen_by_user = gc.get_freeze_count() > 0  # unfreezing would undo that too
    if not frozen_by_user:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if not frozen_by_user:
            gc.unfreeze()
