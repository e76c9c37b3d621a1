"""What a loader's samplers draw is what is read of a dataset, and the way in which the loader reads it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from bstuner.data.draws import drawn_batches, drawn_keys
from bstuner.data.samples import largest_samples


class Rows(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, key: Any) -> str:
        return f"row {key}"


class Own(Sampler):
    """A sampler of a class that nobody knows."""

    def __init__(self, keys: Any) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)


class Pairs:
    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, 8, self.batch_size):
            units = range(start, start + self.batch_size)
            yield [*units, *(10 + unit for unit in units)]


class Drawing(Sampler):
    """Draws others each time."""

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randint(0, 20, (5,)).tolist())


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, [*range(20)]),
        ({"shuffle": True}, [*range(20)]),
        ({"sampler": SubsetRandomSampler([7, 3, 5])}, [3, 5, 7]),
        ({"sampler": WeightedRandomSampler([0.0, 1.0, 0.0, 2.0], num_samples=2)}, [1, 3]),
        ({"sampler": RandomSampler(Rows(), replacement=True, num_samples=3)}, [*range(20)]),
        ({"sampler": range(1, 21)}, [*range(1, 21)]),
        ({"sampler": Own(["b", "a"])}, ["b", "a"]),
        ({"sampler": Own([(1, 0.5), (2, 0.5)])}, [(1, 0.5), (2, 0.5)]),
        ({"sampler": Own([[1], [2]])}, [[1], [2]]),
        ({"batch_sampler": Pairs(4)}, [*range(8), *range(10, 18)]),
    ],
)
def test_all_keys_are_known_that_a_loader_may_draw(options: dict[str, Any], keys: list[Any]) -> None:
    torch.manual_seed(5)
    found = drawn_keys(DataLoader(Rows(), **options), seconds=5)
    assert found is not None
    assert list(found.keys) == keys
    assert found.total in (len(keys), None)


def test_a_sampler_that_draws_others_each_time_is_drawn_from_more_than_once_and_never_whole() -> None:
    torch.manual_seed(5)
    found = drawn_keys(DataLoader(Rows(), sampler=Drawing()), seconds=5)
    assert found is not None
    assert len(found.keys) > 5
    assert found.total is None


def test_a_sampler_without_an_end_is_left_and_the_result_says_so() -> None:
    class Endless(Sampler):
        def __iter__(self) -> Iterator[int]:
            return itertools.cycle(range(20))

    found = drawn_keys(DataLoader(Rows(), sampler=Endless()), seconds=0.01)
    assert found is not None
    assert (list(found.keys), found.total) == ([*range(20)], None)


def test_an_iterator_in_the_place_of_a_sampler_is_left_to_training() -> None:
    once = iter([3, 1, 2])
    found = drawn_keys(DataLoader(Rows(), sampler=once), seconds=1)
    assert found is not None
    assert list(found.keys) == [*range(20)]
    assert list(once) == [3, 1, 2]


def test_batches_are_drawn_as_the_batch_sampler_makes_them() -> None:
    assert drawn_batches(DataLoader(Rows(), batch_sampler=Pairs(2)), most=1, seconds=1) == ([[0, 1, 10, 11]], False)
    assert len(drawn_batches(DataLoader(Rows(), batch_sampler=Pairs(2)), most=9, seconds=1)[0]) == 4


class Opened(Rows):
    """Its file is opened by each worker."""

    file: list[str] | None = None

    def __getitem__(self, index: int) -> str:
        assert self.file is not None
        return self.file[index]


def open_file(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.file = ["x" * (50 if index == 13 else 5) for index in range(20)]


def test_a_dataset_that_needs_its_workers_is_read_in_workers() -> None:
    dataset = Opened()
    loader = DataLoader(dataset, num_workers=2, worker_init_fn=open_file, collate_fn=list)
    found = largest_samples(loader)
    assert (found.elements, found.scanned, found.whole, found.usual) == (50, 20, True, 5)
    assert dataset.file is None, "nothing was opened in this process"


def test_a_dataset_that_reads_many_at_once_is_read_so() -> None:
    class Bulk(Dataset):
        def __len__(self) -> int:
            return 100

        def __getitems__(self, keys: list[int]) -> list[str]:
            return ["x" * (50 if key == 77 else 5) for key in keys]

    assert largest_samples(DataLoader(Bulk(), collate_fn=list)).elements == 50


def test_rows_that_the_sampler_never_draws_are_not_read() -> None:
    class Broken(Rows):
        def __getitem__(self, index: int) -> str:
            if index % 2:
                raise FileNotFoundError(index)
            return "x" * index

    sampler = SubsetRandomSampler([2, 4, 6])
    found = largest_samples(DataLoader(Broken(), sampler=sampler, collate_fn=list))
    assert (found.elements, found.scanned, found.total) == (6, 3, 3)
