"""A learning rate schedule becomes batch sizes: with the published counts of steps, and with its noise kept."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from bstuner.core.growth.batch_plan import BatchPlan
from bstuner.core.growth.nominal import NominalSteps
from bstuner.core.growth.phases import Phase, phase_at, plan_growth, update_count
from bstuner.errors import InvalidSetting

repeatable = settings(max_examples=150, derandomize=True, deadline=None)

CIFAR, IMAGENET = 50_000, 1_281_167

schedules = st.lists(st.floats(1e-6, 10), min_size=1, max_size=60)
sizes = st.integers(1, 4096)
rules = st.sampled_from(["linear", "sqrt"])
roundings = st.sampled_from(["power", "nearest", "integer"])


def multi_step(epochs: int, samples_per_epoch: int, batch_size: int, milestones: list[int], divide_by: float):
    """The learning rate of each nominal step, and the samples before it."""
    steps = NominalSteps(batch_size, samples_per_epoch)
    starts = steps.starts(epochs * steps.per_epoch)
    passed = sum((starts >= milestone * samples_per_epoch).astype(int) for milestone in milestones)
    return 0.1 / np.asarray(divide_by) ** passed, starts


@pytest.mark.parametrize(
    ("batch_size", "max_batch_size", "updates"),
    [(128, 128, 78_125), (128, 5120, 29_141), (128, None, 28_875), (640, 5120, 6_406), (3200, 5120, 2_305)],
)
def test_updates_of_smith_et_al_on_cifar_10(batch_size: int, max_batch_size: int | None, updates: int) -> None:
    """Smith et al. 2018, sections 5.1 and 5.2: 200 epochs, the learning rate divided by 5 after 60, 120 and 160."""
    lrs, starts = multi_step(200, CIFAR, batch_size, [60, 120, 160], divide_by=5)
    phases = plan_growth(lrs, batch_size, max_batch_size=max_batch_size, rounding="integer", starts=starts)
    assert update_count(phases, 200 * CIFAR) == updates


@pytest.mark.parametrize(
    ("batch_size", "max_batch_size", "updates"),
    [(8192, 8192, 14_075), (8192, 65_536, 5_865), (16_384, 65_536, 3_519), (32_768, 65_536, 2_346)],
)
def test_updates_of_smith_et_al_on_imagenet(batch_size: int, max_batch_size: int, updates: int) -> None:
    """Smith et al. 2018, section 5.3: 90 epochs, the learning rate divided by 10 after 30 and 60."""
    lrs, starts = multi_step(90, IMAGENET, batch_size, [30, 60], divide_by=10)
    phases = plan_growth(lrs, batch_size, max_batch_size=max_batch_size, rounding="integer", starts=starts)
    assert update_count(phases, 90 * IMAGENET) == updates
    assert max(phase.batch_size for phase in phases) == max_batch_size


def test_the_steps_really_taken_on_cifar_10_are_one_more_per_epoch_at_most() -> None:
    """An epoch is no whole number of batches: its last step is a smaller one."""
    lrs, starts = multi_step(200, CIFAR, 128, [60, 120, 160], divide_by=5)
    phases = plan_growth(lrs, 128, max_batch_size=5120, rounding="integer", starts=starts)
    steps = BatchPlan(phases, samples=CIFAR, fits=5120).step_count(200)
    assert steps == sum(n * math.ceil(CIFAR / size) for n, size in [(60, 128), (60, 640), (40, 3200), (40, 5120)])
    assert 0 <= steps - update_count(phases, 200 * CIFAR) <= 200


def test_updates_where_only_the_first_cut_becomes_batches() -> None:
    lrs, starts = multi_step(200, CIFAR, 128, [60, 120, 160], divide_by=5)
    phases = plan_growth(lrs, 128, max_batch_size=640, rounding="integer", starts=starts)
    assert update_count(phases, 200 * CIFAR) == 34_375
    *_, last = phases
    assert last == Phase(60 * CIFAR, 640, 5.0), "from there on, the learning rate falls as it would"


STEPS = 50_000
DECAYS = {
    "quarter cosine": np.cos(np.pi / 2 * np.arange(STEPS) / STEPS),
    "half cosine": (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)) / 2,
    "linear": 1 - np.arange(STEPS) / STEPS,
}


@pytest.mark.parametrize(
    ("rounding", "cap", "shares"),
    [
        ("power", None, [0.7798, 0.6224, 0.6667]),
        ("power", 8, [0.7831, 0.6379, 0.6719]),
        ("nearest", None, [0.6737, 0.5276, 0.5286]),
        ("integer", None, [2 / math.pi, 0.5, 0.5]),
    ],
)
def test_the_share_of_steps_that_is_left(rounding: str, cap: int | None, shares: list[float]) -> None:
    """Meterez et al. 2025 save 36 % of the steps of a quarter cosine: 1 - 2/pi, the limit of fine rounding."""
    batch_size = 10_000  # fine enough for whole numbers above it
    for lrs, share in zip(DECAYS.values(), shares, strict=True):
        largest = None if cap is None else cap * batch_size
        for rule in ("linear", "sqrt"):
            phases = plan_growth(lrs, batch_size, rule, largest, rounding)
            assert update_count(phases, STEPS * batch_size) / STEPS == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize(
    ("decay", "doublings"),
    [
        ("half cosine", [0.5, 0.6667, 0.7699, 0.8391, 0.8869]),
        ("quarter cosine", [0.6667, 0.8391, 0.9202, 0.9602]),
        ("linear", [0.5, 0.75, 0.875, 0.9375]),
    ],
)
def test_the_batch_doubles_when_the_learning_rate_has_halved(decay: str, doublings: list[float]) -> None:
    phases = plan_growth(DECAYS[decay], 32)
    places = [phase.start_sample / (32 * STEPS) for phase in phases[1 : len(doublings) + 1]]
    assert places == pytest.approx(doublings, abs=1e-4)
    first = phases[: len(doublings) + 1]
    assert [phase.batch_size for phase in first] == [32 * 2**number for number in range(len(first))]


def test_an_exponential_decay_doubles_the_batch_at_even_intervals() -> None:
    gamma, steps = 0.9, 50
    lrs = [gamma ** (number // steps) for number in range(50 * steps)]
    phases = plan_growth(lrs, 16)
    halvings = [math.ceil(number * math.log(2) / -math.log(gamma)) for number in range(1, len(phases))]
    assert [phase.start_sample for phase in phases] == [0, *(16 * steps * epoch for epoch in halvings)]


@pytest.mark.parametrize(("rule", "used"), [("linear", 0.8), ("sqrt", 0.1 * math.sqrt(8))])
def test_a_tenth_of_the_learning_rate_is_eight_times_the_batch_and_the_rest(rule: str, used: float) -> None:
    *_, last = plan_growth([1.0, 0.1], 64, rule)
    assert last.batch_size == 512
    assert 0.1 * last.lr_factor == pytest.approx(used, rel=1e-15)


@repeatable
@given(lrs=schedules, batch_size=sizes, rule=rules, rounding=roundings, cap=st.one_of(st.none(), st.integers(1, 100)))
def test_a_plan_keeps_what_it_promises(
    lrs: list[float], batch_size: int, rule: str, rounding: str, cap: int | None
) -> None:
    largest = None if cap is None else cap * batch_size + cap // 2
    phases = plan_growth(lrs, batch_size, rule, largest, rounding)
    assert phases[0] == Phase(0, batch_size, 1.0)
    assert all(one.batch_size != two.batch_size for one, two in pairwise(phases))

    used = [phase_at(phases, step * batch_size) for step in range(len(lrs))]
    peak = next(step for step, lr in enumerate(lrs) if lr >= max(lrs) * (1 - 1e-9))
    before = batch_size
    for step, (lr, phase) in enumerate(zip(lrs, used, strict=True)):
        size, factor = phase.batch_size, phase.lr_factor
        if step <= peak:
            assert (size, factor) == (batch_size, 1.0)
        # The noise is the nominal one at every step, by construction exactly.
        assert factor == (size / batch_size if rule == "linear" else math.sqrt(size / batch_size))
        # Neither SGD's learning rate nor Adam's per-sample noise is above its peak.
        over = math.sqrt(2) if rounding == "nearest" else 1
        assert lr * size / batch_size <= max(lrs) * over * (1 + 1e-8)
        assert batch_size <= size <= (largest or math.inf)
        if size < before:
            assert lr > lrs[step - 1], "it shrinks only where the learning rate rises"
        before = size
        wanted = min(batch_size * max(lrs) / lr, largest or math.inf) * (1 - 1e-8)
        if step > peak and rounding == "integer":
            assert size > wanted - 1, "the largest there is"
        elif step > peak:
            assert math.log2(size / batch_size).is_integer()
            assert 2 * size > wanted, "the largest there is"


@repeatable
@given(lrs=schedules, batch_size=sizes)
def test_both_rules_have_the_same_batches(lrs: list[float], batch_size: int) -> None:
    linear, root = (plan_growth(lrs, batch_size, rule) for rule in ("linear", "sqrt"))
    assert [phase[:2] for phase in linear] == [phase[:2] for phase in root]


@pytest.mark.parametrize("rounding", ["power", "nearest", "integer"])
def test_ratios_that_are_meant_to_be_whole_are(rounding: str) -> None:
    """0.1 / 5 / 5 is not 0.1 / 25 in floating point, and products of 0.2 are worse."""
    lr, lrs = 0.1, []
    for _ in range(8):
        lrs.append(lr)
        lr *= 0.5 if rounding != "integer" else 0.2
    factor = 2 if rounding != "integer" else 5
    noisy = [lr * (1 + sign * 1e-12) for lr, sign in zip(lrs, [1, 1, -1, 1, -1, 1, 1, -1], strict=True)]
    for rates in (lrs, noisy):
        assert [phase.batch_size for phase in plan_growth(rates, 3, rounding=rounding)] == [
            3 * factor**cut for cut in range(8)
        ]


def test_nearest_is_nearest_by_ratio() -> None:
    rates = [1.0, 1 / 1.41, 1 / 1.42, 1 / 2.82, 1 / 2.84]
    phases = plan_growth(rates, 10, rounding="nearest")
    assert [(phase.start_sample, phase.batch_size) for phase in phases] == [(0, 10), (20, 20), (40, 40)]


@pytest.mark.parametrize(("largest", "size"), [(127, 64), (128, 128), (129, 128), (255, 128), (32, 32)])
@pytest.mark.parametrize("rounding", ["power", "nearest"])
def test_the_largest_batch_is_rounded_too_and_never_exceeded(largest: int, size: int, rounding: str) -> None:
    assert plan_growth([1.0, 0.0], 32, max_batch_size=largest, rounding=rounding)[-1].batch_size == size
    assert plan_growth([1.0, 0.0], 32, max_batch_size=largest, rounding="integer")[-1].batch_size == largest


def test_warm_up_is_untouched() -> None:
    lrs = [*np.linspace(0, 1, 11), 1.0, 1.0, 0.5]
    assert plan_growth(lrs, 8) == [Phase(0, 8, 1.0), Phase(13 * 8, 16, 2.0)]


def test_a_warm_restart_goes_back_to_the_users_own_batch() -> None:
    cycle = [1.0, 0.5, 0.25]
    # Rounding errors leave the later peaks a hair higher; they are peaks all the same.
    lrs = [*cycle, *(lr * (1 + 1e-15) for lr in cycle), *(lr * (1 + 3e-15) for lr in cycle)]
    assert [phase.batch_size for phase in plan_growth(lrs, 4)] == [4, 8, 16] * 3


def test_a_constant_learning_rate_changes_nothing() -> None:
    assert plan_growth([0.3] * 1000, 4) == [Phase(0, 4, 1.0)]


def test_at_the_largest_batch_the_learning_rate_falls_by_itself() -> None:
    lrs = DECAYS["half cosine"]
    *_, last = plan_growth(lrs, 32, max_batch_size=128)
    assert last.batch_size == 128
    assert lrs[last.start_sample // 32] * last.lr_factor == pytest.approx(1.0, abs=1e-4)
    assert lrs[-1] * last.lr_factor < 1e-8


def test_a_long_schedule_with_hardly_a_limit() -> None:
    phases = plan_growth([1.0, 1e-300], 64, rounding="integer")
    assert phases[-1].batch_size == pytest.approx(64e300)


def test_starts_put_phases_where_the_data_are() -> None:
    """Epochs of 100 samples in steps of 32: the second one starts at 100, not at 128."""
    steps = NominalSteps(32, samples_per_epoch=100)
    lrs = [1.0] * steps.per_epoch + [0.5] * steps.per_epoch
    assert plan_growth(lrs, 32, starts=steps.starts(8))[1].start_sample == 100
    assert plan_growth(lrs, 32)[1].start_sample == 128


@repeatable
@given(lrs=schedules, batch_size=sizes, samples=st.integers(1, 3000))
def test_updates_are_the_samples_over_their_batch_sizes(lrs: list[float], batch_size: int, samples: int) -> None:
    phases = plan_growth(lrs, batch_size)
    one_by_one = math.fsum(1 / phase_at(phases, sample).batch_size for sample in range(samples))
    assert abs(update_count(phases, samples) - one_by_one) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lrs": []}, "lrs: expected one learning rate per step, at least one"),
        ({"lrs": [[0.1]]}, "lrs: expected one learning rate per step, at least one"),
        ({"lrs": [0.1, -0.1]}, "lrs: expected finite learning rates of at least 0, found -0.1 at step 1."),
        ({"lrs": [0.1, math.nan]}, "lrs: expected finite learning rates of at least 0, found nan at step 1."),
        ({"lrs": [math.inf]}, "lrs: expected finite learning rates of at least 0, found inf at step 0."),
        ({"lrs": [0.0, 0.0]}, "lrs: expected a learning rate above 0 somewhere"),
        ({"lrs": [0.1, 0.0]}, "max_batch_size: expected a number, because the learning rate falls to 0.0 after 8"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, found 0."),
        ({"batch_size": 2.5}, "batch_size: expected a whole number of at least 1, found 2.5."),
        ({"rule": "none"}, "rule: expected 'linear' or 'sqrt', which keep the noise as it was, found 'none'."),
        ({"rounding": "up"}, "rounding: expected 'power', 'nearest' or 'integer', found 'up'."),
        ({"max_batch_size": 7}, "max_batch_size: expected None or a whole number of at least batch_size=8, found 7."),
        ({"starts": [0]}, "starts: expected 2 ascending numbers of samples from 0 on, one per step"),
        ({"starts": [1, 2]}, "starts: expected 2 ascending numbers of samples from 0 on, one per step"),
        ({"starts": [0, 0]}, "starts: expected 2 ascending numbers of samples from 0 on, one per step"),
    ],
)
def test_refuses_what_is_no_schedule(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        plan_growth(**{"lrs": [0.1, 0.05], "batch_size": 8, **arguments})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("lrs", [[1e300, 1e-300], [1.0, 1e-308]])
def test_a_batch_beyond_all_numbers_is_refused_like_one_without_end(lrs: list[float]) -> None:
    with pytest.raises(InvalidSetting, match="would grow without end"):
        plan_growth(lrs, 8)
    assert plan_growth(lrs, 8, max_batch_size=64)[-1].batch_size == 64
