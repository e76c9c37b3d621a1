"""Data without places to plan by: micro-batches grow between epochs, and batches by accumulation anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from growing import Grower, Numbered, fit, halves, scheduler, steps
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import launch
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bstuner.core.growth.phases import Phase
from bstuner.errors import SettingRefused

LENGTH = 160


class Stream(IterableDataset):
    """Numbered samples; each worker has its own share."""

    def __init__(self, first: int = 0, length: int = LENGTH) -> None:
        self.first, self.length = first, length

    def __iter__(self) -> Any:
        worker = get_worker_info()
        start, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return iter(Numbered(LENGTH)[self.first + index] for index in range(start, self.length, stride))


class Measured(Stream):
    """Tells its length."""

    def __len__(self) -> int:
        return self.length


class Streams(Grower):
    dataset = Stream

    def train_dataloader(self) -> DataLoader:
        options = {name: value for name, value in self.loader.items() if name != "shuffle"}
        return DataLoader(self.dataset(), batch_size=self.batch_size, **options)


def streaming(schedule: Any = None, **loader: Any) -> Streams:
    return Streams(schedule or halves(60, 100), batch_size=4, **loader)


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.parametrize("loader", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("kind", [Stream, Measured])
@pytest.mark.parametrize("fits", [16, 4])
def test_every_sample_of_the_stream_comes_once_in_an_epoch(
    loader: dict[str, Any], kind: type[Stream], fits: int
) -> None:
    model = streaming(**loader)
    model.dataset = kind
    callback = scheduler(fits=fits, max_batch_size=16)
    trainer = fit(model, callback, epochs=-1, max_steps=160)
    assert [sorted(model.samples(epoch)) for epoch in range(4)] == [list(range(LENGTH))] * 4
    assert callback.plan.phases == (Phase(0, 4), Phase(240, 8, 2.0), Phase(400, 16, 4.0))
    assert trainer.global_step < 110
    assert [max(model.sizes(epoch)) for epoch in range(4)] == ([4, 4, 8, 16] if fits == 16 else [4] * 4)
    assert len(model.validated) == 4


@pytest.mark.parametrize(("optimizer", "power"), [(torch.optim.SGD, 1.0), (torch.optim.AdamW, 0.5)])
def test_the_noise_is_that_of_the_schedule(optimizer: Any, power: float) -> None:
    model = streaming()
    model.make = optimizer
    sizes: list[float] = []

    class Sizes(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step > len(sizes):
                sizes.append(sum(model.sizes()) - sum(sizes))

    fit(model, scheduler(fits=4, max_batch_size=16), Sizes(), epochs=-1, max_steps=160)
    assert len(sizes) == len(model.lrs)
    before = 0
    for size, (first, _) in zip(sizes, model.lrs, strict=True):
        nominal = 0.1 * 0.5 ** sum(before >= 4 * step for step in (60, 100))
        assert first / size**power == pytest.approx(nominal / 4**power, rel=1e-12)
        before += size
    assert {4, 8, 16} == set(sizes)


@pytest.mark.parametrize("max_steps", [50, 103, 159])
def test_the_fit_ends_with_the_step_that_holds_the_users_last_sample(max_steps: int) -> None:
    model = streaming()
    trainer = fit(model, scheduler(fits=4, max_batch_size=16), epochs=-1, max_steps=max_steps)
    assert 4 * max_steps <= sum(model.sizes()) < 4 * max_steps + 16
    assert trainer.max_steps == max_steps


def test_validation_by_batches_comes_after_the_same_samples() -> None:
    model = streaming()
    fit(model, scheduler(fits=16, max_batch_size=16), epochs=-1, max_steps=160, val_check_interval=10)
    # Every 40 samples of an epoch, at the end of the step that holds the last of them.
    assert len(model.validated) == 4 * 4
    assert model.validated[:8] == [10, 20, 30, 40, 50, 60, 65, 70]


def test_where_epochs_end_is_seen_as_they_do_and_the_batch_grows_then() -> None:
    by_epoch = steps(lambda optimizer: ExponentialLR(optimizer, 0.5), "epoch")
    model = streaming(by_epoch)
    callback = scheduler(fits=16, max_batch_size=16)
    fit(model, callback, epochs=-1, max_steps=160)
    assert [set(model.sizes(epoch)) for epoch in range(4)] == [{4}, {8}, {16}, {16}]
    assert [lrs[0] for lrs in model.lrs] == pytest.approx([0.1] * 40 + [0.1] * 20 + [0.1] * 10 + [0.05] * 10)
    assert callback.plan.waits_for == ("ExponentialLR",)


def test_a_written_plan_works_without_an_end() -> None:
    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    model = streaming(steps(lambda optimizer: ExponentialLR(optimizer, 1.0)))
    fit(model, scheduler("0:4 160:8 320:32", fits=16), Stop(), epochs=-1)
    assert [set(model.sizes(epoch)) for epoch in range(3)] == [{4}, {8}, {16}]
    assert len(model.lrs) == 40 + 20 + 5


def test_the_users_loader_stays_as_it_is() -> None:
    loader = DataLoader(Stream(), batch_size=4)
    before = dict(vars(loader))
    model = streaming()
    L.seed_everything(1, verbose=False)
    trainer = zoo.trainer(scheduler(max_batch_size=16), max_epochs=-1, max_steps=160)
    trainer.fit(model, loader, DataLoader(Numbered(8), batch_size=8))
    assert vars(loader) == before
    assert loader.batch_sampler.batch_size == 4
    assert (trainer.max_steps, trainer.accumulate_grad_batches) == (160, 1)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("reload", [0, 2])
def test_between_epochs_it_is_resumed_exactly(reload: int) -> None:
    def train(folder: str, **settings: Any) -> tuple[Streams, L.Trainer]:
        model = streaming()
        save = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True)
        shared = {"epochs": -1, "max_steps": 160, "enable_checkpointing": True}
        shared["reload_dataloaders_every_n_epochs"] = reload
        return model, fit(model, scheduler(fits=8, max_batch_size=16), save, **shared, **settings)

    model, _ = train("unbroken")
    paths = sorted(Path("unbroken").glob("*.ckpt"))[:3]
    for path in paths:
        again, _ = train("again", ckpt_path=str(path), seed=9)
        assert again.batches == model.batches[len(model.batches) - len(again.batches) :]
        assert again.lrs == model.lrs[len(model.lrs) - len(again.lrs) :]
        for one, other in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_stream_with_neither_length_nor_max_steps_has_no_schedule() -> None:
    with pytest.raises(SettingRefused, match="neither max_epochs nor max_steps"):
        fit(streaming(), scheduler(), epochs=3)
    with pytest.raises(SettingRefused, match=r"limit_train_batches=1.0 for an IterableDataset, found 10"):
        fit(streaming(), scheduler(), epochs=-1, max_steps=160, limit_train_batches=10)


class Halves(Streams):
    """Each process has its own part of the stream."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Stream(80 * self.global_rank, 80), batch_size=self.batch_size)


def train_in_two() -> Any:
    torch.set_num_threads(1)
    model = Halves(halves(30, 50), batch_size=4)
    settings = {"epochs": -1, "max_steps": 80, "devices": 2, "strategy": "ddp"}
    trainer = fit(model, scheduler(fits=8, max_batch_size=32), **settings)
    return model.batches, model.lrs, trainer.global_step, [one.detach() for one in model.parameters()]


def test_two_processes_take_the_same_steps() -> None:
    (batches, lrs, taken, weights), (others, other_lrs, other_taken, other_weights) = (
        rank.value for rank in launch(train_in_two)
    )
    assert lrs == other_lrs
    assert taken == other_taken < 60
    assert all(map(torch.equal, weights, other_weights))
    for epoch in range(4):
        seen = [one for number, _, ids in [*batches, *others] if number == epoch for one in ids]
        assert sorted(seen) == list(range(LENGTH))
