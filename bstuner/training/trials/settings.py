"""What a user may choose about trials, and how long a trial is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bstuner.core import MAX_COST, TRIALS_OF_A_SEARCH, BatchLayout, Rule, TrialBudget, budget_in_samples
from bstuner.training.run import Horizon

__all__ = ["FEWEST_STEPS", "TrialSettings", "cost_bound", "trial_budget"]


# So many whole trials a search may cost where the user has said how long one is, and not what a search may cost: as
# many as half of the fit pays of those that are as long as bstuner makes them.
_WHOLE_TRIALS = 8
# Fewer steps tell more of a warm-up than of learning.
_SHORT = 64
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


def cost_bound(
    settings: TrialSettings, budget: int, horizon: Horizon, layout: BatchLayout
) -> tuple[float | None, list[str]]:
    """Tell the most that a search may cost, as a share of the fit, and in words, beforehand, where that is a bad deal.

    Args:
        settings: the user's choices.
        budget: samples of a whole trial.
        horizon: the length of the fit.
        layout: the user's own batch.

    """
    most, fit = settings.max_cost, horizon.fit
    if most is None or not fit:
        return most, []
    share, steps = budget / fit, budget // layout.global_batch_size
    if settings.trial_budget is not None and most == MAX_COST and _WHOLE_TRIALS * share > most:
        most = _WHOLE_TRIALS * share
        return most, [
            f"trial_budget={settings.trial_budget!r} is {share:.0%} of the fit, so this search may cost up to "
            f"{most:.0%} of its training time, and not {MAX_COST:.0%}. Lower trial_budget, or set max_cost to hold it."
        ]
    if TRIALS_OF_A_SEARCH * share > most * (1 + 1e-9):
        return most, [
            f"A search needs {TRIALS_OF_A_SEARCH} trials of {share:.0%} of the fit, and max_cost={most:g} does not pay "
            "for them: your own settings may be all that is tried. Raise max_cost, lower trial_budget, or train for "
            "longer."
        ]
    if settings.trial_budget is None and steps < _SHORT:
        return most, [
            f"This fit is short for a search: with max_cost={most:g} a trial has {steps} optimizer steps of "
            f"{fit // layout.global_batch_size:,}, which tell little. Train for longer, or raise max_cost and "
            "trial_budget."
        ]
    return most, []
