"""The user's schedule, run ahead: what training will do, and nothing of the user's touched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from torch import Tensor
from torch.optim import lr_scheduler as lrs

from bstuner.training.growing.simulate import Schedule, simulate_schedule

Make = Callable[[Any, L.Trainer], Any]


class Warm:
    """A schedule with a memory of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return min(1.0, (step + 1) / 5)


def by_step(make: Make) -> Make:
    return lambda optimizer, trainer: {"scheduler": make(optimizer, trainer), "interval": "step"}


SCHEDULES: dict[str, Make] = {
    "constant": lambda o, t: lrs.ConstantLR(o, 0.5, 2),
    "by steps": by_step(lambda o, t: lrs.StepLR(o, 3, 0.5)),
    "by epochs": lambda o, t: lrs.MultiStepLR(o, [1, 3], 0.1),
    "every second epoch": lambda o, t: {"scheduler": lrs.ExponentialLR(o, 0.5), "frequency": 2},
    "every third step": lambda o, t: {"scheduler": lrs.ExponentialLR(o, 0.9), "interval": "step", "frequency": 3},
    "cosine to the end": by_step(lambda o, t: lrs.CosineAnnealingLR(o, int(t.estimated_stepping_batches))),
    "warm restarts": by_step(lambda o, t: lrs.CosineAnnealingWarmRestarts(o, 5, 2)),
    "one cycle": by_step(lambda o, t: lrs.OneCycleLR(o, 0.2, total_steps=int(t.estimated_stepping_batches))),
    "cyclic": by_step(lambda o, t: lrs.CyclicLR(o, 0.01, 0.1, 4)),
    "linear, then exponential": by_step(
        lambda o, t: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, 1.0, 4), lrs.ExponentialLR(o, 0.9)], [4])
    ),
    "chained": by_step(lambda o, t: lrs.ChainedScheduler([lrs.LinearLR(o, 0.1, 1.0, 4), lrs.StepLR(o, 6, 0.5)])),
    "a function": by_step(lambda o, t: lrs.LambdaLR(o, Warm())),
    "a factor": by_step(lambda o, t: lrs.MultiplicativeLR(o, lambda step: 0.95)),
    "polynomial": by_step(lambda o, t: lrs.PolynomialLR(o, 12, 2.0)),
}


class Scheduled(zoo.Mlp):
    """Notes the learning rate of every step, and simulates before the first."""

    def __init__(self, make: Make) -> None:
        super().__init__(batch_size=8, length=60)
        self.make = make

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": self.make(optimizer, self.trainer)}

    def on_train_start(self) -> None:
        before = [state_of(self.trainer), torch.get_rng_state()]
        zoo.NOTES.append(simulate_schedule(self.trainer, steps=int(self.trainer.estimated_stepping_batches), batches=8))
        assert state_of(self.trainer) == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        zoo.NOTES.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)


def state_of(trainer: L.Trainer) -> Any:
    states = [
        trainer.optimizers[0].state_dict(),
        *(config.scheduler.state_dict() for config in trainer.lr_scheduler_configs),
    ]
    return copy.deepcopy(states)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_simulation_is_what_training_does(name: str, accumulate: int) -> None:
    zoo.trainer(max_epochs=4, accumulate_grad_batches=accumulate).fit(Scheduled(SCHEDULES[name]))
    schedule, *used = zoo.NOTES
    assert isinstance(schedule, Schedule)
    by_batch = [
        lr for index, lr in enumerate(schedule.lrs) for _ in range((3, 3, 2)[index % 3] if accumulate == 3 else 1)
    ]
    assert len(used) == 32
    assert by_batch == used
    assert schedule.unforeseen == ()


def test_a_schedule_that_waits_for_a_metric_is_named() -> None:
    def make(optimizer: Any, trainer: L.Trainer) -> Any:
        return {"scheduler": lrs.ReduceLROnPlateau(optimizer), "monitor": "val_loss"}

    zoo.trainer(max_epochs=4).fit(Scheduled(make))
    assert zoo.NOTES[0].unforeseen == ("ReduceLROnPlateau",)
    assert set(zoo.NOTES[0].lrs) == {0.1}


def test_one_that_has_to_be_told_the_epoch_is_named() -> None:
    class Told(lrs.LRScheduler):
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

        def step(self, epoch: int) -> None:  # type: ignore[override]
            raise AssertionError("nobody could tell")

    class Tells(Scheduled):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            pass

    zoo.trainer(max_epochs=4).fit(Tells(lambda o, t: Told(o)))
    assert zoo.NOTES[0].unforeseen == ("Told",)


def test_neither_the_trainer_nor_a_part_of_the_module_is_copied() -> None:
    class Whole(torch.nn.Identity):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("a part of the module is copied")

    class Trainer(L.Trainer):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("the Trainer is copied")

    class Knows(lrs.ExponentialLR):
        def __init__(self, optimizer: Any, trainer: L.Trainer) -> None:
            super().__init__(optimizer, 0.9)
            self.trainer, self.part = trainer, trainer.lightning_module.part

        def state_dict(self) -> dict[str, Any]:
            return {"last_epoch": self.last_epoch}

    model = Scheduled(by_step(Knows))
    model.part = Whole()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(accelerator="cpu", max_epochs=1, **quiet).fit(model)
    assert list(zoo.NOTES[0].lrs) == zoo.NOTES[1:]


def test_the_module_is_not_copied() -> None:
    """A bound method as the function of a schedule refers to the module."""

    class Own(Scheduled):
        def __init__(self) -> None:
            super().__init__(lambda o, t: {"scheduler": lrs.LambdaLR(o, self.factor), "interval": "step"})

        def factor(self, step: int) -> float:
            return 1 / (1 + step)

        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("the module is copied")

    zoo.trainer(max_epochs=4).fit(Own())
    assert list(zoo.NOTES[0].lrs) == zoo.NOTES[1:]
