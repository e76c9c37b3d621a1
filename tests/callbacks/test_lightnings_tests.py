"""What Lightning 2.6 tests of its own finder (tests_pytorch/tuner/test_scale_batch_size.py), asked of this one.

Each docstring names the test of Lightning's. Where the answer is another one, docs/find.md says why.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel, RandomDataset
from torch.utils.data import DataLoader

import bstuner
from bstuner import BatchSizeFinder
from bstuner.errors import InvalidSetting

SAMPLES = 64
METHODS = ["fit", "validate", "test", "predict"]
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def trainer_of(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(**{"max_epochs": 1, "callbacks": list(callbacks), "accelerator": "cpu", **QUIET, **options})


def loader(size: int, samples: int = SAMPLES) -> DataLoader:
    return DataLoader(RandomDataset(32, samples), batch_size=size)


class Boring(BoringModel):
    """Every loader has the batch size of an attribute, or of a hyperparameter."""

    def __init__(self, batch_size: int | None = 2) -> None:
        super().__init__()
        if batch_size is not None:
            self.batch_size = batch_size

    @property
    def size(self) -> int:
        return getattr(self, "batch_size", 1)

    def train_dataloader(self) -> DataLoader:
        return loader(self.size)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class HoldsHparams(Boring):
    def __init__(self, batch_size: int = 2) -> None:
        super().__init__(None)
        self.save_hyperparameters()

    @property
    def size(self) -> int:
        return self.hparams.batch_size


class Data(BoringDataModule):
    def __init__(self, batch_size: int | None = None) -> None:
        super().__init__()
        if batch_size is not None:
            self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return loader(getattr(self, "batch_size", 1))


class DataOfHparams(Data):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader:
        return loader(self.hparams.batch_size)


@pytest.mark.parametrize(("of_model", "of_data"), [(2, -1), (2, 2), (2, None), (None, 2), (16, 16)])
def test_the_answer_is_written_to_the_module_and_the_datamodule(of_model: int | None, of_data: int | None) -> None:
    """`test_scale_batch_size_method_with_model_or_datamodule`: also where only the module has an attribute, and the
    loaders come from a datamodule that does not read it, training gets the answer (Lightning trains with 1).
    """
    model, data = Boring(of_model), None if of_data == -1 else Data(of_data)
    trainer = trainer_of(limit_train_batches=1, limit_val_batches=0)
    answer = bstuner.find(trainer, model, datamodule=data, mode="binsearch", init_val=4, max_val=16).batch_size
    assert answer == 16
    if of_model is not None and of_data is not None:
        assert model.batch_size == answer
    if of_data not in (-1, None):
        assert data is not None
        assert data.batch_size == answer
    trainer.fit(model, datamodule=data)
    assert trainer.train_dataloader.batch_size == answer


@pytest.mark.parametrize("method", METHODS)
def test_trainer_and_weights_are_as_before(method: Any) -> None:
    """`test_trainer_reset_correctly`."""
    model = Boring()
    weights = copy.deepcopy(model.state_dict())
    trainer = trainer_of()
    names = ["loggers", "callbacks", "global_step", "max_steps", "limit_train_batches", "limit_val_batches"]
    names += ["limit_test_batches", "limit_predict_batches"]
    before = [getattr(trainer, name) for name in names], trainer.fit_loop.state_dict()
    bstuner.find(trainer, model, method=method)
    assert ([getattr(trainer, name) for name in names], trainer.fit_loop.state_dict()) == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert os.listdir() == []


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"precision": "16-mixed"}], ids=["32 bits", "16-mixed"])
@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_on_a_gpu_another_size_is_found(mode: Any, options: dict[str, Any]) -> None:
    """`test_auto_scale_batch_size_trainer_arg` and `test_auto_scale_batch_size_with_amp`; the argument of the Trainer
    that the first was written for is gone.
    """
    model = Boring()
    trainer = trainer_of(accelerator="gpu", devices=1, **options)
    assert bstuner.find(trainer, model, mode=mode).batch_size == model.batch_size == SAMPLES
    assert (trainer.scaler is not None) == bool(options)


@pytest.mark.parametrize("kind", [Boring, HoldsHparams])
def test_an_attribute_or_a_hyperparameter_of_the_module_is_written(kind: type[Boring]) -> None:
    """`test_auto_scale_batch_size_set_model_attribute`."""
    model = kind(batch_size=2)
    bstuner.find(trainer_of(), model, steps_per_trial=2)
    assert model.size == SAMPLES


@pytest.mark.parametrize("kind", [Data, DataOfHparams])
def test_an_attribute_or_a_hyperparameter_of_the_datamodule_is_written(kind: type[Data]) -> None:
    """`test_auto_scale_batch_size_set_datamodule_attribute`."""
    model, data = Boring(), kind(batch_size=2)
    trainer = trainer_of()
    bstuner.find(trainer, model, datamodule=data, steps_per_trial=2)
    assert data.train_dataloader().batch_size == SAMPLES
    trainer.fit(model, datamodule=data)
    assert trainer.datamodule is data
    assert trainer.train_dataloader.batch_size == SAMPLES


def test_an_attribute_and_a_hyperparameter_of_one_name_are_both_written() -> None:
    """`test_auto_scale_batch_size_duplicate_attribute_warning`: no warning, since neither is left behind."""

    class Both(Boring):
        def __init__(self, batch_size: int = 1) -> None:
            super().__init__(1)
            self.save_hyperparameters()

    model = Both()
    assert bstuner.find(trainer_of(), model).warnings == ()
    assert model.batch_size == model.hparams.batch_size == SAMPLES


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_the_trainer_fits_after_the_search(mode: Any) -> None:
    """`test_call_to_trainer_method`."""
    model, trainer = Boring(), trainer_of()
    answer = bstuner.find(trainer, model, mode=mode).batch_size
    trainer.fit(model)
    assert (answer, trainer.global_step) == (SAMPLES, 1)


def test_a_loader_that_is_passed_is_changed_itself() -> None:
    """`test_error_on_dataloader_passed_to_fit`: no error."""
    passed, trainer = loader(2), trainer_of(limit_val_batches=0.1, limit_train_batches=0.2)
    answer = bstuner.find(trainer, BoringModel(), train_dataloaders=passed).batch_size
    assert passed.batch_size == answer == 8, "a fifth of an epoch is to hold a whole batch"


def test_there_is_no_number_of_trials_to_choose() -> None:
    """`test_scale_batch_size_no_trials`: no `max_trials`; with the least that a search may try, the answer is that."""
    with pytest.raises(TypeError, match="max_trials"):
        bstuner.find(trainer_of(), Boring(), max_trials=0)
    assert bstuner.find(trainer_of(), Boring(), max_val=2).batch_size == 2


def test_a_mode_that_does_not_exist_is_refused() -> None:
    """`test_scale_batch_size_fails_with_unavailable_mode`."""
    with pytest.raises(ValueError, match="Expected mode to be 'power' or 'binsearch', found 'ThisModeDoesNotExist'"):
        bstuner.find(trainer_of(), Boring(), mode="ThisModeDoesNotExist")


@pytest.mark.parametrize("mode", ["power", "binsearch"])
@pytest.mark.parametrize("first", [8, 17, 64])
def test_training_and_validation_loaders_have_the_answer(mode: Any, first: int) -> None:
    """`test_dataloader_reset_with_scale_batch_size`: in Lightning, validation keeps the size that was tried first."""
    model, trainer = Boring(16), trainer_of()
    result = bstuner.find(trainer, model, init_val=first, mode=mode)
    assert (result.batch_size, result.limited_by) == (SAMPLES, "dataset")
    assert min(probe.batch_size for probe in result.probes if probe.peak_bytes is not None) <= first
    trainer.fit(model)
    assert trainer.train_dataloader.batch_size == trainer.val_dataloaders.batch_size == SAMPLES


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_an_evaluation_is_searched_for_and_not_run(method: Any) -> None:
    """`test_tuner_with_evaluation_methods`."""
    model, trainer = Boring(), trainer_of(max_epochs=100)
    assert bstuner.find(trainer, model, method=method, batch_arg_name="batch_size").batch_size == SAMPLES
    assert model.batch_size == SAMPLES
    assert (trainer.global_step, trainer.current_epoch) == (0, 0)
    assert getattr(trainer, f"{method}_loop").batch_progress.current.completed == 0
    assert os.listdir() == []


@pytest.mark.parametrize("method", METHODS)
def test_the_callback_goes_on_with_the_whole_run(method: str) -> None:
    """`test_batch_size_finder_callback`."""
    model, trainer = Boring(), trainer_of(BatchSizeFinder(max_val=32), max_epochs=2)
    getattr(trainer, method)(model)
    assert model.batch_size == 32
    if method == "fit":
        assert (trainer.global_step, trainer.current_epoch) == (4, 2)
        assert trainer.fit_loop.epoch_loop.batch_progress.total.completed == 4
    else:
        assert (trainer.global_step, trainer.current_epoch) == (0, 0)
        assert getattr(trainer, f"{method}_loop").batch_progress.current.completed == 2


def test_a_method_that_does_not_exist_is_refused() -> None:
    """`test_invalid_method_in_tuner`."""
    with pytest.raises(ValueError, match=r"Expected method to be 'fit', .* found 'prediction'"):
        bstuner.find(trainer_of(), BoringModel(), method="prediction")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "argument"), [("validate", "train_dataloaders"), ("validate", "val_dataloaders"), ("fit", "dataloaders")]
)
def test_loaders_in_the_wrong_argument_are_refused(method: Any, argument: str) -> None:
    """`test_error_if_train_or_val_dataloaders_passed_with_eval_method` and
    `test_error_if_dataloaders_passed_with_fit_method`.
    """
    with pytest.raises(InvalidSetting, match="found them in another argument"):
        bstuner.find(trainer_of(), BoringModel(), method=method, **{argument: loader(2)})


def test_several_loaders_of_an_evaluation_are_changed_together() -> None:
    """`test_batch_size_finder_with_multiple_eval_dataloaders`: no error. (Two processes, which Lightning refuses in
    `test_batch_size_finder_with_distributed_strategies`, are the matter of tests/strategies.)
    """

    class Two(BoringModel):
        def val_dataloader(self) -> Any:
            self.made = [loader(2), loader(4)]
            return self.made

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return super().validation_step(batch, batch_idx)

    model, trainer = Two(), trainer_of()
    assert bstuner.find(trainer, model, method="validate").batch_size == SAMPLES
    trainer.validate(model)
    assert [each.batch_size for each in model.made] == [SAMPLES, 2 * SAMPLES], "in the ratio they had"


@pytest.mark.parametrize(("mode", "answer"), [("power", 64), ("binsearch", 100)])
def test_after_sizes_that_fail_the_loader_has_the_one_that_ran(mode: Any, answer: int) -> None:
    """`test_dataloader_batch_size_updated_on_failure`: in Lightning "power" answers 62, half of a half of 500."""

    class Narrow(Boring):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(batch) > 100:
                raise torch.OutOfMemoryError("out of memory")
            return super().training_step(batch, batch_idx)

        def train_dataloader(self) -> DataLoader:
            return loader(self.batch_size, samples=1000)

    model, trainer = Narrow(16), trainer_of(limit_val_batches=0)
    assert bstuner.find(trainer, model, init_val=500, mode=mode).batch_size == answer
    trainer.fit(model)
    assert model.batch_size == trainer.train_dataloader.batch_size == answer


def test_validation_is_not_cut_short_after_the_search() -> None:
    """`test_batch_size_finder_callback_val_batches`."""
    model = Boring(16)
    trainer = trainer_of(BatchSizeFinder(steps_per_trial=2, max_val=4), num_sanity_val_steps=0)
    trainer.fit(model)
    assert trainer.num_val_batches == [len(trainer.val_dataloaders)] == [SAMPLES // 4]
