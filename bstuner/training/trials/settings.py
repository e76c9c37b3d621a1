"""What a user may choose about trials, and how long a trial is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bstuner.core import BatchLayout, Rule, TrialBudget, budget_in_samples
from bstuner.training.run import Horizon

__all__ = ["FEWEST_STEPS", "TrialSettings", "trial_budget"]


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
    max_cost: float | None = 0.5
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
