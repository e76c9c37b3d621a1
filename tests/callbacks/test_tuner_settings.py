"""What the tuner takes, what it refuses, and in which state a refusal leaves the Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import optuna
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import (
    BatchSizeFinder as LightningsFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
)
from sameness import assert_same, everything
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tuning import REFERENCE, Noisy, Wish, rate_of, result_of, seeded, train, warmups, wishing

import bstuner
from bstuner import BatchSizeFinder, BatchSizeTuner
from bstuner.errors import BaselineFailed, InvalidSetting, MonitorMissing, NothingFits, SettingRefused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"monitor": ""}, "monitor: expected the name of a logged metric, found ''"),
        ({"monitor": None}, "monitor: expected"),
        ({"mode": "less"}, "mode: expected one of min, max, found 'less'"),
        ({"n_trials": 0}, "n_trials: expected a whole number of at least 1, found 0"),
        ({"n_trials": 2.5}, "n_trials: expected a whole number of at least 1, found 2.5"),
        ({"timeout": -1}, "timeout: expected seconds, 0 or more, found -1"),
        ({"timeout": "1h"}, "timeout: expected seconds, 0 or more, found '1h'"),
        ({"objective": "speed"}, "objective: expected one of time, metric, both, found 'speed'"),
        ({"patience": 0}, "patience: expected a whole number of at least 1, found 0"),
        ({"take": "metric"}, "take: expected 'metric' or 'speed' with objective='both', else None, found 'metric'"),
        (
            {"objective": "both", "take": "best"},
            "take: expected 'metric' or 'speed' with objective='both', else None, found 'best'",
        ),
        ({"scaling_rule": "cubic"}, "scaling_rule: expected 'linear' or 'sqrt' or 'none' or 'auto', found 'cubic'"),
        ({"warmup": 0}, "warmup: expected 'auto', a whole number of samples, or None, found 0"),
        ({"warmup": 0.1}, "warmup: expected 'auto', a whole number of samples, or None, found 0.1"),
        ({"warmup": True}, "warmup: expected"),
        ({"max_val": 0}, "max_val: expected a whole number from 1, found 0"),
        ({"margin": 1.0}, "margin: expected a share of the memory from 0 up to 1, found 1.0"),
        ({"margin": "10%"}, "margin: expected a share of the memory from 0 up to 1, found '10%'"),
        ({"memory_limit": "much"}, "much"),
        ({"seed": 1.5}, "seed: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"objective": "both", "pruner": optuna.pruners.MedianPruner()}, "pruner: expected None with objective='both'"),
        ({"study": optuna.create_study(), "study_name": "mine"}, "study_name: expected None beside a study"),
        ({"study": optuna.create_study(), "storage": "here.log"}, "storage: expected None beside a study"),
        ({"trial_budget": "a while"}, "Expected trial_budget as a whole number of samples"),
        ({"trial_budget": 1.5}, "Expected trial_budget as a whole number of samples"),
        ({"trial_budget": True}, "Expected trial_budget as a whole number of samples"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_wrong_argument_is_refused_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        BatchSizeTuner(**settings)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trial_budget": 4}, "at least one optimizer step, 8 samples, found 4"),
        ({"trial_budget": 10_000}, "at most the fit, 512 samples, found 10000"),
        ({"lr_arg_name": "rate"}, "lr_arg_name: expected 'rate' to be a number on Noisy"),
    ],
)
def test_an_argument_that_does_not_suit_the_fit_is_refused_before_any_trial(
    settings: dict[str, Any], words: str
) -> None:
    storage = optuna.storages.InMemoryStorage()
    with pytest.raises(InvalidSetting) as error:
        zoo.trainer(wishing(storage=storage, **settings), Wish()).fit(Noisy(lr=REFERENCE))
    assert words in str(error.value)
    assert storage.get_all_studies() == []


def refuses(expected: type[Exception], words: str, *callbacks: L.Callback, model: Any = None, **settings: Any) -> None:
    """A search that ends with an error leaves a Trainer that trains as one that has never searched."""
    options = settings.pop("trainer", {})
    tuner = wishing(**settings)
    trainer = zoo.trainer(tuner, Wish(), *callbacks, **options)
    faulty = model or Noisy(lr=REFERENCE)
    before = {name: value.clone() for name, value in faulty.state_dict().items()}
    with pytest.raises(expected, match=words):
        trainer.fit(faulty)
    assert_same(dict(faulty.state_dict()), before)
    assert (faulty.batch_size, tuner.result) == (8, None)
    trainer.callbacks = [callback for callback in trainer.callbacks if callback is not tuner]
    zoo.NOTES.clear()
    model = seeded(Noisy, lr=REFERENCE)
    trainer.fit(model)
    found = everything(model, trainer)
    assert_same(found, train(seeded(Noisy, lr=REFERENCE), {}, Wish(), *callbacks, **options))


class Learning(Noisy):
    """The metrics of a classifier, beside what a test has it do in training."""

    dataset = zoo.Vectors

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.hazard(len(batch[0]))
        return super().training_step(batch, batch_idx)

    def hazard(self, size: int) -> None:
        """Nothing happens."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())


class Hungry(Learning):
    """Runs out of memory later than any probe runs."""

    def hazard(self, size: int) -> None:
        if self.trainer.global_step >= 6:
            raise torch.OutOfMemoryError("as a device would say")


def test_a_misspelt_monitor_is_told_with_what_is_logged() -> None:
    refuses(MonitorMissing, "monitor='val_los', found only 'train_loss', 'val_loss', 'wish'", monitor="val_los")


def test_a_fit_without_validation_has_nothing_to_tune_by() -> None:
    words = "a fit that validates, to read monitor='wish'"
    refuses(MonitorMissing, words, trainer={"limit_val_batches": 0})


def test_a_baseline_that_diverges_at_every_lower_rate_too_is_an_error() -> None:
    refuses(
        BaselineFailed,
        "batch size 8, learning rates from 1e[+]30 down to 1e[+]28 .*not finite",
        model=Noisy(lr=1e30),
        monitor="val_loss",
    )


def test_a_baseline_that_runs_out_of_memory_is_an_error() -> None:
    refuses(BaselineFailed, "batch size 8, learning rate 0.05 it ran out of memory", model=Hungry(lr=REFERENCE))


def test_what_does_not_fit_at_all_is_an_error() -> None:
    refuses(NothingFits, "some batch to fit into 57.6 KiB", memory_limit="64KiB")


def test_an_accumulation_that_changes_by_epoch_is_refused() -> None:
    refuses(SettingRefused, "found GradientAccumulationScheduler", GradientAccumulationScheduler({1: 2}))


@pytest.mark.parametrize(
    "other", [BatchSizeFinder, LightningsFinder, LearningRateFinder], ids=lambda kind: kind.__module__
)
@pytest.mark.parametrize("first", [True, False])
def test_another_search_beside_it_is_refused(other: Any, first: bool) -> None:
    pair = [wishing(), other()]
    trainer = zoo.trainer(*(pair if first else reversed(pair)))
    with pytest.raises(SettingRefused, match=f"the only callback that searches, found another {other.__name__}"):
        trainer.fit(Noisy(lr=REFERENCE))
    trainer.callbacks = []
    trainer.fit(Noisy(lr=REFERENCE))
    assert trainer.global_step == 64


def test_a_fast_dev_run_does_not_search() -> None:
    tuner, model = wishing(), Noisy(lr=REFERENCE)
    with pytest.warns(UserWarning, match="BatchSizeTuner does not search under fast_dev_run"):
        zoo.trainer(tuner, fast_dev_run=True).fit(model)
    assert (tuner.result, model.batch_size, model.lr, len(model.losses)) == (None, 8, REFERENCE, 1)
    with (
        pytest.warns(UserWarning, match="does not search under fast_dev_run"),
        pytest.raises(InvalidSetting, match="under fast_dev_run there is nothing to search for"),
    ):
        bstuner.tune(zoo.trainer(fast_dev_run=True), model)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        data = zoo.Vectors()
        return (data[index] for index in range(256))


class OnStream(Learning):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(Stream(), self.batch_size)


def test_a_stream_has_no_length_to_take_a_share_of() -> None:
    with pytest.raises(InvalidSetting, match="trial_budget as a whole number of samples, since this fit has no known"):
        zoo.trainer(wishing(trial_budget=None), Wish()).fit(OnStream(lr=REFERENCE))


@pytest.mark.parametrize("options", [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 40}], ids=str)
def test_on_a_stream_training_equals_the_run_started_by_hand(options: dict[str, Any]) -> None:
    tuner = wishing()
    found = train(seeded(OnStream, lr=REFERENCE), {}, tuner, Wish(), **options)
    result = result_of(tuner)
    assert (result.batch_size, result.budget) == (16, 128)
    by_hand = seeded(OnStream, 16, lr=result.lr)
    halved = {name: value // 2 if name == "max_steps" else value for name, value in options.items()}
    assert_same(found, train(by_hand, {}, *warmups(result), Wish(), **halved))


def test_the_scaling_rule_sets_the_learning_rate() -> None:
    def found(**settings: Any) -> tuple[str, float]:
        tuner = wishing(base_lr=REFERENCE, warmup=None, **settings)
        zoo.trainer(tuner, Wish(), max_epochs=1).fit(Learning(lr=REFERENCE))
        return result_of(tuner).rule, result_of(tuner).lr / REFERENCE

    assert found() == ("linear", 2)
    assert found(scaling_rule="sqrt") == ("sqrt", pytest.approx(2**0.5))
    assert found(scaling_rule="none") == ("none", 1)


def test_an_optimizer_that_is_not_known_is_told() -> None:
    class Own(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, {"lr": lr})

        def step(self, closure: Any = None) -> Any:
            return closure()

    tuner = wishing()
    zoo.trainer(tuner, Wish(), max_epochs=1).fit(Learning(lr=REFERENCE, make=lambda m: Own(m.parameters(), m.lr)))
    assert result_of(tuner).rule == "sqrt"
    assert any("Choose with scaling_rule" in warning for warning in result_of(tuner).warnings)


def test_adams_constants_follow_the_batch_if_asked() -> None:
    def adam(module: Any) -> Any:
        return torch.optim.Adam(module.parameters(), lr=rate_of(module), betas=module.betas, eps=module.eps)

    tuner = wishing(scale_adam=True, base_lr=2 * REFERENCE, scaling_rule="linear")
    found = train(seeded(Noisy, make=adam, lr=REFERENCE, betas=(0.9, 0.99), eps=1e-8), {}, tuner, Wish())
    result = result_of(tuner)
    constants = found["optimizers"][0]["param_groups"][0]
    assert constants["betas"] == pytest.approx((0.9**2, 0.99**2))
    assert constants["eps"] == pytest.approx(1e-8 / 2**0.5)
    written = {"betas": constants["betas"], "eps": constants["eps"]}
    assert f"Adam(betas={written['betas']}, eps={written['eps']})" in result.set_values
    by_hand = train(seeded(Noisy, 16, make=adam, lr=result.lr, **written), {}, *warmups(result), Wish())
    assert_same(found, by_hand)


@pytest.mark.parametrize(
    ("warmup", "base_lr", "expected"),
    [
        ("auto", 1.0, []),  # twice as high is not more than twice
        ("auto", 2.0, [(26, 0.25)]),  # a twentieth of 512 samples
        (None, 2.0, []),
        (100, 1.0, [(100, 0.5)]),
        (100, 0.25, []),  # it was not raised
    ],
)
def test_a_raised_learning_rate_is_warmed_up_to(warmup: Any, base_lr: float, expected: Any) -> None:
    class Watch(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, *_: Any) -> None:
            own = [callback for callback in trainer.callbacks if isinstance(callback, bstuner.LearningRateWarmup)]
            zoo.NOTES.append([(each.samples, each.start_factor) for each in own])

    tuner = wishing(base_lr=base_lr * REFERENCE, warmup=warmup)
    trainer = zoo.trainer(tuner, Wish(), Watch())
    trainer.fit(Learning(lr=REFERENCE))
    assert [(each.samples, each.start_factor) for each in warmups(result_of(tuner))] == expected
    assert zoo.NOTES[-1] == expected
    # A trial warms up over the same share of its schedule: a quarter of the fit here.
    of_trials = [(max(1, round(samples / 4)), factor) for samples, factor in expected]
    assert zoo.NOTES[-3:-1] == [of_trials, []], "the winner and the baseline on another seed"
    assert [type(callback) for callback in trainer.callbacks] == [BatchSizeTuner, Wish, Watch]


def test_more_of_accuracy_is_better() -> None:
    tuner = wishing(monitor="accuracy", log2_batch_ratio=0, base_lr=REFERENCE, warmup=None)
    model = Learning(lr=REFERENCE / 200)
    zoo.trainer(tuner, Wish()).fit(model)
    result = result_of(tuner)
    assert result.best.curve[-1].metric >= result.baseline.curve[-1].metric
    assert max(mark.metric for mark in result.best.curve) > max(mark.metric for mark in result.baseline.curve)


def test_checkpoints_that_count_steps_are_converted(tmp_path: Any) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=16, save_top_k=-1, filename="{step}")
    tuner = wishing()
    zoo.trainer(tuner, Wish(), saver, enable_checkpointing=True).fit(Learning(lr=REFERENCE))
    assert "ModelCheckpoint(every_n_train_steps): 16 -> 8" in result_of(tuner).set_values
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {f"step={step}.ckpt" for step in (8, 16, 24, 32)}
