"""How long trials are, and where they are validated."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from bstuner.core.budget import budget_in_samples, check_trial_budget, sample_marks
from bstuner.errors import InvalidSetting


def samples(budget: Any, fit: int | None = 10_000, epoch: int | None = 1_000, batch: int = 32) -> int:
    return budget_in_samples(budget, fit_samples=fit, epoch_samples=epoch, batch_size=batch)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (320, 320), (350, 320), (0.5, 4992), (1.0, 9984), ("1ep", 992), (" .5 ep ", 480), ("2.5ep", 2496),
        (None, 64 * 32),  # a tenth would be too few steps
    ],
)  # fmt: skip
def test_budgets_are_whole_steps(budget: Any, expected: int) -> None:
    assert samples(budget) == expected


def test_a_sixteenth_of_the_fit_unless_that_is_too_short() -> None:
    assert samples(None, fit=1_600_000, batch=100) == 100_000
    assert samples(None, fit=10_000, batch=100) == 6_400
    assert samples(None, fit=5_000, batch=100) == 5_000
    assert samples(None, fit=100_000, epoch=None) == 6_240


def test_the_least_length_is_bounded_by_what_eight_trials_may_cost() -> None:
    whole = {"fit_samples": 10_000, "epoch_samples": None, "batch_size": 100}

    assert budget_in_samples(None, **whole, max_cost=None) == 6_400
    assert budget_in_samples(None, **whole, max_cost=0.5) == 600
    assert budget_in_samples(None, **whole, max_cost=2.0) == 2_500
    assert budget_in_samples(None, fit_samples=1_000, epoch_samples=None, batch_size=100, max_cost=0.5) == 100


@pytest.mark.parametrize("budget", ["1 epoch", "ep", "-1ep", "1e3ep", "", 0.0, 1.01, -0.5, float("nan"), True, [1]])
def test_what_is_no_budget_is_refused(budget: Any) -> None:
    for ask in (check_trial_budget, samples):
        with pytest.raises(InvalidSetting, match="Expected trial_budget as a whole number of samples, a float share"):
            ask(budget)


@pytest.mark.parametrize(
    ("budget", "lengths", "words"),
    [
        (31, {}, "at least one optimizer step, 32 samples, found 31"),
        (0, {}, "at least one optimizer step"),
        (-64, {}, "at least one optimizer step"),
        (None, {"fit": 16}, "at least one optimizer step, 32 samples, found None"),
        (20_000, {}, "at most the fit, 10,000 samples, found 20000"),
        ("11ep", {}, "at most the fit"),
        (None, {"fit": None}, "since this fit has no known length, found None"),
        (0.5, {"fit": None}, "since this fit has no known length, found 0.5"),
        ("1ep", {"epoch": None}, "since this epoch has no known length, found '1ep'"),
    ],
)
def test_what_does_not_suit_the_fit_is_refused(budget: Any, lengths: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        samples(budget, **lengths)
    assert words in str(error.value)


def test_a_fit_without_an_end_takes_a_number_of_samples() -> None:
    assert samples(640, fit=None, epoch=None) == 640


@given(st.integers(1, 500), st.integers(1, 300), st.none() | st.integers(1, 100_000))
def test_marks_are_whole_steps_up_to_the_budget(steps: int, batch: int, validation: int | None) -> None:
    budget = steps * batch
    marks = sample_marks(budget, batch, validation)
    assert marks[-1] == budget
    assert all(one < other for one, other in pairwise((0, *marks)))
    assert all(mark % batch == 0 for mark in marks)
    assert min(steps, 8) <= len(marks) <= 24
    if validation is not None and len(marks) > 8:
        assert len(marks) * validation <= budget, "validation sees at most as many samples as training"
