"""Changing a loader's batch size in place is the same as having built it with that size."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from bstuner.data.loaders import batch_size_of, drops_last, num_samples, set_batch_size
from bstuner.errors import BatchSizeNotSettable

DATA = torch.arange(23)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(11))


class CountedStream(Stream):
    def __len__(self):
        return 11


class PairSampler:
    """A batch sampler of the user's: no BatchSampler, no sampler, an own batch_size."""

    def __init__(self, batch_size):
        self.batch_size = batch_size

    def __iter__(self):
        yield list(range(self.batch_size))

    def __len__(self):
        return 1


def batches(loader, epochs=2):
    return [batch.tolist() for _ in range(epochs) for batch in loader]


@pytest.mark.parametrize("with_generator", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_the_batches_are_those_of_a_loader_built_with_the_size(with_generator, drop_last, workers):
    def build(size):
        generator = torch.Generator().manual_seed(5) if with_generator else None
        return DataLoader(DATA, size, shuffle=True, drop_last=drop_last, generator=generator, **workers)

    torch.manual_seed(1)
    expected = batches(build(4))
    torch.manual_seed(1)
    changed = build(2)
    set_batch_size(changed, 4)
    assert batches(changed) == expected
    assert (changed.batch_size, len(changed)) == (4, len(build(4)))


def test_persistent_workers_take_up_the_new_size_after_an_epoch_with_the_old():
    loader = DataLoader(DATA, batch_size=2, num_workers=2, persistent_workers=True)
    batches(loader, epochs=1)
    set_batch_size(loader, 10)
    assert [len(batch) for batch in batches(loader, epochs=1)] == [10, 10, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_takes_up_the_new_size(workers):
    loader = DataLoader(CountedStream(), batch_size=2, num_workers=workers)
    set_batch_size(loader, 4)
    assert ([len(batch) for batch in loader], len(loader)) == ([4, 4, 3], 3)


def test_a_batch_sampler_of_the_users_is_read_and_set():
    loader = DataLoader(DATA, batch_sampler=PairSampler(3))
    assert batch_size_of(loader) == 3
    set_batch_size(loader, 5)
    assert batches(loader, epochs=1) == [[0, 1, 2, 3, 4]]
    assert loader.batch_size is None  # as DataLoader has it beside a batch sampler


def test_a_loader_without_a_batch_size_is_refused():
    loader = DataLoader(DATA, batch_size=None)
    with pytest.raises(BatchSizeNotSettable, match=r"DataLoader over Tensor .* batch_size=None.* `batch_size`"):
        batch_size_of(loader)


def test_an_object_that_is_no_loader_is_refused_by_its_type():
    with pytest.raises(BatchSizeNotSettable, match=r"found a list.*attribute `batch_size`"):
        set_batch_size([1, 2], 4)


@pytest.mark.parametrize("found", [None, True, "8"])
def test_a_batch_sampler_without_an_integer_size_is_refused(found):
    loader = DataLoader(DATA, batch_sampler=PairSampler(found))
    with pytest.raises(BatchSizeNotSettable, match=rf"PairSampler must have an integer .* but it has {found!r}"):
        batch_size_of(loader)


def test_a_batch_sampler_with_a_read_only_size_is_refused():
    class Fixed(PairSampler):
        batch_size = property(lambda self: 2)

        def __init__(self):
            pass

    with pytest.raises(BatchSizeNotSettable, match=r"Fixed must have .* but it has 'a read-only value'"):
        set_batch_size(DataLoader(DATA, batch_sampler=Fixed()), 4)


@pytest.mark.parametrize(
    ("loader", "samples"),
    [
        (DataLoader(DATA, batch_size=4, drop_last=True), 23),
        (DataLoader(DATA, sampler=DistributedSampler(DATA, num_replicas=2, rank=0)), 12),
        (DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(range(7)), 2, False)), 7),
        (DataLoader(DATA, batch_sampler=PairSampler(3)), None),
        (DataLoader(Stream(), batch_size=2), None),
        (DataLoader(CountedStream(), batch_size=2), 11),
    ],
)
def test_samples_per_epoch_are_those_the_sampler_draws(loader, samples):
    assert num_samples(loader) == samples


def test_a_last_batch_is_dropped_where_the_batch_sampler_says_so():
    assert drops_last(DataLoader(DATA, drop_last=True))
    assert not drops_last(DataLoader(DATA))
    assert drops_last(DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 2, True)))
    assert not drops_last(DataLoader(DATA, batch_sampler=PairSampler(3)))
