"""How many samples a trial gets, and where on the way it is validated."""

from __future__ import annotations

import math
import re

from bstuner.errors import InvalidSetting

__all__ = ["MAX_COST", "TRIALS_OF_A_SEARCH", "TrialBudget", "budget_in_samples", "check_trial_budget", "sample_marks"]

TrialBudget = int | float | str

# Half of the fit pays for eight of them.
DEFAULT_SHARE = 1 / 16
# The most that a search may cost, as a share of the fit's training time.
MAX_COST = 0.5
# So many whole trials a search may take: the user's own settings, a winner, its neighbours on both sides, and both once
# more; what is left of them is for the trials that are stopped on the way.
TRIALS_OF_A_SEARCH = 8
# Shorter than this, a trial of the user's own batch size tells more of its warm-up than of its learning.
FEWEST_STEPS = 64
# The most validations of a trial: more would tell little more about when the target was reached.
MOST_MARKS = 24
FEWEST_MARKS = 8
# The first validation comes after this share of a trial: what diverges or is far behind shows by then.
FIRST_MARK = 1 / 64

_EPOCHS = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*ep\s*")


def check_trial_budget(budget: object) -> None:
    """Refuse a budget that cannot be read, whatever it is a budget of.

    >>> check_trial_budget("0.5ep")
    >>> check_trial_budget(1.5)
    Traceback (most recent call last):
    bstuner.errors.InvalidSetting: Expected trial_budget as a whole number of samples, a float share of the fit above \
0 and up to 1, or epochs such as '0.5ep', found 1.5.

    Args:
        budget: As for `budget_in_samples`.

    Raises:
        InvalidSetting: It is none of these.
    """
    whole = isinstance(budget, int) and not isinstance(budget, bool)
    share = isinstance(budget, float) and 0 < budget <= 1
    if not (budget is None or whole or share or (isinstance(budget, str) and _EPOCHS.fullmatch(budget))):
        raise InvalidSetting(
            "Expected trial_budget as a whole number of samples, a float share of the fit above 0 and up to 1, or "
            f"epochs such as '0.5ep', found {budget!r}."
        )


def budget_in_samples(
    budget: TrialBudget | None,
    *,
    fit_samples: int | None,
    epoch_samples: int | None,
    batch_size: int,
    max_cost: float | None = None,
) -> int:
    """Tell how many samples a trial of the user's own batch size trains on: whole optimizer steps.

    >>> budget_in_samples(0.25, fit_samples=10_000, epoch_samples=1_000, batch_size=32)
    2496
    >>> budget_in_samples("3ep", fit_samples=10_000, epoch_samples=1_000, batch_size=100)
    3000
    >>> budget_in_samples(None, fit_samples=100_000, epoch_samples=None, batch_size=32)
    6240

    Args:
        budget: A whole number of samples, a float share of the fit above 0 and up to 1, or epochs such as "0.5ep". None
            for a sixteenth of the fit, but at least 64 steps, as far as eight trials of them can be paid.
        fit_samples: Samples of the whole fit, over all processes; None where it has no end.
        epoch_samples: Samples of an epoch, over all processes; None where unknown.
        batch_size: The user's own: samples per optimizer step, over all processes.
        max_cost: The most that a search may cost, as a share of the fit; None for no bound.

    Raises:
        InvalidSetting: It cannot be read, has no step in it, is longer than the fit, or needs a length that is unknown.
    """
    samples = _samples(budget, fit_samples, epoch_samples, batch_size, max_cost)
    steps = math.floor(samples / batch_size + 1e-9)
    if steps < 1:
        raise InvalidSetting(
            f"Expected a trial_budget of at least one optimizer step, {batch_size:,} samples, found {budget!r}. Raise "
            "it."
        )
    if fit_samples is not None and steps * batch_size > fit_samples and budget is not None:
        raise InvalidSetting(
            f"Expected a trial_budget of at most the fit, {fit_samples:,} samples, found {budget!r}. Lower it, or "
            "train for longer."
        )
    return steps * batch_size


def _samples(
    budget: TrialBudget | None, fit: int | None, epoch: int | None, batch_size: int, max_cost: float | None
) -> float:
    check_trial_budget(budget)
    if isinstance(budget, int):
        return budget
    if isinstance(budget, str):
        match = _EPOCHS.fullmatch(budget)
        assert match is not None
        return float(match[1]) * _known(epoch, budget, "epoch")
    whole = _known(fit, budget, "fit")
    if budget is None:
        affordable = whole if max_cost is None else min(1.0, max_cost / TRIALS_OF_A_SEARCH) * whole
        return max(DEFAULT_SHARE * whole, min(affordable, FEWEST_STEPS * batch_size), min(whole, batch_size))
    return budget * whole


def _known(length: int | None, budget: TrialBudget | None, name: str) -> int:
    if length is None:
        raise InvalidSetting(
            f"Expected trial_budget as a whole number of samples, since this {name} has no known length, found "
            f"{budget!r}. Pass trial_budget=100_000, for example."
        )
    return length


def sample_marks(budget: int, batch_size: int, validation_samples: int | None) -> tuple[int, ...]:
    """Tell after how many samples a trial is validated, the last time at the end of its budget.

    Marks are evenly spaced in the logarithm of samples, in which learning curves are nearly straight, and are whole
    steps of the user's own batch size. They are few enough that validations see at most as many samples as training
    does, as far as that leaves eight.

    >>> sample_marks(budget=6400, batch_size=32, validation_samples=800)
    (96, 192, 320, 608, 1088, 1952, 3520, 6400)

    Args:
        budget: Samples of a trial.
        batch_size: The user's own: samples per optimizer step, over all processes.
        validation_samples: Samples of one validation; None where unknown.
    """
    steps = budget // batch_size
    affordable = budget // validation_samples if validation_samples else MOST_MARKS
    count = min(steps, MOST_MARKS, max(FEWEST_MARKS, affordable))
    first = max(1.0, steps * FIRST_MARK)
    places: list[int] = []
    for number in range(count - 1):
        place = round(first * (steps / first) ** (number / (count - 1)))
        places.append(max(place, places[-1] + 1 if places else 1))
    return tuple(batch_size * place for place in (*places, steps))
