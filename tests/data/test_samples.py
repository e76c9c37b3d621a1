"""The size of a sample, and the search for the largest ones."""

from __future__ import annotations

import dataclasses
import threading
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, TensorDataset

from bstuner.data.sample_size import sample_elements
from bstuner.data.samples import Samples, largest_samples, pick_samples
from bstuner.errors import EmptyDataset, InvalidSetting

Pair = namedtuple("Pair", ["image", "label"])


@dataclasses.dataclass
class Record:
    image: torch.Tensor
    tokens: list[int]


class Plain:
    def __init__(self):
        self.wave, self.name = np.zeros(12), "abc"


class Slotted:
    __slots__ = ("unset", "wave")

    def __init__(self):
        self.wave = np.zeros(7)


@dataclasses.dataclass(slots=True)
class SlottedRecord:
    wave: np.ndarray


@pytest.mark.parametrize(
    ("sample", "elements"),
    [
        (torch.zeros(3, 4), 12),
        (np.zeros((3, 4)), 12),
        (np.float32(1), 1),
        (Image.new("RGB", (5, 4)), 60),
        (Image.new("L", (5, 4)), 20),
        ("hello", 5),
        (b"hello", 5),
        (7, 1),
        (2.5, 1),
        (True, 1),
        (None, 0),
        ([], 0),
        ((torch.zeros(4), 1), 5),
        ([1, [2, [3]]], 3),
        ({1, 2, 3}, 3),
        ({"a": "xx", "b": {"c": torch.zeros(2, 2)}}, 6),
        (Pair(torch.zeros(6), 0), 7),
        (Record(torch.zeros(5), [1, 2]), 7),
        (Plain(), 15),
        (Slotted(), 7),
        (SlottedRecord(np.zeros(9)), 9),
        ([np.zeros(3)] * 2, 6),
        ((print, np, Plain, threading.Lock()), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_sample_counts_all_it_holds(sample, elements):
    assert sample_elements(sample) == elements


def test_a_sample_that_holds_itself_ends():
    ring = [torch.zeros(3)]
    ring.append(ring)
    node = Plain()
    node.itself = node
    assert (sample_elements(ring), sample_elements(node)) == (3, 15)


class Recorded:
    """A dataset of given sample lengths that notes which samples are read."""

    def __init__(self, lengths):
        self.lengths, self.read = lengths, []

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        self.read.append(index)
        return "x" * self.lengths[index]


def test_a_small_dataset_is_read_whole_and_the_largest_is_found():
    dataset = Recorded([3, 1, 9, 2, 9])
    assert largest_samples(dataset) == Samples(["x" * 9] * 2, scanned=5, total=5, elements=9)
    assert sorted(dataset.read) == [0, 1, 2, 3, 4]


def test_samples_tied_for_the_largest_are_kept_in_reading_order_up_to_keep():
    assert largest_samples(["ab", "c", "de", "fg", "hi"], keep=3).items == ["ab", "de", "fg"]


def test_a_large_dataset_is_read_evenly_from_first_to_last():
    dataset = Recorded([index % 7 for index in range(100_000)])
    found = largest_samples(dataset, bound=200)
    assert (found.scanned, found.total, len(set(dataset.read))) == (200, 100_000, 200)
    read = sorted(dataset.read)
    assert (read[0], read[-1]) == (0, 99_999)
    gaps = np.diff(read)
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("total", [1, 2, 63, 64, 65, 199, 200, 201, 1000])
@pytest.mark.parametrize("bound", [1, 2, 64, 200])
def test_no_sample_is_read_twice_and_the_bound_holds(total, bound):
    dataset = Recorded([1 + index % 2 for index in range(total)])
    largest_samples(dataset, bound=bound)
    assert len(set(dataset.read)) == len(dataset.read) == min(total, bound)


def test_the_same_samples_are_read_every_time():
    first, second = Recorded([1, 2] * 5000), Recorded([1, 2] * 5000)
    largest_samples(first)
    torch.manual_seed(99)
    largest_samples(second)
    assert first.read == second.read


def test_reading_stops_after_64_samples_of_one_size_spread_over_the_whole():
    dataset = Recorded([5] * 1000)
    assert largest_samples(dataset).scanned == 64
    read = sorted(dataset.read)
    assert (read[0], read[-1]) == (0, 999)
    assert np.diff(read).max() <= 17


def test_one_sample_of_another_size_among_the_first_64_keeps_reading_on():
    lengths = [5] * 1000
    lengths[-1] = 4
    assert largest_samples(Recorded(lengths)).scanned == 1000


class Stream(IterableDataset):
    def __init__(self, lengths):
        self.lengths = lengths

    def __iter__(self):
        for length in self.lengths:
            yield "x" * length


class SizedStream(Stream):
    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        raise AssertionError("a stream is read in order")


@pytest.mark.parametrize("stream", [Stream, SizedStream])
def test_a_stream_is_read_from_its_start_up_to_the_bound(stream):
    found = largest_samples(stream([1] * 90 + [7, 50]), bound=91)
    assert found == Samples(["x" * 7], scanned=91, total=None, elements=7, missed=True)


def test_a_dataset_that_can_be_indexed_but_not_measured_is_read_in_order():
    class Endless:
        def __getitem__(self, index):
            return "x" * index

    assert largest_samples(Endless(), bound=5).items == ["xxxx"]


def test_progress_is_told_after_each_sample():
    calls = []
    largest_samples(Recorded([1, 2, 3]), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("dataset", [[], Stream([]), TensorDataset(torch.zeros(0, 3))], ids=["list", "stream", "set"])
def test_an_empty_dataset_is_refused_by_its_type(dataset):
    with pytest.raises(EmptyDataset, match=rf"{type(dataset).__name__} must hold at least one sample .* empty"):
        largest_samples(dataset)


def test_the_users_choice_wins():
    dataset = Recorded([3, 1, 9])
    assert pick_samples(dataset, 1) == Samples(["x"], scanned=1, total=3, elements=1)
    assert pick_samples(dataset, lambda d: d[0] + d[2]).elements == 12
    assert pick_samples(Stream([3, 1, 9]), 2) == Samples(["x" * 9], scanned=1, total=None, elements=9)


@pytest.mark.parametrize(
    ("dataset", "probe_with", "found"),
    [
        (Recorded([1, 2]), 2, r"but got 2 for a dataset of 2 samples"),
        (Stream([1, 2]), 2, r"but got 2 for a dataset of fewer samples"),
        (Recorded([1, 2]), -1, r"but got -1\. Count from 0"),
        (Recorded([1, 2]), "first", r"but got 'first' \(str\)"),
        (Recorded([1, 2]), True, r"but got True \(bool\)"),
    ],
)
def test_a_choice_that_names_no_sample_is_refused(dataset, probe_with, found):
    expected = r"^probe_with must be the index of a sample or a function from the dataset to a sample, "
    with pytest.raises(InvalidSetting, match=expected + found):
        pick_samples(dataset, probe_with)


def test_samples_that_were_not_looked_at_may_be_larger_only_where_sizes_differ() -> None:
    ragged = ["x" * (1 + index % 7) for index in range(200)]
    assert largest_samples(ragged, bound=100).missed
    assert not largest_samples(ragged, bound=200).missed
    assert not largest_samples(["xx"] * 200, bound=100).missed


def test_of_large_samples_fewer_are_kept() -> None:
    assert [len(largest_samples([torch.ones(2**k)] * 9).items) for k in (10, 17, 18, 21)] == [8, 8, 4, 1]
