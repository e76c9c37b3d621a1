"""Settings that the user counts in steps or batches, converted so that they mean the same number of samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bstuner.core import BatchLayout, EpochData
from bstuner.training._lightning import checkpoint_steps, set_checkpoint_steps, set_step_limits

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["StepSettings"]


@dataclass(frozen=True)
class StepSettings:
    """The Trainer's settings that count in steps or batches, as the user wrote them.

    Args:
        layout: the batch for which the user wrote them.
        data: what the training loaders hold for one process.
        max_steps: -1 for none.
        min_steps: None for none.
        val_check_interval: an int counts batches, a float is a share of an epoch; None where it is a time.
        limit_train_batches: likewise.
        checkpoints: the `every_n_train_steps` of the callbacks that save.

    """

    layout: BatchLayout
    data: EpochData
    max_steps: int
    min_steps: int | None
    val_check_interval: int | float | None
    limit_train_batches: int | float | None
    checkpoints: tuple[int, ...]

    @classmethod
    def of(cls, trainer: Trainer, layout: BatchLayout, data: EpochData) -> StepSettings:
        """Read them.

        Args:
            trainer: a Trainer as the user has made it.
            layout: the user's own batch.
            data: what the training loaders hold for one process.

        """
        return cls(
            layout,
            data,
            trainer.max_steps,
            trainer.min_steps,
            getattr(trainer, "val_check_interval", None),
            trainer.limit_train_batches,
            tuple(checkpoint_steps(trainer)),
        )

    def with_checkpoints_of(self, trainer: Trainer) -> StepSettings:
        """The same, with what the callbacks of a Trainer that save say now."""
        return replace(self, checkpoints=tuple(checkpoint_steps(trainer)))

    def apply(self, trainer: Trainer, layout: BatchLayout) -> tuple[str, ...]:
        """Write them as another batch needs them, and tell those that changed.

        Args:
            trainer: the same Trainer.
            layout: the batch to train with.

        """
        told: list[str] = []

        def steps(name: str, count: int) -> int:
            if count <= 0 or layout == self.layout:
                return count
            return _told(told, name, count, self._steps(count, layout, trainer.limit_train_batches))

        def batches(name: str, count: int | float, most: int | None = None) -> int | float:
            if not isinstance(count, int):
                return count
            before, after = (each.micro * each.world for each in (self.layout, layout))
            return _converted(told, name, count, before, after, most)

        if self.limit_train_batches is not None:
            trainer.limit_train_batches = batches("limit_train_batches", self.limit_train_batches)
        set_step_limits(
            trainer,
            steps("max_steps", self.max_steps),
            None if self.min_steps is None else steps("min_steps", self.min_steps),
        )
        # Rounded up, it may be more than an epoch has, which Lightning refuses in the middle of the fit.
        most = self.data.batches(layout.micro, trainer.limit_train_batches)
        most = None if trainer.check_val_every_n_epoch is None else most
        if self.val_check_interval is not None:
            trainer.val_check_interval = batches("val_check_interval", self.val_check_interval, most)
        set_checkpoint_steps(
            trainer, [steps("ModelCheckpoint(every_n_train_steps)", every) for every in self.checkpoints]
        )
        return tuple(told)

    def _steps(self, count: int, layout: BatchLayout, limit: int | float | None) -> int:
        """Optimizer steps that train on as many samples: an epoch may end with a step that is not full."""
        ratio = self.layout.global_batch_size / layout.global_batch_size
        before = self.data.batches(
            self.layout.micro, 1.0 if self.limit_train_batches is None else self.limit_train_batches
        )
        after = self.data.batches(layout.micro, 1.0 if limit is None else limit)
        if not before or not after:
            return max(1, round(count * ratio))
        epochs, rest = divmod(count, -(-before // self.layout.accumulate))
        per_epoch = -(-after // layout.accumulate)
        return max(1, epochs * per_epoch + min(per_epoch, round(rest * ratio)))


def _converted(told: list[str], name: str, count: int, before: int, after: int, most: int | None = None) -> int:
    if count <= 0 or before == after:
        return count
    converted = max(1, round(count * before / after))
    return _told(told, name, count, min(converted, most or converted))


def _told(told: list[str], name: str, count: int, converted: int) -> int:
    if converted != count:
        told.append(f"{name}: {count:,} -> {converted:,}")
    return converted
