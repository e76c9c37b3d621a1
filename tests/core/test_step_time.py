from __future__ import annotations

import math

import pytest
from hypothesis import given, settings, strategies as st

from bstuner.core.step_time import StepTime
from bstuner.errors import InvalidSetting

SIZES = [2**k for k in range(1, 11)]


def fit(overhead: float, per_sample: float, floor: float = 0.0, sizes: list[int] = SIZES) -> StepTime:
    return StepTime.fit(sizes, [max(floor, overhead + per_sample * size) for size in sizes])


@pytest.mark.parametrize(
    ("overhead", "per_sample", "floor"),
    [(0.064, 0.001, 0), (0, 0.001, 0), (0.01, 0.001, 0.1), (0, 0.001, 0.1), (0.05, 0, 0)],
)
def test_finds_the_figures_behind_exact_timings(overhead: float, per_sample: float, floor: float) -> None:
    step_time = fit(overhead, per_sample, floor)
    found = (step_time.overhead, step_time.per_sample, step_time.floor)
    assert found == pytest.approx((overhead, per_sample, floor), abs=1e-9)


@pytest.mark.parametrize("noisy", range(4))
@pytest.mark.parametrize("factor", [0.5, 2.0, 10.0])
def test_one_noisy_small_size_changes_nothing(noisy: int, factor: float) -> None:
    seconds = [0.064 + 0.001 * size for size in SIZES]
    seconds[noisy] *= factor
    step_time = StepTime.fit(SIZES, seconds)
    assert step_time.seconds(1024) == pytest.approx(1.088)
    assert (step_time.overhead, step_time.per_sample) == pytest.approx((0.064, 0.001))


def test_a_floor_needs_two_sizes_on_it() -> None:
    assert StepTime.fit([2, 4, 8, 16, 32], [0.035, 0.04, 0.08, 0.16, 0.32]).floor == 0
    assert StepTime.fit([2, 4, 8, 16, 32], [0.06, 0.06, 0.08, 0.16, 0.32]).floor == 0.06


def test_two_sizes_make_a_line() -> None:
    step_time = StepTime.fit([64, 16], [0.128, 0.080])
    assert (step_time.overhead, step_time.per_sample) == pytest.approx((0.064, 0.001))


def test_a_size_timed_more_than_once_counts_with_its_median() -> None:
    assert StepTime.fit([2, 4, 4, 4], [1.0, 2.0, 9.0, 3.0]).measured == {2: 1.0, 4: 3.0}


def test_a_faster_large_size_makes_no_negative_time_per_sample() -> None:
    step_time = StepTime.fit([2, 4], [0.3, 0.1])
    assert (step_time.overhead, step_time.per_sample) == (0.2, 0)


def test_throughput_is_measured_where_timed_and_fitted_between() -> None:
    step_time = StepTime.fit([2, 4, 8, 16, 32], [0.2, 0.4, 1.6, 1.6, 3.2])
    assert step_time.throughput(8) == pytest.approx(5)
    assert step_time.throughput(12) == pytest.approx(10)


@pytest.mark.parametrize(
    ("sizes", "knee"),
    [
        (SIZES, 512),  # 889 of 941 samples per second
        ([2, 32, 1024], 512),  # never timed: fitted
        ([600, 700, 800], None),  # no power of two among them
        ([96, 800, 1000], 512),
        ([2, 2048], None),
    ],
)
def test_the_knee_is_the_first_power_of_two_near_full_throughput(sizes: list[int], knee: int | None) -> None:
    assert fit(0.064, 0.001, sizes=sizes).knee == knee


def test_the_knee_follows_what_was_measured() -> None:
    # 64 lies on the line, but was measured slower than it.
    sizes = [16, 32, 64, 128, 256, 512]
    assert StepTime.fit(sizes, [1, 1, 1, 2, 4, 8]).knee == 64
    assert StepTime.fit(sizes, [1, 1, 1.2, 2, 4, 8]).knee == 128


def test_the_knee_is_the_largest_size_while_throughput_still_rises() -> None:
    assert fit(1, 0, sizes=[2, 4, 8]).knee == 8


@pytest.mark.parametrize(
    ("overhead", "per_sample", "floor", "critical", "best"),
    [
        (0.064, 0.001, 0, 512, math.sqrt(512 * 64)),  # about 181
        (0.01, 0.001, 0.5, 40, 490),  # the floor ends at 490, later than sqrt(400)
        (0.01, 0.001, 0.02, 40, 20),
        (0, 0.001, 0.1, 512, 100),
        (0, 0.001, 0, 512, 0),
        (0.1, 0, 0, 512, math.inf),
        (0.1, 0.001, 0, math.inf, math.inf),
        (0, 0.001, 0.1, math.inf, 100),
        (0.064, 0.001, 0, 0, 0),
    ],
)
def test_the_time_optimal_size(overhead: float, per_sample: float, floor: float, critical: float, best: float) -> None:
    assert StepTime(overhead, per_sample, floor, {}).time_optimal(critical) == pytest.approx(best)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(overhead=st.floats(0.001, 1), floor=st.floats(0, 2), critical=st.integers(1, 1000))
def test_no_size_takes_less_time_than_the_time_optimal(overhead: float, floor: float, critical: int) -> None:
    step_time = StepTime(overhead, 0.01, floor, {})

    def seconds_to_loss(size: float) -> float:
        return (1 + critical / size) * step_time.seconds(size)

    best = seconds_to_loss(step_time.time_optimal(critical))
    assert all(best <= seconds_to_loss(1.01**k) * (1 + 1e-12) for k in range(1200))


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ([2, 4], [1.0], "seconds: expected one per size, found 1 for 2 sizes; pass pairs."),
        ([2, 0], [1, 1], "sizes: expected positive finite numbers, found 0; leave that one out."),
        (
            [2, 4],
            [1.0, math.nan],
            "seconds: expected positive finite numbers, found nan; leave that one out.",
        ),
        (
            [2, 4],
            [1.0, math.inf],
            "seconds: expected positive finite numbers, found inf; leave that one out.",
        ),
        ([], [], "sizes: expected at least two different ones, found []; time another size."),
        ([4, 4], [1.0, 2.0], "sizes: expected at least two different ones, found [4]; time another size."),
    ],
)
def test_refuses_timings_it_cannot_fit(sizes: list[int], seconds: list[float], message: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        StepTime.fit(sizes, seconds)
    assert str(caught.value) == message


@pytest.mark.parametrize("critical", [-1, math.nan])
def test_refuses_a_critical_batch_size_below_zero(critical: float) -> None:
    with pytest.raises(InvalidSetting, match="critical_batch_size: expected 0 or more samples, found"):
        fit(0.064, 0.001).time_optimal(critical)
