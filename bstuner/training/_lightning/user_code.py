"""What Lightning knows of the user's code: its attributes, its hooks, its batches, and what is compiled of it.

Most of it is undocumented, though without an underscore. Asked here, and not computed anew, so that the answer is the
one that Lightning itself goes by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from bstuner.training._lightning.roots import lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

__all__ = [
    "batch_size_or_none",
    "extract_batch_size",
    "is_compiled_by_lightning",
    "is_overridden",
    "lightning_getattr",
    "lightning_hasattr",
    "lightning_setattr",
]


def lightning_hasattr(module: LightningModule, name: str) -> bool:
    """Whether the module, its datamodule or the hparams of either have an attribute."""
    return bool(_parsing(module).lightning_hasattr(module, name))


def lightning_getattr(module: LightningModule, name: str) -> Any:
    """Return an attribute of the module, its datamodule or the hparams of either."""
    return _parsing(module).lightning_getattr(module, name)


def lightning_setattr(module: LightningModule, name: str, value: Any) -> None:
    """Write an attribute wherever it is: it writes every holder at once, as Lightning's own finder does."""
    _parsing(module).lightning_setattr(module, name, value)


def _parsing(module: LightningModule) -> Any:
    return lightning_of(module, "utilities.parsing")


def is_overridden(hook: str, owner: LightningModule | LightningDataModule) -> bool:
    """Whether the user has written a hook: Lightning's own test."""
    return bool(lightning_of(owner, "utilities.model_helpers").is_overridden(hook, owner))


def extract_batch_size(trainer: Trainer, batch: Any) -> int:
    """Count the samples in a batch as Lightning does, by its first tensor; its error says where there is none."""
    return int(lightning_of(trainer, "utilities.data").extract_batch_size(batch))


def batch_size_or_none(trainer: Trainer, batch: Any) -> int | None:
    """Count the samples in a batch as Lightning does; None where no tensor is found in it."""
    try:
        return extract_batch_size(trainer, batch)
    except lightning_of(trainer, "utilities.exceptions").MisconfigurationException:
        return None


def is_compiled_by_lightning(part: nn.Module) -> bool:
    """Whether a module was passed to the Trainer as `torch.compile(module)`."""
    return getattr(part, "_compiler_ctx", None) is not None  # all that Lightning keeps of it
