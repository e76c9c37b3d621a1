"""How many batches an epoch has is what real loaders do, and the largest batch is the largest that runs at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from bstuner.core.epoch_data import EpochData, LoaderData, largest_useful_batch, last_batch_of_one, limited


def batches_run(samples, size, drop_last, limit):
    count = samples // size if drop_last else math.ceil(samples / size)
    return int(count * limit) if isinstance(limit, float) else min(count, limit)


@given(
    samples=st.integers(1, 300),
    drop_last=st.booleans(),
    limit=st.one_of(
        st.integers(1, 5),
        st.sampled_from([1.0, 0.5, 1 / 3, 0.1, 0.3, 0.7, 0.01]),
        st.floats(0.004, 0.999),
        st.integers(1, 200).map(lambda n: 1 / n),
    ),
)
def test_the_largest_useful_batch_is_the_largest_that_runs_at_all(samples, drop_last, limit):
    runs = [size for size in range(1, samples + 1) if batches_run(samples, size, drop_last, limit) >= 1]
    assert largest_useful_batch(samples, drop_last, limit) == max(runs, default=0)


@pytest.mark.parametrize("samples", range(1, 14))
@pytest.mark.parametrize("size", [2, 3, 4, 20])
def test_a_last_batch_of_one_is_seen_before_it_comes(samples, size):
    lengths = [len(batch) for batch in DataLoader(range(samples), size)]
    assert last_batch_of_one(samples, size) is (lengths[-1:] == [1])


loaders = st.builds(
    LoaderData,
    samples=st.integers(1, 60),
    drop_last=st.booleans(),
    share=st.sampled_from([1.0, 2.0, 0.5, 7.0, 1 / 3, 1.5]),
    fixed=st.one_of(st.none(), st.integers(1, 12)),
)


@given(
    loaders=st.lists(loaders, min_size=1, max_size=3),
    mode=st.sampled_from(["min_size", "max_size", "max_size_cycle"]),
    size=st.integers(1, 70),
)
def test_batches_are_those_of_real_loaders_combined(loaders, mode, size):
    data = EpochData(tuple(loaders), shortest_ends=mode == "min_size")
    real = [DataLoader(range(each.samples), each.size(size), drop_last=each.drop_last) for each in loaders]
    combined = CombinedLoader(real, mode)
    iter(combined)
    assert data.batches(size) == len(combined)


@given(
    loaders=st.lists(loaders, min_size=1, max_size=3),
    shortest=st.booleans(),
    limit=st.sampled_from([1.0, 0.5, 0.3, 0.1, 3, 1]),
)
def test_at_the_largest_batch_every_loader_that_must_has_a_batch_and_above_it_none_gains(loaders, shortest, limit):
    data = EpochData(tuple(loaders), shortest)
    largest = data.largest_batch(limit)
    following = [each for each in loaders if each.fixed is None]
    assert (largest is None) == (not following)
    if largest is None:
        return
    must = [each for each in following if each.drop_last or (isinstance(limit, float) and limit < 1)]
    if largest > 0:
        assert all(limited(each.batches(largest), limit) >= 1 for each in must)
    above = largest + 1
    failing = any(limited(each.batches(above), limit) < 1 for each in must)
    full = [each.size(above) > each.samples for each in following]
    assert failing or (any(full) if shortest else all(full)) or (largest == 1 and any(full))


def test_a_process_that_has_less_counts():
    one, other = EpochData((LoaderData(10), LoaderData(None))), EpochData((LoaderData(7), LoaderData(5)))
    assert EpochData.least([one, other]) == EpochData((LoaderData(7), LoaderData(None)))


def test_a_loader_of_unknown_length_leaves_the_epoch_open():
    data = EpochData((LoaderData(None), LoaderData(40)))
    assert (data.batches(8), data.largest_batch(1.0), data.samples) == (None, None, None)
    assert EpochData((LoaderData(None), LoaderData(40)), shortest_ends=True).largest_batch(1.0) == 40


def test_pairs_for_batchnorm():
    assert EpochData((LoaderData(40),)).smallest_pair == 2
    assert EpochData((LoaderData(40), LoaderData(40, share=0.5))).smallest_pair == 4
    assert EpochData((LoaderData(40), LoaderData(40, share=0.5, fixed=1))).smallest_pair == 2
