"""What a run's data and settings allow of a batch size, and what of them changes its meaning with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bstuner.core import BatchLayout, EpochData, LoaderData, last_batch_of_one, limited
from bstuner.data import drops_last, known_batch_size, num_samples
from bstuner.errors import SettingRefused
from bstuner.training._lightning import checkpoint_steps, combination_mode, prepared_loader, validates
from bstuner.training.run.combined_loader import flat_loaders

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities import CombinedLoader

__all__ = [
    "LastBatchTrouble",
    "changed_settings",
    "epoch_data",
    "largest_allowed",
    "last_batch_trouble",
    "limit_of",
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


def epoch_data(trainer: Trainer, role: str, loaders: CombinedLoader, shares: Sequence[float | None]) -> EpochData:
    """What the loaders of a role hold for this process.

    Args:
        trainer: the Trainer of the run.
        role: "train", "val", "validate", "test" or "predict".
        loaders: the loaders, as the user's code makes them.
        shares: of each, its batch size in units of the one that is searched for; None where it does not follow.

    """
    return EpochData(
        tuple(
            LoaderData(
                samples_here(trainer, role, loader),
                drops_last(loader),
                share=1.0 if share is None else share,
                fixed=known_batch_size(loader) if share is None else None,
            )
            for loader, share in zip(flat_loaders(loaders), shares, strict=True)
        ),
        shortest_ends=combination_mode(loaders) == "min_size",
    )


def limit_of(trainer: Trainer, stage: str) -> int | float:
    """Lightning's limit on the batches of an epoch."""
    return getattr(trainer, _LIMITS[stage])  # type: ignore[no-any-return]  # by its name


def largest_allowed(trainer: Trainer, stage: str, data: EpochData, full: bool = True) -> int | None:
    """The largest batch that still makes one batch of the data; None where the data's length is unknown.

    Args:
        trainer: the Trainer of the run.
        stage: "fit", "validate", "test" or "predict"; "validate" for the validation of a fit too.
        data: what the loaders hold.
        full: also bound it where a larger batch would be none, but only be larger than all there is.

    Raises:
        SettingRefused: even a batch of one sample leaves no batch within the Trainer's limit.

    """
    limit = limit_of(trainer, stage)
    largest = data.largest_batch(limit, full)
    if largest is not None and largest < 1:
        samples = min(loader.samples for loader in data.loaders if loader.samples is not None)
        raise SettingRefused(
            f"Expected at least one batch, but Trainer({_LIMITS[stage]}={limit}) of a dataset of {samples} samples "
            f"leaves none at any batch size. Raise {_LIMITS[stage]}, or build the loader with drop_last=False."
        )
    return largest


@dataclass(frozen=True)
class LastBatchTrouble:
    """BatchNorm cannot train on one sample, and an epoch may end with a batch of one."""

    loader: LoaderData
    limit: int | float
    layer: str

    @property
    def samples(self) -> int:
        """Samples in an epoch."""
        return self.loader.samples or 0

    def at(self, size: int) -> bool:
        """Whether a batch of `size` samples leaves one over, which is trained on."""
        own = self.loader.size(size)
        batches = -(-self.samples // own)
        return last_batch_of_one(self.samples, own) and limited(batches, self.limit) == batches

    @property
    def words(self) -> str:
        """What to tell the user when no size avoids it."""
        return (
            f"An epoch of {self.samples} samples ends with a batch of one, which {self.layer} (BatchNorm) refuses "
            "in training, and no smaller size avoids it: build the training DataLoader with drop_last=True."
        )


def last_batch_trouble(trainer: Trainer, stage: str, data: EpochData) -> LastBatchTrouble | None:
    """The trouble a last batch of one sample would make, or None where it cannot make any."""
    # Several loaders together hardly ever end on one sample.
    if stage != "fit" or data.samples is None or data.loaders[0].drop_last or len(data.loaders) > 1:
        return None
    layer = _first_batch_norm(trainer.lightning_module)
    return LastBatchTrouble(data.loaders[0], limit_of(trainer, stage), layer) if layer else None


def _first_batch_norm(module: nn.Module) -> str | None:
    # _BatchNorm: the common base of BatchNorm1d to 3d and SyncBatchNorm; torch exports no public one.
    return next((name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)), None)


def refuse_contradictions(trainer: Trainer, stage: str, data: EpochData, size: int) -> None:
    """Refuse now what Lightning would refuse in the middle of the fit.

    Raises:
        SettingRefused: `val_check_interval` counts more batches than an epoch has at this batch size.

    """
    batches = data.batches(size, limit_of(trainer, stage))
    interval = getattr(trainer, "val_check_interval", None)  # there is none where it is a time
    if stage != "fit" or batches is None or not isinstance(interval, int) or trainer.check_val_every_n_epoch is None:
        return
    if validates(trainer) and interval > batches:
        raise SettingRefused(
            f"Expected Trainer(val_check_interval={interval}) to be at most the training batches of an epoch; at the "
            f"batch size found, {size}, an epoch has {batches}. Give it as a fraction of an epoch (a float up to "
            f"1.0), set check_val_every_n_epoch=None to count over epochs, or cap the search with "
            f"max_val={(data.samples or 0) // interval}."
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
    interval = getattr(trainer, "val_check_interval", None)  # there is none where it is a time
    if isinstance(interval, int):
        tell("val_check_interval", interval, *batches)
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
