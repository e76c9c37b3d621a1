"""The search as users meet it: study, objectives, Ctrl-C, and what their own callbacks and loggers see of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import optuna
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sameness import assert_same, everything
from torch import Tensor
from tuning import REFERENCE, Noisy, Picks, Wish, by_step, rate_of, result_of, seeded, sgd, train, warmups, wishing

import bstuner
from bstuner import BatchSizeTuner, TuneResult
from bstuner.core.tune_result import TrialSummary
from bstuner.errors import StudyMismatch
from bstuner.training.probing import timing


class Clock:
    """A time that only training moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# A global, because a search winds back what models hold.
CLOCK = Clock()


class Timed(Noisy):
    """Learnable, and with a training time that is the same in every run."""

    dataset = zoo.Vectors

    def build(self) -> torch.nn.Module:
        return torch.nn.Linear(64, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        CLOCK.now += 1.0 + len(batch[0]) / 8
        return super().training_step(batch, batch_idx)


def timed(**settings: Any) -> BatchSizeTuner:
    settings = {
        "monitor": "train_loss_of_all",
        "trial_budget": 256,
        "max_val": 32,
        "n_trials": 4,
        "max_cost": None,
        **settings,
    }
    tuner = BatchSizeTuner(**settings)
    tuner.trial_settings = dataclasses.replace(tuner.trial_settings, clock=CLOCK)
    return tuner


class Memorizes(Timed):
    """Validates on what it trains on, so that every step makes it better."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("train_loss_of_all", self.loss(batch))


def search(tuner: BatchSizeTuner, **kwargs: Any) -> TuneResult:
    model = seeded(Memorizes, lr=REFERENCE / 5)
    zoo.trainer(tuner, max_epochs=1, **kwargs).fit(model)
    return result_of(tuner)


def told(result: TuneResult) -> list[Any]:
    return [dataclasses.replace(trial, peak_bytes=None) for trial in (*result.trials, *result.confirmation)]


def searched(result: TuneResult) -> list[TrialSummary]:
    """The trials of a search, without those beside its first choice."""
    return [trial for trial in result.trials if trial.role != "edge"]


def test_a_fixed_seed_gives_the_same_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=CLOCK))
    first, again, other = (search(timed(seed=seed, storage=f"{n}.log")) for n, seed in enumerate((3, 3, 4)))
    assert len(searched(first)) == 4
    assert told(first) == told(again)
    assert told(first) != told(other)


def test_the_time_to_the_own_quality_is_what_counts() -> None:
    # A step of 8 takes 2 s, one of 32 takes 5 s: at equal samples a batch of 32 is 1.6 times as fast.
    result = search(timed(sampler=Picks(2, 2 * REFERENCE), n_trials=2, warmup=None))
    baseline, other = result.baseline, result.trials[1]
    assert (other.global_batch_size, other.verdict) == (32, "best")
    assert other.seconds is not None
    assert baseline.seconds is not None
    assert (baseline.samples_per_second, other.samples_per_second) == (pytest.approx(4), pytest.approx(6.4))
    assert other.seconds == pytest.approx(other.samples / 6.4, abs=0.5 / 6.4)  # samples are told as whole ones
    assert result.target == baseline.curve[-1].metric
    assert other.samples < 256


def test_a_baseline_that_is_the_best_stays() -> None:
    tuner = timed(sampler=Picks(0, REFERENCE / 100), n_trials=4, patience=2)
    model = seeded(Memorizes, lr=REFERENCE)
    trainer = zoo.trainer(tuner)
    trainer.fit(model)
    result, found = result_of(tuner), everything(model, trainer)
    assert (result.best, result.speedup, result.confirmed, result.set_values) == (result.baseline, 1.0, None, ())
    assert "already the best" in result.stopped
    assert len(result.trials) == 3
    assert_same(found, train(seeded(Memorizes, lr=REFERENCE), {}))


def test_one_trial_is_the_baseline_alone() -> None:
    result = search(timed(n_trials=1))
    assert (result.best, result.trials) == (result.baseline, (result.baseline,))


@pytest.mark.parametrize(("take", "batch"), [(None, 8), ("metric", 8), ("speed", 32)])
def test_two_objectives_apply_only_the_end_that_is_taken(take: Any, batch: int) -> None:
    tuner = timed(objective="both", take=take, sampler=Picks(2, REFERENCE / 100), n_trials=3)
    model = seeded(Memorizes, lr=REFERENCE)
    zoo.trainer(tuner, max_epochs=1).fit(model)
    result = result_of(tuner)
    assert (result.batch_size, model.batch_size, result.confirmed) == (batch, batch, None)
    assert model.lr == result.lr
    assert {trial.global_batch_size for trial in result.pareto_front} == {8, 32}
    assert all(trial.curve[-1].samples == 256 for trial in result.trials)


def test_a_study_of_the_user_runs_what_waits_in_it() -> None:
    study = optuna.create_study(direction="maximize", sampler=Picks(-1, REFERENCE))
    study.enqueue_trial({"log2_batch_ratio": 0, "base_lr": REFERENCE}, user_attrs={"role": "baseline"})
    study.enqueue_trial({"log2_batch_ratio": 1, "base_lr": REFERENCE})
    tuner = wishing(study=study, storage=None, sampler=None, n_trials=3, max_val=32, trial_budget=256)
    zoo.trainer(tuner, Wish()).fit(Noisy(16, lr=REFERENCE))
    result = result_of(tuner)
    assert [trial.global_batch_size for trial in searched(result)] == [16, 32, 8]
    assert result.study_name == study.study_name


def test_a_study_of_the_same_name_goes_on_where_it_was() -> None:
    def run(n_trials: int, base_lr: float) -> TuneResult:
        tuner = wishing(study_name="mine", storage="here.log", n_trials=n_trials, base_lr=base_lr)
        zoo.trainer(tuner, Wish(), max_epochs=1).fit(Noisy(lr=REFERENCE))
        return result_of(tuner)

    class Counts(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            zoo.NOTES.append(pl_module.lr)

    first = run(2, REFERENCE)
    second = run(3, 2 * REFERENCE)
    assert second.trials[: len(first.trials)] == first.trials
    assert [trial.lr for trial in searched(second)] == pytest.approx([REFERENCE, 2 * REFERENCE, 4 * REFERENCE])
    third = wishing(study_name="mine", storage="here.log", n_trials=3)
    zoo.trainer(third, Wish(), Counts(), max_epochs=1).fit(Noisy(lr=REFERENCE))
    assert result_of(third).trials == second.trials
    assert zoo.NOTES[-1:] == [result_of(third).lr]
    assert len([lr for lr in zoo.NOTES if lr != REFERENCE]) == 1, "the fit alone: all trials are known"


def test_a_study_of_other_settings_is_refused() -> None:
    def run(lr: float) -> None:
        zoo.trainer(wishing(study_name="mine", storage="here.log"), Wish(), max_epochs=1).fit(Noisy(lr=lr))

    run(REFERENCE)
    with pytest.raises(StudyMismatch, match=r"reference_lr: expected 0\.05, found 0\.1"):
        run(2 * REFERENCE)


def test_a_pruner_of_the_user_stops_trials_too() -> None:
    tuner = wishing(pruner=optuna.pruners.ThresholdPruner(upper=10))
    zoo.trainer(tuner, Wish(), max_epochs=1).fit(Noisy(lr=REFERENCE))
    stopped = result_of(tuner).trials[1]
    assert (stopped.verdict, stopped.reason, stopped.steps) == ("behind", "stopped by the pruner", 1)
    assert result_of(tuner).best == result_of(tuner).baseline


class Interrupted(Noisy):
    """Ctrl-C in the second trial."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(batch[0]) == 16 and self.trainer.global_step == 4 and "now" in zoo.NOTES:
            raise KeyboardInterrupt
        return super().training_step(batch, batch_idx)


def test_ctrl_c_ends_search_and_fit_and_keeps_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    zoo.NOTES.append("now")
    tuner = wishing(study_name="mine", storage="here.log")
    options = {"limit_train_batches": 32, "val_check_interval": 16, "accumulate_grad_batches": 1}
    trainer = zoo.trainer(tuner, Wish(), enable_progress_bar=True, **options)
    model, callbacks = Interrupted(lr=REFERENCE), set(trainer.callbacks)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SystemExit) as end:
        trainer.fit(model)
    assert end.value.code == 130
    out = " ".join(capsys.readouterr().out.split())
    assert "Interrupted after 1 trial" in out
    assert "go on with study_name='mine' (as an option: --study_name mine)" in out
    assert_same(dict(model.state_dict()), weights)
    assert (model.batch_size, model.lr, model.losses, tuner.result) == (8, REFERENCE, [], None)
    assert {name: getattr(trainer, name) for name in options} == options
    assert set(trainer.callbacks) == callbacks
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("here.log"))
    study = optuna.load_study(study_name="mine", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "WAITING"]
    zoo.NOTES.clear()
    trainer.fit(model)
    result = result_of(tuner)
    assert [trial.global_batch_size for trial in searched(result)] == [8, 16]
    assert result.trials[0].number == 0
    assert (model.batch_size, model.lr) == (16, result.lr)


def test_out_of_memory_in_a_trial_is_an_answer() -> None:
    class Hungry(Noisy):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if len(batch[0]) == 16 and self.trainer.global_step == 4:
                raise torch.OutOfMemoryError("as a device would say")
            return super().training_step(batch, batch_idx)

    tuner, model = wishing(), seeded(Hungry, lr=REFERENCE)
    trainer = zoo.trainer(tuner, Wish())
    trainer.fit(model)
    found, result = everything(model, trainer), result_of(tuner)
    assert [trial.verdict for trial in result.trials] == ["baseline", "out of memory"]
    assert result.best == result.baseline
    assert_same(found, train(seeded(Hungry, lr=REFERENCE), {}, Wish()))


class Recorder(L.Callback):
    """Notes every hook that a user's callback may act on, in the run itself."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        zoo.NOTES.append(("fit", pl_module.batch_size, len(trainer.optimizers), trainer.optimizers[0].defaults["lr"]))
        self.seen = 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.seen += 1

    def on_train_end(self, *_: Any) -> None:
        zoo.NOTES.append(("end", self.seen))


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.suffix == ".csv" else ""
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_users_own_parts_see_nothing_of_the_trials(tmp_path: Path) -> None:
    def parts(name: str) -> list[Any]:
        return [
            Wish(),
            Recorder(),
            EarlyStopping("val_loss", patience=1),
            ModelCheckpoint(dirpath=tmp_path / name / "weights", monitor="val_loss", save_top_k=2),
        ]

    def run(model: L.LightningModule, name: str, *more: L.Callback) -> tuple[Any, Any, Any]:
        logger = CSVLogger(tmp_path / name, name="", version="")
        callbacks = parts(name)
        trainer = zoo.trainer(
            *more, *callbacks, logger=logger, log_every_n_steps=1, enable_checkpointing=True, max_epochs=3
        )
        trainer.fit(model)
        states = [callback.state_dict() for callback in callbacks]
        states[3] = {key: value for key, value in states[3].items() if "path" not in key and "dir" not in key}
        return everything(model, trainer), states, trainer

    tuner = wishing()
    found, states, trainer = run(seeded(Noisy, lr=REFERENCE), "found", tuner)
    assert [note[0] for note in zoo.NOTES[-2:]] == ["fit", "end"]
    last = zoo.NOTES[-2:]
    result = result_of(tuner)
    by_hand, others, _ = run(seeded(Noisy, 16, lr=result.lr), "by hand", *warmups(result))
    assert last == zoo.NOTES[-2:]
    assert_same(found, by_hand)
    states[3].pop("best_k_models"), others[3].pop("best_k_models")
    assert_same(states, others)
    assert files(tmp_path / "found") == files(tmp_path / "by hand")
    assert trainer.callbacks[0] is tuner


@pytest.mark.parametrize("where", ["lr", "written"])
def test_tune_alone_puts_the_values_in_place_and_does_not_train(where: str, tmp_path: Path) -> None:
    def constants(module: Any) -> Any:
        optimizer = sgd(module)
        return by_step(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, module.decay, 0.5))

    saver = ModelCheckpoint(dirpath=tmp_path / "weights", every_n_train_steps=8)
    model = seeded(Noisy, make=constants, decay=10, **{where: REFERENCE})
    trainer = zoo.trainer(Wish(), saver, enable_checkpointing=True, max_steps=40, max_epochs=-1)
    settings = {
        "monitor": "wish", "mode": "max", "objective": "metric", "n_trials": 2, "trial_budget": 128, "max_val": 16,
    }  # fmt: skip
    result = bstuner.tune(trainer, model, sampler=Picks(1, 2 * REFERENCE), **settings)
    assert (trainer.global_step, model.losses) == (0, [])
    assert [type(callback) for callback in trainer.callbacks] == [Wish, ModelCheckpoint]
    assert result.set_values == ("max_steps: 40 -> 20", "ModelCheckpoint(every_n_train_steps): 8 -> 4")
    assert (model.batch_size, trainer.max_steps, rate_of(model)) == (
        16,
        20,
        result.lr if where == "lr" else REFERENCE,
    )
    rate = (f"the parameter groups of SGD: {REFERENCE} -> {result.lr}",) if where == "written" else ()
    warmup = "LearningRateWarmup(samples=16, start_factor=0.25) in the callbacks"
    assert result.by_hand == (*rate, "StepLR.step_size 10 -> 5", warmup)
    model.decay = 5
    vars(model)[where] = result.lr
    trainer.callbacks.insert(0, bstuner.LearningRateWarmup(16, 0.25))
    L.seed_everything(9, verbose=False)
    trainer.fit(model)
    found = everything(model, trainer)
    by_hand = seeded(Noisy, 16, make=constants, decay=5, **{where: result.lr})
    other = zoo.trainer(
        bstuner.LearningRateWarmup(16, 0.25), Wish(),
        ModelCheckpoint(dirpath=tmp_path / "by hand", every_n_train_steps=4),
        enable_checkpointing=True, max_steps=20, max_epochs=-1,
    )  # fmt: skip
    L.seed_everything(9, verbose=False)
    other.fit(by_hand)
    assert_same(found, everything(by_hand, other))


def test_tune_alone_draws_no_random_numbers() -> None:
    model, trainer = seeded(Noisy, lr=REFERENCE), zoo.trainer(Wish())
    before = torch.get_rng_state()
    settings = {"monitor": "wish", "mode": "max", "objective": "metric", "n_trials": 2, "max_val": 16}
    result = bstuner.tune(trainer, model, sampler=Picks(1, REFERENCE), trial_budget=128, **settings)
    assert torch.equal(torch.get_rng_state(), before)
    trainer.fit(model)
    found = everything(model, trainer)
    assert_same(found, train(seeded(Noisy, 16, lr=result.lr), {}, Wish()))


def test_a_second_fit_tunes_anew_from_what_is_there() -> None:
    tuner = wishing(max_val=32, trial_budget=256)
    trainer = zoo.trainer(tuner, Wish(), max_epochs=1)
    model = Noisy(lr=REFERENCE)
    trainer.fit(model)
    first = result_of(tuner)
    assert (first.batch_size, model.batch_size) == (16, 16)
    trainer.fit_loop.max_epochs = 2
    fresh = Noisy(lr=REFERENCE)
    trainer.fit(fresh)
    second = result_of(tuner)
    assert second is not first
    assert (second.baseline.batch_size, second.batch_size, fresh.batch_size) == (8, 16, 16)
    assert len(searched(second)) == 2


def test_the_result_is_plain_and_complete() -> None:
    tuner = wishing()
    zoo.trainer(tuner, Wish(), max_epochs=1).fit(Noisy(lr=REFERENCE))
    result = result_of(tuner)
    assert (result.lr_holder, result.rule, result.reference_lr) == ("Noisy.lr", "linear", REFERENCE)
    assert result.stopped == "all 2 trials were run"
    assert result.find is not None
    assert (result.find.batch_size, result.find.holder) == (16, "Noisy.batch_size")
    plain = result.as_dict()
    assert (plain["batch_size"], plain["lr"], plain["n_trials"]) == (16, result.lr, 3)
    assert plain["set_values"] == list(result.set_values)
