"""The training data of a planned fit, and all that decides its order, so that the fit can be resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import BatchSampler

from bstuner.data import Draw, EpochOrder, check_can_be_planned, own_generators, with_planned_batches
from bstuner.device import RandomState
from bstuner.errors import SettingRefused
from bstuner.training._lightning import has_loaders, prepared_loader, substitute_train_loaders
from bstuner.training.run import combined, flat_loaders, with_loaders

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["IndexedData", "LoaderDraws", "StreamedData"]


class IndexedData:
    """The loader of a planned fit.

    Args:
        trainer: a Trainer in `on_fit_start`.
        sizes: tells the sizes of an epoch's batches.
        saved: what a checkpoint holds of the fit that goes on; empty for a fit from its beginning.

    """

    def __init__(self, trainer: Trainer, sizes: Callable[[int], Sequence[int]], saved: dict[str, Any]) -> None:
        self._trainer = trainer
        self._epoch_sizes = sizes
        self._saved = saved
        here = saved["processes"][trainer.global_rank] if saved else None
        self._to_restore: dict[str, Any] | None = here
        self._again = Draw.of_values(here["draw"]) if here is not None and here["draw"] is not None else None
        self._order: EpochOrder | None = None
        self._generators: list[torch.Generator] = []
        self._sampler: Any = None
        self._length: int | None = None  # of the sampler, when the fit began

    def loaders(self, users: Any) -> Any:
        """What to train on in the place of the user's loaders."""
        trainer = self._trainer
        if self._order is not None:
            self.restore_generators()  # a resumed fit begins with an epoch for which they are made anew
        flat = flat_loaders(users)
        loader = prepared_loader(trainer, "train", flat[0])
        check_can_be_planned(loader)
        self._generators = own_generators(loader)
        self._sampler = loader.batch_sampler.sampler
        if self._length is None:
            self._length = len(self._sampler)
        if self._saved and self._seed is not None:
            # A DistributedSampler orders epochs by it, and has it from the seed of the script.
            self._sampler.seed = self._saved["processes"][trainer.global_rank]["seed"]
        self._order = EpochOrder(self._generators, self.restore_generators, self._again)
        planned = with_planned_batches(loader, self._order, self._sizes, self._position)
        return planned if users is flat[0] else with_loaders(combined(trainer, users, "train"), [planned])

    def restore_generators(self) -> None:
        """Go on with the random numbers of the run that is resumed, from where it was saved."""
        if self._to_restore is not None:
            RandomState.of_values(self._to_restore["now"]).restore()
            if self._generators and self._to_restore["own"] is not None:
                self._generators[0].set_state(self._to_restore["own"])
            self._to_restore = None

    def refuse_other_length(self, epoch: int) -> None:
        """Refuse an epoch of more or fewer samples than the fit began with: the rest would be dropped in silence.

        Raises:
            SettingRefused: the loader, made anew for this epoch perhaps, has another number of samples.

        """
        found = len(self._sampler)
        if found != self._length:
            raise SettingRefused(
                f"Expected {self._length:,} samples in epoch {epoch}, as when the batches were planned, found "
                f"{found:,}. Keep the number of samples of an epoch the same, or train without BatchSizeScheduler."
            )

    def state(self, epoch: int) -> dict[str, Any]:
        """What decides the order of an epoch and of those to come on this process, in plain values."""
        draw = self._order.drawn if self._order is not None else None
        return {
            "draw": None if draw is None or draw.epoch != epoch else draw.as_values(),
            "now": RandomState().as_values(),
            "seed": self._seed,
            "own": self._generators[0].get_state() if self._generators else None,
        }

    @property
    def order_differs(self) -> bool:
        """Whether the order of the resumed epoch could not be drawn again."""
        return self._order is not None and self._order.differs

    @property
    def _seed(self) -> int | None:
        seed = getattr(self._sampler, "seed", None)
        return seed if isinstance(seed, int) else None

    def _sizes(self) -> Sequence[int]:
        return self._epoch_sizes(self._trainer.current_epoch)

    def _position(self) -> tuple[int, int]:
        epoch = self._trainer.current_epoch
        return epoch, self._saved["batches"] if self._saved and epoch == self._saved["epoch"] else 0


class StreamedData(IndexedData):
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
        return self.loader if users is loader else with_loaders(combined(self._trainer, users, "train"), [self.loader])

    def resize(self) -> None:
        """Give the batches the size of the epoch that starts."""
        self.micro = self._micro()
        self.loader.batch_sampler.batch_size = vars(self.loader)["batch_size"] = self.micro


class LoaderDraws:
    """Notes with which random numbers training loaders are made, so that others in their place can be made with them.

    Otherwise a fit would draw twice, and go through the samples in another order than it does without a plan.

    Args:
        trainer: a Trainer in `setup`.

    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._drawn: RandomState | None = None
        self._take_back = substitute_train_loaders(trainer, self._note)

    def end(self) -> RandomState | None:
        """Note no more; the random generators before the loaders were made that the fit has, None if it has none."""
        self._take_back()
        return self._drawn if has_loaders(self._trainer) else None

    def _note(self, users: Callable[[], Any]) -> Any:
        self._drawn = RandomState()
        return users()
