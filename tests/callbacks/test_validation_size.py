"""Training and validation sizes are separate questions."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint
from sameness import assert_same, everything
from torch.utils.data import DataLoader

import bstuner
from bstuner import BatchSizeFinder, FindResult
from bstuner.errors import BatchSizeNotSettable, NothingFits

LIMIT = 5 * zoo.MIB


class Noted(zoo.Wide):
    """Notes the sizes of the batches that are really trained and validated on; validates on 4,096 samples."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen["sizes"].append(("train", len(batch[0])))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["sizes"].append(("val", len(batch[0])))
        super().validation_step(batch, batch_idx)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset(4096), batch_size=self.batch_size)


class Apart(Noted):
    """Its validation loader has a size of its own."""

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset(4096), batch_size=16)


def fitted(model: L.LightningModule, *fit: Any, **settings: Any) -> tuple[FindResult, set[Any]]:
    finder = BatchSizeFinder(**settings)
    zoo.trainer(finder, max_epochs=1, num_sanity_val_steps=0, limit_train_batches=4, limit_val_batches=3).fit(
        model, *fit
    )
    assert finder.result is not None
    return finder.result, set(model.seen["sizes"])


def test_by_default_one_attribute_drives_both_as_by_hand() -> None:
    result, sizes = fitted(Noted(batch_size=8, length=4096), max_val=64)
    assert sizes == {("train", 64), ("val", 64)}
    assert (result.validation_batch_size, result.validation_probes) == (None, ())


def test_by_default_validation_keeps_a_size_of_its_own() -> None:
    _, sizes = fitted(Apart(batch_size=8, length=4096), max_val=64)
    assert sizes == {("train", 64), ("val", 16)}


@pytest.mark.parametrize("model", [Noted, Apart])
def test_validation_batches_may_be_larger_since_nothing_is_kept_for_backward(model: type[Noted]) -> None:
    result, sizes = fitted(model(batch_size=8, length=4096), validation=True, memory_limit=LIMIT)
    assert result.validation_batch_size is not None
    assert result.validation_batch_size >= 2 * result.batch_size
    assert sizes == {("train", result.batch_size), ("val", result.validation_batch_size)}
    last = result.validation_probes[-1]
    assert (last.batch_size, last.fits) == (result.validation_batch_size, True), "it has run beside the training batch"
    beyond = [probe for probe in result.validation_probes if probe.batch_size > result.validation_batch_size]
    assert not any(probe.fits for probe in beyond)


def test_passed_loaders_are_changed_each_to_its_own_size() -> None:
    class Bare(zoo.Bare):
        build = zoo.Wide.build

    train, val = DataLoader(zoo.Vectors(4096), batch_size=8), DataLoader(zoo.Vectors(4096), batch_size=8)
    result = bstuner.find(zoo.trainer(), Bare(), train, val, validation=True, memory_limit=LIMIT)
    assert (train.batch_size, val.batch_size) == (result.batch_size, result.validation_batch_size)
    assert val.batch_size > train.batch_size


def test_the_validation_data_limits_it() -> None:
    result = bstuner.find(zoo.trainer(), zoo.Mlp(batch_size=8, length=4096), validation=True, max_val=256)
    assert (result.batch_size, result.validation_batch_size) == (256, 64)
    result = bstuner.find(zoo.trainer(), zoo.Mlp(batch_size=8, length=4096), validation=True, max_val=32)
    assert (result.batch_size, result.validation_batch_size) == (32, 32), "nothing above max_val is probed"


def test_one_loader_in_both_roles_cannot_have_two_sizes() -> None:
    loader = DataLoader(zoo.Vectors(64), batch_size=8)
    with pytest.raises(
        BatchSizeNotSettable, match="found one loader in both roles, which can have only one batch size"
    ):
        bstuner.find(zoo.trainer(), zoo.Bare(), loader, loader, validation=True, max_val=16)
    assert loader.batch_size == 8
    assert bstuner.find(zoo.trainer(), zoo.Bare(), loader, loader, max_val=16).batch_size == 16


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_an_empty_list_of_validation_loaders_is_none() -> None:
    class Empty(Noted):
        def val_dataloader(self) -> Any:
            return []

    for validation in (False, True):
        result, sizes = fitted(Empty(batch_size=8, length=64), max_val=16, validation=validation)
        assert sizes == {("train", 16)}
        assert result.validation_batch_size is None


def test_a_share_of_validation_that_would_be_left_without_a_batch_bounds_a_size_that_drives_both() -> None:
    model = zoo.Mlp(batch_size=8, length=4096)  # validates on 64 samples
    finder = BatchSizeFinder(max_val=512)
    zoo.trainer(finder, max_epochs=1, limit_val_batches=0.5, limit_train_batches=2).fit(model)
    assert model.batch_size == 32, "two batches, of which half is one"
    assert finder.result is not None
    assert finder.result.limited_by == "dataset"


class HungryValidation(Apart):
    """Takes 1 KiB a sample in validation."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["sizes"].append(("val", len(batch[0])))
        torch.ones(len(batch[0]), 16 * 1024).sum()


def test_a_validation_that_needs_more_gets_a_smaller_batch_and_does_not_limit_training() -> None:
    plain = bstuner.find(zoo.trainer(), Apart(batch_size=8, length=4096), memory_limit=LIMIT)
    model = HungryValidation(batch_size=8, length=4096)
    result = bstuner.find(zoo.trainer(), model, memory_limit=LIMIT, validation=True)
    assert result.batch_size == plain.batch_size
    assert result.validation_batch_size == 32


def test_a_validation_that_cannot_run_at_all() -> None:
    class Impossible(HungryValidation):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if len(batch[0]) != 2:
                raise torch.OutOfMemoryError("made up")
            torch.ones(2 * zoo.MIB).sum()

    with pytest.raises(NothingFits, match="out of memory in validation"):
        bstuner.find(zoo.trainer(), Impossible(batch_size=8, length=4096), memory_limit=LIMIT, validation=True)


def test_without_validation_there_is_nothing_to_find() -> None:
    trainer = zoo.trainer(limit_val_batches=0)
    result = bstuner.find(trainer, zoo.Mlp(batch_size=8), validation=True, max_val=32)
    assert result.validation_batch_size is None


def test_training_is_the_run_started_by_hand_with_both_sizes() -> None:
    class Split(zoo.Regularised):
        val_size = 8

        def val_dataloader(self) -> DataLoader:
            return DataLoader(self.dataset(64), batch_size=self.val_size)

    class ByHand(Split):
        val_size = 32

    runs = []
    for model, size, finders in ((ByHand, 32, ()), (Split, 8, (BatchSizeFinder(validation=True, max_val=32),))):
        L.seed_everything(1, verbose=False)
        module = model(batch_size=size)
        trainer = zoo.trainer(*finders)
        trainer.fit(module)
        state = everything(module, trainer)
        state["attributes"] = [name for name in state["attributes"] if name != "val_dataloader"]
        runs.append(state)
    assert_same(runs[1], runs[0])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_has_both_sizes(tmp_path: Any) -> None:
    def run(epochs: int, **fit: Any) -> tuple[BatchSizeFinder, Apart]:
        finder = BatchSizeFinder(validation=True, max_val=32)
        checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
        options = {"max_epochs": epochs, "limit_train_batches": 2, "limit_val_batches": 1}
        model = Apart(batch_size=8, length=64)
        zoo.trainer(finder, checkpoint, enable_checkpointing=True, **options).fit(model, **fit)
        return finder, model

    first, _ = run(1)
    again, model = run(2, ckpt_path=tmp_path / "last.ckpt")
    assert first.result is not None
    assert again.result is None, "it did not search again"
    assert set(model.seen["sizes"]) == {("train", 32), ("val", first.result.validation_batch_size)}
