"""After tuning, training equals, bit for bit, the run that was started by hand with the values that were found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import zoo
from sameness import assert_same
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from tuning import REFERENCE, Noisy, Wish, by_step, one_cycle, rate_of, result_of, seeded, sgd, train, warmups, wishing


class InHparams(Noisy):
    def __init__(self, batch_size: int = 8, lr: float = REFERENCE) -> None:
        super().__init__(batch_size)
        self.save_hyperparameters()


class WithWorkers(Noisy):
    workers = 2


class Autoencoder(zoo.ManualAutoencoder):
    """Manual optimization: two optimizers, with a scheduler each that the training step steps."""

    def __init__(self, batch_size: int = 8, written: float = REFERENCE) -> None:
        super().__init__(batch_size, 256)
        self.written = written

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.net.parameters(), lr=self.written, momentum=0.9)
        second = torch.optim.SGD(self.critic.parameters(), lr=self.written / 8)
        return [first, second], [lr_scheduler.ExponentialLR(first, 0.99), lr_scheduler.ExponentialLR(second, 0.9)]


def cosine(module: Any) -> Any:
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate_of(module))
    return by_step(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, module.trainer.estimated_stepping_batches))


def constants(module: Any) -> Any:
    optimizer = sgd(module)
    return by_step(optimizer, lr_scheduler.StepLR(optimizer, module.decay, 0.5))


def epochs(module: Any) -> Any:
    optimizer = sgd(module)
    return [optimizer], [lr_scheduler.StepLR(optimizer, 1, 0.5)]


def groups(module: Any) -> Any:
    head, body = list(module.net[-1].parameters()), list(module.net[0].parameters())
    rate = rate_of(module)
    return torch.optim.SGD([{"params": head, "lr": rate}, {"params": body, "lr": rate / 8}], lr=rate / 2)


def plateau(module: Any) -> Any:
    optimizer = sgd(module)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class BareSgd(zoo.Bare):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.learning_rate = lr

    def configure_optimizers(self) -> Any:
        return sgd(self)


def passed(size: int, lr: float) -> Any:
    shuffled = DataLoader(zoo.Augmented(256), size, shuffle=True, generator=torch.Generator().manual_seed(5))
    return BareSgd(lr), {"train_dataloaders": shuffled, "val_dataloaders": DataLoader(zoo.Vectors(64), 8)}


@dataclass(frozen=True)
class Case:
    """A training as the user's code has it, and what that code would say for twice the batch size.

    Args:
        build: makes module and what goes to `fit`, from batch size and learning rate.
        trainer: the Trainer's settings.
        by_hand: those that differ in the run by hand.
        twice: what differs in the module.
        told: what the result says of other values than batch size and learning rate.
        warmed: whether it also says that there is a warm-up.
        settings: the tuner's.
        batch_size: the user's own.
    """

    build: Callable[..., Any]
    trainer: dict[str, Any] = field(default_factory=dict)
    by_hand: dict[str, Any] = field(default_factory=dict)
    twice: dict[str, Any] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    warmed: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 8


def noisy(name: str = "lr", make: Any = sgd, kind: Any = Noisy, **more: Any) -> Callable[..., Any]:
    def build(size: int, lr: float, **other: Any) -> Any:
        return kind(size, make=make, **{name: lr, **more, **other}), {}

    return build


CASES = {
    "an attribute": Case(noisy()),
    "an hparam": Case(lambda size, lr: (InHparams(size, lr), {})),
    "written in configure_optimizers": Case(noisy("written")),
    "written in configure_optimizers, OneCycleLR": Case(noisy("written", one_cycle), warmed=False),
    "an attribute, OneCycleLR": Case(noisy("learning_rate", one_cycle), warmed=False),
    "AdamW with a cosine over the fit": Case(noisy("written", cosine)),
    "a schedule by epochs": Case(noisy("lr", epochs)),
    "a schedule that waits for a metric": Case(noisy("lr", plateau)),
    "two parameter groups": Case(noisy("written", groups)),
    "two parameter groups of an attribute": Case(noisy("lr", groups)),
    "manual optimization": Case(lambda size, lr: (Autoencoder(size, lr), {})),
    "loaders passed to fit": Case(passed),
    "a datamodule": Case(lambda size, lr: (BareSgd(lr), {"datamodule": zoo.Data(size, 256)})),
    "two workers": Case(noisy(kind=WithWorkers)),
    "gradient clipping": Case(noisy(), {"gradient_clip_val": 0.1}),
    "constants of a scheduler": Case(
        noisy("lr", constants, decay=10), twice={"decay": 5}, told=("StepLR.step_size 10 -> 5",)
    ),
    "accumulation": Case(
        noisy("lr", one_cycle), {"accumulate_grad_batches": 4}, {"accumulate_grad_batches": 1},
        warmed=False, settings={"max_val": 64, "trial_budget": 512},
    ),
    "steps as the limit": Case(
        noisy("lr", one_cycle), {"max_steps": 20, "max_epochs": -1}, {"max_steps": 10}, told=("max_steps: 20 -> 10",),
        warmed=False,
    ),
    "other settings in steps": Case(
        noisy("lr", one_cycle), {"limit_train_batches": 20, "val_check_interval": 8},
        {"limit_train_batches": 10, "val_check_interval": 4},
        told=("limit_train_batches: 20 -> 10", "val_check_interval: 8 -> 4"), warmed=False,
    ),
    "a smaller batch": Case(noisy("lr", one_cycle), warmed=False, settings={"log2_batch_ratio": -1}, batch_size=16),
    "no warm-up": Case(noisy(), warmed=False, settings={"warmup": None}),
    "a warm-up of so many samples": Case(noisy("lr", one_cycle), settings={"warmup": 100}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_training_equals_the_run_started_by_hand(case: str) -> None:
    this = CASES[case]
    tuner = wishing(**{"base_lr": 2 * REFERENCE, **this.settings})
    found = train(*seeded(this.build, this.batch_size, REFERENCE), tuner, Wish(), **this.trainer)
    result = result_of(tuner)
    assert result.best.global_batch_size != result.baseline.global_batch_size
    assert result.confirmed
    warmup = warmups(result)
    assert result.set_values[: len(result.set_values) - len(warmup)] == this.told
    assert bool(warmup) == this.warmed
    twice = seeded(this.build, result.batch_size, result.lr, **this.twice)
    by_hand = train(*twice, *warmup, Wish(), **{**this.trainer, **this.by_hand})
    assert_same(found, by_hand)
