"""The batches that probes are fed: the worst that the run's own loaders could make."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from bstuner.data import (
    ProbeBatches,
    Samples,
    Scan,
    batch_of,
    batch_size_of,
    cuts_batches,
    drawn_batches,
    has_own_batches,
    known_batch_size,
    largest_samples,
    pick_samples,
    worst_batches,
)
from bstuner.errors import EmptyDataset
from bstuner.training._lightning import batch_size_or_none, is_overridden, request_loaders, validates
from bstuner.training.probing.loop import Batches, BatchSource
from bstuner.training.run import combined, flat_loaders, samples_here

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["ProbeData", "Scanned", "given"]

ScanProgress = Callable[[int, int], None]

# So many batches of a user's own batch sampler are drawn at each size, in so many seconds, to find the worst of them.
_MOST_DRAWN = 1000
_SECONDS_TO_DRAW = 1.0


class Scanned(NamedTuple):
    """How far was looked for the largest sample of a loader."""

    searched: bool  # whether it is one of the loaders whose batch size is searched for
    scanned: int
    total: int | None
    elements: int
    whole: bool
    differ: bool
    usual: float
    per_second: float | None

    @staticmethod
    def of_all(processes: Sequence[Scanned]) -> Scanned:
        """What all processes saw of it together: they look in the same order, and one may get further than another."""
        furthest = max(processes, key=lambda each: each.scanned)
        rates = [each.per_second for each in processes if each.per_second is not None]
        return furthest._replace(
            per_second=min(rates, default=None),
            elements=max(each.elements for each in processes),
            whole=all(each.whole for each in processes),
            differ=any(each.differ for each in processes),
        )


class ProbeData:
    """Batches of the largest samples that the run's loaders hold.

    Loaders that do not cut their batches themselves (a dataset that makes them, a loader that is no DataLoader) give
    the batches they give, at the size they have by then.

    Args:
        trainer: a Trainer inside `fit`, `validate`, `test` or `predict`.
        stage: which of the four.
        probe_with: the user's own choice of a sample (an index, or a function of the dataset), or None.
        scan: how far to look: seconds for the loaders of one role together, samples of each, or "all".
        progress: called with (samples looked at, samples to look at).

    Attributes:
        loaders: the loaders whose batch size is searched for, as the user's code makes them before the search.

    """

    def __init__(
        self,
        trainer: Trainer,
        stage: str,
        probe_with: int | Callable[[Any], Any] | None,
        scan: Scan,
        progress: ScanProgress | None,
    ) -> None:
        self._trainer = trainer
        self._probe_with = probe_with
        self._scan = scan
        self._progress = progress
        self._role = "train" if stage == "fit" else stage
        self._known: dict[tuple[str, int], tuple[Samples, ProbeBatches]] = {}
        self.loaders = combined(trainer, request_loaders(trainer, self._role), self._role)
        for index, loader in enumerate(self.loaders.flattened):
            if cuts_batches(loader):
                self._learn(self._role, index, loader, len(self.loaders.flattened))

    def scanned(self) -> list[Scanned]:
        """How far was looked, for each loader so far whose samples were looked at."""
        return [
            Scanned(
                role == self._role,
                each.scanned,
                each.total,
                each.elements,
                each.whole,
                each.differ,
                each.usual,
                each.per_second,
            )
            for (role, _), (each, _) in self._known.items()
        ]

    @property
    def as_they_come(self) -> list[str]:
        """The loaders whose batches are taken as they come, by their classes."""
        return [type(loader).__name__ for loader in self.loaders.flattened if not cuts_batches(loader)]

    @property
    def decided_by_samplers(self) -> bool:
        """Whether batch samplers of the user's decide how many samples a batch has."""
        return any(cuts_batches(loader) and has_own_batches(loader) for loader in self.loaders.flattened)

    def main(self) -> Batches:
        """The batches whose size is searched for, at the size that the loaders have now."""
        return self._batches(self._role)

    def validation(self) -> Batches | None:
        """The validation batches of a fit, at the size that the loaders have now; None without validation."""
        if not validates(self._trainer):
            return None
        batches = self._batches("val")
        return batches if batches.sources else None

    def _batches(self, role: str) -> Batches:
        loaders = combined(self._trainer, request_loaders(self._trainer, role), role)
        flat = flat_loaders(loaders)
        return Batches(loaders, [self._source(role, index, each, len(flat)) for index, each in enumerate(flat)])

    def _source(self, role: str, index: int, loader: Any, of: int) -> BatchSource:
        if not cuts_batches(loader):
            return BatchSource(_AsTheyCome(self._trainer, loader), loader)
        scanned, batches = self._learn(role, index, loader, of)
        size, device = batch_size_of(loader), self._batch_device()
        drawn = drawn_batches(loader, _MOST_DRAWN, _SECONDS_TO_DRAW)[0] if has_own_batches(loader) else []
        if drawn:  # what its batch_size means is the batch sampler's to say
            counts = [len(keys) for keys in drawn]
            if len(set(counts[:-1])) > 1 and (self._probe_with is None or role != self._role):
                worst = batch_of(loader, max(drawn, key=lambda keys: _weight(keys, scanned)))
                return BatchSource(lambda: worst.make(worst.rows, device), loader)
            return BatchSource(lambda: batches.make(max(counts), device), loader)
        samples = samples_here(self._trainer, role, loader)
        if samples is not None:
            size = min(size, samples)  # a dataset of fewer samples makes no larger batch
        return BatchSource(lambda: batches.make(size, device), loader)

    def _learn(self, role: str, index: int, loader: Any, of: int) -> tuple[Samples, ProbeBatches]:
        if (role, index) not in self._known:
            if self._probe_with is not None and role == self._role:
                samples = pick_samples(loader, self._probe_with)
            else:
                share = self._scan / of if isinstance(self._scan, float) else self._scan
                samples = largest_samples(loader, scan=share, progress=self._progress)
            self._known[role, index] = samples, worst_batches(samples, loader.collate_fn, known_batch_size(loader) or 1)
        return self._known[role, index]

    def _batch_device(self) -> torch.device | None:
        """Where batches may be made: on the device at once, unless user code expects to see them on the host."""
        hooks = ("on_before_batch_transfer", "transfer_batch_to_device")
        for owner in (self._trainer.lightning_module, self._trainer.datamodule):
            if owner is not None and any(is_overridden(hook, owner) for hook in hooks):
                return None
        return self._trainer.strategy.root_device


def _weight(keys: list[Any], samples: Samples) -> float:
    """The elements of a batch that is padded to its longest sample; unknown samples are taken to be as usual."""
    known = [samples.sizes.get(key, samples.usual) if isinstance(key, Hashable) else samples.usual for key in keys]
    return len(keys) * max(known, default=0)


class _AsTheyCome:
    """The batches of a loader, from its first one on, and over again when it has no more.

    Attributes:
        most: samples in the largest of them; None where that cannot be told.

    """

    def __init__(self, trainer: Trainer, loader: Any) -> None:
        self.most: int | None = None
        self._trainer = trainer
        self._loader = loader
        self._iterator: Iterator[Any] = iter(())

    def __call__(self) -> Any:
        batch = self._next()
        with contextlib.suppress(RecursionError):
            size = batch_size_or_none(self._trainer, batch)
            self.most = self.most if size is None else max(self.most or 0, size)
        return batch

    def _next(self) -> Any:
        for batch in self._iterator:
            return batch
        self._iterator = iter(self._loader)
        for batch in self._iterator:
            return batch
        raise EmptyDataset(
            f"Expected {type(self._loader).__qualname__} to give batches whenever it is iterated, found none. A source "
            "that can be read only once is no loader: open it in __iter__()."
        )


def given(batches: Batches, place: int) -> int | None:
    """Samples in the largest batch that came of a loader, where its batches are taken as they come; else None."""
    make = batches.sources[place].make
    return make.most if isinstance(make, _AsTheyCome) else None
