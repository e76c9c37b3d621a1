"""Optimizers and schedulers at another learning rate equal those of a run in which the user has written it."""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.cli import LightningCLI
from sameness import assert_same, everything
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler as s
from torch.optim.swa_utils import SWALR

from bstuner.core.scaling import AdamConstants, RuleFound, scale_adam
from bstuner.errors import InvalidSetting, LearningRateNotSettable
from bstuner.optim.at_construction import GivenRates
from bstuner.training._lightning import before_optimizers_exist, forget_loaders
from bstuner.training.freezing.frozen_fit import FrozenFit, FrozenStart
from bstuner.training.settings.learning_rate import LearningRate

REFERENCE, TUNED = 0.1, 0.053  # 0.1 * (0.053 / 0.1) is another number: what is multiplied by the ratio shows
STEPS = 24
BATCH = 8


def by_hand(lr: float) -> float:
    """What a learning rate becomes that is not the first one: it keeps its ratio to that."""
    return TUNED * (lr / REFERENCE)


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
    groups = [{"params": module.net[0].parameters()}, {"params": module.net[2].parameters(), "lr": other}]
    return kind(groups, lr=lr, **kwargs)


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


def chain_first(o: Any, lr: float, other: float, total: int) -> Any:
    chain = s.ChainedScheduler([s.LinearLR(o, 0.1, 1.0, 9), s.ExponentialLR(o, 0.97)])
    return s.SequentialLR(o, [chain, s.CosineAnnealingLR(o, total - 10)], milestones=[10])


def sequence_in_chain(o: Any, lr: float, other: float, total: int) -> Any:
    sequence = s.SequentialLR(o, [s.ConstantLR(o, 0.5, 3), s.PolynomialLR(o, 9, 0.7)], milestones=[4])
    return s.ChainedScheduler([sequence, s.StepLR(o, 11, 0.7)])


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
    "chained within sequential": chain_first,
    "sequential within chained": sequence_in_chain,
    "SWALR": lambda o, lr, other, n: SWALR(o, lr / 8, anneal_epochs=13),
}  # fmt: skip


# Built by hand, too, torch steps a sequence within a sequence twice before the optimizer's first step, and warns of it.
TWICE = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
EACH = pytest.mark.parametrize("name", [pytest.param(n, marks=TWICE if "within" in n else ()) for n in SCHEDULERS])


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


@EACH
def test_an_attribute_that_is_followed(name: str) -> None:
    tune = Tune(TUNED)
    found = fit(Model(configured(SCHEDULERS[name], None), lr=REFERENCE), tune)
    assert_same(found, fit(Model(configured(SCHEDULERS[name], None), lr=TUNED)))
    assert (tune.found.reference, tune.found.holder, tune.found.warnings) == (REFERENCE, "Model.lr", ())
    untouched = fit(Model(configured(SCHEDULERS[name], None), lr=REFERENCE))
    assert found["seen"]["lrs"][1] != untouched["seen"]["lrs"][1]


@EACH
def test_a_learning_rate_written_in_the_code(name: str) -> None:
    tune = Tune(TUNED)
    found = fit(Model(configured(SCHEDULERS[name], REFERENCE)), tune)
    assert_same(found, fit(Model(configured(SCHEDULERS[name], TUNED))))
    assert (tune.found.reference, tune.found.warnings) == (REFERENCE, ())
    assert tune.found.holder == (
        f"max_lr of {name.partition(',')[0]}" if "Cyc" in name else "the parameter groups of SGD"
    )


@EACH
def test_an_optimizer_and_a_scheduler_that_are_built_once(name: str) -> None:
    tune = Tune(TUNED)
    found = fit(built_once(Model(None), REFERENCE, SCHEDULERS[name]), tune)
    wanted = fit(built_once(Model(None), TUNED, SCHEDULERS[name]))
    assert tune.found.warnings == ()
    for one, other in zip(found["seen"]["lrs"], wanted["seen"]["lrs"], strict=True):
        for group, by in zip(one, other, strict=True):
            assert group.keys() == by.keys()
            assert all(abs(group[key] - by[key]) <= math.ulp(by[key]) for key in by)


class Warmup(s.LRScheduler):
    """A user's own: in closed form, on what the groups were born with."""

    def get_lr(self) -> list[float]:
        return [lr * min(1, (self.last_epoch + 1) / 7) for lr in self.base_lrs]


def test_a_user_s_own_scheduler_on_an_optimizer_that_is_built_once() -> None:
    def made(o: Any, lr: float, other: float, n: int) -> Any:
        return Warmup(o)

    tune = Tune(TUNED)
    found = fit(built_once(Model(None), REFERENCE, made), tune)["seen"]["lrs"]
    wanted = fit(built_once(Model(None), TUNED, made))["seen"]["lrs"]
    assert tune.found.warnings == ()
    assert [step[1]["lr"] for step in found] == pytest.approx([step[1]["lr"] for step in wanted], rel=1e-15)


def test_nothing_is_seen_of_it_at_the_learning_rate_of_the_user() -> None:
    for name in ("CosineAnnealingLR", "OneCycleLR", "CyclicLR", "SequentialLR"):
        for configure, lr in (
            (configured(SCHEDULERS[name], None), REFERENCE),
            (configured(SCHEDULERS[name], 0.1), None),
        ):
            assert_same(fit(Model(configure, lr=lr), Tune(REFERENCE)), fit(Model(configure, lr=lr)))
        once = [built_once(Model(None), REFERENCE, SCHEDULERS[name]) for _ in range(2)]
        assert_same(fit(once[0], Tune(REFERENCE)), fit(once[1]))


def test_a_plateau_and_its_floor() -> None:
    def configure(lr: float | None) -> Any:
        def configure(module: Any) -> Any:
            optimizer = two_groups(module, lr or module.lr, (lr or module.lr) / 8)
            plateau = s.ReduceLROnPlateau(optimizer, factor=0.3, patience=0, min_lr=5e-4, threshold=1e9)
            return steps(optimizer, plateau, monitor="train_loss")

        return configure

    by_hand = fit(Model(configure(TUNED)))
    second = [groups[1]["lr"] for groups in by_hand["seen"]["lrs"]]
    assert (second[0], second[-1], len(set(second))) == (TUNED / 8, 5e-4, 4)
    assert_same(fit(Model(configure(REFERENCE)), Tune(TUNED)), by_hand)
    attribute = fit(Model(configure(None), lr=REFERENCE), Tune(TUNED))
    assert_same(attribute["seen"], by_hand["seen"])
    once = Model(None)
    made = configure(REFERENCE)(once)
    once.configure = lambda module: {**made, "lr_scheduler": {**made["lr_scheduler"]}}
    assert_same(fit(once, Tune(TUNED))["seen"], by_hand["seen"])


def test_the_horizon_is_that_of_the_new_batch_size() -> None:
    tune = Tune(TUNED)
    tune.batch_size = 4 * BATCH
    found = fit(Model(configured(SCHEDULERS["OneCycleLR"], REFERENCE)), tune)
    larger = Model(configured(SCHEDULERS["OneCycleLR"], TUNED))
    larger.batch_size = 4 * BATCH
    assert_same(found, fit(larger))
    assert found["schedulers"][0]["total_steps"] == STEPS // 4


def made_of(kind: Any, lr: Any, **kwargs: Any) -> Optimizer:
    torch.manual_seed(0)
    first, second = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    if kind is torch.optim.LBFGS:
        return kind([first], lr=lr, **kwargs)
    return kind([{"params": [first]}, {"params": [second], "lr": lr / 8}], lr=lr, **kwargs)


KINDS = [kind for kind in vars(torch.optim).values() if isinstance(kind, type) and issubclass(kind, Optimizer)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Optimizer], ids=lambda kind: kind.__name__)
def test_every_optimizer_of_torch_is_born_at_the_learning_rate(kind: Any) -> None:
    scaled = GivenRates(lambda _, given: by_hand(given.lr))
    with scaled.intercepted():
        found = made_of(kind, REFERENCE)
    wanted = made_of(kind, TUNED)
    assert_same(found.state_dict(), wanted.state_dict())
    assert found.defaults == wanted.defaults


@pytest.mark.parametrize("kwargs", [{"foreach": True}, {"fused": True}, {"maximize": True, "amsgrad": True}])
def test_variants_of_adam(kwargs: Any) -> None:
    found = fit(Model(configured(SCHEDULERS["LinearLR"], REFERENCE, AdamW, **kwargs)), Tune(TUNED))
    assert_same(found, fit(Model(configured(SCHEDULERS["LinearLR"], TUNED, AdamW, **kwargs))))


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR", "LinearLR", "OneCycleLR", "SequentialLR"])
def test_learning_rates_in_tensors(name: str) -> None:
    def configure(lr: float) -> Any:
        def configure(module: Any) -> Any:
            optimizer = two_groups(module, torch.tensor(lr), torch.tensor(lr / 8), Adam)
            return steps(optimizer, SCHEDULERS[name](optimizer, lr, lr / 8, STEPS))

        return configure

    found = fit(Model(configure(0.1)), Tune(0.4))
    assert_same(found, fit(Model(configure(0.4))))


def test_groups_that_share_a_tensor_share_the_new_one() -> None:
    rate = torch.tensor(0.1)
    with GivenRates(lambda _, given: 2 * given.lr).intercepted():
        optimizer = SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for _ in range(2)], lr=rate)
    one, other = (group["lr"] for group in optimizer.param_groups)
    assert one is other
    assert (one.item(), rate.item()) == (pytest.approx(0.2), pytest.approx(0.1))


@pytest.mark.parametrize("written", ["for all groups", "in each group"])
def test_a_tensor_that_groups_share_stays_shared(written: str) -> None:
    def configure(lr: float) -> Any:
        def configure(module: Any) -> Any:
            rate = torch.tensor(lr)
            own = {"lr": rate} if written == "in each group" else {}
            optimizer = SGD([{"params": [p], **own} for p in module.net.parameters()], lr=rate)
            return steps(optimizer, s.ExponentialLR(optimizer, 0.99))

        return configure

    assert_same(fit(Model(configure(0.1)), Tune(0.4)), fit(Model(configure(0.4))))


class Sweet(SGD):
    """A subclass with a constructor of its own."""

    def __init__(self, params: Any, lr: float = REFERENCE) -> None:
        super().__init__(params, lr=lr, momentum=0.5)

    def add_param_group(self, group: Any) -> None:
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        super().add_param_group(group)


class Around(Optimizer):
    """An optimizer around another one, with the same groups."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        super().__init__([{**group} for group in inner.param_groups], {**inner.defaults})
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


class Builds(Optimizer):
    """An optimizer that makes another one from its own groups and defaults."""

    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)
        if defaults["lr"] is not None:
            self.inner = Adam([{**group} for group in self.param_groups], **defaults)
            self.param_groups = self.inner.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def added_later(module: Any, lr: float) -> Any:
    optimizer = SGD([module.net[0].weight], lr=lr)
    optimizer.add_param_group({"params": [module.net[0].bias]})
    optimizer.add_param_group({"params": list(module.net[2].parameters()), "lr": lr / 4})
    return optimizer


def from_the_groups(module: Any, lr: float) -> Any:
    optimizer = Sweet(module.parameters(), lr=lr)
    peak = 4 * optimizer.param_groups[0]["lr"]
    return steps(optimizer, s.OneCycleLR(optimizer, peak, STEPS))


def asked_by_a_function(module: Any, lr: float) -> Any:
    optimizer = SGD([module.net[0].weight], lr=lr)
    optimizer.add_param_group({"params": list(module.net[2].parameters()), "lr": lr / 4})
    least = 1e-3 / optimizer.param_groups[1]["lr"]
    return steps(optimizer, s.LambdaLR(optimizer, lambda step: max(0.7**step, least)))


def two_chained(module: Any, lr: float) -> Any:
    optimizer = SGD(module.parameters(), lr=lr)
    schedulers = [s.LinearLR(optimizer, 0.1, 1.0, 5), s.MultiStepLR(optimizer, [9, 12], 0.3)]
    return [optimizer], [{"scheduler": scheduler, "interval": "step"} for scheduler in schedulers]


CONFIGURATIONS: dict[str, Callable[[Any, float], Any]] = {
    "an optimizer": lambda m, lr: SGD(m.parameters(), lr=lr),
    "a list": lambda m, lr: [Adam(m.parameters(), lr=lr)],
    "a tuple of lists": lambda m, lr: ([o := SGD(m.parameters(), lr=lr)], [s.StepLR(o, 1)]),
    "a tuple with one scheduler": lambda m, lr: ([o := SGD(m.parameters(), lr=lr)], s.StepLR(o, 1)),
    "a dictionary": lambda m, lr: {"optimizer": (o := SGD(m.parameters(), lr=lr)), "lr_scheduler": s.StepLR(o, 1)},
    "a dictionary without a scheduler": lambda m, lr: {"optimizer": SGD(m.parameters(), lr=lr)},
    "two schedulers": two_chained,
    "a subclass": lambda m, lr: Sweet(m.parameters(), lr=lr),
    "a subclass with groups": lambda m, lr: Sweet([{"params": [p], "lr": lr / 2} for p in m.parameters()]),
    "an optimizer around another": lambda m, lr: Around(two_groups(m, lr, lr / 8)),
    "an optimizer that makes another": lambda m, lr: Builds(
        [{"params": m.net[0].parameters(), "lr": lr}, {"params": m.net[2].parameters()}], lr=lr / 2
    ),
    "groups added later": added_later,
    "groups added later, that a function knows": asked_by_a_function,
    "a scheduler that asks the groups": from_the_groups,
    "named parameters": lambda m, lr: SGD(m.named_parameters(), lr=lr),
    "a generator of groups": lambda m, lr: SGD(({"params": [p], "lr": lr} for p in m.parameters()), lr=1.0),
    "a frozen group": lambda m, lr: two_groups(m, lr, 0.0),
    "a first group that is frozen": lambda m, lr: two_groups(m, 0.0, lr),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_everything_configure_optimizers_may_return(name: str) -> None:
    configure = CONFIGURATIONS[name]
    tune = Tune(0.8)  # a power of two above the reference: no ratio rounds
    found = fit(Model(lambda module: configure(module, 0.1)), tune)
    factor = 0.8 / tune.found.reference
    assert_same(found, fit(Model(lambda module: configure(module, 0.1 * factor))))
    assert tune.found.warnings == ()


@pytest.mark.parametrize("attribute", [False, True])
def test_several_optimizers_keep_their_ratio_to_the_first(attribute: bool) -> None:
    def configure(first: float | None, second: float) -> Any:
        def configure(module: Any) -> Any:
            one = AdamW(module.net[0].parameters(), lr=module.lr if first is None else first)
            other = SGD(module.net[2].parameters(), lr=second, momentum=0.9)
            return [one, other], [s.LinearLR(one, 0.1, 1.0, 9), s.ExponentialLR(other, 0.9)]

        return configure

    tune = Tune(TUNED)
    model = Model(configure(None if attribute else REFERENCE, 0.02), lr=REFERENCE if attribute else None, manual=True)
    found = fit(model, tune)
    wanted = fit(Model(configure(TUNED, by_hand(0.02)), manual=True))
    assert_same(found["seen"], wanted["seen"])
    assert_same(found["weights"], wanted["weights"])
    assert tune.found.rule == RuleFound("sqrt", known=True)
    assert "AdamW by the sqrt rule, SGD by the linear rule" in tune.found.warnings[0]
    partly = [
        "Model.lr is the learning rate of 1 of 2 parameter groups. The others, which do not follow it, are changed in "
        "the same ratio."
    ]
    assert list(tune.found.warnings[1:]) == (partly if attribute else [])


def plain(kind: Any) -> Any:
    return lambda module: kind(module.parameters(), lr=REFERENCE)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [(SGD, RuleFound("linear", True)), (Sweet, RuleFound("linear", True)), (AdamW, RuleFound("sqrt", True))],
)
def test_the_rule_is_that_of_the_optimizer(kind: Any, rule: RuleFound) -> None:
    tune = Tune(TUNED)
    fit(Model(plain(kind)), tune)
    assert tune.found.rule == rule


def test_an_attribute_that_has_nothing_to_do_with_it() -> None:
    tune = Tune(TUNED)
    model = Model(plain(SGD), lr=3.0)
    found = fit(model, tune)
    assert_same(found, fit(Model(lambda module: SGD(module.parameters(), lr=TUNED), lr=3.0)))
    assert (tune.found.reference, tune.found.holder) == (REFERENCE, "the parameter groups of SGD")
    assert tune.found.attribute is None
    assert model.lr == 3.0
    assert tune.found.warnings == (
        "Model.lr is not what the optimizers get their learning rate from, and stays as it is. If they should "
        "follow it, make them with that.",
    )


class Hyper(Model):
    """Keeps its learning rate as an attribute and among its hyperparameters."""

    def __init__(self, learning_rate: float = REFERENCE) -> None:
        super().__init__(lambda module: SGD(module.parameters(), lr=module.hparams.learning_rate))
        self.learning_rate = learning_rate
        self.save_hyperparameters()


def test_all_holders_of_the_attribute_are_written() -> None:
    model = Hyper()
    tune = Tune(TUNED)
    found = fit(model, tune)
    assert (model.learning_rate, model.hparams.learning_rate) == (TUNED, TUNED)
    assert (tune.found.holder, tune.found.attribute) == ("Hyper.learning_rate", "learning_rate")
    assert_same(found, fit(Hyper(TUNED)))


def test_an_attribute_among_the_hyperparameters_alone() -> None:
    def build(lr: float) -> Any:
        model = Model(lambda module: SGD(module.parameters(), lr=module.hparams["peak"]))
        model.save_hyperparameters({"peak": lr})
        return model

    tune = Tune(TUNED, name="peak")
    assert_same(fit(build(REFERENCE), tune), fit(build(TUNED)))
    assert tune.found.holder == "Model.hparams.peak"


def test_an_attribute_that_holds_a_tensor() -> None:
    def build(lr: float) -> Any:
        model = Model(lambda module: SGD(module.parameters(), lr=module.lr.item()))
        model.register_buffer("lr", torch.tensor(lr))
        return model

    tune = Tune(TUNED)
    assert_same(fit(build(REFERENCE), tune), fit(build(TUNED)))
    assert tune.found.holder == "Model.lr"


def test_an_attribute_that_cannot_be_written() -> None:
    class Computed(Model):
        lr = property(lambda self: REFERENCE)

    tune = Tune(TUNED)
    assert_same(
        fit(Computed(lambda module: SGD(module.parameters(), lr=module.lr)), tune)["seen"],
        fit(Model(lambda module: SGD(module.parameters(), lr=TUNED)))["seen"],
    )
    assert tune.found.holder == "the parameter groups of SGD"


@pytest.mark.parametrize(("name", "found"), [("rate", "found none"), ("text", "found 'fast'")])
def test_an_attribute_that_was_named_must_be_there(name: str, found: str) -> None:
    model = Model(plain(SGD))
    model.text = "fast"
    with pytest.raises(InvalidSetting, match=rf"lr_arg_name: expected '{name}' to be a number on Model.*; {found}\."):
        fit(model, Tune(TUNED, name=name))


@pytest.mark.parametrize(
    ("configure", "found"),
    [
        (lambda module: None, "no optimizer"),
        (lambda module: SGD(module.parameters(), lr=0.0), "0.0"),
        (lambda module: Builds(module.parameters(), lr=None), "None"),
        (lambda module: torch.optim.Adafactor(module.parameters(), lr=float("inf")), "inf"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None")
def test_without_a_learning_rate_there_is_nothing_to_tune(configure: Any, found: str) -> None:
    with pytest.raises(LearningRateNotSettable, match=f"learning rates above 0, found {found}"):
        fit(Model(configure), Tune(TUNED))


def test_a_learning_rate_that_the_user_s_code_scales_with_the_batch() -> None:
    def configure(module: Any) -> Any:
        optimizer = SGD(module.parameters(), lr=module.lr * module.batch_size / BATCH)
        return steps(optimizer, s.LinearLR(optimizer, 0.1, 1.0, 5))

    tune = Tune(0.2)
    tune.batch_size = 4 * BATCH
    found = fit(Model(configure, lr=0.1), tune)
    assert {groups[0]["initial_lr"] for groups in found["seen"]["lrs"]} == {0.2}
    assert "found 2 where 0.5 was due: it scales the learning rate with the batch size" in tune.found.warnings[-1]


def test_a_group_that_follows_its_attribute_by_another_rule_keeps_its_ratio() -> None:
    def configure(module: Any) -> Any:
        return two_groups(module, module.lr, module.lr - 0.02)

    tune = Tune(0.4)
    lrs = fit(Model(configure, lr=0.1), tune)["seen"]["lrs"][0]
    assert [group["lr"] for group in lrs] == [0.4, pytest.approx(0.32)]
    assert [warning[:54] for warning in tune.found.warnings] == [
        "Model.lr is the learning rate of 1 of 2 parameter grou"
    ]


def test_code_that_takes_another_way_at_another_batch_size() -> None:
    def configure(module: Any) -> Any:
        if module.batch_size > BATCH:
            return torch.optim.NAdam([{"params": [p], "lr": 0.1} for p in module.parameters()], lr=0.1)
        return SGD(module.parameters(), lr=0.1)

    tune = Tune(0.4)
    tune.batch_size = 4 * BATCH
    groups = fit(Model(configure), tune)["seen"]["lrs"][0]
    assert [group["lr"] for group in groups] == [0.4] * 4


def test_a_learning_rate_that_is_written_over() -> None:
    def configure(lr: float) -> Any:
        def configure(module: Any) -> Any:
            optimizer = SGD(module.parameters(), lr=1.0)
            optimizer.param_groups[0]["lr"] = lr
            return steps(optimizer, s.LinearLR(optimizer, 0.1, 1.0, 5))

        return configure

    assert_same(fit(Model(configure(REFERENCE)), Tune(TUNED)), fit(Model(configure(TUNED))))


def test_an_error_in_the_user_s_code_leaves_torch_as_it_is() -> None:
    watched = [(Optimizer, "__init__"), (Optimizer, "add_param_group"), (s.OneCycleLR, "__init__")]
    before = [getattr(*each) for each in watched]
    calls = []

    def configure(module: Any) -> Any:
        calls.append([getattr(*each) for each in watched])
        if len(calls) == 3:
            raise RuntimeError("no more")
        return SGD(module.parameters(), lr=REFERENCE)

    # A list outside the module: what hangs on it is wound back.
    with pytest.raises(RuntimeError, match="no more"):
        fit(Model(Counted(configure)), Tune(TUNED))
    assert [getattr(*each) for each in watched] == before


class Counted:
    """Keeps a function from being wound back with the module."""

    def __init__(self, function: Any) -> None:
        zoo.NOTES.append(function)

    def __call__(self, module: Any) -> Any:
        return zoo.NOTES[0](module)


def test_other_threads_make_optimizers_as_ever() -> None:
    made = []
    with GivenRates(lambda _, given: 2 * given.lr).intercepted():
        thread = threading.Thread(target=lambda: made.append(made_of(SGD, 0.1)))
        thread.start()
        thread.join()
        made.append(made_of(SGD, 0.1))
        made[0].add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.3})
    assert [[group["lr"] for group in optimizer.param_groups] for optimizer in made] == [
        [0.1, 0.0125, 0.3],
        [0.2, 0.025],
    ]


def adams(betas: Any, eps: float, base: float = 0.85, peak: float = 0.95) -> dict[str, Callable[[Any], Any]]:
    """Optimizers with these of Adam's constants; `base` and `peak` are what schedulers put in the place of beta1."""

    def cyclic(o: Any) -> Any:
        return s.CyclicLR(o, 0.01, REFERENCE, 4, base_momentum=base, max_momentum=peak)

    def one_cycle(o: Any) -> Any:
        return s.OneCycleLR(o, REFERENCE, STEPS, base_momentum=base, max_momentum=peak)

    def groups(module: Any, **own: Any) -> Any:
        return [{"params": module.net[0].parameters()}, {"params": module.net[2].parameters(), **own}]

    return {
        "for all groups": lambda m: AdamW(m.parameters(), lr=REFERENCE, betas=betas, eps=eps),
        "of a group": lambda m: Adam(groups(m, betas=betas), lr=REFERENCE, betas=betas, eps=eps),
        "epsilons of groups": lambda m: Adam(
            [{"params": [p], "eps": eps} for p in m.parameters()], lr=REFERENCE, betas=betas, eps=1.0
        ),
        "around another": lambda m: Around(Adam(m.parameters(), lr=REFERENCE, betas=betas, eps=eps)),
        "from another's": lambda m: Builds(m.parameters(), lr=REFERENCE, betas=betas, eps=eps),
        "cycled": lambda m: steps(o := Adam(m.parameters(), lr=REFERENCE, betas=betas, eps=eps), cyclic(o)),
        "in one cycle": lambda m: steps(o := Adam(m.parameters(), lr=REFERENCE, betas=betas, eps=eps), one_cycle(o)),
    }


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("name", adams((0.9, 0.99), 1e-6))
def test_adam_s_constants_scale_with_the_batch(name: str, once: bool) -> None:
    scaled = scale_adam(AdamConstants(0.9, 0.99, 1e-6), 64, 16)
    other = adams((scaled.beta1, scaled.beta2), scaled.eps, base=0.85**4, peak=0.95**4)

    def model(table: Any) -> Any:
        module = Model(table[name])
        if once:
            made = table[name](module)
            module.configure = lambda _: made
        return module

    found = fit(model(adams((0.9, 0.99), 1e-6)), Tune(REFERENCE, adam=(64, 16)))
    wanted = fit(model(other))
    assert_same(found["seen"], wanted["seen"])
    assert_same(found["weights"], wanted["weights"])


def test_adam_s_constants_of_an_optimizer_that_has_none() -> None:
    tune = Tune(TUNED, adam=(64, 16))
    fit(Model(plain(SGD)), tune)
    assert tune.found.warnings == (
        "No optimizer has betas and an epsilon as Adam has them: there is nothing of these to scale.",
    )


class OwnNumbers(s.LRScheduler):
    """Rises to a learning rate of its own."""

    def __init__(self, optimizer: Any, max_lr: float, min_lr: float = 1e-3) -> None:
        self.max_lr, self.min_lr = max_lr, min_lr
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [lr + (self.max_lr - lr) * min(1, self.last_epoch / 5) for lr in self.base_lrs]


class Fixed(s.LRScheduler):
    """Sets a learning rate that is written in its code."""

    def get_lr(self) -> list[float]:
        return [0.05 * 0.9**self.last_epoch for _ in self.base_lrs]


class Apart:
    """A schedule that is none of torch's, and keeps nothing that can be seen."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.count = optimizer, 0

    def step(self, *_: Any) -> None:
        self.count += 1
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.9

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


class ApartOnBase(Apart):
    """Like those of a well-known library: it has noted the learning rates that the groups were born with."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer)
        self.base_lr_values = [group["lr"] for group in optimizer.param_groups]


class Stored(SGD):
    """Keeps its learning rate for itself as well."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.start_lr = lr


OUT_OF_REACH: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "numbers of its own": (
        lambda o: OwnNumbers(o, 0.3),
        ("OwnNumbers keeps learning rates of its own, which stay as they are: max_lr = 0.3.",),
    ),
    "numbers that follow": (lambda o: OwnNumbers(o, 3 * o.param_groups[0]["lr"]), ()),
    "inside another": (
        lambda o: s.SequentialLR(o, [s.LinearLR(o), OwnNumbers(o, 0.3)], milestones=[5]),
        ("OwnNumbers keeps learning rates of its own, which stay as they are: max_lr = 0.3.",),
    ),
    "written in its code": (
        Fixed,
        (
            "Fixed sets a learning rate that does not follow the one that is tuned: the first step is taken at it, "
            "whatever is tuned. Take it from the optimizer's parameter groups instead.",
        ),
    ),
    "none of torch's": (
        Apart,
        (
            "Apart is not a subclass of torch's LRScheduler, and what it makes of the learning rate cannot be seen. "
            "If it has one of its own, that stays as it is.",
        ),
    ),
    "none of torch's, but on the groups": (ApartOnBase, ()),
}


@pytest.mark.parametrize("case", OUT_OF_REACH)
def test_a_scheduler_out_of_reach_is_named(case: str) -> None:
    made, warnings = OUT_OF_REACH[case]

    class Stepping(Model):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step()

    def configure(module: Any) -> Any:
        optimizer = SGD(module.parameters(), lr=REFERENCE)
        return steps(optimizer, made(optimizer))

    tune = Tune(TUNED)
    fit(Stepping(configure), tune)
    assert tune.found.warnings == warnings


def test_an_optimizer_that_keeps_its_learning_rate_is_named() -> None:
    tune = Tune(TUNED)
    fit(Model(lambda module: Stored(module.parameters(), lr=REFERENCE)), tune)
    assert tune.found.warnings == ("Stored keeps learning rates of its own, which stay as they are: start_lr = 0.1.",)
    followed = Tune(TUNED)
    fit(Model(lambda module: Stored(module.parameters(), lr=module.lr), lr=REFERENCE), followed)
    assert followed.found.warnings == ()


class Plain(Model):
    """A model for LightningCLI, without optimizers of its own."""

    def __init__(self) -> None:
        super().__init__(lambda module: None)


@pytest.mark.parametrize(
    "scheduler",
    [
        [],
        ["--lr_scheduler=CosineAnnealingLR", "--lr_scheduler.T_max=4"],
        ["--lr_scheduler=LinearLR", "--lr_scheduler.start_factor=0.1"],
        ["--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr={lr}", "--lr_scheduler.total_steps=9"],
    ],
    ids=["none", "cosine", "linear", "one cycle"],
)
@pytest.mark.filterwarnings("ignore:`Plain.configure_optimizers` will be overridden")
def test_the_optimizer_of_lightning_s_command_line(scheduler: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def run(lr: float, *callbacks: L.Callback) -> dict[str, Any]:
        L.seed_everything(3, verbose=False)
        arguments = ["--optimizer=SGD", f"--optimizer.lr={lr}", *(each.format(lr=lr) for each in scheduler)]
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                 "enable_model_summary": False, "accelerator": "cpu"}  # fmt: skip
        cli = LightningCLI(
            Plain, args=arguments, run=False, save_config_callback=None, seed_everything_default=3,
            trainer_defaults={**quiet, "max_epochs": 3, "limit_val_batches": 0, "callbacks": list(callbacks)},
        )  # fmt: skip
        cli.trainer.fit(cli.model)
        return everything(cli.model, cli.trainer)

    tune = Tune(TUNED)
    assert_same(run(REFERENCE, tune), run(TUNED))
    assert tune.found.reference == REFERENCE
    assert tune.found.warnings == ()
