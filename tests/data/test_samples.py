"""The size of a sample, and the search for the largest ones."""

from __future__ import annotations

import dataclasses
import threading
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bstuner.data.sample_size import sample_elements
from bstuner.data.samples import Samples, _evenly, largest_samples, pick_samples
from bstuner.data.worst_case import worst_batches
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


def loader_of(dataset, **options):
    return DataLoader(dataset, collate_fn=list, **options)


def test_a_dataset_is_read_whole_and_the_largest_is_found():
    dataset = Recorded([3, 1, 9, 2, 9])
    found = largest_samples(loader_of(dataset))
    assert (found.items, found.scanned, found.total, found.elements) == (["x" * 9] * 2, 5, 5, 9)
    assert (found.whole, found.differ, found.usual) == (True, True, 3)
    assert sorted(dataset.read) == [0, 1, 2, 3, 4]


def test_a_single_long_sample_is_found_wherever_it_is():
    for place in (0, 1, 199, 398, 399):
        lengths = [5] * 400
        lengths[place] = 50
        assert largest_samples(loader_of(Recorded(lengths))).elements == 50


def test_a_number_of_samples_is_read_evenly_and_the_result_says_so():
    dataset = Recorded([5] * 100_000)
    found = largest_samples(loader_of(dataset), scan=200)
    assert (found.scanned, found.total, found.whole) == (200, 100_000, False)
    read = sorted(set(dataset.read))
    assert (read[0], read[-1]) == (0, 99_999)
    assert np.diff(read).max() < 3 * 100_000 / 200


def test_when_time_is_up_the_scan_ends_after_a_few_samples():
    dataset = Recorded([5] * 1000)
    found = largest_samples(loader_of(dataset), scan=1e-9)
    assert (found.scanned, found.total, found.whole) == (8, 1000, False)
    assert not largest_samples(loader_of(Stream([1] * 100)), scan=1e-9).whole


@pytest.mark.parametrize("total", [1, 2, 3, 64, 65, 199, 1000])
@pytest.mark.parametrize("scan", [64, "all"])
def test_no_sample_is_looked_at_twice(total, scan):
    dataset = Recorded([1 + index % 2 for index in range(total)])
    found = largest_samples(loader_of(dataset), scan=scan)
    assert found.scanned == min(total, 64 if scan == 64 else total)
    assert len(set(dataset.read)) == len(dataset.read)


def test_the_same_samples_are_read_every_time():
    first, second = Recorded([1, 2] * 500), Recorded([1, 2] * 500)
    largest_samples(loader_of(first), scan=100)
    torch.manual_seed(99)
    largest_samples(loader_of(second, shuffle=True), scan=100)
    assert first.read[:100] == second.read[:100]


@pytest.mark.parametrize("period", [2, 4, 8, 10, 16])
def test_the_first_samples_meet_no_rhythm_in_the_data(period):
    for total in (64, 100, 512, 1000):
        labels = [index % period for index in _evenly(range(total))][:16]
        assert len(set(labels)) >= min(period, 16) // 2


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
def test_a_stream_is_read_from_its_start(stream):
    found = largest_samples(loader_of(stream([1] * 90 + [7, 50])), scan=91)
    assert (found.items, found.scanned, found.total, found.whole) == (["x" * 7], 91, None, False)
    found = largest_samples(loader_of(stream([1] * 90 + [7, 50])))
    assert (found.elements, found.scanned, found.total, found.whole) == (50, 92, 92, True)


def test_progress_is_told_after_each_sample():
    calls = []
    largest_samples(loader_of(Recorded([1, 2, 3])), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("dataset", [[], Stream([]), TensorDataset(torch.zeros(0, 3))], ids=["list", "stream", "set"])
def test_an_empty_dataset_is_refused_by_its_type(dataset):
    with pytest.raises(EmptyDataset, match=rf"{type(dataset).__name__} must hold at least one sample .* empty"):
        largest_samples(loader_of(dataset))


def test_the_users_choice_wins():
    dataset = Recorded([3, 1, 9])
    assert pick_samples(loader_of(dataset), 1) == Samples(["x"], scanned=1, total=3, elements=1)
    assert pick_samples(loader_of(dataset), lambda d: d[0] + d[2]).elements == 12
    assert pick_samples(loader_of(Stream([3, 1, 9])), 2) == Samples(["x" * 9], scanned=1, total=None, elements=9)


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
        pick_samples(loader_of(dataset), probe_with)


def test_of_large_samples_fewer_are_kept() -> None:
    found = [largest_samples(loader_of([torch.ones(2**k)] * 20)) for k in (10, 21, 23, 24)]
    assert [len(each.items) for each in found] == [16, 8, 2, 2]
    assert [len(each.spread) for each in found] == [16, 8, 2, 2]


def test_batches_of_padded_samples_are_of_different_ones_with_the_largest_among_them() -> None:
    def pad(samples: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)

    samples = [torch.full((20 if index == 7 else 10,), float(index)) for index in range(64)]
    batch = worst_batches(largest_samples(loader_of(samples)), pad).make(16)
    assert batch.shape == (16, 20)
    assert len(set(batch[:, 0].tolist())) == 16
    assert 7 in batch[:, 0].tolist()[:2]


def test_batches_that_pad_nothing_are_mostly_of_the_largest_samples_and_have_some_others() -> None:
    samples = ["x" * (20 if index == 7 else 10) for index in range(64)]
    for size in (4, 32, 64):
        lengths = [len(each) for each in worst_batches(largest_samples(loader_of(samples)), list).make(size)]
        assert lengths.count(10) == 3 * -(-size // 32)


@pytest.mark.parametrize("needed", [2, 3, 4, 6, 12])
def test_a_collate_function_that_takes_only_multiples_is_asked_for_none_but_them(needed: int) -> None:
    sizes = []

    def mixed(samples: list[torch.Tensor]) -> torch.Tensor:
        if len(samples) % needed:
            raise ValueError(len(samples))
        sizes.append(len(samples))
        return torch.stack(samples)

    found = largest_samples(loader_of([torch.full((3,), float(index)) for index in range(64)]))
    batches = worst_batches(found, mixed, size=needed)
    sizes.clear()
    assert batches.make(4 * needed).shape == (4 * needed, 3)
    assert sizes == [], "larger batches are made of rows that were collated at a size that is taken"


def test_samples_that_may_not_be_together_are_copies_of_the_largest() -> None:
    samples = [torch.ones(20 if index == 7 else 10) for index in range(64)]
    assert worst_batches(largest_samples(loader_of(samples)), torch.stack).make(4).shape == (4, 20)


def test_how_fast_samples_are_read_is_told_by_the_clock_after_the_first(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("bstuner.data.samples.time.perf_counter", lambda: clock[0])

    class Slow(Recorded):
        def __getitem__(self, index):
            clock[0] += 0.25 if self.read else 60.0  # the first one opens the file
            return super().__getitem__(index)

    assert largest_samples(loader_of(Slow([1] * 21)), scan="all").per_second == pytest.approx(4)
    assert largest_samples(loader_of(Recorded([1] * 21)), scan="all").per_second is None, "no time went by"
