"""Scaling rules keep what they promise to keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from bstuner.core.scaling import AdamConstants, rule_for, scale_adam, scale_lr, unscale_lr, warmup_lr
from bstuner.errors import InvalidSetting

rates = st.floats(1e-8, 10)
sizes = st.integers(1, 2**20)
rules = st.sampled_from(["linear", "sqrt", "none"])


@given(lr=rates, batch=sizes, reference=sizes)
def test_each_rule_keeps_its_own_ratio(lr: float, batch: int, reference: int) -> None:
    assert scale_lr(lr, batch, reference, "linear") / batch == pytest.approx(lr / reference)
    assert scale_lr(lr, batch, reference, "sqrt") / math.sqrt(batch) == pytest.approx(lr / math.sqrt(reference))
    assert scale_lr(lr, batch, reference, "none") == lr


@given(lr=rates, batch=sizes, reference=sizes, rule=rules)
def test_scaling_there_and_back_is_where_it_started(lr: float, batch: int, reference: int, rule: str) -> None:
    assert unscale_lr(scale_lr(lr, batch, reference, rule), batch, reference, rule) == pytest.approx(lr, rel=1e-15)
    assert scale_lr(lr, reference, reference, rule) == lr, "to the bit, where nothing changes"


@pytest.mark.parametrize(
    ("optimizer", "rule", "known"),
    [
        (torch.optim.SGD, "linear", True),
        (torch.optim.ASGD, "linear", True),
        (torch.optim.Adam, "sqrt", True),
        (torch.optim.AdamW, "sqrt", True),
        (torch.optim.NAdam, "sqrt", True),
        (torch.optim.RAdam, "sqrt", True),
        (torch.optim.Adamax, "sqrt", True),
        (torch.optim.SparseAdam, "sqrt", True),
        (torch.optim.RMSprop, "sqrt", True),
        (torch.optim.Adagrad, "sqrt", True),
        (torch.optim.Adafactor, "sqrt", True),
        (torch.optim.LBFGS, "sqrt", False),
        (type("Lion", (torch.optim.Optimizer,), {}), "sqrt", True),
        (type("LAMB", (torch.optim.Optimizer,), {}), "sqrt", True),
        (type("MyMomentum", (torch.optim.SGD,), {}), "linear", True),
        (type("Mine", (torch.optim.Optimizer,), {}), "sqrt", False),
    ],
)
def test_the_rule_follows_the_family_of_the_optimizer(optimizer: type, rule: str, known: bool) -> None:
    assert rule_for(kind.__name__ for kind in optimizer.__mro__) == (rule, known)


@given(beta=st.floats(0, 0.99999), batch=sizes, reference=sizes)
def test_a_half_life_of_adams_averages_keeps_its_samples(beta: float, batch: int, reference: int) -> None:
    scaled = scale_adam(AdamConstants(0.0, beta, 1e-8), batch, reference).beta2
    assert 0 <= scaled <= 1
    if beta > 1e-6 and 1e-6 < scaled < 1:
        rounded = 2**-53 / -math.log(scaled)  # a number close to 1 keeps few digits of how far it is from it
        assert batch / math.log(scaled) == pytest.approx(reference / math.log(beta), rel=1e-6 + 2 * rounded)


def test_published_values_of_the_half_life_form() -> None:
    assert scale_adam(AdamConstants(0.9, 0.999, 1.0), 16, 1).beta2 == pytest.approx(0.9841, abs=5e-5)
    assert scale_adam(AdamConstants(0.95, 0.95, 1.0), 32, 1).beta1 == pytest.approx(0.1937, abs=5e-5)
    assert scale_adam(AdamConstants(0.9, 0.95, 1.0), 1, 512).beta2 == pytest.approx(0.99990, abs=5e-6)
    assert scale_adam(AdamConstants(0.9, 0.95, 1.0), 4, 1).eps == 0.5


def adam(kappa: int, lr: float, constants: AdamConstants, samples: int = 16_000) -> tuple[float, float]:
    """Mean and spread of 4,000 coordinates after Adam's steps on gradients of 0.02 and unit noise per sample."""
    generator = np.random.default_rng(0)
    x, m, v = np.zeros(4000), np.zeros(4000), np.full(4000, 1.0 / kappa)
    for _ in range(samples // kappa):
        gradient = 0.02 + generator.standard_normal(4000) / math.sqrt(kappa)
        m = constants.beta1 * m + (1 - constants.beta1) * gradient
        v = constants.beta2 * v + (1 - constants.beta2) * gradient**2
        x -= lr * m / (np.sqrt(v) + constants.eps)
    return float(x.mean()), float(x.std())


def test_adam_goes_the_same_way_at_another_batch_size_under_the_whole_rule_and_not_under_the_linear_one() -> None:
    """Malladi et al. 2022 on gradients that are nearly all noise; the spread of the random walk is kept too."""
    reference = AdamConstants(0.99, 0.999, 1e-12)
    mean, spread = adam(1, 1e-3, reference)
    for kappa in (4, 16):
        scaled = adam(kappa, scale_lr(1e-3, kappa, 1, "sqrt"), scale_adam(reference, kappa, 1))
        assert scaled == pytest.approx((mean, spread), rel=0.05)
        linear = adam(kappa, scale_lr(1e-3, kappa, 1, "linear"), scale_adam(reference, kappa, 1))
        assert linear[0] == pytest.approx(math.sqrt(kappa) * mean, rel=0.1)


def quadratic_risk(lr: float, batch: int, samples: int = 131_072) -> float:
    """Exact expected risk of SGD on a noisy quadratic with curvatures 1/i and noise to match."""
    h = 1 / np.arange(1, 101)
    bias, variance = np.ones(100), np.zeros(100)
    for _ in range(samples // batch):
        bias = (1 - lr * h) * bias
        variance = (1 - lr * h) ** 2 * variance + lr**2 * h / batch
    return float(0.5 * (h * (bias**2 + variance)).sum())


def test_the_linear_rule_holds_for_sgd_while_steps_are_short() -> None:
    ratios = [quadratic_risk(lr, 128) / quadratic_risk(lr / 8, 16) for lr in (0.008, 0.08, 0.4, 0.8)]
    assert [abs(ratio - 1) < 0.01 for ratio in ratios[:2]] == [True, True]
    assert ratios[2:] == pytest.approx([1.0655, 1.1659], abs=5e-4), "and fails by more the longer they are"


@given(lr=rates, start=rates, seen=st.integers(0, 10**9), total=st.integers(0, 10**9))
def test_a_warm_up_runs_from_start_to_end_and_stays_there(lr: float, start: float, seen: int, total: int) -> None:
    now = warmup_lr(lr, start, seen, total)
    assert min(lr, start) * (1 - 1e-12) <= now <= max(lr, start) * (1 + 1e-12)
    assert warmup_lr(lr, start, total, total) == lr
    if total:
        assert warmup_lr(lr, start, 0, total) == start


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"reference_batch_size": -1}, "reference_batch_size"),
        ({"rule": "cubic"}, "rule"),
        ({"lr": math.nan}, "lr"),
    ],
)
def test_what_cannot_be_scaled_is_refused(bad: dict[str, object], name: str) -> None:
    arguments = {"lr": 0.1, "batch_size": 8, "reference_batch_size": 4, "rule": "linear", **bad}
    for scale in (scale_lr, unscale_lr):
        with pytest.raises(InvalidSetting, match=f"^{name}: expected"):
            scale(**arguments)
    with pytest.raises(InvalidSetting, match="beta1: expected"):
        scale_adam(AdamConstants(1.0, 0.9, 1e-8), 8, 4)
