"""A global batch size that the user wants: which micro-batches can make it, and what to say where none can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bstuner.core import BatchLayout, EpochData, nearest_layouts, possible_micro_batches
from bstuner.errors import LayoutImpossible
from bstuner.training._lightning import replicas
from bstuner.training.batching.placement import accumulation_of, plans_accumulation
from bstuner.training.run import limit_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["GlobalBatch"]


class GlobalBatch:
    """How many batches make an optimizer step, at any micro-batch size.

    Args:
        trainer: a Trainer inside `fit`.
        global_batch_size: samples per optimizer step over all processes; None to accumulate as the Trainer does.

    Attributes:
        sizes: the micro-batch sizes that are possible, ascending; None for all.

    Raises:
        LayoutImpossible: the processes cannot share it equally, or a callback changes it by epoch.

    """

    def __init__(self, trainer: Trainer, global_batch_size: int | None) -> None:
        self._trainer = trainer
        self._world = replicas(trainer)
        self._wanted = global_batch_size
        self.sizes: list[int] | None = None
        if global_batch_size is None:
            return
        if plans_accumulation(trainer):
            raise LayoutImpossible(
                f"Expected one accumulation for the whole fit with global_batch_size={global_batch_size}, found "
                "GradientAccumulationScheduler, which changes it by epoch. Take one of the two out."
            )
        self.sizes = possible_micro_batches(global_batch_size, self._world)
        self._share = self.sizes[-1]
        self._manual = not trainer.lightning_module.automatic_optimization
        if self._manual:
            self.sizes = [self._share]

    def accumulate(self, micro: int) -> int:
        """Batches per optimizer step; of a micro-batch that does not divide the wanted batch, enough to reach it."""
        if self._wanted is None:
            return accumulation_of(self._trainer)
        return 1 if self._manual else -(-self._share // micro)

    def layout(self, micro: int) -> BatchLayout:
        """The layout with a possible micro-batch size."""
        now = self._trainer.accumulate_grad_batches
        return BatchLayout(micro, now if self._wanted is None else self.accumulate(micro), self._world)

    def refuse_other_unit(self, epoch: EpochData, holder: str, unit: float) -> None:
        """Refuse a batch size that is not the samples of a batch: a global batch is counted in samples.

        Args:
            epoch: what the loaders hold.
            holder: where the batch size lives.
            unit: samples that the loader's batch sampler draws for each of its batch size.

        Raises:
            LayoutImpossible: the loader makes it larger or smaller.

        """
        share = epoch.loaders[epoch.searched].share * unit
        if self._wanted is not None and share != 1:
            raise LayoutImpossible(
                f"Expected a loader built with batch_size={holder} for a global batch of {self._wanted} samples, found "
                f"one whose batches are {share:g} times that. Build it with the attribute as it is."
            )

    def refuse_short_epoch(self, epoch: EpochData) -> None:
        """Refuse a global batch that an epoch cannot fill.

        Raises:
            LayoutImpossible: an epoch has fewer samples.

        """
        samples = epoch.samples
        if self._wanted is not None and samples is not None and samples < self._share:
            raise LayoutImpossible(
                f"Expected a global batch size that an epoch can fill, found {self._wanted}: an epoch has {samples} "
                f"samples for each of {self._world} processes. The largest possible is {samples * self._world}."
            )

    def refuse_short_limit(self, epoch: EpochData, layout: BatchLayout) -> None:
        """Refuse a layout of which an epoch cannot make one whole step.

        Raises:
            LayoutImpossible: the Trainer's limit leaves fewer batches.

        """
        limit = limit_of(self._trainer, "fit")
        batches = epoch.batches(layout.micro, limit)
        if self._wanted is not None and batches is not None and batches < layout.accumulate:
            raise LayoutImpossible(
                f"Expected an epoch to fill a global batch of {self._wanted}, which takes {layout.accumulate} batches "
                f"of {layout.micro} on each process; with Trainer(limit_train_batches={limit}) it has {batches}. Raise "
                f"that, or take a global batch size of at most {batches * layout.micro * self._world}."
            )

    def impossible(self, fits: int, smallest: int) -> LayoutImpossible:
        """The error for a global batch that no micro-batch can make.

        Args:
            fits: the largest micro-batch that fits.
            smallest: the smallest that the model can train on.

        """
        wanted, world = int(self._wanted or 0), self._world
        found = f"found {wanted} on {world} process{'es' * (world > 1)} with micro-batches of up to {fits} samples"
        if self._manual:
            return LayoutImpossible(
                f"Expected a global batch size that needs no accumulation, since "
                f"{type(self._trainer.lightning_module).__name__} steps its optimizers itself (manual optimization); "
                f"{found}. The largest possible is {fits * world}."
            )
        below, above = nearest_layouts(wanted, world, fits, smallest)
        nearest = " and ".join(f"{near.global_batch_size} ({_in_words(near)})" for near in (below, above) if near)
        return LayoutImpossible(
            f"Expected a global batch size that equal micro-batches can make, {found}: {self._share} samples per "
            f"process have no divisor from {smallest} to {fits}. The nearest are {nearest}."
        )


def _in_words(layout: BatchLayout) -> str:
    world = f" x {layout.world} processes" if layout.world > 1 else ""
    return f"{layout.micro} x {layout.accumulate} accumulated{world}"
