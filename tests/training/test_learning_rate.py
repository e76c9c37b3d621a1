"""Optimizers and schedulers at another learning rate equal those of a run in which the user has written it."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_warn
from sameness import assert_same, everything
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import lr_scheduler as s
from torch.optim.swa_utils import SWALR

from bstuner.core.scaling import AdamConstants, RuleFound, scale_adam
from bstuner.errors import InvalidSetting, LearningRateNotSettable
from bstuner.training._lightning import forget_loaders
from bstuner.training.births import Births
from bstuner.training.learning_rate import LearningRate
from bstuner.training.state import FrozenFit, FrozenStart, before_optimizers_exist

REFERENCE, TUNED = 0.1, 0.037
STEPS = 24
BATCH = 8


def by_hand(lr: float) -> float:
    """What a learning rate becomes that is not the first one: it keeps its ratio to that."""
    return lr * (TUNED / REFERENCE)


class Tune(L.Callback):
    """Finds the learning rate and puts another in place, as a search does."""

    def __init__(self, lr: float, name: str | None = None, adam: tuple[int, int] | None = None) -> None:
        self.lr, self.name, self.adam = lr, name, adam
        self.batch_size: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        def remember() -> None:
            self.start = FrozenStart(trainer)

        before_optimizers_exist(trainer, remember)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        frozen = FrozenFit(trainer)

        def restore() -> None:
            frozen.restore()
            self.start.restore()
            forget_loaders(trainer)

        found = LearningRate.locate(trainer, restore, self.name)
        for lr in (0.5, self.lr):  # twice: nothing is left of a trial before
            restore()
            if self.batch_size is not None:
                pl_module.batch_size = self.batch_size
            found.build(trainer, lr, self.adam)
        self.found = found  # not before: a callback is wound back too


class Model(zoo.Base):
    """A model whose optimizers a test makes; it notes the learning rates and momenta of every step."""

    def __init__(self, configure: Callable[[Any], Any], lr: float | None = None, manual: bool = False) -> None:
        super().__init__(batch_size=BATCH, length=BATCH * STEPS)
        self.automatic_optimization = not manual
        if lr is not None:
            self.lr = lr
        self.configure = configure

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    def configure_optimizers(self) -> Any:
        return self.configure(self)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.setdefault("lrs", []).append(lrs_of(self.trainer))
        loss = super().training_step(batch, batch_idx)
        if self.automatic_optimization:
            return loss
        self.manual_backward(loss)
        for optimizer in self.trainer.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.step()
        return None


KEYS = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas", "eps")


def lrs_of(trainer: L.Trainer) -> list[Any]:
    def plain(value: Any) -> Any:
        return value.item() if isinstance(value, torch.Tensor) else value

    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [{key: plain(group[key]) for key in KEYS if key in group} for group in groups]


def fit(model: L.LightningModule, *callbacks: L.Callback, **kwargs: Any) -> dict[str, Any]:
    L.seed_everything(3, verbose=False)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    trainer = zoo.trainer(*callbacks, **{"max_epochs": 1, "limit_val_batches": 0, **kwargs})
    trainer.fit(model)
    return everything(model, trainer)


def two_groups(module: Any, lr: Any, other: Any, kind: Any = SGD, **kwargs: Any) -> Optimizer:
    """The first group has the optimizer's learning rate, the second one of its own."""
    return kind([{"params": module.net[0].parameters()}, {"params": module.net[2].parameters(), "lr": other}], lr=lr, **kwargs)


def steps(optimizer: Any, scheduler: Any, **kwargs: Any) -> dict[str, Any]:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", **kwargs}}


def horizon(module: Any) -> int:
    return int(module.trainer.estimated_stepping_batches) if module.trainer.training else STEPS


class Halving:
    """A schedule as an object, which torch keeps in checkpoints."""

    def __call__(self, step: int) -> float:
        return 0.5 ** (step // 5)


def sequential(o: Any, lr: float, other: float, total: int) -> Any:
    warmup = s.LinearLR(o, start_factor=0.1, total_iters=5)
    middle = s.CosineAnnealingLR(o, T_max=total - 5, eta_min=1e-4)
    return s.SequentialLR(o, [warmup, middle, s.ExponentialLR(o, 0.9)], milestones=[5, 18])


def nested(o: Any, lr: float, other: float, total: int) -> Any:
    inner = s.SequentialLR(o, [s.ConstantLR(o, 0.5, 3), s.PolynomialLR(o, 9, 0.7)], milestones=[4])
    chain = s.ChainedScheduler([s.StepLR(o, 4, 0.7), s.ExponentialLR(o, 0.97)])
    return s.SequentialLR(o, [inner, chain], milestones=[10])


# Made from an optimizer, the learning rate, that of the second group, and the steps of the fit.
SCHEDULERS: dict[str, Callable[[Any, float, float, int], Any]] = {
    "LambdaLR": lambda o, lr, other, n: s.LambdaLR(o, lambda step: 1 / (1 + step)),
    "LambdaLR, from zero": lambda o, lr, other, n: s.LambdaLR(o, lambda step: min(1.0, step / 7)),
    "LambdaLR, a function for each group": lambda o, lr, other, n: s.LambdaLR(o, [Halving(), lambda step: 0.9**step]),
    "MultiplicativeLR": lambda o, lr, other, n: s.MultiplicativeLR(o, lambda step: 0.93),
    "StepLR": lambda o, lr, other, n: s.StepLR(o, 7, 0.3),
    "MultiStepLR": lambda o, lr, other, n: s.MultiStepLR(o, [3, 9, 9, 17], 0.3),
    "ConstantLR": lambda o, lr, other, n: s.ConstantLR(o, 1 / 3, 6),
    "LinearLR": lambda o, lr, other, n: s.LinearLR(o, 0.01, 1.0, 20),
    "LinearLR, downwards": lambda o, lr, other, n: s.LinearLR(o, 1.0, 0.013, n),
    "ExponentialLR": lambda o, lr, other, n: s.ExponentialLR(o, 0.91),
    "PolynomialLR": lambda o, lr, other, n: s.PolynomialLR(o, n, 0.9),
    "CosineAnnealingLR": lambda o, lr, other, n: s.CosineAnnealingLR(o, n),
    "CosineAnnealingLR, with a floor": lambda o, lr, other, n: s.CosineAnnealingLR(o, 11, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda o, lr, other, n: s.CosineAnnealingWarmRestarts(o, 5, 2, eta_min=1e-3),
    "CyclicLR": lambda o, lr, other, n: s.CyclicLR(
        o, [lr / 8, other / 8], [lr, other], 4, 5, mode="exp_range", gamma=0.99
    ),
    "CyclicLR, one number": lambda o, lr, other, n: s.CyclicLR(o, lr / 8, lr, 4, mode="triangular2"),
    "OneCycleLR": lambda o, lr, other, n: s.OneCycleLR(o, lr, n),
    "OneCycleLR, of its own kind": lambda o, lr, other, n: s.OneCycleLR(
        o, [lr, other], n, three_phase=True, anneal_strategy="linear", div_factor=7.3, final_div_factor=30.0
    ),
    "SequentialLR": sequential,
    "ChainedScheduler": lambda o, lr, other, n: s.ChainedScheduler(
        [s.LinearLR(o, 0.1, 1.0, 9), s.ExponentialLR(o, 0.97), s.MultiStepLR(o, [12, 15], 0.3)]
    ),
    "chained within sequential": nested,
    "SWALR": lambda o, lr, other, n: SWALR(o, lr / 8, anneal_epochs=13),
}  # fmt: skip


def configured(made: Any, lr: float | None, kind: Any = SGD, **kwargs: Any) -> Callable[[Any], Any]:
    """A `configure_optimizers` with the learning rate written in it; None for one that reads the attribute."""

    def configure(module: Any) -> Any:
        first = module.lr if lr is None else lr
        second = first / 8
        optimizer = two_groups(module, first, second, kind, **kwargs)
        return steps(optimizer, made(optimizer, first, second, horizon(module)))

    return configure


def built_once(model: Any, lr: float, made: Any, kind: Any = SGD, **kwargs: Any) -> Any:
    """A model whose optimizer and scheduler are built before the fit, as LightningCLI does."""
    optimizer = two_groups(model, lr, lr / 8, kind, **kwargs)
    scheduler = made(optimizer, lr, lr / 8, STEPS)

    def configure(module: Any, optimizer: Any, scheduler: Any) -> Any:
        return steps(optimizer, scheduler)

    returned = functools.partial(configure, optimizer=optimizer, scheduler=scheduler)
    functools.update_wrapper(returned, configure)
    model.configure_optimizers = MethodType(returned, model)
    return model


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_attribute_that_is_followed(name: str) -> None:
    tune = Tune(TUNED)
    found = fit(Model(configured(SCHEDULERS[name], None), lr=REFERENCE), tune)
    assert_same(found, fit(Model(configured(SCHEDULERS[name], None), lr=TUNED)))
    assert (tune.found.reference, tune.found.holder, tune.found.warnings) == (REFERENCE, "Model.lr", ())
    assert found["seen"]["lrs"][0] != fit(Model(configured(SCHEDULERS[name], None), lr=REFERENCE))["seen"]["lrs"][0] or (
        found["seen"]["lrs"][0][0]["lr"] == 0
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_learning_rate_written_in_the_code(name: str) -> None:
    tune = Tune(TUNED)
    found = fit(Model(configured(SCHEDULERS[name], REFERENCE)), tune)
    assert_same(found, fit(Model(configured(SCHEDULERS[name], TUNED))))
    assert (tune.found.reference, tune.found.warnings) == (REFERENCE, ())
    assert tune.found.holder == (
        f"max_lr of {name.partition(',')[0]}" if "Cyc" in name else "the parameter groups of SGD"
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_optimizer_and_a_scheduler_that_are_built_once(name: str) -> None:
    tune = Tune(TUNED)
    found = fit(built_once(Model(None), REFERENCE, SCHEDULERS[name]), tune)
    wanted = fit(built_once(Model(None), TUNED, SCHEDULERS[name]))
    assert tune.found.warnings == ()
    for one, other in zip(found["seen"]["lrs"], wanted["seen"]["lrs"], strict=True):
        for group, by in zip(one, other, strict=True):
            assert group.keys() == by.keys()
            assert all(abs(group[key] - by[key]) <= math.ulp(by[key]) for key in by)
