"""Whether loaders train with the batch size that they are given: what they draw at two sizes is compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from bstuner.data import batch_size_of, cuts_batches, drawn_batches, has_own_batches, size_holder
from bstuner.errors import BatchSizeNotSettable
from bstuner.training._lightning import batch_size_or_none, request_loaders
from bstuner.training.batching.places import AttributeBatching, Batching
from bstuner.training.run import flat_loaders

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["check_following", "samples_drawn"]

# Of each loader so many batches are drawn at most, in so many seconds, to see whether it counts them rightly.
_MOST = 10_000
_SECONDS = 0.5


@dataclass(frozen=True)
class _Drawn:
    """What a loader gives at one size.

    Attributes:
        first: samples in its first batch; None where it tells none.
        said: batches that it says it has; None where it does not say.
        came: batches that came; None where they were more than was looked at.

    """

    first: int | None
    said: int | None
    came: int | None


def check_following(trainer: Trainer, role: str, batching: Batching) -> str:
    """Refuse a loader that would not train with the size that it is given; a warning where that cannot be told.

    User code runs, at two batch sizes, where a loader has a batch sampler or a count of its own.

    Args:
        trainer: the Trainer of the run.
        role: "train", "validate", "test" or "predict".
        batching: where the batch size lives.

    Raises:
        BatchSizeNotSettable: a loader gives the same batches at both sizes, or another number of them than it says.

    """
    reference, shares = batching.reference, batching.shares(trainer, role)
    loaders = flat_loaders(request_loaders(trainer, role))
    followers = [loader for loader, share in zip(loaders, shares, strict=True) if share is not None]
    if reference is not None and any(_decides(loader) for loader in followers):
        drawn: list[list[_Drawn | None]] = []
        sizes = reference, 2 * reference
        try:
            for size in sizes:
                batching.apply(size)
                loaders = flat_loaders(request_loaders(trainer, role))
                drawn.append([_draw(trainer, each) if _decides(each) else None for each in loaders])
        finally:
            batching.apply(reference)
        for loader, share, small, large in zip(loaders, shares, *drawn, strict=True):
            if share is not None and small and large:
                _compare(loader, sizes, small, large)
    if isinstance(batching, AttributeBatching):
        return ""
    return next((_own_size(loader) for loader in followers if _own_size(loader)), "")


def samples_drawn(loader: Any) -> int | None:
    """Samples in a full batch, where a batch sampler of the user's decides that; else None."""
    if not cuts_batches(loader) or not has_own_batches(loader):
        return None
    return max((len(keys) for keys in drawn_batches(loader, 2, _SECONDS)[0]), default=None)


def _decides(loader: Any) -> bool:
    """Whether code of the user's decides how many samples make a batch, or how many batches an epoch."""
    if not isinstance(loader, DataLoader):
        return _length(loader) is not None
    if not cuts_batches(loader):
        return False
    return has_own_batches(loader) or type(loader).__len__ is not DataLoader.__len__


def _draw(trainer: Trainer, loader: Any) -> _Drawn:
    said = _length(loader)
    if isinstance(loader, DataLoader):
        batches, ended = drawn_batches(loader, _MOST, _SECONDS)
        return _Drawn(len(batches[0]) if batches else 0, said, len(batches) if ended else None)
    until, first, came = time.perf_counter() + _SECONDS, None, 0
    for batch in loader:
        if came == 0:
            first = batch_size_or_none(trainer, batch)
        elif came >= (said or 0) or time.perf_counter() > until:
            return _Drawn(first, said, None)
        if batch_size_or_none(trainer, batch) == 0:
            break
        came += 1
    return _Drawn(first, said, came)


def _compare(loader: Any, sizes: tuple[int, int], small: _Drawn, large: _Drawn) -> None:
    holder = type(size_holder(loader) if isinstance(loader, DataLoader) else loader).__qualname__
    todo = (
        "Read `batch_size` whenever batches are made, or give the LightningModule or LightningDataModule an attribute "
        "`batch_size` and build it from that in the *_dataloader() hook."
    )
    several = small.came is None or small.came > 1
    if isinstance(loader, DataLoader) and small.first == large.first and several:
        raise BatchSizeNotSettable(
            f"Expected {holder} to follow its batch size, found batches of {small.first} samples at "
            f"batch_size={sizes[0]} and at batch_size={sizes[1]} alike. {todo}"
        )
    was_right = small.came is None or small.said is None or small.came == small.said
    if was_right and large.said is not None and large.came not in (None, large.said):
        kind = type(loader).__qualname__ if type(loader).__len__ is not DataLoader.__len__ else holder
        raise BatchSizeNotSettable(
            f"Expected {kind} to count its batches at the size it has, found that at batch_size={sizes[1]} its "
            f"__len__() says {large.said}, and {large.came} came: it counts them when it is built. {todo}"
        )


def _own_size(loader: Any) -> str:
    """A warning about a sampler that has a batch size of its own beside the loader's; "" where there is none."""
    if not cuts_batches(loader) or has_own_batches(loader):
        return ""
    sampler = loader.sampler
    if getattr(sampler, "batch_size", None) != batch_size_of(loader):
        return ""
    return (
        f"{type(sampler).__qualname__} has a batch_size of its own, which is changed with the loader's: if it reads "
        "that only when it is built, build both from an attribute in the *_dataloader() hook."
    )


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None
