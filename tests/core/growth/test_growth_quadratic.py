"""Growth against decay on a noisy quadratic, whose risk is known exactly after every step: no sampling, no seeds.

The loss is half of sum h_i x_i^2, its gradient h_i x_i plus noise of variance c_i / B; what is followed is E x_i^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from bstuner.core.growth.batch_plan import BatchPlan
from bstuner.core.growth.phases import Phase, plan_growth, update_count

CURVATURE = 1 / np.arange(1, 101)

Step = tuple[float, int]  # learning rate, batch size


def risk(steps: Iterable[Step], noise: NDArray[np.float64], normalised: bool = False) -> float:
    """The loss after these steps from x = 1; normalised SGD divides by the gradient's root mean square, like Adam."""
    squares = np.ones_like(CURVATURE)
    for lr, batch_size in steps:
        if normalised:
            lr /= math.sqrt((CURVATURE**2 * squares).sum() + noise.sum() / batch_size)
        squares = (1 - lr * CURVATURE) ** 2 * squares + lr**2 * noise / batch_size
    return float(0.5 * (CURVATURE * squares).sum())


def planned_steps(phases: Sequence[Phase], lrs: NDArray[np.float64], batch_size: int, rule: str) -> list[Step]:
    """The steps that a run of one epoch really takes."""
    plan = BatchPlan(phases, samples=len(lrs) * batch_size, fits=10**9, rule=rule)
    return [
        (float(lrs[step.start_sample // batch_size]) * step.lr_factor, step.batch_size)
        for step in plan.epoch(0).steps()
    ]


def cut(steps: int, places: Sequence[float], divide_by: float) -> NDArray[np.float64]:
    return divide_by ** -sum((np.arange(steps) >= place * steps).astype(float) for place in places)


def test_the_recursion_reaches_its_stationary_risk() -> None:
    """Half of sum eta c / (B (2 - eta h)), in closed form."""
    assert risk([(0.5, 16)] * 6000, noise=CURVATURE) == pytest.approx(0.04448072, rel=1e-5)


@pytest.mark.parametrize(("lr", "ratio"), [(0.02, 1.000), (0.1, 1.002), (0.5, 1.050), (1.0, 1.195)])
def test_sgd_loses_little_and_less_the_smaller_its_steps(lr: float, ratio: float) -> None:
    """The schedule of Smith et al. 2018: divided by 5 at 30, 60 and 80 %. At 1, a step undoes the first coordinate."""
    lrs, batch_size = lr * cut(20_000, [0.3, 0.6, 0.8], divide_by=5), 16
    phases = plan_growth(lrs, batch_size, rounding="integer")
    steps = planned_steps(phases, lrs, batch_size, "linear")
    assert [used for used, _ in steps] == pytest.approx([lr] * len(steps), rel=1e-12)
    assert len(steps) / len(lrs) == pytest.approx(0.3696, abs=1e-4)
    assert len(steps) == update_count(phases, len(lrs) * batch_size)
    decayed = [(float(rate), batch_size) for rate in lrs]
    assert risk(steps, CURVATURE) / risk(decayed, CURVATURE) == pytest.approx(ratio, abs=1e-3)


@pytest.mark.parametrize("rounding", ["power", "nearest", "integer"])
@pytest.mark.parametrize("decay", ["cosine", "linear", "exponential"])
def test_sgd_ends_where_decay_ends_on_any_schedule(rounding: str, decay: str) -> None:
    progress = np.arange(10_000) / 10_000
    lrs = (
        0.1
        * {"cosine": (1 + np.cos(np.pi * progress)) / 2, "linear": 1 - progress, "exponential": 0.01**progress}[decay]
    )
    steps = planned_steps(plan_growth(lrs, 16, max_batch_size=512, rounding=rounding), lrs, 16, "linear")
    decayed = [(float(rate), 16) for rate in lrs]
    assert len(steps) < 0.7 * len(lrs)
    assert risk(steps, CURVATURE) / risk(decayed, CURVATURE) == pytest.approx(1, abs=0.01)


def test_without_growing_the_batch_a_constant_learning_rate_is_far_worse() -> None:
    """The check can fail: what growth replaces is worth a factor."""
    lrs = 0.1 * cut(20_000, [0.3, 0.6, 0.8], divide_by=5)
    decayed = risk([(float(rate), 16) for rate in lrs], CURVATURE)
    assert risk([(0.1, 16)] * len(lrs), CURVATURE) > 4 * decayed


PHASES, PHASE_SAMPLES = 7, 6400


def halvings(lr: float) -> NDArray[np.float64]:
    return lr * cut(PHASES * PHASE_SAMPLES // 16, [number / PHASES for number in range(1, PHASES)], divide_by=2)


def family(lr: float, divide_by: float, multiply_by: float) -> list[Step]:
    """Constant phases, at each cut of which the learning rate is divided and the batch multiplied."""
    return [
        (lr / divide_by**number, 16 * multiply_by**number)
        for number in range(PHASES)
        for _ in range(round(PHASE_SAMPLES / (16 * multiply_by**number)))
    ]


def test_normalised_sgd_takes_the_square_root_and_no_more() -> None:
    """The family of Meterez et al. 2025: all keep LR/sqrt(B), but from the square root on LR x sqrt(B) would grow."""
    noise = 5 * CURVATURE
    pairs = [(2.0, 1.0), (2**0.5, 2.0), (2**0.25, 2**1.5), (1.0, 4.0)]
    risks = [risk(family(0.6, *pair), noise, normalised=True) for pair in pairs]
    assert risks[:2] == pytest.approx([0.00936, 0.00964], abs=1e-5)
    assert risks[2] > 1.3 * risks[0]
    assert risks[3] > 5 * risks[0]


@pytest.mark.parametrize(("lr", "ratio"), [(0.6, 1.0175), (0.1, 1.0084)])
def test_the_planned_batches_of_normalised_sgd_are_that_square_root(lr: float, ratio: float) -> None:
    noise, lrs = 5 * CURVATURE, halvings(lr)
    steps = planned_steps(plan_growth(lrs, 16, "sqrt"), lrs, 16, "sqrt")
    assert max(rate * math.sqrt(size) for rate, size in steps) <= lr * 4 * (1 + 1e-12), "never above the first"
    planned = risk(steps, noise, normalised=True)
    decayed = risk([(float(rate), 16) for rate in lrs], noise, normalised=True)
    assert planned / decayed == pytest.approx(ratio, abs=1e-3)
    # Besides the last step, which is no whole one.
    assert planned == pytest.approx(risk(family(lr, 2**0.5, 2.0), noise, normalised=True), rel=0.015)


def test_the_linear_rule_would_be_wrong_for_normalised_sgd() -> None:
    noise, lrs = 5 * CURVATURE, halvings(0.6)
    root, linear = (
        risk(planned_steps(plan_growth(lrs, 16, rule), lrs, 16, rule), noise, normalised=True)
        for rule in ("sqrt", "linear")
    )
    assert linear > 5 * root


@pytest.mark.parametrize(("lr", "root"), [(0.002, 1.140), (0.005, 1.332)])
def test_where_the_gradient_outweighs_the_noise_it_is_the_square_root_that_is_wrong(lr: float, root: float) -> None:
    """Far from the end of training a step has its full length: LR/B is the way per sample, which the root shortens."""
    noise, lrs = 5e-4 * CURVATURE, halvings(lr)
    decayed = risk([(float(rate), 16) for rate in lrs], noise, normalised=True)
    assert decayed > 0.2 * risk([], noise), "far from done"
    for rule, ratio in (("sqrt", root), ("linear", 1.0)):
        steps = planned_steps(plan_growth(lrs, 16, rule), lrs, 16, rule)
        assert risk(steps, noise, normalised=True) / decayed == pytest.approx(ratio, abs=1.5e-3)
