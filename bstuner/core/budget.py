"""How many samples a trial gets, and where on the way it is validated."""

from __future__ import annotations

import math
import re

from bstuner.errors import InvalidSetting

__all__ = ["TrialBudget", "budget_in_samples", "check_trial_budget", "sample_marks"]

TrialBudget = int | float | str

# A whole search costs about seven trials of full length, the two that confirm the answer included; so it stays below
# one training.
DEFAULT_SHARE = 0.1
# Shorter than this, a trial of the user's own batch size tells more of its warm-up than of its learning.
FEWEST_STEPS = 64
# The most validations of a trial: more would tell little more about when the target was reached.
MOST_MARKS = 24
FEWEST_MARKS = 8

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
    budget: TrialBudget | None, *, fit_samples: int | None, epoch_samples: int | None, batch_size: int
) -> int:
    """Tell how many samples a trial of the user's own batch size trains on: whole optimizer steps.

    >>> budget_in_samples(0.25, fit_samples=10_000, epoch_samples=1_000, batch_size=32)
    2496
    >>> budget_in_samples("3ep", fit_samples=10_000, epoch_samples=1_000, batch_size=100)
    3000
    >>> budget_in_samples(None, fit_samples=100_000, epoch_samples=None, batch_size=32)
    9984

    Args:
        budget: A whole number of samples, a float share of the fit above 0 and up to 1, or epochs such as "0.5ep". None
            for a tenth of the fit, but at least 64 steps, as far as the fit has them.
        fit_samples: Samples of the whole fit, over all processes; None where it has no end.
        epoch_samples: Samples of an epoch, over all processes; None where unknown.
        batch_size: The user's own: samples per optimizer step, over all processes.

    Raises:
        InvalidSetting: It cannot be read, has no step in it, is longer than the fit, or needs a length that is unknown.
    """
    samples = _samples(budget, fit_samples, epoch_samples, batch_size)
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


def _samples(budget: TrialBudget | None, fit: int | None, epoch: int | None, batch_size: int) -> float:
    check_trial_budget(budget)
    if isinstance(budget, int):
        return budget
    if isinstance(budget, str):
        match = _EPOCHS.fullmatch(budget)
        assert match is not None
        return float(match[1]) * _known(epoch, budget, "epoch")
    whole = _known(fit, budget, "fit")
    if budget is None:
        return min(whole, max(DEFAULT_SHARE * whole, FEWEST_STEPS * batch_size))
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

    Validations are few enough that they see at most as many samples as training does, as far as that leaves eight; the
    marks are whole steps of the user's own batch size.

    >>> sample_marks(budget=320, batch_size=32, validation_samples=40)
    (32, 64, 128, 160, 192, 256, 288, 320)

    Args:
        budget: Samples of a trial.
        batch_size: The user's own: samples per optimizer step, over all processes.
        validation_samples: Samples of one validation; None where unknown.
    """
    steps = budget // batch_size
    affordable = budget // validation_samples if validation_samples else MOST_MARKS
    count = min(steps, MOST_MARKS, max(FEWEST_MARKS, affordable))
    return tuple(batch_size * round(steps * number / count) for number in range(1, count + 1))
