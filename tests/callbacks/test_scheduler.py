"""The batch grows where the learning rate would fall: on the same samples, with the same noise, and nothing else."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import lightning as L
import pytest
import torch
import tuning
import zoo
from growing import Grower, Numbered, fit, halves, scheduler, steps
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import CombinedLoader
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from bstuner import BatchSizeFinder, LearningRateWarmup
from bstuner.callbacks.scheduler import BatchSizeScheduler
from bstuner.core.growth.epoch_plan import EpochPlan
from bstuner.core.growth.phases import Phase
from bstuner.errors import InvalidSetting, SettingRefused

# Batches of 4 double after 60 and after 100 of 40 steps an epoch; a tenth of the samples are 16.
LENGTH = 160


def growing(schedule: Any = None, length: int = LENGTH, **loader: Any) -> Grower:
    return Grower(schedule or halves(60, 100), length=length, batch_size=4, **loader)


def each_once(model: Grower, length: int = LENGTH) -> None:
    """Every epoch has each sample once."""
    epochs = {epoch for epoch, _, _ in model.batches}
    for epoch in epochs:
        assert sorted(model.samples(epoch)) == list(range(length))


def nominal_lrs(schedule: Any, epochs: int, **kwargs: Any) -> list[float]:
    """The learning rates of the user's own steps, without the callback."""
    model = growing(schedule, **kwargs)
    fit(model, epochs=epochs)
    return [lrs[0] for lrs in model.lrs]


@pytest.mark.parametrize(
    ("loader", "settings"),
    [
        ({}, {}),
        ({"shuffle": False}, {}),
        ({"num_workers": 2}, {}),
        ({"num_workers": 2, "persistent_workers": True}, {}),
        ({"drop_last": True}, {}),
        ({}, {"accumulate_grad_batches": 2}),
    ],
)
@pytest.mark.parametrize("fits", [10**6, 8, 4])
def test_every_sample_comes_once_in_an_epoch(loader: dict[str, Any], settings: dict[str, Any], fits: int) -> None:
    model = growing(halves(40, 60) if settings else None, **loader)
    callback = scheduler(fits=fits)
    trainer = fit(model, callback, epochs=4, **settings)
    each_once(model)
    assert trainer.global_step == callback.plan.planned_steps < callback.plan.nominal_steps
    assert [step.batch_size for step in callback.plan.steps()][-1] == 16
    assert max(model.sizes()) == max(4, min(fits, 16))
    assert model.ends == [f"epoch {epoch}" for epoch in range(4)]


def test_batches_have_their_planned_sizes_with_workers_that_prefetch() -> None:
    model = growing(num_workers=2, prefetch_factor=4)
    callback = scheduler()
    fit(model, callback, epochs=3)
    for epoch in range(3):
        assert model.sizes(epoch) == callback.plan.batches.epoch(epoch).sizes()
    assert model.sizes(1) == [4] * 20 + [8] * 10
    each_once(model)


def test_a_plan_that_is_off_by_one_does_not_go_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = EpochPlan.sizes
    monkeypatch.setattr(EpochPlan, "sizes", lambda self: [sizes(self)[0] - 1, *sizes(self)[1:]])
    model = growing()
    fit(model, scheduler(), epochs=1)
    with pytest.raises(AssertionError):
        each_once(model)


def test_what_drop_last_and_a_limit_leave_out_stays_out() -> None:
    model = growing(length=LENGTH + 3, drop_last=True, shuffle=False)
    fit(model, scheduler(), epochs=3)
    each_once(model)
    model = growing(shuffle=False)
    fit(model, scheduler(), epochs=3, limit_train_batches=20)
    each_once(model, 80)
    model = growing(shuffle=False)
    trainer = fit(model, scheduler(), epochs=3, limit_train_batches=0.5)
    each_once(model, 80)
    assert trainer.limit_train_batches == 0.5


SCHEDULES = {
    "multi-step": halves(60, 100),
    "cosine": steps(lambda optimizer: CosineAnnealingLR(optimizer, T_max=160)),
    "exponential": steps(lambda optimizer: ExponentialLR(optimizer, 0.985)),
    "one cycle": steps(lambda optimizer: OneCycleLR(optimizer, max_lr=[0.1, 0.02], total_steps=160)),
    "lambda": steps(lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step / 20))),
    "by epoch": steps(lambda optimizer: ExponentialLR(optimizer, 0.5), "epoch"),
    "every third": steps(lambda optimizer: ExponentialLR(optimizer, 0.95), frequency=3),
    "warm-up, then decay": steps(
        lambda optimizer: SequentialLR(
            optimizer,
            [LambdaLR(optimizer, lambda step: (1 + step) / 10), ExponentialLR(optimizer, 0.98)],
            milestones=[10],
        )
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("optimizer", "power"), [(torch.optim.SGD, 1.0), (torch.optim.AdamW, 0.5)])
@pytest.mark.parametrize("rounding", ["power", "integer"])
def test_noise_is_that_of_the_schedule_at_every_step(name: str, optimizer: Any, power: float, rounding: Any) -> None:
    nominal = nominal_lrs(SCHEDULES[name], 4)
    model = growing(SCHEDULES[name])
    model.make = optimizer
    callback = scheduler(rounding=rounding)
    fit(model, callback, epochs=4)
    planned = list(callback.plan.steps())
    assert len(planned) == len(model.lrs) < 160
    for step, (first, second) in zip(planned, model.lrs, strict=True):
        noise = first / max(step.batch_size, 4) ** power
        assert noise == pytest.approx(nominal[step.start_sample // 4] / 4**power, rel=1e-12)
        if name != "one cycle":
            assert second == pytest.approx(first / 5, rel=1e-12)
    each_once(model)


def test_a_fit_whose_batch_never_grows_is_the_fit_without() -> None:
    models = [
        growing(steps(lambda optimizer: LambdaLR(optimizer, lambda step: min(1.0, (1 + step) / 50)))) for _ in "ab"
    ]
    fit(models[0], epochs=2, val_check_interval=0.3)
    fit(models[1], scheduler(), epochs=2, val_check_interval=0.3)
    assert models[0].batches == models[1].batches
    assert models[0].lrs == models[1].lrs
    assert models[0].validated == models[1].validated
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


class AsksForSteps(Grower):
    """Needs the loaders in `configure_optimizers`, as many a schedule does."""

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_that_were_made_before_the_plan_leave_the_order_as_it_is(workers: int) -> None:
    models = [AsksForSteps(halves(10), length=60, batch_size=4, num_workers=workers) for _ in "ab"]
    for model, callbacks in zip(models, ([], [scheduler("0:4 2ep:8")]), strict=True):
        L.seed_everything(3)
        fit(model, *callbacks, epochs=3)
    assert models[1].sizes(2) == [8] * 7 + [4]
    orders = [[number for *_, numbers in model.batches for number in numbers] for model in models]
    assert orders[0] == orders[1]
    each_once(models[1], 60)


def test_a_larger_batch_in_one_piece_or_accumulated_is_the_same_step() -> None:
    class Dry(Grower):
        def __init__(self) -> None:
            super().__init__(halves(60, 100), length=LENGTH, batch_size=4)
            self.net[2] = torch.nn.Identity()

    models = [Dry(), Dry()]
    for model, fits in zip(models, (16, 4), strict=True):
        fit(model, scheduler(fits=fits), epochs=4)
    assert models[0].lrs == models[1].lrs
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# --- where a fit ends, and where it validates


@pytest.mark.parametrize("max_steps", [7, 61, 100, 103, 120])
@pytest.mark.parametrize("max_epochs", [-1, 3])
def test_max_steps_end_the_fit_after_the_same_samples(max_steps: int, max_epochs: int) -> None:
    model = growing()
    trainer = fit(model, scheduler(), epochs=max_epochs, max_steps=max_steps)
    assert sum(model.sizes()) == 4 * max_steps
    assert trainer.max_steps == max_steps
    assert trainer.global_step == len(model.lrs)


def test_min_steps_are_the_users_own() -> None:
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = True

    model = growing(steps(lambda optimizer: ExponentialLR(optimizer, 0.9)))
    trainer = fit(model, scheduler(), Stop(), epochs=4, min_steps=60, min_epochs=0)
    samples = sum(model.sizes())
    assert 240 <= samples < 240 + 16
    assert trainer.min_steps == 60


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"val_check_interval": 0.25},
        {"val_check_interval": 10},
        {"val_check_interval": 30},
        {"val_check_interval": 60, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
    ],
)
def test_validation_comes_after_the_same_samples(settings: dict[str, Any]) -> None:
    plain, model = growing(), growing()
    fit(plain, epochs=4, **settings)
    callback = scheduler()
    trainer = fit(model, callback, epochs=4, **settings)
    ends = [step.start_sample + step.batch_size for step in callback.plan.steps()]
    expected = [next(end for end in ends if end >= 4 * step) for step in plain.validated]
    assert [ends[step - 1] for step in model.validated] == list(dict.fromkeys(expected))
    assert all(end - 4 * step < 16 for end, step in zip(expected, plain.validated, strict=True))
    assert trainer.val_check_interval == settings.get("val_check_interval", 1.0)


def test_the_trainer_tells_the_planned_number_of_steps_while_it_trains() -> None:
    told: list[Any] = []

    class Asks(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            told.append(trainer.estimated_stepping_batches)

    class Horizon(Grower):
        def configure_optimizers(self) -> Any:
            told.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

    model = Horizon(halves(60, 100), length=LENGTH, batch_size=4)
    trainer = fit(model, scheduler(), Asks(), epochs=4)
    assert told[0] == 160
    assert set(told[1:]) == {trainer.global_step}
    assert type(trainer) is L.Trainer


def test_an_interval_longer_than_the_users_own_epoch_is_refused() -> None:
    with pytest.raises(SettingRefused, match=r"val_check_interval=41.*40 batches"):
        fit(growing(), scheduler(), val_check_interval=41)


def test_checkpoints_early_stopping_and_the_progress_bar_go_by_the_planned_epochs() -> None:
    totals: list[Any] = []

    class Bar(TQDMProgressBar):
        def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
            super().on_train_epoch_start(trainer, *args)
            totals.append((self.train_progress_bar.total, trainer.num_training_batches))

    checkpoint = ModelCheckpoint("saved", monitor="val_loss", save_top_k=-1, filename="{step}")
    stopping = EarlyStopping("val_loss", mode="max", patience=1)
    model = growing()
    trainer = fit(
        model, scheduler(), Bar(), checkpoint, stopping, epochs=4, enable_checkpointing=True, enable_progress_bar=True
    )
    assert totals == [(len(model.sizes(epoch)),) * 2 for epoch in range(len(totals))]
    assert len(checkpoint.best_k_models) == len(model.validated) == trainer.current_epoch


# --- what is left behind, and what others see


def test_everything_is_put_back() -> None:
    loader = DataLoader(Numbered(LENGTH), batch_size=4, shuffle=True)
    before = dict(vars(loader))
    model = growing()
    L.seed_everything(1, verbose=False)
    trainer = zoo.trainer(scheduler(), max_epochs=4, max_steps=150, min_steps=3, val_check_interval=5)
    trainer.fit(model, loader, DataLoader(Numbered(8), batch_size=8))
    assert vars(loader) == before
    assert "lr_scheduler_step" not in vars(model)
    found = trainer.accumulate_grad_batches, trainer.max_steps, trainer.min_steps, trainer.val_check_interval
    assert found == (1, 150, 3, 5)
    assert trainer.fit_loop._data_source.instance is loader  # the user's own again
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks


class Plain(Grower):
    """Can be pickled."""

    def __init__(self) -> None:
        super().__init__(None, length=LENGTH, batch_size=4)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 100], 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def test_the_module_can_be_copied_and_pickled_while_it_trains() -> None:
    copies: list[Any] = []

    class Copies(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            copies.extend([copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))])

    fit(Plain(), scheduler(), Copies(), epochs=2)
    assert len(copies) == 4
    each_once(copies[-1])


def test_one_loader_may_train_and_validate() -> None:
    loader = DataLoader(Numbered(LENGTH), batch_size=4)

    class Sizes(Grower):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.seen = [*getattr(self, "seen", []), len(batch[2])]

    model = Sizes(halves(10), length=LENGTH, batch_size=4)
    L.seed_everything(1, verbose=False)
    zoo.trainer(scheduler(), max_epochs=2, num_sanity_val_steps=0).fit(model, loader, loader)
    assert set(model.seen) == {4}
    assert max(model.sizes()) == 8
    each_once(model)


@pytest.mark.parametrize(
    "wrap", [lambda one: [one], lambda one: {"a": one}, lambda one: CombinedLoader([one], "min_size")]
)
def test_a_collection_of_one_loader_stays_one(wrap: Any) -> None:
    class Unwraps(Grower):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"] if isinstance(batch, dict) else batch[0], batch_idx)

        def train_dataloader(self) -> Any:
            return wrap(super().train_dataloader())

    model = Unwraps(halves(60, 100), length=LENGTH, batch_size=4)
    fit(model, scheduler(), epochs=3)
    each_once(model)


def test_loaders_made_anew_every_epoch_are_planned_too() -> None:
    model = growing()
    fit(model, scheduler(), epochs=4, reload_dataloaders_every_n_epochs=1)
    each_once(model)
    assert max(model.sizes()) == 16


def test_a_dataset_that_shrinks_is_told() -> None:
    class Shrinks(Grower):
        def train_dataloader(self) -> Any:
            self.made = getattr(self, "made", 0) + 1
            return DataLoader(Numbered(LENGTH if self.made < 3 else 100), batch_size=4)

    with pytest.raises(SettingRefused, match=r"Expected 160 samples in epoch .*found 100"):
        fit(Shrinks(halves(60)), scheduler(), epochs=4, reload_dataloaders_every_n_epochs=1)


class Notes(DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append({**metrics, "step": step})


def test_what_was_used_is_logged() -> None:
    model = growing()
    logger = Notes()
    callback = scheduler()
    fit(model, callback, epochs=4, logger=logger, log_every_n_steps=5)
    rows = [row for row in logger.rows if "batch_size" in row]
    planned = list(callback.plan.steps())[4::5]
    assert [row["batch_size"] for row in rows] == [step.batch_size for step in planned]
    assert [row["samples"] for row in rows] == [step.start_sample + step.batch_size for step in planned]
    assert [row["step"] for row in rows] == list(range(4, len(model.lrs), 5))
    assert [row["effective_lr"] for row in rows] == [lrs[0] for lrs in model.lrs[4::5]]


def test_a_warm_up_and_the_growth_change_the_learning_rate_together() -> None:
    schedule = halves(4, 8)
    nominal = nominal_lrs(schedule, 1)
    for callbacks in itertools.permutations([scheduler(), LearningRateWarmup(80, 0.25)]):
        model = growing(schedule)
        fit(model, *callbacks, epochs=1)
        planner = next(callback for callback in callbacks if isinstance(callback, BatchSizeScheduler))
        for step, (first, _) in zip(planner.plan.steps(), model.lrs, strict=True):
            warm = min(1.0, 0.25 + 0.75 * step.start_sample / 80)
            assert first == pytest.approx(nominal[step.start_sample // 4] * step.lr_factor * warm, rel=1e-12)
        groups = model.optimizers().param_groups
        assert [group["lr"] for group in groups] == [0.1 * 0.25, 0.02 * 0.25]  # the user's schedule, and no more


# --- a plan in the user's own words


def test_a_written_plan_sizes_batches_and_leaves_the_learning_rate_alone() -> None:
    model = growing()
    callback = scheduler("0:4 1ep:10 300:40", fits=16)
    fit(model, callback, epochs=3)
    sizes = [step.batch_size for step in callback.plan.steps()]
    assert sizes[:40] == [4] * 40
    assert set(sizes[40:54]) == {10}
    assert callback.plan.phases == (Phase(0, 4), Phase(160, 10), Phase(300, 40))
    assert max(model.sizes()) <= 16
    each_once(model)
    assert [lrs[0] for lrs in model.lrs] == [
        callback.plan.nominal_lr(step.start_sample) for step in callback.plan.steps()
    ]


def test_with_a_rule_the_learning_rate_follows_a_written_plan() -> None:
    model = growing(steps(lambda optimizer: LambdaLR(optimizer, lambda step: 1.0)))
    fit(model, scheduler("0:4 1ep:16", rule="sqrt"), epochs=2)
    assert [lrs[0] for lrs in model.lrs] == [0.1] * 40 + [0.2] * 10


def test_a_written_plan_needs_no_end_of_the_fit() -> None:
    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    model = growing(steps(lambda optimizer: LambdaLR(optimizer, lambda step: 1.0)))
    callback = scheduler("0:4 1ep:16")
    fit(model, callback, Stop(), epochs=-1)
    assert model.sizes() == [4] * 40 + [16] * 20
    assert callback.plan.planned_steps is None


# --- how far it grows


def test_the_batch_grows_to_a_tenth_of_the_data_and_the_learning_rate_falls_from_there() -> None:
    model = growing(halves(20, 40, 60, 80), length=320)
    callback = scheduler()
    fit(model, callback, epochs=2)
    assert callback.plan.max_batch_size == 32
    assert max(step.batch_size for step in callback.plan.steps()) == 32
    assert callback.plan.capped_by == "a tenth of the 320 samples of an epoch"
    callback = scheduler(max_batch_size=8)
    fit(growing(), callback, epochs=4)
    assert max(step.batch_size for step in callback.plan.steps()) == 8
    assert callback.plan.capped_by == "max_batch_size=8"


def test_what_fits_and_accumulation_cap_it_too() -> None:
    callback = scheduler(fits=4, max_accumulate=2)
    fit(growing(), callback, epochs=4)
    assert max(step.batch_size for step in callback.plan.steps()) == 8
    assert "memory" in callback.plan.capped_by


def test_it_finds_what_fits() -> None:
    class Wide(Grower):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, _, _ = batch
            return super().training_step(batch, batch_idx) + 0.0 * torch.relu(x.repeat(1, 1250)).sum()

    model = Wide(halves(60, 100), length=LENGTH, batch_size=4)
    callback = BatchSizeScheduler(memory_limit=1_000_000)
    fit(model, callback, epochs=4)
    assert callback.plan.batches.fits == 8
    assert max(model.sizes()) == 8
    assert max(step.batch_size for step in callback.plan.steps()) == 16
    each_once(model)


def test_where_nothing_grows_nothing_is_searched_for() -> None:
    constant = steps(lambda optimizer: LambdaLR(optimizer, lambda step: 1.0))
    callback = BatchSizeScheduler(memory_limit=1)  # byte: nothing would fit
    assert fit(growing(constant), callback, epochs=1).global_step == 40


def test_after_a_finder_its_batch_is_where_growth_starts() -> None:
    model = growing(halves(20), length=320)
    callback = scheduler()
    fit(model, callback, BatchSizeFinder(max_val=8, init_val=8), epochs=2)
    assert callback.plan.layout.micro == 8
    assert model.sizes() == [8] * 20 + [16] * 30
    each_once(model, 320)


def test_after_a_tuner_its_pair_is_where_growth_starts() -> None:
    def cosine(module: Any) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=module.lr)
        optimizer.register_step_pre_hook(lambda *_: module.sizes.append(module.trainer.train_dataloader.batch_size))
        horizon = int(module.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": steps(lambda it: CosineAnnealingLR(it, horizon))(optimizer)}

    model = tuning.Noisy(length=640, make=cosine, lr=tuning.REFERENCE, sizes=[])
    tuner, callback = tuning.wishing(), scheduler()
    L.seed_everything(1, verbose=False)
    trainer = zoo.trainer(callback, tuning.Wish(), tuner, max_epochs=3)
    trainer.fit(model)
    assert tuner.result.best.batch_size == callback.plan.layout.micro == 16
    assert callback.plan.lrs[0] == 1.5 * tuning.REFERENCE * 2
    assert trainer.global_step == callback.plan.planned_steps < callback.plan.nominal_steps == 120


@pytest.mark.parametrize("fits", [10**6, 4])
def test_where_a_plateau_would_cut_the_learning_rate_the_batch_grows_at_the_next_epoch(fits: int) -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> Any:
        reduce = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0, threshold=0)
        return {"scheduler": reduce, "interval": "epoch", "monitor": "epoch"}

    class Tells(Grower):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("epoch", -float(self.current_epoch))

    model = Tells(plateau, length=LENGTH, batch_size=4)
    callback = scheduler(fits=fits)
    trainer = fit(model, callback, epochs=5)
    by_epoch = [{step.batch_size for step in callback.plan.batches.epoch(epoch).steps()} for epoch in range(5)]
    assert by_epoch == [{4}, {4}, {8}, {16}, {16}]
    assert [sum(model.sizes(epoch)) for epoch in range(5)] == [LENGTH] * 5
    starts = [0, 40, 80, 100, 110]
    assert [model.lrs[start][0] for start in starts] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05])
    assert trainer.global_step == callback.plan.planned_steps == 120
    each_once(model)


def test_it_plans_and_ends_where_only_the_plan_is_wanted() -> None:
    model = growing()
    callback = scheduler()
    callback.search_only = True
    trainer = fit(model, callback, epochs=4)
    assert trainer.global_step == 0
    assert not model.batches
    assert callback.plan.planned_steps < callback.plan.nominal_steps == 160


# --- what it refuses


class Buckets(BatchSampler):
    """Batches of a kind of its own."""


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (
            lambda: DataLoader(Numbered(LENGTH), batch_sampler=Buckets(RandomSampler(range(LENGTH)), 4, False)),
            "Buckets",
        ),
        (lambda: [DataLoader(Numbered(LENGTH), batch_size=4)] * 2, r"one training loader.*found 2"),
        (lambda: [torch.zeros(4)], "found a Tensor"),
    ],
)
def test_data_that_cannot_be_planned_is_refused(loader: Any, match: str) -> None:
    class Other(Grower):
        def train_dataloader(self) -> Any:
            return loader()

    with pytest.raises(SettingRefused, match=match):
        fit(Other(halves(3)), scheduler(), epochs=2)


def test_what_contradicts_it_is_refused() -> None:
    with pytest.raises(SettingRefused, match="GradientAccumulationScheduler"):
        fit(growing(), scheduler(), GradientAccumulationScheduler({1: 2}))
    with pytest.raises(SettingRefused, match="milestones"):
        fit(growing(), scheduler(), BatchSizeFinder(milestones=[1]))
    with pytest.raises(SettingRefused, match="an end"):
        fit(growing(), scheduler(), epochs=-1)
    model = growing()
    model.automatic_optimization = False
    with pytest.raises(SettingRefused, match="automatic optimization"):
        fit(model, scheduler())


def test_a_trainer_that_has_trained_is_refused() -> None:
    model = growing()
    trainer = fit(model, scheduler(), epochs=1)
    trainer.fit_loop.max_epochs = 2
    with pytest.raises(SettingRefused, match="has taken 40 steps"):
        trainer.fit(model)


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"overfit_batches": 2}])
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled:UserWarning")
def test_a_quick_check_keeps_its_own_batches(settings: dict[str, Any]) -> None:
    model = growing(halves(1))
    with pytest.warns(UserWarning, match="BatchSizeScheduler does nothing"):
        fit(model, scheduler(), **settings)
    assert set(model.sizes()) == {4}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"plan": "0:256 30:"}, "nothing"),
        ({"plan": 256}, "as text"),
        ({"rule": "cubic"}, "rule: expected 'auto'"),
        ({"rule": "none"}, "rule"),
        ({"rounding": "up"}, "rounding"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_accumulate": None}, "max_accumulate"),
        ({"fits": 1.5}, "fits"),
        ({"margin": 1}, "margin"),
        ({"plan": "0:4", "max_batch_size": 8}, "None beside a written plan"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidSetting, match=match):
        BatchSizeScheduler(**arguments)


@pytest.mark.parametrize("later", [100, 220], ids=["shrinks", "grows"])
def test_a_loader_of_another_length_in_a_later_epoch_is_refused(later: int) -> None:
    class Changes(Grower):
        def train_dataloader(self) -> DataLoader:
            self.length = 160 if self.trainer.current_epoch == 0 else later
            return super().train_dataloader()

    model = Changes(length=160)
    with pytest.raises(SettingRefused, match=rf"Expected 160 samples in epoch 1, .*found {later}"):
        fit(model, scheduler("0:8 1ep:16"), epochs=3, reload_dataloaders_every_n_epochs=1)
    assert {epoch for epoch, *_ in model.batches} == {0}
