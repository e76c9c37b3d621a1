"""What a run's data and settings allow of a batch size, and what of them changes its meaning with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bstuner.device.loaders import drops_last, largest_useful_batch, last_batch_of_one, num_samples
from bstuner.errors import SettingRefused
from bstuner.training._lightning import checkpoint_steps

__all__ = [
    "LastBatchTrouble",
    "changed_settings",
    "largest_allowed",
    "last_batch_trouble",
    "refuse_contradictions",
]

_LIMITS = {
    "fit": "limit_train_batches",
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}


def largest_allowed(trainer: Trainer, stage: str, loaders: Sequence[Any]) -> int | None:
    """The largest batch that still makes one batch of the data; None where the data's length is unknown.

    Raises:
        SettingRefused: even a batch of one sample leaves no batch within the Trainer's limit.

    """
    name = _LIMITS[stage]
    limit = getattr(trainer, name)
    sizes = []
    for loader in loaders:
        samples = num_samples(loader)
        if samples is None:
            return None
        sizes.append(largest_useful_batch(samples, drops_last(loader), limit))
    if max(sizes) < 1:
        raise SettingRefused(
            f"Expected at least one batch, but Trainer({name}={limit}) of a dataset of {samples} samples leaves none "
            f"at any batch size. Raise {name}."
        )
    return max(sizes)


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


def last_batch_trouble(trainer: Trainer, stage: str, loaders: Sequence[Any]) -> LastBatchTrouble | None:
    """The trouble a last batch of one sample would make, or None where it cannot make any."""
    samples = num_samples(loaders[0])
    if stage != "fit" or samples is None or drops_last(loaders[0]):
        return None
    layer = _first_batch_norm(trainer.lightning_module)
    return LastBatchTrouble(samples, layer) if layer else None


def _first_batch_norm(module: nn.Module) -> str | None:
    # _BatchNorm: the common base of BatchNorm1d to 3d and SyncBatchNorm; torch exports no public one.
    return next((name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)), None)


def refuse_contradictions(trainer: Trainer, stage: str, loaders: Sequence[Any], size: int) -> None:
    """Refuse now what Lightning would refuse in the middle of the fit.

    Raises:
        SettingRefused: `val_check_interval` counts more batches than an epoch has at this batch size.

    """
    samples = num_samples(loaders[0])
    interval = trainer.val_check_interval
    if stage != "fit" or samples is None or not isinstance(interval, int) or trainer.check_val_every_n_epoch is None:
        return
    batches = samples // size if drops_last(loaders[0]) else -(-samples // size)
    if isinstance(trainer.limit_train_batches, int):
        batches = min(batches, trainer.limit_train_batches)
    if trainer.enable_validation and interval > batches:
        raise SettingRefused(
            f"Expected Trainer(val_check_interval={interval}) to be at most the training batches of an epoch; at the "
            f"batch size found, {size}, an epoch has {batches}. Give it as a fraction of an epoch (a float up to "
            f"1.0), set check_val_every_n_epoch=None to count over epochs, or cap the search with "
            f"max_val={samples // interval}."
        )


def changed_settings(trainer: Trainer, stage: str, reference: int | None, size: int) -> tuple[str, ...]:
    """The user's settings that count in steps or batches, with what they now mean."""
    if stage != "fit" or reference is None or reference == size:
        return ()
    per_step = trainer.accumulate_grad_batches * trainer.world_size
    found = []

    def tell(name: str, steps: int, samples_per_count: int) -> None:
        before, after = steps * reference * samples_per_count, steps * size * samples_per_count
        found.append(f"{name}={steps} now spans {after:,} samples instead of {before:,}")

    if trainer.max_steps > 0:
        tell("max_steps", trainer.max_steps, per_step)
    if trainer.min_steps:
        tell("min_steps", trainer.min_steps, per_step)
    if isinstance(trainer.val_check_interval, int):
        tell("val_check_interval", trainer.val_check_interval, trainer.world_size)
    if isinstance(trainer.limit_train_batches, int) and trainer.limit_train_batches > 0:
        tell("limit_train_batches", trainer.limit_train_batches, trainer.world_size)
    for steps in checkpoint_steps(trainer):
        tell("ModelCheckpoint(every_n_train_steps)", steps, per_step)
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step":
            name = type(config.scheduler).__name__
            found.append(
                f"{name} counts optimizer steps: constants written into it now span {size / reference:g} times the "
                "samples"
            )
    return tuple(found)
