"""When a fit is behind what the user's own settings had reached."""

from __future__ import annotations

import math

import pytest

from bstuner.core.regret import Regret
from bstuner.core.trial import Mark, Mode

# A doubling of the samples brings it 1.0, so half of that is what it may be behind.
OWN = [Mark(100 * 2**place, 5.0 - place, 0.0) for place in range(5)]


def heard(*metrics: tuple[int, float], mode: Mode = "min", scale: float = 1.0) -> list[bool]:
    """At which of some validations a fit was behind."""
    sign = scale if mode == "min" else -scale
    own = [mark._replace(metric=sign * mark.metric) for mark in OWN]
    regret = Regret(own, mode)
    return [regret.hear(samples, sign * metric) is not None for samples, metric in metrics]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_behind_is_worse_by_half_a_doubling_twice_in_a_row(mode: Mode, scale: float) -> None:
    def told(*metrics: tuple[int, float]) -> list[bool]:
        return heard(*metrics, mode=mode, scale=scale)

    assert told((200, 4.6), (400, 3.6)) == [False, True]
    assert told((200, 4.4), (400, 3.4)) == [False, False]
    assert told((200, 4.6), (400, 3.0), (800, 2.6), (1600, 1.6)) == [False, False, False, True]


def test_beyond_the_end_of_their_trial_its_end_counts() -> None:
    assert heard((3200, 1.6), (100_000, 1.6)) == [False, True]
    assert heard((3200, 1.4), (100_000, 1.4)) == [False, False]


def test_before_their_first_validation_nothing_is_compared() -> None:
    assert heard((50, 90.0), (99, 90.0), (100, 90.0), (101, 90.0)) == [False, False, False, True]
    assert heard((50, math.nan), (60, math.nan)) == [False, False], "a metric may not be defined at first"


@pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_at_once(metric: float) -> None:
    assert heard((200, 4.0), (400, metric)) == [False, True]


def test_it_says_what_is_compared_with_what() -> None:
    regret = Regret(OWN, "min")
    regret.hear(800, 9.0)

    assert regret.hear(3200, 9.0) == "it was 9 after 3,200 samples, where your own settings had reached 1 after 1,600"
    assert regret.hear(3200, math.nan) == "it was nan after 3,200 samples"
