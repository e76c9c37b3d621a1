"""A warm-up in samples: each step's learning rate, and nothing else, is lower for a while."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import processes
import pytest
import pytorch_lightning as pl
import torch
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader, Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from bstuner import BatchSizeFinder
from bstuner.callbacks.warmup import LearningRateWarmup
from bstuner.core.scaling import warmup_lr
from bstuner.errors import InvalidSetting, UnsupportedStrategy
from bstuner.training.run.callbacks import takes_part

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata's loader calls it
]


class NotedSGD(torch.optim.SGD):
    """Notes the learning rate of every group at every step."""

    def step(self, closure: Any = None) -> Any:
        zoo.NOTES.append([float(group["lr"]) for group in self.param_groups])
        return super().step(closure)


class Warm(zoo.Base):
    """Two groups, and a scheduler that steps with every optimizer step."""

    scheduler: Callable[[torch.optim.Optimizer], Any] = staticmethod(
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    )

    def configure_optimizers(self) -> Any:
        first, second = list(self.net[0].parameters()), list(self.net[-1].parameters())
        optimizer = NotedSGD([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.02}], momentum=0.9)
        return [optimizer], [{"scheduler": self.scheduler(optimizer), "interval": "step"}]


class Scheduled(L.Callback):
    """Notes what a scheduler leaves in the groups, between steps."""

    def __init__(self) -> None:
        self.lrs: list[list[float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.lrs.append([group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups])


class Resumable(Warm):
    def train_dataloader(self) -> Any:
        return StatefulDataLoader(zoo.Vectors(self.length), batch_size=self.batch_size, shuffle=True)


class Saver(L.Callback):
    """Saves in the middle of an epoch, from a place before the warm-up's."""

    def __init__(self, folder: Path, batch: int) -> None:
        self.path, self.batch = folder / "own.ckpt", batch

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if trainer.current_epoch == 0 and index == self.batch:
            trainer.save_checkpoint(self.path)


def train(
    *callbacks: L.Callback, kind: type[zoo.Base] = Warm, batch_size: int = 16, length: int = 100, **settings: Any
) -> L.Trainer:
    L.seed_everything(1, verbose=False)
    zoo.NOTES.clear()
    trainer = zoo.trainer(*callbacks, **settings)
    trainer.fit(kind(batch_size=batch_size, length=length))
    return trainer


def weights(trainer: L.Trainer) -> list[torch.Tensor]:
    return [value.clone() for value in trainer.lightning_module.state_dict().values()]


def equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def test_every_step_uses_the_learning_rate_for_the_samples_before_it() -> None:
    train(LearningRateWarmup(samples=150, start_factor=0.25))
    sizes = [*[16] * 6, 4] * 2  # 100 samples an epoch: the last batch is smaller
    seen = [0, *itertools.accumulate(sizes)][:-1]
    expected, lrs = [], [0.1, 0.02]
    for samples in seen:
        expected.append([warmup_lr(lr, lr * 0.25, samples, 150) for lr in lrs])
        lrs = [lr * 0.9 for lr in lrs]
    assert expected == zoo.NOTES
    assert seen[-4:] == [148, 164, 180, 196], "the warm-up ends within the run"
    assert zoo.NOTES[0] == [0.025, 0.005]


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, [0.3, 0.2], total_steps=20),
    "chained": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.LinearLR(o, 0.5, total_iters=5), torch.optim.lr_scheduler.StepLR(o, 4)]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_scheduler_never_sees_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Warm, "scheduler", staticmethod(SCHEDULERS[name]))
    without, with_it = Scheduled(), Scheduled()
    plain = train(without)
    warm = train(LearningRateWarmup(samples=150, start_factor=0.1), with_it)
    assert with_it.lrs == without.lrs
    schedulers = [run.lr_scheduler_configs[0].scheduler.state_dict() for run in (plain, warm)]
    for state in schedulers:
        state.pop("_schedulers", None)
    assert schedulers[0] == schedulers[1]
    assert not equal(weights(plain), weights(warm)), "or else it did nothing at all"


def test_the_closure_sees_the_learning_rate_that_is_used() -> None:
    class Looking(Warm):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.setdefault("lrs", []).append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
            return super().training_step(batch, batch_idx)

    trainer = train(LearningRateWarmup(samples=150, start_factor=0.25), kind=Looking)
    assert trainer.lightning_module.seen["lrs"] == zoo.NOTES


def test_once_it_is_over_training_is_as_without_it(tmp_path: Path) -> None:
    saver = Saver(tmp_path, batch=4)
    train(LearningRateWarmup(samples=60, start_factor=0.25), saver, kind=Resumable)
    ends = []
    for callbacks in ((), (LearningRateWarmup(samples=60, start_factor=0.25),)):
        L.seed_everything(1, verbose=False)
        resumed = zoo.trainer(*callbacks, max_epochs=2)
        resumed.fit(Resumable(batch_size=16, length=100), ckpt_path=saver.path, weights_only=False)
        ends.append(weights(resumed))
    assert equal(*ends)


def test_a_factor_of_one_is_no_warmup() -> None:
    assert equal(weights(train()), weights(train(LearningRateWarmup(samples=150, start_factor=1))))


def test_accumulated_batches_are_as_one_large_batch() -> None:
    train(LearningRateWarmup(samples=150, start_factor=0.25), batch_size=32, length=128)
    large = list(zoo.NOTES)
    warmup = LearningRateWarmup(samples=150, start_factor=0.25)
    train(warmup, batch_size=8, length=128, accumulate_grad_batches=4)
    assert large == zoo.NOTES
    assert len(large) == 8


class Manual(zoo.ManualAutoencoder):
    def configure_optimizers(self) -> Any:
        _, schedulers = super().configure_optimizers()
        for scheduler in schedulers:
            scheduler.optimizer.register_step_post_hook(self.note)
        return [scheduler.optimizer for scheduler in schedulers], schedulers

    @staticmethod
    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        zoo.NOTES.append((type(optimizer).__name__, optimizer.param_groups[0]["lr"]))


def test_several_optimizers_that_step_by_hand() -> None:
    train(LearningRateWarmup(samples=64, start_factor=0.5), kind=Manual, length=96, max_epochs=1)
    critic = [lr for name, lr in zoo.NOTES if name == "SGD"]
    autoencoder = [lr for name, lr in zoo.NOTES if name == "Adam"]
    nominal = {"SGD": (1e-2, 0.9), "Adam": (1e-3, 0.99)}
    for name, batches, lrs in (("SGD", range(6), critic), ("Adam", range(0, 6, 2), autoencoder)):
        lr, decay = nominal[name]
        expected = [warmup_lr(lr * decay**b, lr * decay**b / 2, 16 * b, 64) for b in batches]
        assert lrs == pytest.approx(expected, rel=1e-12), name


def test_a_step_that_fails_and_is_caught_by_the_user_lowers_nothing_for_good() -> None:
    class Careful(Warm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()

            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = self.loss(batch)
                self.manual_backward(loss)
                if batch_idx == 2:
                    raise FloatingPointError
                return loss

            try:
                optimizer.step(closure)
            except FloatingPointError:
                optimizer.step()

    trainer = train(LearningRateWarmup(samples=10_000, start_factor=0.5), kind=Careful, max_epochs=1)
    seen = (0, 16, 32, 32, 48, 64, 80, 96)  # the third batch takes two attempts
    assert [note[0] for note in zoo.NOTES] == [warmup_lr(0.1, 0.05, samples, 10_000) for samples in seen]
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1


def test_an_error_in_the_middle_of_a_step_leaves_the_optimizer_as_it_was() -> None:
    class Failing(Warm):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 3:
                raise FloatingPointError
            return super().training_step(batch, batch_idx)

    model = Failing(batch_size=16, length=100)
    trainer = zoo.trainer(LearningRateWarmup(samples=1000, start_factor=0.5))
    with pytest.raises(FloatingPointError):
        trainer.fit(model)
    optimizer = trainer.optimizers[0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 * 0.9 * 0.9 * 0.9, 0.02 * 0.9 * 0.9 * 0.9]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_no_hook_is_left_behind() -> None:
    trainer = train(LearningRateWarmup(samples=1000, start_factor=0.5))
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


@pytest.mark.parametrize("place", ["ModelCheckpoint", "a callback before it", "a callback after it"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_warmup_equals_the_unbroken_one(place: str, accumulate: int, tmp_path: Path) -> None:
    def warmup() -> LearningRateWarmup:
        return LearningRateWarmup(samples=150, start_factor=0.25)

    saver = Saver(tmp_path, batch=3)
    steps = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=4 // accumulate, save_top_k=-1)
    callbacks = {
        "ModelCheckpoint": [warmup(), steps],
        "a callback before it": [saver, warmup()],
        "a callback after it": [warmup(), saver],
    }[place]
    settings = {"enable_checkpointing": place == "ModelCheckpoint", "accumulate_grad_batches": accumulate}
    unbroken = train(*callbacks, kind=Resumable, **settings)
    final, noted = weights(unbroken), list(zoo.NOTES)
    path = tmp_path / f"step={4 // accumulate}.ckpt" if place == "ModelCheckpoint" else saver.path
    zoo.NOTES.clear()
    L.seed_everything(1, verbose=False)
    resumed = zoo.trainer(warmup(), max_epochs=2, accumulate_grad_batches=accumulate)
    resumed.fit(Resumable(batch_size=16, length=100), ckpt_path=path, weights_only=False)
    assert noted[4 // accumulate :] == zoo.NOTES
    assert equal(final, weights(resumed))
    assert noted[4 // accumulate] != noted[0]


def test_a_second_fit_warms_up_again() -> None:
    warmup = LearningRateWarmup(samples=150, start_factor=0.25)
    train(warmup)
    first = list(zoo.NOTES)
    train(warmup)
    assert first == zoo.NOTES


def test_an_evaluation_between_two_fits_changes_nothing() -> None:
    warmup = LearningRateWarmup(samples=150, start_factor=0.25)
    trainer = train(warmup, max_epochs=1)
    saved = warmup.state_dict()
    trainer.validate(trainer.lightning_module, verbose=False)
    assert warmup.state_dict() == saved == {"before": 100, "since": 0, "stepped": False}


class InOrder(Warm):
    """A search in the middle of a fit has its loaders made anew, which draws another order."""

    def __init__(self, **arguments: int) -> None:
        super().__init__(**arguments, shuffle=False)


@pytest.mark.parametrize("milestones", [(), (1,)])
def test_a_search_counts_for_nothing(milestones: tuple[int, ...]) -> None:
    """Before the fit, and in its middle, while the warm-up is on."""
    warmup = LearningRateWarmup(samples=150, start_factor=0.25)
    assert takes_part(warmup)
    trainer = train(warmup, BatchSizeFinder(max_val=16, milestones=milestones), kind=InOrder)
    searched = list(zoo.NOTES)
    other = train(LearningRateWarmup(samples=150, start_factor=0.25), kind=InOrder)
    assert trainer.lightning_module.losses == other.lightning_module.losses
    assert equal(weights(trainer), weights(other))
    assert len(searched) > len(zoo.NOTES), "the probes trained with it too"
    assert searched[0] == zoo.NOTES[0]
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


def test_a_learning_rate_in_a_tensor() -> None:
    class Tensors(zoo.Base):
        def configure_optimizers(self) -> Any:
            return NotedSGD(self.parameters(), lr=torch.tensor(0.5))

    trainer = train(LearningRateWarmup(samples=32, start_factor=0.5), kind=Tensors, length=64, max_epochs=1)
    assert zoo.NOTES == [[0.25], [0.375], [0.5], [0.5]]
    assert float(trainer.optimizers[0].param_groups[0]["lr"]) == 0.5


def test_a_trainer_of_the_other_root_is_told_what_to_change() -> None:
    class Model(pl.LightningModule):
        def configure_optimizers(self) -> None:
            return None

        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

        def train_dataloader(self) -> DataLoader:
            return DataLoader(zoo.Vectors(8))

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=[LearningRateWarmup(10, 0.5)], max_epochs=1, enable_model_summary=False, **quiet)
    with pytest.raises(UnsupportedStrategy, match=r"write `import lightning.pytorch as pl` instead"):
        trainer.fit(Model())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples to be a whole number of at least 1, found 0"),
        ({"samples": 1.5}, "samples to be a whole number of at least 1, found 1.5"),
        ({"samples": True}, "samples to be a whole number of at least 1, found True"),
        ({"start_factor": 0.0}, "above 0 and at most 1, found 0.0"),
        ({"start_factor": 2}, "above 0 and at most 1, found 2"),
        ({"start_factor": float("nan")}, "above 0 and at most 1, found nan"),
        ({"start_factor": "half"}, "above 0 and at most 1, found 'half'"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        LearningRateWarmup(**{"samples": 10, "start_factor": 0.5, **arguments})


def test_a_batch_without_a_tensor() -> None:
    class Words(Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> str:
            return "word"

    class Reader(Warm):
        def loss(self, batch: Any) -> torch.Tensor:
            return self.net(torch.ones(len(batch), 64)).square().mean()

        def train_dataloader(self) -> DataLoader:
            return DataLoader(Words(), batch_size=4)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.loss(batch)

    with pytest.raises(InvalidSetting, match=r"expected one, found none in list\. Return tensors"):
        train(LearningRateWarmup(10, 0.5), kind=Reader, limit_val_batches=0)


def test_an_optimizer_without_a_learning_rate() -> None:
    class Own(zoo.Base):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            optimizer.param_groups[0]["lr"] = None
            return optimizer

    with pytest.raises(InvalidSetting, match="expected every parameter group to have a learning rate, found lr=None"):
        train(LearningRateWarmup(10, 0.5), kind=Own)


def test_a_run_without_optimizers() -> None:
    class Still(zoo.Base):
        def configure_optimizers(self) -> None:
            return None

    with pytest.warns(UserWarning, match="this fit will run with no optimizer"):
        train(LearningRateWarmup(10, 0.5), kind=Still, max_epochs=1)


class Uneven(Sampler[list[int]]):
    """Batches whose size depends on the process."""

    def __init__(self, rank: int) -> None:
        self.size = 4 + 8 * rank

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(len(self)):
            yield list(range(batch, batch + self.size))


class OnRank(Warm):
    uneven = False

    def train_dataloader(self) -> DataLoader:
        if not self.uneven:
            return super().train_dataloader()
        return DataLoader(zoo.Vectors(64), batch_sampler=Uneven(self.trainer.global_rank))


class Counted(LearningRateWarmup):
    """Counts how often it asks the other process."""

    asked = 0

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        reduce = trainer.strategy.reduce

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.asked += 1
            return reduce(*args, **kwargs)

        trainer.strategy.reduce = counted
        super().on_train_batch_start(trainer, *args)
        trainer.strategy.reduce = reduce


def two_runs() -> list[tuple[int, list[list[float]]]]:
    runs = []
    for uneven in (False, True):
        zoo.NOTES.clear()
        L.seed_everything(1, verbose=False)
        model = OnRank(batch_size=8, length=100)
        model.uneven = uneven
        settings = {"devices": 2, "strategy": "ddp", "max_epochs": 1, "limit_val_batches": 0}
        warmup = Counted(64, 0.5)
        zoo.trainer(warmup, use_distributed_sampler=not uneven, **settings).fit(model)
        runs.append((warmup.asked, list(zoo.NOTES)))
    return runs


def test_two_processes_count_the_samples_of_both() -> None:
    values = [rank.value for rank in processes.launch(two_runs)]
    assert values[0] == values[1]
    (none, even), (some, uneven) = values[0]
    decay = [0.1 * 0.9**step for step in range(7)]
    lrs = [warmup_lr(lr, lr / 2, 16 * step, 64) for step, lr in enumerate(decay)]
    assert [group[0] for group in even] == pytest.approx(lrs, rel=1e-12)
    assert [group[0] for group in uneven] == pytest.approx(lrs[:6], rel=1e-12), "4 samples on one, 12 on the other"
    assert (none, some) == (0, 4), "they ask at each batch where sizes differ, until the warm-up is over"


def test_it_can_be_sent_to_another_process_before_and_after_a_fit() -> None:
    warmup = LearningRateWarmup(samples=150, start_factor=0.25)
    torch.save(warmup, io.BytesIO())
    train(warmup)
    torch.save(warmup, io.BytesIO())


def test_a_trial_that_ended_in_the_middle_of_a_step_leaves_nothing_for_the_next() -> None:
    """A search catches the error, puts the optimizer back itself, and sets another learning rate."""
    warmup = LearningRateWarmup(samples=150, start_factor=0.5)
    trainer = train(warmup)
    optimizer, module = trainer.optimizers[0], trainer.lightning_module

    def out_of_memory() -> float:
        raise torch.OutOfMemoryError

    warmup.setup(trainer, module, "fit")
    warmup.on_train_start(trainer, module)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer.step(out_of_memory)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    warmup.on_train_start(trainer, module)
    assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1
    zoo.NOTES.clear()
    optimizer.step()
    assert zoo.NOTES == [[0.25, 0.25]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


class Plain(zoo.Base):
    def __init__(self, batch_size: int = 16, length: int = 64) -> None:
        super().__init__(batch_size, length)

    def configure_optimizers(self) -> Any:
        return NotedSGD(self.parameters(), lr=0.5)


def test_lightnings_command_line_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]
    arguments = [
        *["train.py", "fit", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.num_sanity_val_steps=0"],
        *(f"--trainer.{setting}=false" for setting in settings),
        *["--trainer.callbacks+=bstuner.callbacks.warmup.LearningRateWarmup"],
        *["--trainer.callbacks.samples=32", "--trainer.callbacks.start_factor=0.5"],
    ]
    monkeypatch.setattr("sys.argv", arguments)
    LightningCLI(Plain, save_config_callback=None)
    assert zoo.NOTES == [[0.25], [0.375], [0.5], [0.5]]
