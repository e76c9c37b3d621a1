"""What the tuner does so that a win is one for the whole fit: own settings that diverge, and the fit that follows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sameness import assert_same
from torch import Tensor
from torch.utils.data import DataLoader
from tuning import REFERENCE, Noisy, Wish, rate_of, result_of, seeded, train, warmups, wishing

import bstuner


class Fragile(Noisy):
    """Leaves the finite numbers above a learning rate of 1."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if rate_of(self) > 1 else loss


def test_own_settings_that_diverge_are_lowered_and_that_is_said() -> None:
    tuner, model = wishing(n_trials=1), seeded(Fragile, lr=5.0)
    zoo.trainer(tuner, Wish(), max_epochs=1).fit(model)
    result = result_of(tuner)
    assert (result.reference_lr, result.baseline.verdict) == (5.0, "baseline")
    assert result.baseline.lr == pytest.approx(5 / 10)
    assert (result.lr, model.lr) == (result.baseline.lr, result.baseline.lr)
    (said,) = [text for text in result.warnings if "does not train this model" in text]
    assert "Your own learning rate, 5," in said
    assert "At 0.5 it trains" in said


class Late(L.Callback):
    """A metric that is not defined at the first validation."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("late", float("nan") if trainer.global_step < 2 else 1.0 + trainer.global_step)


def test_a_metric_that_is_nan_at_first_is_no_divergence() -> None:
    tuner = wishing(monitor="late", n_trials=1)
    zoo.trainer(tuner, Late(), max_epochs=1).fit(seeded(Noisy, lr=REFERENCE))
    baseline = result_of(tuner).baseline
    assert (baseline.verdict, baseline.lr) == ("baseline", REFERENCE)


class Sours(L.Callback):
    """Says in trials that the doubled batch is better, and in the fit of several epochs that it is worse and worse."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        size = pl_module.batch_size
        fit = trainer.current_epoch > 0  # a trial ends before
        pl_module.log("wish", -1e6 if fit else size * (1 + trainer.global_step * size))


@pytest.mark.parametrize("on_regret", ["warn", "stop"])
def test_a_fit_that_falls_behind_is_told_once_and_stopped_where_that_is_wanted(on_regret: Any) -> None:
    tuner, model = wishing(on_regret=on_regret), seeded(Noisy, lr=REFERENCE)
    trainer = zoo.trainer(tuner, Sours(), max_epochs=6)
    with pytest.warns(UserWarning, match="falls behind") as heard:
        trainer.fit(model)
    assert result_of(tuner).batch_size == 16
    (said,) = [str(warning.message) for warning in heard if "falls behind" in str(warning.message)]
    assert "Train with your own settings, batch size 8 and learning rate 0.05" in said
    # Behind at two validations in a row: those after the second and the third epoch.
    assert trainer.current_epoch == (6 if on_regret == "warn" else 3)


@pytest.mark.filterwarnings("ignore:The fit with batch size")
def test_a_watched_fit_equals_the_run_by_hand() -> None:
    tuner = wishing()
    found = train(seeded(Noisy, lr=REFERENCE), {}, tuner, Sours(), max_epochs=4)
    result = result_of(tuner)
    by_hand = train(seeded(Noisy, 16, lr=result.lr), {}, *warmups(result), Sours(), max_epochs=4)
    assert_same(found, by_hand)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:The dirpath has changed")
@pytest.mark.parametrize(("after", "on_regret", "epochs"), [(0, "stop", 3), (1, "stop", 3), (1, "warn", 4)])
def test_a_resumed_fit_is_watched_from_where_it_was(after: int, on_regret: Any, epochs: int, tmp_path: Path) -> None:
    def fit(where: str, resumed: Path | None) -> tuple[int, int, bool]:
        tuner, saver = wishing(on_regret=on_regret), ModelCheckpoint(dirpath=tmp_path / where, save_top_k=-1)
        saver.filename = "{epoch}"
        trainer = zoo.trainer(tuner, Sours(), saver, max_epochs=4, enable_checkpointing=True)
        with pytest.warns(UserWarning, match="falls behind") as heard:
            trainer.fit(seeded(Noisy, lr=REFERENCE), ckpt_path=resumed, weights_only=False if resumed else None)
        said = [warning for warning in heard if "falls behind" in str(warning.message)]
        return trainer.current_epoch, len(said), tuner.result is None

    assert fit("unbroken", None) == (epochs, 1, False)
    assert fit("resumed", tmp_path / "unbroken" / f"epoch={after}.ckpt") == (epochs, 1, True)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_the_study_says_which_trial_is_the_answer(kind: str) -> None:
    where = "here.log" if kind == "journal" else "sqlite:///here.db"
    tuner = wishing(storage=where, study_name="mine")
    zoo.trainer(tuner, Wish(), max_epochs=1).fit(seeded(Noisy, lr=REFERENCE))
    storage = JournalStorage(JournalFileBackend(where)) if kind == "journal" else RDBStorage(where)
    study, result = optuna.load_study(study_name="mine", storage=storage), result_of(tuner)
    best = bstuner.best(study)
    assert study.user_attrs["answer"] == best.number
    assert result.confirmed
    alike = {(trial.batch_size, trial.lr) for trial in (result.best, *result.as_good)}
    for trial in (best, study.best_trial):
        assert (trial.user_attrs["batch_size"], trial.user_attrs["lr"]) in alike


def test_a_fit_too_short_for_a_search_is_told_so_beforehand() -> None:
    with pytest.warns(UserWarning, match="short for a search"):
        zoo.trainer(wishing(max_cost=0.5, trial_budget=None), Wish(), max_epochs=1).fit(seeded(Noisy, lr=REFERENCE))


@pytest.mark.parametrize(
    ("ends", "bound"), [({}, False), ({"max_time": {"hours": 1}}, True), ({"max_epochs": 8}, True)], ids=str
)
def test_a_fit_without_an_end_bounds_no_search_and_that_is_said(ends: dict[str, Any], bound: bool) -> None:
    trainer = zoo.trainer(Wish(), **{"max_epochs": -1, **ends})
    settings = {"monitor": "wish", "mode": "max", "objective": "metric", "n_trials": 1, "trial_budget": 64}
    result = bstuner.tune(trainer, seeded(Noisy, lr=REFERENCE), max_val=8, storage=InMemoryStorage(), **settings)
    assert any("does not bound this search" in warning for warning in result.warnings) is not bound
    assert (result.share_of_fit is not None) is bound


def test_the_search_costs_no_more_than_was_said() -> None:
    tuner = wishing(max_cost=0.5, trial_budget=None, n_trials=20, patience=None)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*short for a search")
        zoo.trainer(tuner, Wish(), max_epochs=16).fit(seeded(Noisy, lr=REFERENCE, length=1024))
    result = result_of(tuner)
    assert result.share_of_fit is not None
    assert 0 < result.share_of_fit <= 0.5


class Ordered(Noisy):
    """Its loader draws from a generator of its own."""

    def __init__(self, **rates: Any) -> None:
        super().__init__(**rates)
        self.generator = torch.Generator().manual_seed(3)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset(self.length), self.batch_size, shuffle=True, generator=self.generator)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            zoo.NOTES.append(tuple(batch[1][:8].tolist()))


def test_a_loader_with_a_generator_of_its_own_has_another_order_in_the_confirmation_alone() -> None:
    zoo.NOTES.clear()
    tuner = wishing()
    zoo.trainer(tuner, Wish(), max_epochs=1).fit(seeded(Ordered, lr=REFERENCE))
    result = result_of(tuner)
    assert result.confirmed
    first = zoo.NOTES[-len(result.trials) - 3 :]  # after the probes: the trials, the two that confirm, and the fit
    *trials, ours, theirs, fit = first
    assert {*trials, fit} == {fit}
    assert ours == theirs != fit
