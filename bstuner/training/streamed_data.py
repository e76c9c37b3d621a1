"""The training data of a fit whose samples come as a stream, in batches that change size between its epochs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import BatchSampler

from bstuner.training.combination import combined, flat_loaders, with_loaders
from bstuner.training.planned_batches import check_can_be_planned
from bstuner.training.planned_data import PlannedData

__all__ = ["StreamedData"]


class StreamedData(PlannedData):
    """The loader of a planned fit on a stream, which has no places to plan by.

    Args:
        trainer: a Trainer in `on_fit_start`.
        micro: tells the samples in a batch on each process, for the epoch that starts.
        saved: what a checkpoint holds of the fit that goes on; empty for a fit from its beginning.

    Attributes:
        loader: a copy of the user's; that stays as it is.
        micro: samples in its batches now.

    """

    loader: Any
    micro: int

    def __init__(self, trainer: Trainer, micro: Callable[[], int], saved: dict[str, Any]) -> None:
        super().__init__(trainer, lambda _: (), saved)
        self._micro = micro

    def loaders(self, users: Any) -> Any:
        """What to train on in the place of the user's loaders."""
        flat = flat_loaders(users)
        loader: Any = flat[0]
        check_can_be_planned(loader)
        own = loader.batch_sampler
        self.loader = copy.copy(loader)
        vars(self.loader)["batch_sampler"] = BatchSampler(own.sampler, own.batch_size, own.drop_last)
        vars(self.loader)["_iterator"] = None
        self.resize()
        return self.loader if users is loader else with_loaders(combined(users, "train"), [self.loader])

    def resize(self) -> None:
        """Give the batches the size of the epoch that starts."""
        self.micro = self._micro()
        self.loader.batch_sampler.batch_size = vars(self.loader)["batch_size"] = self.micro
