"""A training loader whose batches have planned sizes, each by its place in the data."""

from __future__ import annotations

import copy
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from bstuner.data.loaders import batch_size_of
from bstuner.device import RandomState
from bstuner.errors import SettingRefused

__all__ = ["Draw", "EpochOrder", "PlannedBatches", "check_can_be_planned", "own_generators", "with_planned_batches"]


@dataclass
class Draw:
    """How the order of an epoch was drawn.

    Args:
        epoch: the epoch.
        state: the random generators of the process before it was drawn.
        own: the state of the generator that the user gave the loader or its sampler; None where there is none.
        checksum: of the order that came out.

    """

    epoch: int
    state: RandomState
    own: torch.Tensor | None
    checksum: int

    def as_values(self) -> dict[str, Any]:
        """The same in plain values, for a checkpoint."""
        return {**vars(self), "state": self.state.as_values()}

    @classmethod
    def of_values(cls, values: dict[str, Any]) -> Draw:
        """What `as_values` has told."""
        return cls(**{**values, "state": RandomState.of_values(values["state"])})


class EpochOrder:
    """The order in which an epoch goes through the samples, drawn at once, so that it can be drawn again.

    It stands between a batch sampler and the user's sampler, where Lightning tells it the epoch.

    Args:
        generators: the user's own for the order, in a list that is empty where there is none.
        on_epoch: called before each epoch, when all that starts the training is over.
        again: how the order of an epoch was drawn before, in the run that a resumed one goes on with.

    Attributes:
        drawn: how the order was drawn last.
        differs: whether an order that was to be drawn again came out another one.

    """

    def __init__(
        self, generators: list[torch.Generator], on_epoch: Callable[[], None], again: Draw | None = None
    ) -> None:
        self._generators = generators
        self._on_epoch = on_epoch
        self._again = again
        self.drawn = again
        self.differs = False

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this of any sampler, before the `on_train_epoch_start` hooks."""
        self._on_epoch()

    def draw(self, sampler: Any, epoch: int, samples: int) -> Sequence[int]:
        """Draw the order of an epoch.

        Args:
            sampler: the user's, or the one that Lightning has put in its place.
            epoch: the epoch.
            samples: how many samples the epoch has on this process.

        Raises:
            SettingRefused: the sampler has fewer.

        """
        again = self._again if self._again is not None and self._again.epoch == epoch else None
        now, own_now = RandomState(), self._own()
        if again is not None:
            again.state.restore()
            self._set_own(again.own)
        before, own_before = (now, own_now) if again is None else (again.state, again.own)
        # With workers the first batches are fetched before Lightning has told the epoch.
        set_epoch = getattr(sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
        order = range(samples) if type(sampler) is SequentialSampler else array("q", islice(sampler, samples))
        if len(order) < samples or (isinstance(order, range) and len(sampler) < samples):
            raise SettingRefused(
                f"Expected {samples:,} samples in epoch {epoch}, as when the batches were planned, found "
                f"{min(len(order), len(sampler)):,}. Keep the number of samples of an epoch the same, or train without "
                "BatchSizeScheduler."
            )
        checksum = 0 if isinstance(order, range) else zlib.crc32(order)
        self.drawn = Draw(epoch, before, own_before, checksum)
        if again is not None:
            self.differs = checksum != again.checksum
            now.restore()  # a generator of the user's own has gone on as it did then
        return order

    def _own(self) -> torch.Tensor | None:
        return self._generators[0].get_state() if self._generators else None

    def _set_own(self, state: torch.Tensor | None) -> None:
        if self._generators and state is not None:
            self._generators[0].set_state(state)


class PlannedBatches(BatchSampler):
    """Cuts the order of an epoch into batches of planned sizes.

    Args:
        source: the user's sampler, or the one that Lightning has put in its place.
        order: draws the order.
        batch_size: that of the user's code, for those who read it.
        sizes: tells the sizes of the current epoch's batches.
        position: tells the current epoch, and how many of its batches are over where a resumed run goes on within it.

    """

    def __init__(
        self,
        source: Iterable[int],
        order: EpochOrder,
        batch_size: int,
        sizes: Callable[[], Sequence[int]],
        position: Callable[[], tuple[int, int]],
    ) -> None:
        super().__init__(source, batch_size, drop_last=False)
        self._source = source
        self.sampler = order  # type: ignore[assignment]  # where Lightning looks for a set_epoch()
        self._order = order
        self._sizes = sizes
        self._position = position

    def __len__(self) -> int:
        """Batches of the current epoch, those included that are over."""
        return len(self._sizes())

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the current epoch that are not over; the order is drawn with the first."""
        sizes = self._sizes()
        epoch, done = self._position()
        order = self._order.draw(self._source, epoch, sum(sizes))
        start = sum(sizes[:done])
        for size in sizes[done:]:
            yield list(order[start : start + size])
            start += size


def check_can_be_planned(loader: object) -> None:
    """Refuse a loader whose batches are not cut from an order of samples.

    Raises:
        SettingRefused: it is of another kind.

    """
    if not isinstance(loader, DataLoader):
        raise SettingRefused(
            f"Expected a torch.utils.data.DataLoader to plan the batches of, found a {type(loader).__qualname__}. "
            "Build the training loader as a DataLoader, or train without BatchSizeScheduler."
        )
    batch_size_of(loader)
    if type(loader.batch_sampler) is not BatchSampler:
        raise SettingRefused(
            "Expected a training DataLoader with batch_size=... whose batches can be planned, found one with a "
            f"{type(loader.batch_sampler).__qualname__}, which decides itself which samples go together. Build it with "
            "batch_size and sampler, or train without BatchSizeScheduler."
        )


def own_generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The generator that the user gave a loader or its sampler for the order of samples, if there is one."""
    sampler = loader.batch_sampler.sampler  # type: ignore[union-attr]  # checked to be a BatchSampler
    found = getattr(sampler, "generator", None)
    return [found] if isinstance(found, torch.Generator) else []


def with_planned_batches(
    loader: DataLoader[Any],
    order: EpochOrder,
    sizes: Callable[[], Sequence[int]],
    position: Callable[[], tuple[int, int]],
) -> DataLoader[Any]:
    """A copy of a loader that has planned batches; the loader itself stays as it is, for validation perhaps.

    Args:
        loader: one that `check_can_be_planned` passes.
        order, sizes, position: as for `PlannedBatches`.

    """
    planned = copy.copy(loader)
    sampler = loader.batch_sampler.sampler  # type: ignore[union-attr]  # checked to be a BatchSampler
    batches = PlannedBatches(sampler, order, batch_size_of(loader), sizes, position)
    # Past DataLoader.__setattr__, which refuses to change what it was built with.
    vars(planned)["batch_sampler"] = batches
    planned._iterator = None  # persistent workers of the loader itself go on with its own batches
    # Lightning warns of a loader that cannot be resumed where it has no such methods; what they would hold is in the
    # callback's state. They hide those of a loader that keeps a position of its own, which would skip twice.
    vars(planned)["state_dict"] = dict
    vars(planned)["load_state_dict"] = _nothing
    return planned


def _nothing(state: dict[str, Any]) -> None:
    """There is nothing to load."""
