"""Fits of unusual lengths: where they end, how they are counted, and what of them is logged and validated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from growing import Grower, fit, halves, scheduler, steps
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, IterableDataset

from bstuner.errors import SettingRefused

LENGTH = 160


def growing(schedule: Any = None, length: int = LENGTH, **loader: Any) -> Grower:
    return Grower(schedule or halves(60, 100), length=length, batch_size=4, **loader)


@pytest.mark.parametrize("max_steps", [103, 120])
@pytest.mark.parametrize(("fits", "rounding"), [(4, "power"), (8, "integer"), (12, "nearest")])
def test_max_steps_end_an_accumulated_fit_after_the_same_samples(max_steps: int, fits: int, rounding: Any) -> None:
    model = growing(halves(30, 60), length=170)
    callback = scheduler(fits=fits, max_batch_size=64, rounding=rounding)
    trainer = fit(model, callback, epochs=-1, max_steps=max_steps)
    assert sum(model.sizes()) == callback.plan.samples == callback.plan.nominal.start(max_steps)
    assert trainer.global_step == len(model.lrs) == callback.plan.planned_steps < max_steps


def test_max_steps_that_never_come_cost_nothing() -> None:
    model = growing()
    trainer = fit(model, scheduler(), epochs=3, max_steps=2 * 10**12)
    assert [sum(model.sizes(epoch)) for epoch in range(3)] == [LENGTH] * 3
    assert trainer.max_steps == 2 * 10**12


@pytest.mark.parametrize("none", [{"epochs": 0}, {"epochs": -1, "max_steps": 0}, {"limit_train_batches": 0}])
def test_a_fit_that_trains_nothing_ends_as_it_would(none: dict[str, Any]) -> None:
    assert fit(growing(), scheduler(), **none).global_step == 0


@pytest.mark.parametrize("plan", [None, "0:4 1ep:53"])
def test_no_epoch_ends_with_one_sample_which_batch_norm_refuses(plan: str | None) -> None:
    class Normed(Grower):
        def __init__(self) -> None:
            super().__init__(steps(lambda optimizer: ExponentialLR(optimizer, 0.98)), LENGTH, 4)
            self.net[1] = torch.nn.BatchNorm1d(16)

    model = Normed()
    fit(model, scheduler(plan, rounding="integer"), epochs=3)
    assert min(model.sizes()) > 1
    assert [sorted(model.samples(epoch)) for epoch in range(3)] == [list(range(LENGTH))] * 3


def test_a_logger_that_is_never_to_log_a_step_is_left_alone() -> None:
    assert fit(growing(), scheduler(), epochs=2, log_every_n_steps=0).global_step == 70


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.parametrize("streams", [False, True])
def test_validation_by_the_clock_stays_with_the_clock(streams: bool) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(growing().dataset(LENGTH)[index] for index in range(LENGTH))

        def __len__(self) -> int:
            return LENGTH

    class Streams(Grower):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(Stream(), batch_size=4)

    model = Streams(halves(60, 100), LENGTH, 4) if streams else growing()
    fit(model, scheduler(max_batch_size=16), epochs=-1, max_steps=160, val_check_interval="01:00:00:00")
    assert model.validated == []
    assert max(model.sizes()) == 16


def test_the_last_batch_of_a_stream_has_the_learning_rate_of_its_size() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(growing().dataset(LENGTH)[index] for index in range(150))

    class Streams(Grower):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(Stream(), batch_size=4)

    model = Streams(halves(37, gamma=0.25), LENGTH, 4)
    fit(model, scheduler(max_batch_size=16, fits=16), epochs=-1, max_steps=75)
    assert model.sizes()[-2:] == [16, 6]
    assert [lrs[0] for lrs in model.lrs[-2:]] == pytest.approx([0.025 * 16 / 4, 0.025 * 6 / 4])


def test_data_without_a_batch_is_told_as_such() -> None:
    with pytest.raises(SettingRefused, match=r"at least one batch, found none: drop_last"):
        fit(growing(length=3, drop_last=True), scheduler(), epochs=2)
