"""Read and change the batch size of a data loader in place, as if it had been built with that size."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from bstuner.errors import BatchSizeNotSettable

__all__ = [
    "batch_size_of",
    "cuts_batches",
    "drops_last",
    "known_batch_size",
    "num_samples",
    "set_batch_size",
    "size_holder",
]


def batch_size_of(loader: object) -> int:
    """Read the batch size of a loader.

    >>> batch_size_of(DataLoader(range(10), batch_size=4))
    4

    Args:
        loader: A `torch.utils.data.DataLoader`, or any loader with an integer attribute `batch_size`. With a
            batch sampler of the user's, that sampler needs such an attribute.

    Raises:
        BatchSizeNotSettable: It has no batch size.
    """
    size = getattr(size_holder(loader), "batch_size", None)
    if isinstance(size, bool) or not isinstance(size, int):
        raise _not_settable(size_holder(loader), size)
    return size


def known_batch_size(loader: object) -> int | None:
    """Read the batch size of a loader, or None where it tells none that could be changed.

    >>> known_batch_size(DataLoader(range(10), batch_size=4)), known_batch_size([1, 2])
    (4, None)

    Args:
        loader: Anything that yields batches.
    """
    try:
        return batch_size_of(loader)
    except BatchSizeNotSettable:
        return None


def set_batch_size(loader: object, size: int) -> None:
    """Change the batch size of a loader in place; its next epoch uses it.

    >>> loader = DataLoader(range(10), batch_size=4)
    >>> set_batch_size(loader, 5)
    >>> len(loader), [len(batch) for batch in loader]
    (2, [5, 5])

    A batch sampler or a loader of the user's is only told the size: one that cuts its batches when it is
    built must cut them again when `batch_size` is set.

    Args:
        loader: As for `batch_size_of`.
        size: Samples per batch.

    Raises:
        BatchSizeNotSettable: It has no batch size, or that is read-only.
    """
    batch_size_of(loader)
    holder = size_holder(loader)
    sampler = getattr(loader, "sampler", None)  # one that makes groups of the loader's size, perhaps
    try:
        if sampler is not holder and getattr(sampler, "batch_size", None) == holder.batch_size:
            sampler.batch_size = size  # type: ignore[union-attr]
        holder.batch_size = size
    except AttributeError as error:
        raise _not_settable(holder, "a read-only value") from error
    # DataLoader keeps the size twice and refuses to set it once it is built. With a batch sampler of the
    # user's, its own copy is None and has to stay so.
    if isinstance(loader, DataLoader) and vars(loader)["batch_size"] is not None:
        vars(loader)["batch_size"] = size


def cuts_batches(loader: object) -> bool:
    """Whether a loader puts single samples of a dataset together, so that a batch of any samples can be made.

    >>> cuts_batches(DataLoader(range(10), batch_size=4)), cuts_batches(DataLoader(range(10), batch_size=None))
    (True, False)

    Args:
        loader: Anything that yields batches.
    """
    return isinstance(loader, DataLoader) and loader.batch_sampler is not None


def num_samples(loader: Any) -> int | None:
    """Count the samples a loader draws in one epoch on this process, or None where that is unknown.

    >>> num_samples(DataLoader(range(10), batch_size=4))
    10

    Args:
        loader: Anything that yields batches. Where only the number of batches is told, by a `__len__` that follows
            the batch size, that size is set to 1 for a moment to count samples.
    """
    if _loads_in_bulk(loader):
        return _count_drawn(loader, loader.sampler)
    if not cuts_batches(loader):
        return None if isinstance(loader, DataLoader) else _count_by_length(loader, loader)
    if isinstance(loader.dataset, IterableDataset):
        return _length(loader.dataset)
    if not _has_own_batch_sampler(loader):
        return _length(loader.sampler)
    return _count_drawn(loader, loader.batch_sampler)  # loader.sampler is only a placeholder then


def _count_drawn(loader: Any, sampler: Any) -> int | None:
    """Count the samples that a sampler of batches draws."""
    return _length(sampler.sampler) if hasattr(sampler, "sampler") else _count_by_length(loader, sampler)


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None


def _count_by_length(loader: Any, sized: Any) -> int | None:
    """Count samples by the batches there are at sizes 1 and 2; None where their number does not follow the size."""

    def batches(size: int) -> int:
        set_batch_size(loader, size)
        return len(sized)

    try:
        reference = batch_size_of(loader)
        try:
            samples, half = batches(1), batches(2)
        finally:
            set_batch_size(loader, reference)
    except (BatchSizeNotSettable, TypeError, NotImplementedError):
        return None
    return samples if samples // 2 <= half < samples else None


def drops_last(loader: Any) -> bool:
    """Whether a loader leaves out a last batch that is not full.

    >>> drops_last(DataLoader(range(10), batch_size=4, drop_last=True))
    True

    Args:
        loader: Anything that yields batches.
    """
    if _loads_in_bulk(loader):
        return bool(getattr(loader.sampler, "drop_last", False))
    own = getattr(loader, "drop_last", False)
    return bool(getattr(getattr(loader, "batch_sampler", None), "drop_last", own))


def _loads_in_bulk(loader: object) -> bool:
    """Whether the sampler of a loader with batch_size=None draws the keys of a batch at a time."""
    bulk = isinstance(loader, DataLoader) and loader.batch_sampler is None
    return bulk and isinstance(getattr(loader.sampler, "batch_size", None), int)  # type: ignore[attr-defined]


def _has_own_batch_sampler(loader: DataLoader[Any]) -> bool:
    return loader.batch_size is None and loader.batch_sampler is not None


def size_holder(loader: object) -> Any:
    """The object whose `batch_size` a loader follows.

    >>> from torch.utils.data import BatchSampler, SequentialSampler
    >>> sampler = BatchSampler(SequentialSampler(range(10)), 4, drop_last=False)
    >>> size_holder(DataLoader(range(10), batch_sampler=sampler)) is sampler
    True
    >>> size_holder(DataLoader(range(10), batch_size=None, sampler=sampler)) is sampler  # torch's bulk loading
    True

    Args:
        loader: Anything that yields batches.

    Raises:
        BatchSizeNotSettable: It has none.
    """
    if not isinstance(loader, DataLoader):
        if hasattr(loader, "batch_size"):
            return loader
        raise BatchSizeNotSettable(
            f"Expected a loader whose batch size can be changed (a torch.utils.data.DataLoader, or one with an "
            f"integer attribute `batch_size`), found a {type(loader).__qualname__}. Give it such an attribute and "
            f"read it whenever batches are made, or give the LightningModule or LightningDataModule that builds it "
            f"an attribute `batch_size`, and build the loader from that."
        )
    if _loads_in_bulk(loader):
        return loader.sampler
    if loader.batch_sampler is None:
        raise BatchSizeNotSettable(
            f"The DataLoader over {type(loader.dataset).__qualname__} must have a batch size, but it was "
            f"built with batch_size=None: its dataset makes the batches. Give the LightningModule or "
            f"LightningDataModule that builds it an attribute `batch_size`, and build the dataset from that."
        )
    return loader.batch_sampler


def _not_settable(holder: object, found: object) -> BatchSizeNotSettable:
    return BatchSizeNotSettable(
        f"The loader's {type(holder).__qualname__} must have an integer attribute `batch_size` that can be set, "
        f"but it has {found!r}. Add it, and read it whenever batches are made."
    )
