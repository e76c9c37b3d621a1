"""What cannot work says what was expected, what was found and what to do, and leaves the Trainer unharmed."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.strategies import Strategy
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from bstuner import BatchSizeFinder
from bstuner.errors import (
    BatchSizeNotSettable,
    EmptyDataset,
    InvalidSetting,
    NoStepTaken,
    NothingFits,
    SettingRefused,
    UnsupportedStrategy,
)


def settings_of(trainer: L.Trainer) -> dict[str, Any]:
    """The Trainer's attributes by identity; what a run rewrites at its end anyway is left out."""
    rewritten = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics", "state", "_callback_connector")
    return {name: id(value) for name, value in vars(trainer).items() if name not in rewritten}


def assert_unharmed(
    error: type[BaseException],
    match: str,
    model: L.LightningModule,
    *fit: Any,
    trains_without: bool = True,
    **settings: Any,
) -> None:
    """The search fails as expected; afterwards model and Trainer are as before, and train without the finder."""
    finder = BatchSizeFinder(**settings)
    trainer = zoo.trainer(finder, max_epochs=1)
    weights = copy.deepcopy(model.state_dict())
    attributes = {name: copy.copy(value) for name, value in vars(model).items() if name in ("batch_size", "losses")}
    before = settings_of(trainer)
    with pytest.raises(error, match=match):
        trainer.fit(model, *fit)
    changed = {name for name, value in settings_of(trainer).items() if before.get(name) != value}
    assert changed <= {"callbacks", "should_stop"}, changed
    assert trainer.callbacks == [finder]
    assert trainer.should_stop is False
    assert not {"setup", "setup_optimizers"} & set(vars(trainer.strategy))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert {name: getattr(model, name) for name in attributes} == attributes
    assert "lr_scheduler_step" not in vars(model)
    if trains_without:
        trainer.callbacks = []
        trainer.fit(model)
        assert trainer.global_step > 0


class Failing(zoo.Mlp):
    def loss(self, batch: Any) -> torch.Tensor:
        self.losses.append(0.0)
        raise KeyError("my own mistake")


class Interrupted(zoo.Mlp):
    """The user presses Ctrl-C in the second step of the second probe, once."""

    def loss(self, batch: Any) -> torch.Tensor:
        if len(self.losses) == 1 and len(batch[0]) > 2 and not zoo.NOTES:
            zoo.NOTES.append("pressed")
            raise KeyboardInterrupt
        return super().loss(batch)


class HungryValidation(zoo.Wide):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", torch.ones(3 * zoo.MIB).sum())


class Idle(zoo.Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None


def test_nothing_fits_even_at_one() -> None:
    assert_unharmed(
        NothingFits,
        r"to fit into 700.0 KiB \(700.0 KiB on CPU .* less the margin of 0%\), but a batch of 1 does not: "
        r"out of memory in training. Free memory on the device, raise memory_limit",
        zoo.Wide(),
        memory_limit="700 KiB",
        margin=0.0,
    )


def test_the_weights_alone_are_too_large() -> None:
    assert_unharmed(
        NothingFits,
        r"weights and state alone take 5\d\d\.\d KiB of the 460.8 KiB usable .* Raise memory_limit, lower margin",
        zoo.Wide(),
        memory_limit=512 * 1024,
    )


def test_memory_runs_out_in_validation_only() -> None:
    assert_unharmed(
        NothingFits,
        "a batch of 1 does not: out of memory in validation",
        HungryValidation(),
        memory_limit="8MiB",
    )


def test_a_reason_that_is_not_memory_at_size_one_is_the_cause() -> None:
    model = zoo.Regularised()
    with pytest.raises(
        NothingFits, match="A batch of 1 fails for another reason: ValueError: Expected more than 1"
    ) as e:
        zoo.trainer(BatchSizeFinder(memory_limit=93_000, margin=0.0)).fit(model)
    assert isinstance(e.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"memory_limit": "lots"}, "memory_limit"),
        ({"memory_limit": -1}, "memory_limit"),
        ({"max_val": 1}, "Expected max_val to be at least init_val=2, found 1. .* init_val=1"),
        ({"init_val": 64, "max_val": 32}, "Expected max_val to be at least init_val=64, found 32"),
        ({"init_val": 0}, "Expected init_val of at least 1, found 0"),
        ({"mode": "linear"}, "Expected mode to be 'power' or 'binsearch', found 'linear'"),
        ({"margin": 1.0}, "Expected margin to be a share of the memory from 0 up to 1, found 1.0"),
        ({"init_val": 2.5}, "Expected init_val to be a whole number, found 2.5"),
        ({"max_val": "a"}, "Expected max_val to be a whole number, found 'a'"),
        ({"steps_per_trial": 1}, "Expected steps_per_trial of at least 2 .* found 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidSetting, match=match):
        BatchSizeFinder(**settings)


def test_an_empty_dataset() -> None:
    # Without shuffling: torch itself refuses to shuffle nothing.
    assert_unharmed(EmptyDataset, "empty", zoo.Mlp(length=0, shuffle=False), trains_without=False)


def test_a_dataset_smaller_than_any_probe() -> None:
    finder = BatchSizeFinder(init_val=64)
    zoo.trainer(finder, max_epochs=1).fit(zoo.Mlp(length=1))
    assert finder.result is not None
    assert (finder.result.batch_size, finder.result.limited_by) == (1, "dataset")


def test_an_error_of_the_models_own_comes_through_untouched() -> None:
    assert_unharmed(KeyError, "^'my own mistake'", Failing(), trains_without=False)


def test_ctrl_c_ends_the_search_and_the_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert_unharmed(SystemExit, "130", Interrupted(), max_val=64)


def test_ctrl_c_says_what_was_found_and_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = zoo.trainer(BatchSizeFinder(max_val=64), enable_progress_bar=True)
    with pytest.raises(SystemExit):
        trainer.fit(Interrupted())
    out = " ".join(capsys.readouterr().out.split())
    assert "Interrupted after 1 probes: 2 (" in out
    assert "Run again with init_val=2 to go on from there." in out


def test_an_attribute_that_is_not_there() -> None:
    model = zoo.Mlp()
    with pytest.raises(
        BatchSizeNotSettable,
        match=r"Expected an attribute 'bs' on Mlp or its hparams, which train_dataloader\(\) reads; found none. "
        r"Set self.bs in __init__ and build the loader with batch_size=self.bs",
    ):
        zoo.trainer(BatchSizeFinder(batch_arg_name="bs")).fit(model)


def test_an_attribute_that_cannot_be_set() -> None:
    class Fixed(zoo.Mlp):
        fixed = property(lambda self: 4)

        def train_dataloader(self) -> DataLoader:
            return DataLoader(zoo.Vectors(64), batch_size=self.fixed)

    with pytest.raises(BatchSizeNotSettable, match=r"Expected Fixed.fixed to be an attribute that can be set"):
        zoo.trainer(BatchSizeFinder(batch_arg_name="fixed")).fit(Fixed())


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([torch.ones(64)] * 4)


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (lambda: DataLoader(zoo.Vectors(8), batch_size=None), "batch_size"),
        (lambda: DataLoader(zoo.Vectors(8), batch_sampler=[[0, 1], [2, 3]]), "batch_size"),
        (lambda: [1, 2, 3], "DataLoader"),
        (lambda: {"a": DataLoader(zoo.Vectors(8)), "b": DataLoader(zoo.Vectors(8), batch_size=None)}, "batch_size"),
    ],
    ids=["no batch size", "batch sampler without a size", "not a DataLoader", "one of two"],
)
def test_a_loader_whose_size_cannot_be_set(loader: Any, match: str) -> None:
    assert_unharmed(BatchSizeNotSettable, match, zoo.Bare(), loader(), DataLoader(zoo.Vectors(8)), trains_without=False)


def test_a_batch_sampler_with_a_size_that_can_be_set_is_fine() -> None:
    loader = DataLoader(zoo.Vectors(64), batch_sampler=BatchSampler(SequentialSampler(range(64)), 4, False))
    zoo.trainer(BatchSizeFinder(max_val=16), max_epochs=1).fit(zoo.Bare(), loader, DataLoader(zoo.Vectors(8)))
    assert loader.batch_sampler.batch_size == 16


def test_a_stream_without_a_length_is_searched_without_a_bound_of_the_data() -> None:
    class OnTensors(zoo.Bare):
        def loss(self, batch: Any) -> torch.Tensor:
            return self.net(batch).square().mean()

    loader = DataLoader(Stream(), batch_size=2)
    finder = BatchSizeFinder(memory_limit="4MiB")
    zoo.trainer(finder, max_epochs=1).fit(OnTensors(), loader, DataLoader(Stream(), batch_size=2))
    assert finder.result is not None
    assert finder.result.limited_by == "memory"
    assert finder.result.dataset_size == 4, "it ended while it was scanned"


def test_a_model_that_never_steps() -> None:
    assert_unharmed(NoStepTaken, "Expected an optimizer step within 16 training batches, found none", Idle(length=4))


def test_a_model_without_an_optimizer_is_probed_all_the_same() -> None:
    class Frozen(zoo.Mlp):
        def configure_optimizers(self) -> None:
            return None

    model = Frozen()
    with pytest.warns(UserWarning, match="this fit will run with no optimizer"):
        zoo.trainer(BatchSizeFinder(max_val=32)).fit(model)
    assert model.batch_size == 32


def test_a_validation_interval_that_the_answer_would_break_is_refused_before_training() -> None:
    model = zoo.Mlp(batch_size=8, length=512)
    trainer = zoo.trainer(BatchSizeFinder(), val_check_interval=16)
    with pytest.raises(
        SettingRefused,
        match=r"val_check_interval=16\) to be at most .* at the batch size found, 512, an epoch has 1. .* max_val=32",
    ):
        trainer.fit(model)
    assert (model.batch_size, model.losses) == (8, [])
    zoo.trainer(BatchSizeFinder(max_val=32), val_check_interval=16, max_epochs=1).fit(model)
    assert model.batch_size == 32


def test_a_limit_that_leaves_no_batch_at_any_size() -> None:
    with pytest.raises(SettingRefused, match=r"limit_train_batches=0.01\) of a dataset of 50 samples leaves none"):
        zoo.trainer(BatchSizeFinder(), limit_train_batches=0.01).fit(zoo.Mlp(length=50))


def test_a_fractional_limit_keeps_at_least_one_batch() -> None:
    model = zoo.Mlp(length=512)
    zoo.trainer(BatchSizeFinder(), limit_train_batches=0.25, max_epochs=1).fit(model)
    assert model.batch_size == 128
    assert len(model.losses) == 1


def test_batchnorm_is_spared_a_last_batch_of_one_sample() -> None:
    model = zoo.Regularised(length=129 + 32)
    zoo.trainer(BatchSizeFinder(), max_epochs=1).fit(model)
    assert 161 % 32 == 1, "the largest powers of two up to 32 would leave one sample over"
    assert 161 % model.batch_size != 1


def test_a_last_batch_of_one_that_no_size_avoids_is_told_by_the_name_of_the_layer() -> None:
    model = zoo.Regularised(length=129)
    finder = BatchSizeFinder()
    trainer = zoo.trainer(finder, max_epochs=1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        trainer.fit(model)
    assert finder.result is not None
    assert "ends with a batch of one, which net.1 (BatchNorm) refuses" in finder.result.warnings[0]
    assert "drop_last=True" in finder.result.warnings[0]


def test_a_strategy_that_is_not_known_is_refused_in_one_line() -> None:
    class Own(Strategy):
        """A strategy of the user's."""

    Own.__abstractmethods__ = frozenset()
    trainer = zoo.trainer()
    trainer.strategy.__class__ = Own
    with pytest.raises(UnsupportedStrategy, match="Expected one device, DDP or FSDP, found Own"):
        BatchSizeFinder().setup(trainer, zoo.Mlp(), "fit")


def test_fast_dev_run_does_not_search() -> None:
    model = zoo.Mlp(batch_size=8)
    with pytest.warns(UserWarning, match="does not search under fast_dev_run"):
        zoo.trainer(BatchSizeFinder(), fast_dev_run=True).fit(model)
    assert model.batch_size == 8
