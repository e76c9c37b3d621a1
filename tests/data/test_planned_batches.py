"""A loader with batches of planned sizes: the order is drawn as ever, and can be drawn again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler

from bstuner.data.loaders import batch_size_of
from bstuner.data.planned_batches import Draw, EpochOrder, check_can_be_planned, own_generators, with_planned_batches
from bstuner.device.random_state import RandomState
from bstuner.errors import SettingRefused

SIZES = [2, 2, 4, 1, 3]


def planned(
    loader: DataLoader[Any],
    sizes: Sequence[int] = SIZES,
    position: tuple[int, int] = (0, 0),
    again: Draw | None = None,
) -> tuple[DataLoader[Any], EpochOrder]:
    order = EpochOrder(own_generators(loader), lambda: None, again)
    return with_planned_batches(loader, order, lambda: sizes, lambda: position), order


def numbers(loader: DataLoader[Any]) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_have_the_planned_sizes_and_the_order_without_a_plan(workers: int, shuffle: bool) -> None:
    loader = DataLoader(range(12), batch_size=5, shuffle=shuffle, num_workers=workers)
    torch.manual_seed(3)
    before = [one for batch in numbers(loader) for one in batch]
    torch.manual_seed(3)
    found = numbers(planned(loader)[0])
    assert [len(batch) for batch in found] == SIZES
    assert [one for batch in found for one in batch] == before


def test_the_loader_itself_stays_as_it_is() -> None:
    loader = DataLoader(range(12), batch_size=5, num_workers=1, persistent_workers=True)
    iter(loader)
    before = dict(vars(loader))
    copied, _ = planned(loader)
    assert len(copied) == len(SIZES)
    assert batch_size_of(copied) == copied.batch_size == 5
    assert [len(batch) for batch in numbers(copied)] == SIZES
    assert vars(loader) == before
    assert [len(batch) for batch in numbers(loader)] == [5, 5, 2]


def test_persistent_workers_follow_an_epoch_of_other_sizes() -> None:
    sizes = [4, 8]
    copied, _ = planned(DataLoader(range(12), batch_size=5, num_workers=2, persistent_workers=True), sizes)
    assert [len(batch) for batch in numbers(copied)] == [4, 8]
    sizes[:] = [6, 3, 3]
    assert len(copied) == 3
    assert [len(batch) for batch in numbers(copied)] == [6, 3, 3]


class FromPython(RandomSampler):
    """Draws from Python's generator as it goes."""

    def __iter__(self) -> Any:
        left = list(range(12))
        while left:
            yield left.pop(random.randrange(len(left)))


SAMPLERS = {
    "shuffle": lambda: {"shuffle": True},
    "own generator": lambda: {"shuffle": True, "generator": torch.Generator().manual_seed(5)},
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0, 2.0] * 6, 12)},
    "replacement": lambda: {"sampler": RandomSampler(range(12), replacement=True)},
    "Python": lambda: {"sampler": FromPython(range(12))},
    "in order": dict,
}


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("done", [1, 3, 5])
def test_an_order_is_drawn_again_and_goes_on_where_it_was(kind: str, done: int) -> None:
    loader, order = planned(DataLoader(range(12), batch_size=5, **SAMPLERS[kind]()))
    batches = numbers(loader)
    assert order.drawn is not None
    values = order.drawn.as_values()
    torch.rand(5)
    random.random()
    before = RandomState()
    resumed, order = planned(
        DataLoader(range(12), batch_size=5, **SAMPLERS[kind]()), SIZES, (0, done), Draw.of_values(values)
    )
    assert len(resumed) == len(SIZES)  # those that are over included: Lightning counts on from there
    iterator = iter(resumed.batch_sampler)
    assert [list(batch) for batch in iterator] == batches[done:]
    assert not order.differs
    state = random.getstate(), torch.get_rng_state().tolist()
    before.restore()
    assert state == (random.getstate(), torch.get_rng_state().tolist())  # the generators are where they were


def test_an_order_that_comes_out_another_one_is_noticed() -> None:
    loader, order = planned(DataLoader(range(12), batch_size=5, shuffle=True))
    numbers(loader)
    assert order.drawn is not None
    again, order = planned(DataLoader(range(13), batch_size=5, shuffle=True), again=order.drawn)
    numbers(again)
    assert order.differs


def test_of_another_epoch_nothing_is_drawn_again() -> None:
    loader, order = planned(DataLoader(range(12), batch_size=5, shuffle=True))
    batches = numbers(loader)
    later, _ = planned(DataLoader(range(12), batch_size=5, shuffle=True), position=(1, 0), again=order.drawn)
    assert numbers(later) != batches


@pytest.mark.parametrize("sampler", [SequentialSampler, RandomSampler])
def test_fewer_samples_than_planned_are_refused(sampler: Any) -> None:
    loader, _ = planned(DataLoader(range(11), batch_size=5, sampler=sampler(range(11))))
    with pytest.raises(SettingRefused, match=r"Expected 12 samples in epoch 0.*found 11"):
        numbers(loader)


def test_a_sampler_is_told_its_epoch_before_workers_fetch() -> None:
    class Told(RandomSampler):
        epochs: list[int] = []  # noqa: RUF012 -- a note

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    loader, _ = planned(DataLoader(range(12), batch_size=5, sampler=Told(range(12)), num_workers=1), position=(7, 0))
    iter(loader)
    assert Told.epochs == [7]


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        ([1, 2], "DataLoader to plan the batches of, found a list"),
        (DataLoader(range(4), batch_sampler=type("Mine", (BatchSampler,), {})(range(4), 2, False)), "Mine"),
    ],
)
def test_what_cannot_be_planned_is_refused(loader: Any, match: str) -> None:
    with pytest.raises(SettingRefused, match=match):
        check_can_be_planned(loader)
