"""What a run's data and settings allow of a batch size, and what of them changes its meaning with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bstuner.core.layout import BatchLayout
from bstuner.device.loaders import (
    batch_size_of,
    cuts_batches,
    drops_last,
    largest_useful_batch,
    last_batch_of_one,
    num_samples,
)
from bstuner.errors import SettingRefused
from bstuner.training._lightning import checkpoint_steps, combination_mode, prepared_loader

__all__ = [
    "EpochData",
    "LastBatchTrouble",
    "changed_settings",
    "largest_allowed",
    "last_batch_trouble",
    "refuse_contradictions",
    "samples_here",
]

_LIMITS = {
    "fit": "limit_train_batches",
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}


def samples_here(trainer: Trainer, role: str, loader: Any) -> int | None:
    """The samples that a loader gives this process in an epoch; None where that is unknown.

    Args:
        trainer: the Trainer of the run.
        role: "train", "val", "validate", "test" or "predict".
        loader: the user's loader, which knows nothing of other processes.

    """
    return num_samples(loader if trainer.world_size == 1 else prepared_loader(trainer, role, loader))


@dataclass(frozen=True)
class EpochData:
    """What the loaders of a role hold, each for one process.

    Args:
        samples: of each loader; None where unknown.
        drops_last: of each loader, whether it leaves out a last batch that is not full.
        shares: the batch size of each loader, in units of the first one's.
        shortest_ends: whether an epoch ends with the shortest loader, not with the longest.

    """

    samples: tuple[int | None, ...]
    drops_last: tuple[bool, ...]
    shares: tuple[float, ...]
    shortest_ends: bool

    @classmethod
    def of(cls, trainer: Trainer, role: str, loaders: CombinedLoader) -> EpochData:
        """Look at the loaders of a run."""
        flat = loaders.flattened
        sizes = [batch_size_of(loader) if cuts_batches(loader) else 1 for loader in flat]
        return cls(
            samples=tuple(samples_here(trainer, role, loader) for loader in flat),
            drops_last=tuple(drops_last(loader) for loader in flat),
            shares=tuple(size / sizes[0] for size in sizes),
            shortest_ends=combination_mode(loaders) == "min_size",
        )

    def smaller(self, other: EpochData) -> EpochData:
        """The data of the process that has less."""
        samples = tuple(
            None if None in pair else min(pair)  # type: ignore[type-var]  # no None among them now
            for pair in zip(self.samples, other.samples, strict=True)
        )
        return replace(self, samples=samples)

    def batches(self, size: int) -> int | None:
        """Batches in an epoch at a batch size; None where that is unknown."""
        counts = []
        for samples, drop_last, share in zip(self.samples, self.drops_last, self.shares, strict=True):
            if samples is None:
                return None
            each = max(1, round(size * share))
            counts.append(samples // each if drop_last else -(-samples // each))
        return min(counts) if self.shortest_ends else max(counts)

    def largest_batch(self, limit_batches: int | float) -> int | None:
        """The largest batch size that still makes one batch of the data; None where the data's length is unknown."""
        needed: list[int] = []
        filled: list[int] = []
        for samples, drop_last, share in zip(self.samples, self.drops_last, self.shares, strict=True):
            if samples is None:
                continue
            largest = int(largest_useful_batch(samples, drop_last, limit_batches) / share)
            # Lightning refuses a loader that its limit leaves empty, and stops at one that drops all it has.
            must = drop_last or self.shortest_ends or (isinstance(limit_batches, float) and limit_batches < 1)
            (needed if must else filled).append(largest)
        if None not in self.samples and filled:
            needed.append(max(filled))
        return min(needed, default=None)


def largest_allowed(trainer: Trainer, stage: str, data: EpochData) -> int | None:
    """The largest batch that still makes one batch of the data; None where the data's length is unknown.

    Raises:
        SettingRefused: even a batch of one sample leaves no batch within the Trainer's limit.

    """
    name = _LIMITS[stage]
    limit = getattr(trainer, name)
    largest = data.largest_batch(limit)
    if largest is not None and largest < 1:
        raise SettingRefused(
            f"Expected at least one batch, but Trainer({name}={limit}) of a dataset of {data.samples[0]} samples "
            f"leaves none at any batch size. Raise {name}."
        )
    return largest


@dataclass(frozen=True)
class LastBatchTrouble:
    """BatchNorm cannot train on one sample, and an epoch may end with a batch of one."""

    samples: int
    layer: str

    def at(self, size: int) -> bool:
        """Whether a batch of `size` samples leaves one over."""
        return last_batch_of_one(self.samples, size, drop_last=False)

    @property
    def words(self) -> str:
        """What to tell the user when no size avoids it."""
        return (
            f"An epoch of {self.samples} samples ends with a batch of one, which {self.layer} (BatchNorm) refuses "
            "in training, and no smaller size avoids it: build the training DataLoader with drop_last=True."
        )


def last_batch_trouble(trainer: Trainer, stage: str, data: EpochData) -> LastBatchTrouble | None:
    """The trouble a last batch of one sample would make, or None where it cannot make any."""
    samples = data.samples[0]
    # Several loaders together hardly ever end on one sample.
    if stage != "fit" or samples is None or data.drops_last[0] or len(data.samples) > 1:
        return None
    layer = _first_batch_norm(trainer.lightning_module)
    return LastBatchTrouble(samples, layer) if layer else None


def _first_batch_norm(module: nn.Module) -> str | None:
    # _BatchNorm: the common base of BatchNorm1d to 3d and SyncBatchNorm; torch exports no public one.
    return next((name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)), None)


def refuse_contradictions(trainer: Trainer, stage: str, data: EpochData, size: int) -> None:
    """Refuse now what Lightning would refuse in the middle of the fit.

    Raises:
        SettingRefused: `val_check_interval` counts more batches than an epoch has at this batch size.

    """
    batches = data.batches(size)
    interval = trainer.val_check_interval
    if stage != "fit" or batches is None or not isinstance(interval, int) or trainer.check_val_every_n_epoch is None:
        return
    if isinstance(trainer.limit_train_batches, int):
        batches = min(batches, trainer.limit_train_batches)
    if trainer.enable_validation and interval > batches:
        raise SettingRefused(
            f"Expected Trainer(val_check_interval={interval}) to be at most the training batches of an epoch; at the "
            f"batch size found, {size}, an epoch has {batches}. Give it as a fraction of an epoch (a float up to "
            f"1.0), set check_val_every_n_epoch=None to count over epochs, or cap the search with "
            f"max_val={(data.samples[0] or 0) // interval}."
        )


def changed_settings(trainer: Trainer, reference: int, after: BatchLayout) -> tuple[str, ...]:
    """The user's settings that count in steps or batches, with what they now mean.

    Args:
        trainer: a Trainer inside `fit`, with the user's accumulation.
        reference: the batch size that the user's code asks for.
        after: the layout that was found.

    """
    before, found = BatchLayout(reference, trainer.accumulate_grad_batches, after.world), []

    def tell(name: str, count: int, was: int, now: int) -> None:
        if was != now:
            found.append(f"{name}={count} now spans {count * now:,} samples instead of {count * was:,}")

    steps = before.global_batch_size, after.global_batch_size
    batches = before.micro * before.world, after.micro * after.world
    if before.accumulate != after.accumulate:
        found.append(f"accumulate_grad_batches={after.accumulate} instead of {before.accumulate}")
    if trainer.max_steps > 0:
        tell("max_steps", trainer.max_steps, *steps)
    if trainer.min_steps:
        tell("min_steps", trainer.min_steps, *steps)
    if isinstance(trainer.val_check_interval, int):
        tell("val_check_interval", trainer.val_check_interval, *batches)
    if isinstance(trainer.limit_train_batches, int) and trainer.limit_train_batches > 0:
        tell("limit_train_batches", trainer.limit_train_batches, *batches)
    for every in checkpoint_steps(trainer):
        tell("ModelCheckpoint(every_n_train_steps)", every, *steps)
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step" and steps[0] != steps[1]:
            name = type(config.scheduler).__name__
            found.append(
                f"{name} counts optimizer steps: constants written into it now span {steps[1] / steps[0]:g} times the "
                "samples"
            )
    return tuple(found)
