"""Learning curves between their validations: what is read of them has no unit of the metric in it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from bstuner.core.trial import Mark, Mode, curve_doubling, metric_at, samples_to_target

# Whole numbers, so that equal ones stay equal when they are scaled.
METRICS = st.lists(st.integers(-100, 100).map(float), min_size=2, max_size=8)


def curve_of(metrics: list[float], step: int = 100) -> list[Mark]:
    return [Mark(step * place, metric, float(place)) for place, metric in enumerate(metrics, 1)]


def test_a_curve_that_is_straight_in_the_logarithm_is_read_exactly() -> None:
    curve = [Mark(samples, 10 - math.log2(samples), 0.0) for samples in (64, 128, 512, 4096)]

    for samples in (64, 100, 128, 300, 1000, 4096):
        assert metric_at(curve, samples) == pytest.approx(10 - math.log2(samples))
    assert metric_at(curve, 10) == curve[0].metric
    assert metric_at(curve, 10_000) == curve[-1].metric
    assert curve_doubling(curve, "min") == pytest.approx(1.0)


@given(METRICS)
def test_the_metric_lies_between_its_validations_and_is_theirs_at_them(metrics: list[float]) -> None:
    curve = curve_of(metrics)

    assert [metric_at(curve, mark.samples) for mark in curve] == metrics
    for low, high in pairwise(curve):
        between = metric_at(curve, (low.samples * high.samples) ** 0.5)
        assert between == pytest.approx((low.metric + high.metric) / 2, abs=1e-9)


@given(METRICS, st.sampled_from([0.125, 0.5, 4.0, 64.0]), st.integers(-50, 50))
def test_a_doubling_is_scaled_with_the_metric_and_mirrored_with_the_mode(
    metrics: list[float], scale: float, offset: int
) -> None:
    plain = curve_doubling(curve_of(metrics), "min")
    scaled = curve_doubling(curve_of([scale * metric + offset for metric in metrics]), "min")
    mirrored = curve_doubling(curve_of([-metric for metric in metrics]), "max")

    assert scaled == pytest.approx(scale * plain, abs=1e-6)
    assert mirrored == plain


def test_a_curve_that_is_flat_at_its_end_has_a_doubling_all_the_same() -> None:
    def doubling(*metrics: float, mode: Mode = "min") -> float:
        return curve_doubling([Mark(2**place, metric, 0.0) for place, metric in enumerate(metrics)], mode)

    assert doubling(50.0, 4.0, 3.0, 1.0, 1.0, 1.0) == pytest.approx(0.02 * (2 - 1)), "how hot it began does not count"
    assert doubling(50.0, 4.0, 3.0, 1.0, 1.0, 1.0, mode="max") == pytest.approx(0.02), "nor does the direction"
    assert doubling(6.0, 3.0, 1.0, 1.0, 1.0, 1.0) == pytest.approx(0.02 * (6 - 1)), "but where it is all there is"
    assert doubling(1.0, 1.0, 1.0) == 0.0


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_target_is_reached_where_the_curve_is_as_good(mode: Mode) -> None:
    sign = 1 if mode == "min" else -1
    curve = [(100, sign * 3.0), (400, sign * 1.0), (800, sign * 2.0)]

    samples = samples_to_target(curve, sign * 1.5, mode)
    assert samples == pytest.approx(100 * 4**0.75)
    marks = [Mark(at, metric, 0.0) for at, metric in curve]
    assert metric_at(marks, samples) == pytest.approx(sign * 1.5)
    assert samples_to_target(curve, sign * 4.0, mode) == 100.0, "what was before the first is not known"
    assert samples_to_target(curve, sign * 0.5, mode) is None
