"""What a user counts in optimizer steps is converted to the same samples; what comes from the fit's length is not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.utilities.types import LRSchedulerConfig
from sameness import assert_same, everything
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler as s
from torch.optim.swa_utils import SWALR

from bstuner.training.settings.scheduler_steps import Converted, StepConstants


def optimizer(kind: Any = SGD) -> Any:
    torch.manual_seed(0)
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    return kind([{"params": [first]}, {"params": [second], "lr": 0.3}], lr=0.1)


def config(scheduler: Any, interval: str = "step", **kwargs: Any) -> LRSchedulerConfig:
    return LRSchedulerConfig(scheduler, interval=interval, **kwargs)  # type: ignore[arg-type]


def convert(at_reference: Any, now: Any, ratio: float, **kwargs: Any) -> Converted:
    return StepConstants.of([config(at_reference)]).convert([config(now)], ratio, **kwargs)


def course(scheduler: Any, steps: int = 60) -> list[Any]:
    """The learning rates and momenta of a whole run."""
    found = []
    for _ in range(steps):
        groups = scheduler.optimizer.param_groups
        found.append([(group["lr"], group.get("momentum"), group.get("betas")) for group in groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def cyclic(o: Any, up: int, down: int | None, gamma: float = 1.0, **kwargs: Any) -> Any:
    return s.CyclicLR(o, 0.01, 0.2, up, down, gamma=gamma, **kwargs)


def warmed_up(o: Any, rise: int, fall: int) -> Any:
    return s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, rise), s.CosineAnnealingLR(o, fall)], milestones=[rise])


def chained(o: Any, rise: int, size: int) -> Any:
    return s.ChainedScheduler([s.LinearLR(o, 0.1, 1.0, rise), s.StepLR(o, size, 0.3)])


# A scheduler made from numbers, these numbers, what they become at eight times the batch, and how that is told.
CONSTANTS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...], tuple[str, ...]]] = {
    "StepLR": (lambda o, n: s.StepLR(o, n, 0.3), (80,), (10,), ("StepLR.step_size 80 -> 10",)),
    "StepLR, rounded": (lambda o, n: s.StepLR(o, n, 0.3), (100,), (12,), ("StepLR.step_size 100 -> 12",)),
    "StepLR, at least one": (lambda o, n: s.StepLR(o, n, 0.9), (3,), (1,), ("StepLR.step_size 3 -> 1",)),
    "MultiStepLR": (
        lambda o, *n: s.MultiStepLR(o, n, 0.3), (80, 160, 160, 163), (10, 20, 20, 20),
        ("MultiStepLR.milestones [80, 160, 160, 163] -> [10, 20, 20, 20]",),
    ),
    "ConstantLR": (lambda o, n: s.ConstantLR(o, 0.5, n), (80,), (10,), ("ConstantLR.total_iters 80 -> 10",)),
    "LinearLR": (lambda o, n: s.LinearLR(o, 0.1, 1.0, n), (80,), (10,), ("LinearLR.total_iters 80 -> 10",)),
    "PolynomialLR": (lambda o, n: s.PolynomialLR(o, n, 0.9), (80,), (10,), ("PolynomialLR.total_iters 80 -> 10",)),
    "ExponentialLR": (s.ExponentialLR, (0.99,), (0.99**8,), ("ExponentialLR.gamma 0.99 -> 0.922745",)),
    "CosineAnnealingLR": (
        lambda o, n: s.CosineAnnealingLR(o, n, 1e-3), (400,), (50,), ("CosineAnnealingLR.T_max 400 -> 50",),
    ),
    "CosineAnnealingWarmRestarts": (
        lambda o, n: s.CosineAnnealingWarmRestarts(o, n, 2), (80,), (10,),
        ("CosineAnnealingWarmRestarts.T_0 80 -> 10",),
    ),
    "OneCycleLR": (
        lambda o, n: s.OneCycleLR(o, 0.2, n, cycle_momentum=False), (480,), (60,),
        ("OneCycleLR.total_steps 480 -> 60",),
    ),
    "OneCycleLR, three phases": (
        lambda o, n: s.OneCycleLR(o, 0.2, n, pct_start=0.37, three_phase=True, cycle_momentum=False), (480,), (60,),
        ("OneCycleLR.total_steps 480 -> 60",),
    ),
    "CyclicLR": (
        functools.partial(cyclic, cycle_momentum=False, mode="triangular2"), (80, None), (10, None),
        ("CyclicLR.step_size_up 80 -> 10", "CyclicLR.step_size_down 80 -> 10"),
    ),
    "CyclicLR, which decays": (
        functools.partial(cyclic, cycle_momentum=False, mode="exp_range"), (56, 24, 0.995), (7, 3, 0.995**8),
        ("CyclicLR.step_size_up 56 -> 7", "CyclicLR.step_size_down 24 -> 3", "CyclicLR.gamma 0.995 -> 0.960693"),
    ),
    "SWALR": (lambda o, n: SWALR(o, 0.01, n), (80,), (10,), ("SWALR.anneal_epochs 80 -> 10",)),
    "SequentialLR": (
        warmed_up, (80, 400), (10, 50),
        ("SequentialLR.milestones [80] -> [10]", "LinearLR.total_iters 80 -> 10", "CosineAnnealingLR.T_max 400 -> 50"),
    ),
    "ChainedScheduler": (
        chained, (80, 160), (10, 20), ("LinearLR.total_iters 80 -> 10", "StepLR.step_size 160 -> 20"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_becomes_the_one_that_means_the_same_samples(name: str) -> None:
    made, numbers, wanted, words = CONSTANTS[name]
    found = made(optimizer(), *numbers)
    assert convert(made(optimizer(), *numbers), found, 1 / 8) == Converted(words, ())
    by_hand = made(optimizer(), *wanted)
    assert course(found) == course(by_hand)


@pytest.mark.parametrize("name", CONSTANTS)
def test_at_the_reference_nothing_is_touched(name: str) -> None:
    made, numbers, _, _ = CONSTANTS[name]
    found = made(optimizer(), *numbers)
    assert convert(made(optimizer(), *numbers), found, 1.0) == Converted((), ())
    assert_same(course(found), course(made(optimizer(), *numbers)))


@pytest.mark.parametrize("name", CONSTANTS)
def test_numbers_computed_from_the_length_are_left_alone(name: str) -> None:
    made, numbers, wanted, _ = CONSTANTS[name]
    found = made(optimizer(), *wanted)  # as the user's code makes it, at an eighth of the steps
    # What rounds to the same, or is a default, cannot be told apart; there is none of that here.
    assert convert(made(optimizer(), *numbers), found, 1 / 8) == Converted((), ())
    assert_same(course(found), course(made(optimizer(), *wanted)))


@pytest.mark.parametrize("name", CONSTANTS)
def test_in_epochs_nothing_is_converted(name: str) -> None:
    made, numbers, _, _ = CONSTANTS[name]
    constants = StepConstants.of([config(made(optimizer(), *numbers), "epoch")])
    assert constants.convert([config(made(optimizer(), *numbers), "epoch")], 1 / 8) == Converted((), ())


def test_a_smaller_batch_takes_more_steps() -> None:
    found = s.StepLR(optimizer(), 10, 0.3)
    assert convert(s.StepLR(optimizer(), 10, 0.3), found, 4.0).changed == ("StepLR.step_size 10 -> 40",)
    rate = s.ExponentialLR(optimizer(), 0.81)
    convert(s.ExponentialLR(optimizer(), 0.81), rate, 2.0)
    assert rate.gamma == pytest.approx(0.9)


def test_a_list_may_hold_both_kinds() -> None:
    found = s.MultiStepLR(optimizer(), [40, 60])
    done = convert(s.MultiStepLR(optimizer(), [40, 480]), found, 1 / 8)
    assert done.changed == ("MultiStepLR.milestones [40, 60] -> [5, 60]",)
    assert course(found) == course(s.MultiStepLR(optimizer(), [5, 60]))


def test_a_warm_up_of_the_user_s_before_a_decay_over_the_fit() -> None:
    found = warmed_up(optimizer(), 40, 60)
    done = convert(warmed_up(optimizer(), 40, 480), found, 1 / 8)
    assert done.changed == ("SequentialLR.milestones [40] -> [5]", "LinearLR.total_iters 40 -> 5")
    assert course(found) == course(warmed_up(optimizer(), 5, 60))


def test_the_user_s_list_of_milestones_is_not_written_into() -> None:
    milestones = [80]

    def made() -> Any:
        o = optimizer()
        return s.SequentialLR(o, [s.ConstantLR(o), s.StepLR(o, 8)], milestones=milestones)

    assert convert(made(), made(), 1 / 8).changed
    assert milestones == [80]


def test_the_very_same_scheduler_that_was_built_once() -> None:
    scheduler = s.StepLR(optimizer(), 80, 0.3)
    constants = StepConstants.of([config(scheduler)])
    assert constants.convert([config(scheduler)], 1 / 8).changed == ("StepLR.step_size 80 -> 10",)
    assert course(scheduler) == course(s.StepLR(optimizer(), 10, 0.3))


@pytest.mark.parametrize(("steps", "total"), [(None, 60), (50, 60), (63, 63)])
def test_one_cycle_is_not_made_shorter_than_the_fit(steps: int | None, total: int) -> None:
    found = s.OneCycleLR(optimizer(), 0.2, 480)
    convert(s.OneCycleLR(optimizer(), 0.2, 480), found, 1 / 8, steps=steps)
    assert course(found, total) == course(s.OneCycleLR(optimizer(), 0.2, total), total)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_one_cycle_of_very_few_steps_starts_as_torch_starts_it(kind: Any) -> None:
    found = s.OneCycleLR(optimizer(kind), 0.2, 24)
    convert(s.OneCycleLR(optimizer(kind), 0.2, 24), found, 1 / 8)
    assert course(found, 3) == course(s.OneCycleLR(optimizer(kind), 0.2, 3), 3)


def test_a_plateau_that_is_asked_at_every_step() -> None:
    def made(patience: int, cooldown: int) -> Any:
        return s.ReduceLROnPlateau(optimizer(), patience=patience, cooldown=cooldown, factor=0.5)

    found, by_hand = made(80, 0), made(10, 0)
    assert convert(made(80, 0), found, 1 / 8).changed == ("ReduceLROnPlateau.patience 80 -> 10",)
    for scheduler in (found, by_hand):
        for _ in range(40):
            scheduler.step(1.0)
    assert found.state_dict() == by_hand.state_dict()
    assert found.optimizer.param_groups[0]["lr"] == 0.1 * 0.5**3


class Own(s.LRScheduler):
    def __init__(self, o: Any, warmup: int, total: int) -> None:
        self.warmup, self.total = warmup, total
        super().__init__(o)

    def get_lr(self) -> list[float]:
        return [lr * min(1, self.last_epoch / self.warmup) for lr in self.base_lrs]


class OwnStep(s.StepLR):
    """A subclass may count anything by the same name."""


def rising(step: int, *, warmup: int, total: int) -> float:
    return min(1.0, step / warmup) * (1 - step / total)


def enclosed(total: int) -> Callable[[int], float]:
    return lambda step: 1 - step / total


FUNCTION = (
    "The function of LambdaLR is asked at every optimizer step, and what it counts cannot be converted to samples: "
    "unless it is computed from trainer.estimated_stepping_batches, it spans other samples at another batch size."
)
OTHER = (
    "{}, which is not one of torch's schedulers, is asked at every optimizer step, and what it counts cannot be "
    "converted to samples: unless it is computed from trainer.estimated_stepping_batches, it spans other samples at "
    "another batch size."
)


@pytest.mark.parametrize(
    ("at_reference", "now", "warning"),
    [
        (lambda o: s.LambdaLR(o, lambda step: 0.9**step),) * 2 + (FUNCTION,),
        (lambda o: s.MultiplicativeLR(o, lambda step: 0.9),) * 2 + (FUNCTION.replace("LambdaLR", "MultiplicativeLR"),),
        (lambda o: s.LambdaLR(o, enclosed(400)),) * 2 + (FUNCTION,),
        (lambda o: s.LambdaLR(o, enclosed(400)), lambda o: s.LambdaLR(o, enclosed(50)), None),
        (
            lambda o: s.LambdaLR(o, functools.partial(rising, warmup=40, total=400)),
            lambda o: s.LambdaLR(o, functools.partial(rising, warmup=40, total=50)),
            FUNCTION,
        ),
        (
            lambda o: s.LambdaLR(o, functools.partial(rising, warmup=40, total=400)),
            lambda o: s.LambdaLR(o, functools.partial(rising, warmup=5, total=50)),
            None,
        ),
        (lambda o: cyclic(o, 8, 8, cycle_momentum=False, scale_fn=lambda n: 0.9**n, scale_mode="iterations"),) * 2
        + (FUNCTION.replace("LambdaLR", "CyclicLR"),),
        (lambda o: Own(o, 40, 400),) * 2 + (OTHER.format("Own"),),
        (lambda o: Own(o, 40, 400), lambda o: Own(o, 5, 50), None),
        (lambda o: OwnStep(o, 40),) * 2 + (OTHER.format("OwnStep"),),
        (
            lambda o: s.ChainedScheduler([s.LambdaLR(o, lambda n: 0.9**n), s.LambdaLR(o, lambda n: 0.8**n)]),
            lambda o: s.ChainedScheduler([s.LambdaLR(o, lambda n: 0.9**n), s.LambdaLR(o, lambda n: 0.8**n)]),
            FUNCTION,
        ),
    ],
)
def test_what_cannot_be_converted_is_named(at_reference: Any, now: Any, warning: str | None) -> None:
    found = now(optimizer())
    assert convert(at_reference(optimizer()), found, 1 / 8) == Converted((), () if warning is None else (warning,))
    assert course(found) == course(now(optimizer()))


def test_another_scheduler_than_before_is_left_alone() -> None:
    assert convert(s.StepLR(optimizer(), 80), s.ConstantLR(optimizer(), total_iters=80), 1 / 8) == Converted((), ())


class Counting(zoo.Mlp):
    """A warm-up counted in steps, then a decay over the whole fit; or, by hand, another warm-up."""

    warmup = 16

    def configure_optimizers(self) -> Any:
        o = torch.optim.SGD(self.parameters(), lr=0.1)
        total = int(self.trainer.estimated_stepping_batches)
        schedulers = [s.LinearLR(o, 0.1, 1.0, self.warmup), s.CosineAnnealingLR(o, total)]
        scheduler = s.SequentialLR(o, schedulers, milestones=[self.warmup])
        epochs = s.StepLR(o, 1, 0.9)
        return [o], [{"scheduler": scheduler, "interval": "step"}, {"scheduler": epochs, "interval": "epoch"}]


class Convert(L.Callback):
    def __init__(self, constants: StepConstants, ratio: float) -> None:
        self.constants, self.ratio = constants, ratio

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.done = self.constants.convert(trainer.lr_scheduler_configs, self.ratio)


def test_a_fit_equals_the_one_with_the_converted_numbers() -> None:
    def fit(batch_size: int, warmup: int, *callbacks: L.Callback) -> tuple[Any, L.Trainer]:
        L.seed_everything(5, verbose=False)
        model = Counting(batch_size=batch_size)
        model.warmup = warmup
        trainer = zoo.trainer(*callbacks)
        trainer.fit(model)
        return everything(model, trainer), trainer

    _, reference = fit(16, 16)
    # Read anew: after a fit, schedulers hold the same constants.
    callback = Convert(StepConstants.of(reference.lr_scheduler_configs), 1 / 4)
    found = fit(64, 16, callback)
    assert callback.done.changed == ("SequentialLR.milestones [16] -> [4]", "LinearLR.total_iters 16 -> 4")
    assert_same(found[0], fit(64, 4)[0])
