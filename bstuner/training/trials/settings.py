"""What a user may choose about trials, and how long a trial is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lightning_utilities.core.rank_zero import rank_zero_warn

from bstuner.core import MAX_COST, TRIALS_OF_A_SEARCH, BatchLayout, Rule, TrialBudget, budget_in_samples
from bstuner.training.run import Horizon

__all__ = ["FEWEST_STEPS", "TrialSettings", "cost_bound", "trial_budget", "warn_of_short_fit"]


# Of a trial with fewer steps the user is told that it says little.
FEW_STEPS = 16
# The fewest optimizer steps of a trial from which its learning can be told at all.
FEWEST_STEPS = 8


@dataclass(frozen=True)
class TrialSettings:
    """What a user may choose about trials; the meaning of each is documented at `BatchSizeTuner`."""

    monitor: str
    trial_budget: TrialBudget | None = None
    lr_arg_name: str | None = None
    scaling_rule: Rule | Literal["auto"] = "auto"
    scale_adam: bool = False
    warmup: int | Literal["auto"] | None = "auto"
    max_cost: float | None = MAX_COST
    memory_limit: int | None = None
    clock: Callable[[], float] = time.perf_counter


def trial_budget(settings: TrialSettings, horizon: Horizon, layout: BatchLayout) -> int:
    """The samples of a whole trial, over all processes."""
    return budget_in_samples(
        settings.trial_budget,
        fit_samples=horizon.fit,
        epoch_samples=horizon.epoch,
        batch_size=layout.global_batch_size,
        max_cost=settings.max_cost,
    )


def cost_bound(settings: TrialSettings, budget: int, horizon: Horizon) -> tuple[float | None, list[str]]:
    """Tell the most that a search may cost, as a share of the fit, and in words where that is not what was asked.

    Args:
        settings: the user's choices.
        budget: samples of a whole trial.
        horizon: the length of the fit.

    """
    most, fit = settings.max_cost, horizon.fit
    if most is None or not fit:
        return most, []
    share = budget / fit
    if settings.trial_budget is None or most != MAX_COST or TRIALS_OF_A_SEARCH * share <= most:
        return most, []
    return None, [
        f"trial_budget={settings.trial_budget!r} is {share:.0%} of the fit, and {MAX_COST:.0%} of its training time "
        f"does not pay for {TRIALS_OF_A_SEARCH} such trials, so this search has no bound but n_trials, patience and "
        "timeout. Lower trial_budget, or set max_cost to another value, which holds."
    ]


def warn_of_short_fit(settings: TrialSettings, budget: int, horizon: Horizon, layout: BatchLayout) -> None:
    """Say beforehand where a fit is too short to pay for a search that finds something.

    Args:
        settings: the user's choices.
        budget: samples of a whole trial.
        horizon: the length of the fit.
        layout: the user's own batch.

    """
    (most, _), fit = cost_bound(settings, budget, horizon), horizon.fit
    if most is None or not fit:
        return
    share, steps = budget / fit, budget // layout.global_batch_size
    if TRIALS_OF_A_SEARCH * share > most * (1 + 1e-9) and settings.trial_budget is not None:
        rank_zero_warn(
            f"A search takes up to {TRIALS_OF_A_SEARCH} whole trials, and each is {share:.0%} of this fit: "
            f"max_cost={most:g} does not pay for them, and your own settings may be all that is tried. Raise max_cost, "
            "lower trial_budget, or train for longer."
        )
    elif settings.trial_budget is None and steps < FEW_STEPS:
        rank_zero_warn(
            f"This fit is short for a search: with max_cost={most:g}, a trial has {steps} of its "
            f"{fit // layout.global_batch_size:,} optimizer steps, which tell little. Train for longer, or raise "
            "max_cost and trial_budget."
        )
