"""The settings a search may try."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from bstuner.errors import InvalidSetting
from bstuner.study.space import SearchSpace


def test_the_baseline_asks_for_exactly_what_the_user_has() -> None:
    space = SearchSpace(reference_batch_size=96, reference_lr=0.1 + 0.2, rule="sqrt", low=-5, high=3)

    request = space.request(space.baseline)

    assert (request.global_batch_size, request.lr, request.seed) == (96, 0.1 + 0.2, None)


@pytest.mark.parametrize(("rule", "lr"), [("linear", 0.004), ("sqrt", 0.002), ("none", 0.001)])
def test_the_learning_rate_follows_the_rule(rule: str, lr: float) -> None:
    space = SearchSpace(reference_batch_size=32, reference_lr=0.001, rule=rule, low=0, high=2)  # type: ignore[arg-type]

    assert space.request({"log2_batch_ratio": 2, "base_lr": 0.001}).lr == pytest.approx(lr)


@given(reference=st.integers(1, 5000), smallest=st.integers(1, 5000), largest=st.integers(1, 10**6))
def test_between_is_the_widest_space_of_whole_doublings(reference: int, smallest: int, largest: int) -> None:
    space = SearchSpace.between(smallest, largest, reference_batch_size=reference, reference_lr=1.0, rule="none")

    sizes = space.batch_sizes
    assert reference in sizes
    assert all(after == 2 * before for before, after in pairwise(sizes))
    assert all(smallest <= size <= largest for size in sizes if size != reference and smallest <= reference <= largest)
    assert sizes[-1] * 2 > largest
    assert sizes[0] % 2 or sizes[0] // 2 < smallest


def test_learning_rates_reach_from_a_hundredth_to_three_hundred_times_the_users_own() -> None:
    space = SearchSpace(reference_batch_size=32, reference_lr=0.01, rule="none", low=0, high=0)

    assert space.lr_range == pytest.approx((0.0001, 3.0))
    base_lr = space.distributions["base_lr"]
    assert (base_lr.low, base_lr.high, base_lr.log) == (*space.lr_range, True)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 1}, "expected a range around 0"),
        ({"high": -1}, "expected a range around 0"),
        ({"low": -6}, "expected a whole batch size, found 96 / 64"),
        ({"reference_lr": 0.0}, "positive learning rate"),
        ({"reference_batch_size": 0}, "batch size of at least 1"),
        ({"reference_lr": 1e-323}, "can be divided by 100 and multiplied by 300"),
        ({"reference_lr": 1e307}, "can be divided by 100 and multiplied by 300"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(change: dict[str, float], message: str) -> None:
    settings = {"reference_batch_size": 96, "reference_lr": 0.001, "rule": "sqrt", "low": -5, "high": 3}

    with pytest.raises(InvalidSetting, match=message):
        SearchSpace(**{**settings, **change})  # type: ignore[arg-type]
