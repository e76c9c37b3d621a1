"""Which global batches a trial can have, and how each is laid out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bstuner.core import BatchLayout, EpochData, FindResult, possible_micro_batches
from bstuner.training.run import last_batch_trouble

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["TrialLayouts"]

# The smallest global batch to try: below it, hardly any device is faster for having less to do.
FEWEST_SAMPLES = 8


class TrialLayouts:
    """The global batches that a trial can have.

    Args:
        trainer: a Trainer inside `fit`.
        own: the user's own batch.
        found: the largest batch that fits.
        data: what the training loaders hold, on the process that has the least.

    """

    def __init__(self, trainer: Trainer, own: BatchLayout, found: FindResult, data: EpochData) -> None:
        self._own = own
        self._fits = found.batch_size
        self._manual = not trainer.lightning_module.automatic_optimization
        self._trouble = last_batch_trouble(trainer, "fit", data)
        self._pair = data.smallest_pair

    @property
    def largest(self) -> int:
        """Beyond what fits, accumulation would add nothing but waiting."""
        return self._fits * self._own.world

    @property
    def smallest(self) -> int:
        """The user's own, halved while the processes can share it, down to a few samples; BatchNorm may refuse one."""
        share = self._own.global_batch_size // self._own.world
        least = max(self._pair, FEWEST_SAMPLES // self._own.world)
        while share % 2 == 0 and share // 2 >= least:
            share //= 2
        return share * self._own.world

    def layout(self, global_batch_size: int) -> BatchLayout:
        """The user's own layout for the user's own batch, else that with the largest micro-batch that fits."""
        own = self._own
        if global_batch_size == own.global_batch_size:
            return own
        share = global_batch_size // own.world
        if self._manual:  # the user's code steps its optimizers itself, and accumulates or not
            return BatchLayout(share, own.accumulate, own.world)
        sizes = [micro for micro in possible_micro_batches(global_batch_size, own.world) if micro <= self._fits]
        safe = [micro for micro in sizes if self._trouble is None or not self._trouble.at(micro)]
        micro = max(safe or sizes)
        return BatchLayout(micro, share // micro, own.world)
