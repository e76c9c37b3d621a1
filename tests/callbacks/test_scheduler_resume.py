"""A fit that is resumed from a checkpoint of any optimizer step goes on as if it had not been interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from growing import Grower, Noisy, Numbered, fit, halves, scheduler, steps
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, RandomSampler, Sampler

from bstuner import LearningRateWarmup
from bstuner.errors import SettingRefused

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

PLAN = "0:4 61:8 120:16"  # of 50 samples an epoch: it changes within epochs, and epochs end with a smaller batch
EVERY_STEP = {"every_n_train_steps": 1}
AT_EPOCH_ENDS = {"every_n_epochs": 1, "save_on_train_epoch_end": True}
AFTER_VALIDATION = {"every_n_epochs": 1, "save_on_train_epoch_end": False}


class Random(Grower):
    """Dropout, and noise from the global generator on every sample."""

    dataset = Noisy


class Own(Grower):
    """Its order comes from a generator of its own."""

    def train_dataloader(self) -> DataLoader:
        own = torch.Generator().manual_seed(5)
        return DataLoader(Numbered(self.length), batch_size=self.batch_size, shuffle=True, generator=own)


class Replaces(Grower):
    """Its sampler draws as the epoch goes on, from the global generator."""

    class Lazy(Sampler):
        def __len__(self) -> int:
            return 50

        def __iter__(self) -> Any:
            for _ in range(50):
                yield int(torch.randint(0, 50, ()))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Numbered(self.length), batch_size=self.batch_size, sampler=self.Lazy())


def save(folder: str, **when: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{epoch}-{step}", save_top_k=-1, **when)


def train(model: Grower, folder: str, when: dict[str, Any], *, plan: str | None = PLAN, **settings: Any) -> L.Trainer:
    chosen = {name: settings.pop(name) for name in ("fits", "max_accumulate") if name in settings}
    more = settings.pop("more", [])
    return fit(model, scheduler(plan, **chosen), *more, save(folder, **when), enable_checkpointing=True, **settings)


def after(trainer: L.Trainer, model: Grower) -> list[Any]:
    """All that a fit leaves, but for what a resumed one cannot have seen."""
    return [
        trainer.global_step,
        trainer.current_epoch,
        model.state_dict(),
        trainer.optimizers[0].state_dict(),
        [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("kind", "loader", "when", "settings"),
    [
        (Random, {}, EVERY_STEP, {}),
        (Random, {}, EVERY_STEP, {"fits": 4}),
        (Random, {}, EVERY_STEP, {"val_check_interval": 0.3}),
        (Random, {}, EVERY_STEP, {"limit_val_batches": 0}),
        (Random, {}, EVERY_STEP, {"max_steps": 47}),
        (Random, {"shuffle": False, "drop_last": True}, EVERY_STEP, {"accumulate_grad_batches": 2}),
        (Own, {}, EVERY_STEP, {}),
        (Replaces, {}, EVERY_STEP, {}),
        (Grower, {"num_workers": 2}, {"every_n_train_steps": 4}, {}),
        (Random, {}, AT_EPOCH_ENDS, {}),
        (Random, {}, AT_EPOCH_ENDS, {"max_steps": 47}),
        (Random, {}, AT_EPOCH_ENDS, {"reload_dataloaders_every_n_epochs": 2}),
        (Own, {}, AT_EPOCH_ENDS, {}),
        (Grower, {"num_workers": 2, "persistent_workers": True}, AT_EPOCH_ENDS, {}),
        (Random, {}, AFTER_VALIDATION, {}),
        (Random, {}, AFTER_VALIDATION, {"val_check_interval": 5, "fits": 4}),
        (Random, {}, AFTER_VALIDATION, {"check_val_every_n_epoch": None, "val_check_interval": 20}),
        (Random, {}, EVERY_STEP, {"more": [LearningRateWarmup(120, 0.1)]}),
    ],
)
def test_from_every_checkpoint_it_ends_as_the_unbroken_fit(
    kind: type[Grower], loader: dict[str, Any], when: dict[str, Any], settings: dict[str, Any]
) -> None:
    settings = {"epochs": 4, **settings}
    model = kind(halves(20, 30), length=50, batch_size=4, **loader)
    trainer = train(model, "unbroken", when, **settings)
    unbroken, generators = after(trainer, model), torch.get_rng_state()
    saved = sorted(Path("unbroken").glob("*.ckpt"))
    assert len(saved) >= 2
    for path in saved:
        if torch.load(path, weights_only=True)["global_step"] == trainer.global_step and "max_steps" in settings:
            continue  # there is nothing left to do, and Lightning does nothing
        again = kind(halves(20, 30), length=50, batch_size=4, **loader)
        trainer = train(again, "again", when, ckpt_path=str(path), seed=99, **settings)
        assert same(after(trainer, again), unbroken), path
        left = len(again.batches)
        assert again.batches == model.batches[len(model.batches) - left :], path
        assert again.lrs == model.lrs[len(model.lrs) - len(again.lrs) :], path
        assert again.ends == model.ends[len(model.ends) - len(again.ends) :], path
        assert again.validated == model.validated[len(model.validated) - len(again.validated) :], path
        assert not left or torch.equal(torch.get_rng_state(), generators), path


@pytest.mark.parametrize("when", [EVERY_STEP, AT_EPOCH_ENDS, AFTER_VALIDATION])
def test_what_is_resumed_can_be_resumed_again(when: dict[str, Any]) -> None:
    model = Random(halves(20, 30), length=50, batch_size=4)
    trainer = train(model, "first", when, epochs=4)
    unbroken = after(trainer, model)
    path = min(Path("first").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    train(Random(halves(20, 30), length=50, batch_size=4), "second", when, epochs=4, ckpt_path=str(path))
    paths = sorted(Path("second").glob("*.ckpt"))
    assert len(paths) > 2
    for path in paths:
        again = Random(halves(20, 30), length=50, batch_size=4)
        trainer = train(again, "third", when, epochs=4, ckpt_path=str(path), seed=3)
        assert same(after(trainer, again), unbroken), path


@pytest.mark.parametrize("when", [{"every_n_train_steps": 10}, AT_EPOCH_ENDS, AFTER_VALIDATION])
def test_a_schedule_that_waits_for_a_metric_goes_on_with_what_it_has_grown_to(when: dict[str, Any]) -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> Any:
        reduce = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0, threshold=0)
        return {"scheduler": reduce, "interval": "epoch", "monitor": "age"}

    class Tells(Random):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("age", -float(self.current_epoch))

    def make() -> Grower:
        return Tells(plateau, length=160, batch_size=4)

    model = make()
    trainer = train(model, "grown", when, plan=None, epochs=5)
    unbroken = after(trainer, model)
    assert set(model.sizes(3)) == {16}
    paths = [path for path in sorted(Path("grown").glob("*.ckpt")) if "step=120" not in path.name]
    assert len(paths) >= 3
    for path in paths:  # but the last, after which nothing is done
        again = make()
        trainer = train(again, "again", when, plan=None, epochs=5, ckpt_path=str(path), seed=99)
        assert same(after(trainer, again), unbroken), path
        assert again.batches == model.batches[len(model.batches) - len(again.batches) :], path


@pytest.mark.parametrize(("frequency", "monitor"), [(1, "train_loss"), (5, "age")])
def test_a_schedule_that_waits_for_a_metric_after_each_step_misses_none(frequency: int, monitor: str) -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> Any:
        reduce = ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
        return {"scheduler": reduce, "interval": "step", "frequency": frequency, "monitor": monitor, "strict": False}

    class Tells(Random):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("age", float(self.current_epoch))

    def run(folder: str, **settings: Any) -> tuple[Grower, L.Trainer]:
        model = Tells(plateau, length=50, batch_size=4)
        return model, train(model, folder, EVERY_STEP, epochs=3, val_check_interval=5, **settings)

    model, trainer = run("unbroken")
    assert len({lrs[0] for lrs in model.lrs}) > 1
    for path in sorted(Path("unbroken").glob("*.ckpt"))[::3]:
        again, resumed = run("again", ckpt_path=str(path), seed=99)
        assert same(after(resumed, again), after(trainer, model)), path


def test_the_state_can_be_loaded_with_weights_only() -> None:
    train(Random(halves(20), length=50, batch_size=4), "saved", EVERY_STEP, epochs=1)
    for path in Path("saved").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)["callbacks"]["BatchSizeScheduler"]
        assert state["plan"]["phases"][0] == [0, 4, 1.0]


def saved_mid_epoch(**settings: Any) -> str:
    model = Random(halves(20), length=50, batch_size=4)
    train(model, "saved", {"every_n_train_steps": 17}, epochs=2, **settings)
    return str(next(Path("saved").glob("*.ckpt")))


def test_a_checkpoint_without_a_plan_is_refused() -> None:
    model = Random(halves(20), length=50, batch_size=4)
    fit(model, save("plain", every_n_train_steps=5), epochs=1, enable_checkpointing=True)
    path = str(next(Path("plain").glob("*.ckpt")))
    with pytest.raises(SettingRefused, match="Expected a checkpoint of a fit with BatchSizeScheduler"):
        fit(Random(halves(20), length=50, batch_size=4), scheduler(PLAN), epochs=2, ckpt_path=path)


MISSING = r"callbacks used to create the checkpoint.*BatchSizeScheduler"


def test_what_is_saved_after_the_fit_can_be_gone_on_with() -> None:
    model = Random(halves(20, 30), length=50, batch_size=4)
    unbroken = after(fit(model, scheduler(PLAN), epochs=4), model)
    first = Random(halves(20, 30), length=50, batch_size=4)
    trainer = fit(first, scheduler(PLAN), epochs=2)
    trainer.validate(first, verbose=False)
    trainer.save_checkpoint("after.ckpt")
    again = Random(halves(20, 30), length=50, batch_size=4)
    trainer = fit(again, scheduler(PLAN), epochs=4, ckpt_path="after.ckpt", seed=5)
    assert first.batches + again.batches == model.batches
    assert same(after(trainer, again), unbroken)


def test_a_checkpoint_of_other_processes_is_refused_on_those_that_have_no_part_in_it_too() -> None:
    path = saved_mid_epoch()
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["callbacks"]["BatchSizeScheduler"]
    state["plan"]["world"], state["processes"] = 2, []
    torch.save(checkpoint, path)
    with pytest.raises(SettingRefused, match="world 1 instead of 2"):
        fit(Random(halves(20), length=50, batch_size=4), scheduler(PLAN), epochs=2, ckpt_path=path)


def test_without_the_callback_a_checkpoint_from_within_an_epoch_is_refused_and_the_callback_named() -> None:
    path = saved_mid_epoch()
    with (
        pytest.warns(UserWarning, match=MISSING),
        pytest.raises(RuntimeError, match="0 stateful loaders, but found 1 states"),
    ):
        fit(Random(halves(20), length=50, batch_size=4), epochs=4, ckpt_path=path)


def test_without_the_callback_a_checkpoint_between_epochs_goes_on_in_the_users_own_batches_and_says_so() -> None:
    train(Random(halves(20), length=50, batch_size=4), "saved", AT_EPOCH_ENDS, epochs=2)
    model = Random(halves(20), length=50, batch_size=4)
    with pytest.warns(UserWarning, match=MISSING):
        fit(model, epochs=4, ckpt_path=str(next(Path("saved").glob("epoch=1*.ckpt"))))
    assert model.sizes(2) == model.sizes(3) == [4] * 12 + [2]


@pytest.mark.parametrize(
    ("model", "plan", "epochs", "match"),
    [
        ({}, "0:4 70:8 120:16", 2, r"phases \[\[0, 4, 1.0\], \[70, 8"),
        ({"length": 60}, PLAN, 2, "samples 60 instead of 50"),
        ({"batch_size": 2}, PLAN, 2, "batch_size 2 instead of 4"),
    ],
)
def test_another_plan_is_refused(model: dict[str, Any], plan: str, epochs: int, match: str) -> None:
    path = saved_mid_epoch()
    other = Random(halves(20), **{"length": 50, "batch_size": 4, **model})
    with pytest.raises(SettingRefused, match=match):
        fit(other, scheduler(plan), epochs=epochs, ckpt_path=path)


def test_another_schedule_is_refused() -> None:
    cosine = steps(lambda optimizer: CosineAnnealingLR(optimizer, T_max=80))
    train(Random(cosine, length=160, batch_size=4), "saved", {"every_n_train_steps": 45}, plan=None, epochs=2)
    path = str(next(Path("saved").glob("*.ckpt")))
    other = Random(halves(30), length=160, batch_size=4)
    with pytest.raises(SettingRefused, match="phases"):
        train(other, "again", EVERY_STEP, plan=None, epochs=2, ckpt_path=path)


def test_what_is_planned_for_later_epochs_may_change() -> None:
    path = saved_mid_epoch()
    model = Random(halves(20), length=50, batch_size=4)
    fit(model, scheduler("0:4 61:8 120:32"), epochs=4, ckpt_path=path)
    assert model.sizes(3) == [16, 16, 9, 9]


def test_it_does_not_search_again_for_what_fits() -> None:
    path = saved_mid_epoch(fits=8)
    model = Random(halves(20), length=50, batch_size=4)
    fit(model, scheduler(PLAN, fits=None), epochs=4, ckpt_path=path)
    assert max(model.sizes()) == 8


def test_a_checkpoint_from_within_a_step_is_explained() -> None:
    class Saves(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 3 and batch_idx == 1:
                trainer.save_checkpoint("within.ckpt")

    fit(Random(halves(20), length=50, batch_size=4), scheduler(PLAN, fits=4), Saves(), epochs=4)
    with pytest.warns(UserWarning, match="between two batches of one optimizer step"):
        fit(Random(halves(20), length=50, batch_size=4), scheduler(PLAN), epochs=4, ckpt_path="within.ckpt")


def test_an_order_that_no_checkpoint_holds_is_told() -> None:
    class Secret(Grower):
        def train_dataloader(self) -> DataLoader:
            class Counts(RandomSampler):
                turn = 0

                def __iter__(self) -> Any:
                    self.turn += 1
                    return iter(torch.randperm(50, generator=torch.Generator().manual_seed(self.turn)).tolist())

            return DataLoader(Numbered(50), batch_size=4, sampler=Counts(range(50)))

    train(Secret(halves(20), length=50, batch_size=4), "saved", {"every_n_train_steps": 17}, epochs=2)
    path = str(next(Path("saved").glob("*.ckpt")))
    with pytest.warns(UserWarning, match="order of this epoch's samples is another one"):
        fit(Secret(halves(20), length=50, batch_size=4), scheduler(PLAN), epochs=2, ckpt_path=path)


@pytest.mark.filterwarnings("ignore:.*ckpt_path=")  # Lightning's callback looks for a checkpoint at the start
def test_what_is_saved_when_a_fit_fails_can_be_resumed() -> None:
    class Fails(Grower):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.current_epoch == 1 and batch_idx == 4:
                raise RuntimeError("the power is out")

    model = Grower(halves(20), length=50, batch_size=4)
    unbroken = after(fit(model, scheduler(PLAN), epochs=3, enable_checkpointing=True), model)
    failing = Fails(halves(20), length=50, batch_size=4)
    with pytest.raises(RuntimeError, match="the power is out"):
        fit(failing, scheduler(PLAN), OnExceptionCheckpoint("."), epochs=3, enable_checkpointing=True)
    again = Grower(halves(20), length=50, batch_size=4)
    settings = {"epochs": 3, "ckpt_path": "on_exception.ckpt", "seed": 5, "enable_checkpointing": True}
    trainer = fit(again, scheduler(PLAN), **settings)
    assert same(after(trainer, again), unbroken)


@pytest.mark.parametrize("hook", ["training_step", "on_after_backward", "on_before_optimizer_step"])
@pytest.mark.parametrize("more", [[], [LearningRateWarmup(10**6, 0.5)]], ids=["alone", "warmup"])
def test_a_checkpoint_from_the_middle_of_a_step_holds_the_users_learning_rate(
    hook: str, more: list[L.Callback], tmp_path: Path
) -> None:
    """As Lightning saves one when Slurm is about to requeue the job: the step that it falls into is taken again."""

    class Saves(Grower):
        def save(self) -> None:
            checkpoint = tmp_path / "now.ckpt"
            if self.trainer.global_step == 26 and not checkpoint.exists():
                self.during = self.optimizers().param_groups[0]["lr"]
                self.trainer.save_checkpoint(checkpoint)

    def saving(self: Saves, *arguments: Any) -> Any:
        self.save()
        return getattr(Grower, hook)(self, *arguments)

    setattr(Saves, hook, saving)
    unbroken = Saves(halves(10, 20), length=50, batch_size=4)
    fit(unbroken, scheduler(PLAN, rule="linear"), *more, epochs=4)
    saved = torch.load(tmp_path / "now.ckpt", weights_only=False)
    own = saved["lr_schedulers"][0]["_last_lr"]
    assert [group["lr"] for group in saved["optimizer_states"][0]["param_groups"]] == own == [0.025, 0.005]
    assert unbroken.during == pytest.approx(own[0] * 4 * (0.5 if more else 1), rel=1e-3), "what the step was to use"

    resumed = Grower(halves(10, 20), length=50, batch_size=4)
    fit(resumed, scheduler(PLAN, rule="linear"), *more, epochs=4, ckpt_path=tmp_path / "now.ckpt")
    # The warm-up counts the samples of a batch when it starts: those of this step twice.
    for now, then in zip(resumed.lrs, unbroken.lrs[26:], strict=True):
        assert now == (pytest.approx(then, rel=1e-3) if more else then)


class SavesAtEpochStart(L.Callback):
    """Saves a checkpoint in `on_train_epoch_start`, where Lightning has counted the epoch before as this one's."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(f"epoch-{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_what_is_saved_where_an_epoch_starts_goes_on_with_that_epoch(first: bool) -> None:
    def run(*callbacks: L.Callback, **settings: Any) -> tuple[L.Trainer, Grower]:
        model = Random(halves(20, 30), length=50, batch_size=4)
        both = (*callbacks, scheduler(PLAN)) if first else (scheduler(PLAN), *callbacks)
        return fit(model, *both, epochs=4, **settings), model

    trainer, model = run(SavesAtEpochStart())
    unbroken = after(trainer, model)
    for epoch in (1, 3):
        resumed, again = run(ckpt_path=f"epoch-{epoch}.ckpt", seed=99)
        assert same(after(resumed, again), unbroken)
        assert again.batches == [batch for batch in model.batches if batch[0] >= epoch]
