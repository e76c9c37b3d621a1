"""Trials inside a fit: what they train on, when they validate, what they leave behind."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core import rank_zero
from sameness import assert_same, everything
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bstuner.callbacks.search_start import SearchStart
from bstuner.core.budget import sample_marks
from bstuner.core.find_settings import FindSettings
from bstuner.core.trial import Mark, TrialRequest, TrialRun
from bstuner.errors import MonitorMissing, SettingRefused
from bstuner.report.terminal.find_display import SearchDisplay
from bstuner.training.probing.find import find_largest
from bstuner.training.run.callbacks import OwnCallback
from bstuner.training.trials.open import Trials, open_trials
from bstuner.training.trials.settings import TrialSettings


class Learner(zoo.Base):
    """A linear model whose training loss and samples a test can follow."""

    def __init__(self, batch_size: int = 8, lr: float = 0.1, length: int = 256) -> None:
        super().__init__(batch_size, length)
        self.lr = lr

    def build(self) -> nn.Module:
        return nn.Linear(64, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        zoo.NOTES.append(("train", len(batch[0]), self.optimizers().param_groups[0]["lr"]))
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        zoo.NOTES.append(("val", len(batch[0]), None))
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(zoo.Vectors(self.length), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(zoo.Vectors(32), 16)


class Trying(OwnCallback):
    """Opens the fit for trials when it starts, and lets a test use them; the fit goes on afterwards."""

    def __init__(self, use: Callable[[Trials], None], settings: TrialSettings, max_val: int | None) -> None:
        self.use, self.settings, self.max_val = use, settings, max_val
        self.beginning = SearchStart()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.beginning.watch(trainer, stage, self)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        start = self.beginning.take()
        assert start is not None
        asked = FindSettings(max_val=self.max_val)
        found, placement = find_largest(trainer, "fit", asked, SearchDisplay(enabled=False), fresh=True)
        zoo.NOTES.clear()
        with open_trials(trainer, start, found, placement, self.settings) as trials:
            self.use(trials)
        start.restore()
        placement.batching.apply(placement.batching.reference or 0)
        trainer.fit_loop._combined_loader = None
        trainer.strategy.setup_optimizers(trainer)


def seeded(kind: Callable[..., zoo.Base] = Learner, **settings: Any) -> zoo.Base:
    L.seed_everything(0)
    return kind(**settings)


def fit(
    model: L.LightningModule, use: Callable[[Trials], None], *callbacks: Callback, max_val: int | None = 64,
    trainer: dict[str, Any] | None = None, **settings: Any,
) -> L.Trainer:  # fmt: skip
    settings = {"monitor": "val_loss", "trial_budget": 0.5, **settings}
    trying = Trying(use, TrialSettings(**settings), max_val)
    made = zoo.trainer(trying, *callbacks, **{"max_epochs": 4, **(trainer or {})})
    L.seed_everything(1)
    made.fit(model)
    return made


# A global, because a search winds back whatever closures hold; emptied before each test.
RUNS: list[Any] = []


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def to_the_end(mark: Mark) -> bool:
    return True


def run(
    trials: Trials, size: int, lr: float = 0.1, watch: Callable[[Mark], bool] = to_the_end, **more: Any
) -> TrialRun:
    return trials.runner.run(TrialRequest(size, lr, **more), watch)


def test_a_trial_trains_on_its_budget_and_validates_at_its_marks() -> None:
    def use(trials: Trials) -> None:
        assert trials.runner.budget == 512
        assert trials.runner.marks == sample_marks(512, 8, 32)
        assert (trials.smallest, trials.largest) == (8, 64)
        RUNS.extend([run(trials, 8), run(trials, 64)])

    fit(Learner(), use)
    small, large = RUNS
    marks = sample_marks(512, 8, 32)
    assert tuple(mark.samples for mark in small.marks) == marks
    met = sorted({-(-mark // 64) * 64 for mark in marks})
    assert [mark.samples for mark in large.marks] == met, "marks within a step are met at its end"
    assert (small.steps, large.steps) == (64, 8)
    assert small.ending == large.ending == "finished"
    assert small.samples == large.samples == 512
    assert small.samples_per_second
    assert all(one.seconds < next_one.seconds for one, next_one in zip(small.marks, small.marks[1:], strict=False))
    assert small.marks[-1].metric < small.marks[0].metric, "it learns"


def test_a_trial_is_the_training_by_hand() -> None:
    fit(seeded(), lambda trials: RUNS.append(run(trials, 8)), trainer={"max_epochs": 1}, trial_budget=1.0)
    by_hand = zoo.trainer(max_epochs=1)
    model = seeded()
    L.seed_everything(1)
    by_hand.fit(model)
    assert RUNS[0].marks[-1].metric == float(by_hand.callback_metrics["val_loss"])


def test_trials_do_not_know_of_each_other() -> None:
    def use(trials: Trials) -> None:
        RUNS.extend(run(trials, size, lr) for size, lr in ((8, 0.1), (32, 3.0), (8, 0.1)))
        RUNS.append(run(trials, 8, 0.1, seed=7))

    fit(Learner(), use)
    first, _, again, seeded = ([mark[:2] for mark in each.marks] for each in RUNS)
    assert first == again
    assert first != seeded


@pytest.mark.parametrize("kind", [zoo.Regularised, zoo.ManualAutoencoder, zoo.RegularisedWithWorkers])
def test_trials_leave_no_trace(kind: type[zoo.Base]) -> None:
    def use(trials: Trials) -> None:
        for size in (16, 8, 32):
            run(trials, size, trials.reference_lr)

    searched, by_hand = seeded(kind, batch_size=8), seeded(kind, batch_size=8)
    left = everything(searched, fit(searched, use, monitor="val_loss", trial_budget=32))
    L.seed_everything(1)
    other = zoo.trainer(max_epochs=4)
    other.fit(by_hand)
    assert_same(left, everything(by_hand, other))


def test_a_watch_stops_a_trial() -> None:
    fit(Learner(), lambda trials: RUNS.append(run(trials, 8, watch=lambda mark: mark.samples < 100)))
    assert (RUNS[0].ending, RUNS[0].samples, len(RUNS[0].marks)) == ("stopped", 128, 11)


def test_a_loss_that_is_not_finite_ends_a_trial() -> None:
    def use(trials: Trials) -> None:
        RUNS.extend([run(trials, 8, 1e38), run(trials, 8)])

    fit(Learner(), use)
    assert (RUNS[0].ending, RUNS[0].marks, RUNS[0].samples) == ("not finite", (), 16)
    assert RUNS[1].ending == "finished"


class Undefined(Learner):
    """Its metric is not defined before some samples were trained on, as an area under a curve of one class."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        trained = sum(note[1] for note in zoo.NOTES if note[0] == "train")
        self.log("val_auc", self.loss(batch) * (1.0 if self.defined(trained) else math.nan))

    def defined(self, trained: int) -> bool:
        return trained > 32


def test_a_metric_that_is_not_defined_at_first_is_no_divergence() -> None:
    fit(Undefined(), lambda trials: RUNS.append(run(trials, 8)), monitor="val_auc")
    assert RUNS[0].ending == "finished"
    assert [mark.samples for mark in RUNS[0].marks] == [mark for mark in sample_marks(512, 8, 32) if mark > 32]


def test_a_metric_that_is_not_defined_any_more_is_one() -> None:
    class Lost(Undefined):
        def defined(self, trained: int) -> bool:
            return trained <= 32

    fit(Lost(), lambda trials: RUNS.append(run(trials, 8)), monitor="val_auc")
    assert (RUNS[0].ending, RUNS[0].samples, len(RUNS[0].marks)) == ("not finite", 40, 4)


def test_a_metric_that_is_never_defined_is_one() -> None:
    class Never(Undefined):
        def defined(self, trained: int) -> bool:
            return False

    fit(Never(), lambda trials: RUNS.append(run(trials, 8)), monitor="val_auc")
    assert (RUNS[0].ending, RUNS[0].samples, RUNS[0].marks) == ("not finite", 512, ())


def test_running_out_of_memory_is_an_answer() -> None:
    class Hungry(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if len(batch[0]) == 32 and zoo.NOTES:
                raise torch.OutOfMemoryError("as CUDA would say")
            return super().training_step(batch, batch_idx)

    def use(trials: Trials) -> None:
        zoo.NOTES.append("the search for the largest batch is over")
        RUNS.extend([run(trials, 32), run(trials, 16)])

    fit(Hungry(), use)
    assert (RUNS[0].ending, RUNS[0].reason, RUNS[0].marks) == ("out of memory", "out of memory", ())
    assert RUNS[1].ending == "finished"


def test_another_error_is_raised_and_the_fit_can_go_on() -> None:
    class Faulty(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if len(batch[0]) == 32 and "now" in zoo.NOTES:
                raise RuntimeError("what is this?")
            return super().training_step(batch, batch_idx)

    def use(trials: Trials) -> None:
        zoo.NOTES.append("now")
        with pytest.raises(RuntimeError, match="what is this"):
            run(trials, 32)
        assert run(trials, 16).ending == "finished"

    trainer = fit(Faulty(), use)
    assert trainer.global_step == 4 * 32


def test_a_monitor_that_is_not_logged_is_refused_at_the_first_validation() -> None:
    def use(trials: Trials) -> None:
        with pytest.raises(MonitorMissing, match="'val_los', found only 'val_loss'") as error:
            run(trials, 8)
        assert "self.log" in str(error.value)
        assert sum(note[1] for note in zoo.NOTES if note[0] == "train") == 8

    fit(Learner(), use, monitor="val_los")


def test_a_fit_without_validation_is_refused() -> None:
    with pytest.raises(MonitorMissing, match="limit_val_batches=0"):
        fit(Learner(), lambda trials: None, trainer={"limit_val_batches": 0})


def test_accumulation_reaches_what_does_not_fit_at_once() -> None:
    def use(trials: Trials) -> None:
        assert trials.largest == 32
        RUNS.append(run(trials, 32))

    fit(Learner(batch_size=8), use, trainer={"accumulate_grad_batches": 4}, max_val=16)
    assert (RUNS[0].layout.micro, RUNS[0].layout.accumulate) == (8, 4), "the user's own layout for the user's own batch"
    fit(Learner(batch_size=8), lambda trials: RUNS.append(run(trials, 16)), trainer={"accumulate_grad_batches": 4})
    assert (RUNS[1].layout.micro, RUNS[1].layout.accumulate, RUNS[1].steps) == (16, 1, 32)


def test_the_last_batch_of_an_epoch_counts_as_what_it_holds() -> None:
    fit(Learner(batch_size=8, length=100), lambda trials: RUNS.append(run(trials, 8)), max_val=8, trial_budget=1.0)
    assert RUNS[0].samples == 400
    assert sum(note[1] for note in zoo.NOTES if note[0] == "train") == 400 + 400, "the trial and the fit itself"
    assert RUNS[0].steps == 4 * 13


def schedules() -> Iterator[tuple[str, Callable[[Any, L.Trainer], Any]]]:
    lr = torch.optim.lr_scheduler

    def by_step(make: Callable[[Any, L.Trainer], Any]) -> Callable[[Any, L.Trainer], Any]:
        return lambda optimizer, trainer: {"scheduler": make(optimizer, trainer), "interval": "step"}

    yield "StepLR by epochs", lambda optimizer, _: lr.StepLR(optimizer, 2)
    yield "cosine by epochs", lambda optimizer, trainer: lr.CosineAnnealingLR(optimizer, trainer.max_epochs)
    yield "every second epoch", lambda o, _: {"scheduler": lr.ExponentialLR(o, 0.5), "frequency": 2}
    yield (
        "OneCycleLR",
        by_step(lambda o, t: lr.OneCycleLR(o, 0.1, total_steps=t.estimated_stepping_batches)),
    )
    yield "a function of the step", by_step(lambda o, _: lr.LambdaLR(o, lambda step: 1 / (1 + step)))


@pytest.mark.parametrize(("name", "make"), list(schedules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_trial_runs_through_the_schedule_of_the_whole_fit(name: str, make: Callable[[Any, L.Trainer], Any]) -> None:
    class Scheduled(Learner):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            return {"optimizer": optimizer, "lr_scheduler": make(optimizer, self.trainer)}

    def rates() -> list[float]:
        return [note[2] for note in zoo.NOTES if note[0] == "train"]

    def use(trials: Trials) -> None:
        run(trials, 8)
        RUNS.append(rates())

    fit(Scheduled(), use)
    zoo.NOTES.clear()
    other = zoo.trainer(max_epochs=4)
    L.seed_everything(1)
    other.fit(Scheduled())
    of_the_fit = rates()
    assert (len(RUNS[0]), len(of_the_fit)) == (64, 128)
    assert RUNS[0] == of_the_fit[::2], "each step of the trial stands for two of the fit"


def test_a_stream_without_length_is_trained_on_by_steps() -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return (zoo.Vectors(10_000)[index] for index in range(10_000))

    class Streaming(Learner):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(Stream(), self.batch_size)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, int(self.trainer.estimated_stepping_batches)
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def use(trials: Trials) -> None:
        assert trials.runner.budget == 256
        RUNS.append(run(trials, 8))
        RUNS.append([note[2] for note in zoo.NOTES if note[0] == "train"])

    fit(Streaming(), use, trainer={"max_steps": 64, "max_epochs": -1})
    trial, rates = RUNS
    assert (trial.ending, trial.samples, trial.steps) == ("finished", 256, 32)
    assert rates[0] == pytest.approx(0.1)
    assert rates[16] == pytest.approx(0.05)
    assert rates[31] == pytest.approx(0.1 * (1 + math.cos(math.pi * 62 / 64)) / 2)


def test_what_lightning_tells_of_its_steps_is_not_heard_of_trials(caplog: pytest.LogCaptureFixture) -> None:
    class Cosine(Learner):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            steps = int(self.trainer.estimated_stepping_batches)  # loads the data, and says so
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)]

    def use(trials: Trials) -> None:
        run(trials, 8)
        run(trials, 16)

    # By whichever of Lightning's two packages was imported last.
    with caplog.at_level(logging.INFO, logger=rank_zero.log.name):
        fit(Cosine(), use)
    told = [message for message in caplog.messages if "stepping batches" in message]
    assert len(told) == 2, "as the fit begins, and as it goes on"


def test_a_schedule_that_waits_for_a_metric_is_stepped_at_each_validation() -> None:
    class Waiting(Learner):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9999)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    fit(Waiting(), lambda trials: (run(trials, 8), zoo.NOTES.append(("end", 0, 0)))[1])
    of_the_trial = zoo.NOTES[: zoo.NOTES.index(("end", 0, 0))]
    rates = [note[2] for note in of_the_trial if note[0] == "train"]
    assert rates[:4] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_time_is_that_of_training_alone() -> None:
    now = [0.0]

    class Timed(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            now[0] += 1.0 + len(batch[0]) / 16
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            now[0] += 1000.0
            super().validation_step(batch, batch_idx)

    def use(trials: Trials) -> None:
        RUNS.extend([run(trials, 8), run(trials, 64)])

    fit(Timed(), use, clock=lambda: now[0])
    assert RUNS[0].samples_per_second == pytest.approx(8 / 1.5)
    assert RUNS[1].samples_per_second == pytest.approx(64 / 5)
    assert RUNS[0].marks[-1].seconds == pytest.approx(512 * 1.5 / 8)


def test_what_the_first_steps_take_does_not_count() -> None:
    now = [0.0]

    class Starting(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            now[0] += 500.0 if self.trainer.global_step == 0 else 1.0
            return super().training_step(batch, batch_idx)

    def use(trials: Trials) -> None:
        def watch(mark: Mark) -> bool:
            RUNS.append(mark.seconds)
            return True

        RUNS.append(run(trials, 64, watch=watch))

    fit(Starting(), use, clock=lambda: now[0])
    *seconds, trial = RUNS
    assert seconds[:3] == [0.0, 0.0, 0.0], "not known yet"
    assert trial.samples_per_second == pytest.approx(64)
    assert [mark.seconds for mark in trial.marks] == pytest.approx([mark.samples / 64 for mark in trial.marks])


def test_and_so_it_is_where_two_optimizers_step_after_each_batch() -> None:
    now = [0.0]

    class Starting(zoo.Mlp):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.automatic_optimization = False
            self.trained = 0  # put back after each trial

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.trained += 1
            now[0] += 500.0 if self.trained <= 3 else 1.0
            loss = super().training_step(batch, batch_idx)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self) -> Any:
            weights, others = list(self.parameters())[:2], list(self.parameters())[2:]
            return [torch.optim.SGD(part, lr=0.01) for part in (weights, others)]

    fit(Starting(batch_size=8, length=512), lambda trials: RUNS.append(run(trials, 8)), clock=lambda: now[0])
    assert RUNS[0].steps == 2 * RUNS[0].samples / 8
    assert RUNS[0].samples_per_second == pytest.approx(8)


def test_validations_of_other_samples_are_refused() -> None:
    with pytest.raises(SettingRefused, match=r"limit_val_batches=2.*follows Mlp\.batch_size"):
        fit(seeded(zoo.Mlp, batch_size=8, length=256), lambda trials: None, trainer={"limit_val_batches": 2})


def alive() -> int:
    gc.collect()
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if isinstance(each, torch.Tensor)
    }
    return sum(storages.values())


def test_memory_does_not_grow_from_trial_to_trial() -> None:
    def use(trials: Trials) -> None:
        for index in range(30):
            run(trials, (8, 16, 32)[index % 3], 0.1 if index % 5 else 1e38)
            RUNS.append(alive())

    fit(Learner(), use, trial_budget=64)
    assert len(RUNS) == 30
    assert max(RUNS[3:]) == min(RUNS[3:]), RUNS
