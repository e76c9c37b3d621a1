"""Fourteen ways in which Lightning 2.6's own BatchSizeFinder goes wrong, each a test that this one passes."""

from __future__ import annotations

import gc
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from bstuner import BatchSizeFinder, BstunerError
from bstuner.device.memory import CpuMemory
from bstuner.errors import NothingFits

LIMIT = 5 * zoo.MIB  # Wide trains at 256 under this limit, and not at 512


def sizes(finder: BatchSizeFinder) -> list[int]:
    assert finder.result is not None
    return [probe.batch_size for probe in finder.result.probes]


def search(model: L.LightningModule, **settings: Any) -> BatchSizeFinder:
    finder = BatchSizeFinder(**settings)
    zoo.trainer(finder, max_epochs=1).fit(model)
    return finder


def train_under_limit(size: int, limit: int) -> None:
    model = zoo.Wide(batch_size=size, length=2 * size)
    with CpuMemory(limit).measure(model.parameters()):
        zoo.trainer(max_epochs=1).fit(model)


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_d1_the_answer_has_run_and_trains_even_when_max_val_is_far_above_it(mode: Any) -> None:
    finder = search(zoo.Wide(length=4096), mode=mode, max_val=8192, memory_limit=LIMIT)
    assert finder.result is not None
    answer = finder.result.batch_size
    assert any(probe.batch_size == answer and probe.fits and probe.peak_bytes for probe in finder.result.probes)
    train_under_limit(answer, LIMIT)


def test_d2_a_max_val_that_is_no_power_of_two_is_not_exceeded() -> None:
    finder = search(zoo.Mlp(), max_val=100)
    assert finder.result is not None
    assert (finder.result.batch_size, finder.result.limited_by) == (64, "max_val")
    assert max(sizes(finder)) == 64


def test_d3_no_hidden_limit_of_8192_and_a_large_init_val_is_run() -> None:
    finder = search(zoo.Mlp(length=20_000), max_val=65_536, init_val=16_384)
    assert sizes(finder)[0] == 16_384
    assert finder.result is not None
    assert (finder.result.batch_size, finder.result.limited_by) == (16_384, "dataset")


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_d4_the_first_probe_runs_at_init_val_and_not_at_the_users_size(mode: Any) -> None:
    class Watched(zoo.Wide):
        def loss(self, batch: Any) -> torch.Tensor:
            zoo.NOTES.append(len(batch[0]))
            return super().loss(batch)

    finder = search(Watched(batch_size=3, length=4096), mode=mode, init_val=1024, memory_limit=LIMIT)
    assert zoo.NOTES[0] == 1024
    assert finder.result is not None
    assert finder.result.batch_size < 1024
    train_under_limit(finder.result.batch_size, LIMIT)


@pytest.mark.parametrize(("mode", "answer"), [("power", 64), ("binsearch", 100)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_d5_the_dataset_bounds_the_answer_and_at_least_one_batch_is_left(
    mode: Any, answer: int, drop_last: bool
) -> None:
    model = zoo.Mlp(length=100, drop_last=drop_last)
    finder = search(model, mode=mode)
    assert finder.result is not None
    assert (finder.result.batch_size, finder.result.limited_by) == (answer, "dataset")
    assert model.losses


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_d6_when_nothing_fits_the_error_says_so_and_the_model_keeps_its_batch_size(mode: Any) -> None:
    model = zoo.Wide(batch_size=3)
    with pytest.raises(NothingFits, match="a batch of 1 does not: out of memory in training"):
        search(model, mode=mode, memory_limit="700 KiB", margin=0)
    assert model.batch_size == 3


class HungryValidation(zoo.Wide):
    """Validation takes eight times the memory of a training step of the same size."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        hoard = [batch[0].repeat(1, 64) for _ in range(4)]
        self.log("val_loss", torch.stack([part.sum() for part in hoard]).sum())


def test_d7_out_of_memory_in_validation_is_a_verdict_and_not_a_crash() -> None:
    finder = search(HungryValidation(length=4096), memory_limit=LIMIT)
    assert finder.result is not None
    alone = search(zoo.Wide(length=4096), memory_limit=LIMIT)
    assert alone.result is not None
    assert finder.result.batch_size < alone.result.batch_size


def test_d8_every_probed_size_runs_a_validation_batch() -> None:
    class Watched(zoo.Wide):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            zoo.NOTES.append(len(batch[0]))
            super().validation_step(batch, batch_idx)

    finder = BatchSizeFinder(memory_limit=LIMIT)
    zoo.trainer(finder, max_steps=1, max_epochs=-1, num_sanity_val_steps=0).fit(Watched(length=4096))
    assert finder.result is not None
    ran = {p.batch_size for p in finder.result.probes if p.peak_bytes is not None}
    assert len(ran) > 2
    assert {min(size, 64) for size in ran} <= set(zoo.NOTES), "64 samples make no larger validation batch"


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_d9_a_pending_resume_survives_a_search(tmp_path: Any) -> None:
    L.seed_everything(1, verbose=False)
    first = zoo.trainer(ModelCheckpoint(dirpath=tmp_path, save_last=True), max_epochs=2, enable_checkpointing=True)
    first.fit(zoo.Mlp(batch_size=32))
    resumed = zoo.trainer(BatchSizeFinder(max_val=32), max_epochs=3)
    model = zoo.Mlp(batch_size=32)
    started: dict[str, Any] = {}

    class Look(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            started.update(epoch=trainer.current_epoch, step=trainer.global_step)
            started["moments"] = len(trainer.optimizers[0].state)

    resumed.callbacks.append(Look())
    resumed.fit(model, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert started == {"epoch": 2, "step": 32, "moments": 4}
    assert resumed.current_epoch == 3
    assert resumed.global_step == 48


class AtEpochs(BatchSizeFinder):
    """Searches at chosen epochs, as the example in Lightning's documentation does."""

    def __init__(self, milestones: tuple[int, ...], **settings: Any) -> None:
        super().__init__(**settings)
        self.milestones = milestones
        self.found: dict[int, Any] = {}

    def on_fit_start(self, *_: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch in self.milestones:
            self.scale_batch_size(trainer, pl_module)
            self.found[trainer.current_epoch] = self.result


@pytest.mark.parametrize("model", [zoo.Wide, zoo.Regularised])
def test_d10_a_search_in_the_middle_of_a_fit_runs_steps_and_goes_on_training(model: type[zoo.Base]) -> None:
    finder = AtEpochs((2,), memory_limit=LIMIT)
    module = model(batch_size=16, length=512)
    trainer = zoo.trainer(finder, max_epochs=4)
    trainer.fit(module)
    result = finder.found[2]
    assert all(probe.seconds for probe in result.probes if probe.fits)
    expected = search(model(batch_size=16, length=512), memory_limit=LIMIT)
    assert expected.result is not None
    assert result.batch_size == expected.result.batch_size > 16
    # Two epochs of 32 batches, then two at the new size; every batch took a step, and none was lost or repeated.
    assert len(module.losses) == 2 * 32 + 2 * (512 // result.batch_size)
    assert trainer.global_step == len(module.losses)


def test_d11_shuffling_and_weights_are_those_of_the_run_without_a_finder() -> None:
    def run(*callbacks: L.Callback, size: int) -> dict[str, torch.Tensor]:
        L.seed_everything(1, verbose=False)
        model = zoo.Mlp(batch_size=size)
        zoo.trainer(*callbacks).fit(model)
        return model.state_dict()

    found, by_hand = run(BatchSizeFinder(max_val=256), size=2), run(size=256)
    assert all(torch.equal(found[name], by_hand[name]) for name in by_hand)


def test_d12_the_sanity_check_still_runs_when_max_steps_is_set() -> None:
    checked: list[bool] = []

    class Look(L.Callback):
        def on_sanity_check_end(self, *_: Any) -> None:
            checked.append(True)

    zoo.trainer(BatchSizeFinder(max_val=16), Look(), max_steps=3, max_epochs=-1).fit(zoo.Mlp())
    assert checked == [True]


def test_d13_learning_rates_of_parameter_groups_and_schedulers_are_the_users() -> None:
    rates: dict[str, Any] = {}

    class Look(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            rates["groups"] = [group["lr"] for group in trainer.optimizers[0].param_groups]
            rates["base"] = trainer.lr_scheduler_configs[0].scheduler.base_lrs

    zoo.trainer(BatchSizeFinder(max_val=64), Look()).fit(zoo.EpochSchedule())
    assert rates == {"groups": [0.1, 0.01], "base": [0.1, 0.01]}


def live_bytes() -> int:
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if issubclass(type(tensor), torch.Tensor)  # isinstance would wake up lazy objects of torch's own
    }
    return sum(storages.values())


def test_d14_no_tensor_outlives_the_search() -> None:
    def at_start(*callbacks: L.Callback) -> int:
        L.seed_everything(1, verbose=False)
        found: list[int] = []

        class Look(L.Callback):
            def on_train_start(self, *_: Any) -> None:
                found.append(live_bytes())

        model = zoo.Wide(batch_size=64, length=128)
        before = live_bytes()
        zoo.trainer(*callbacks, Look(), max_epochs=1).fit(model)
        return found[-1] - before  # a probe calls the hook too; the last call is that of training

    # The finder itself keeps its result, which holds no tensors.
    assert at_start(BatchSizeFinder(max_val=64, init_val=32)) == at_start()


@pytest.mark.gpu
def test_d14_on_a_gpu_allocated_and_reserved_memory_are_back_to_where_they_were() -> None:
    def at_start(*callbacks: L.Callback) -> tuple[int, int]:
        found: list[tuple[int, int]] = []

        class Look(L.Callback):
            def on_train_start(self, *_: Any) -> None:
                found.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))

        torch.cuda.empty_cache()
        zoo.trainer(*callbacks, Look(), max_epochs=1, accelerator="gpu", devices=1).fit(zoo.Wide(batch_size=64))
        return found[-1]

    plain = at_start()
    searched = at_start(BatchSizeFinder(max_val=64, init_val=32))
    assert searched[0] == plain[0]
    assert searched[1] <= plain[1]


def test_every_error_on_purpose_has_one_base() -> None:
    assert issubclass(NothingFits, BstunerError)


def test_the_loader_that_training_uses_is_the_one_of_the_answer() -> None:
    loader = DataLoader(zoo.Vectors(256), batch_size=4, shuffle=True)
    finder = BatchSizeFinder(max_val=32)
    trainer = zoo.trainer(finder, max_epochs=1)
    trainer.fit(zoo.Bare(), loader, DataLoader(zoo.Vectors(64), batch_size=8))
    assert trainer.train_dataloader is loader
    assert (loader.batch_size, trainer.num_training_batches) == (32, 8)
