"""Where a fit has what trials are to change, and what the fit allows of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import Trainer

from bstuner.core.budget import TrialBudget, budget_in_samples
from bstuner.core.layout import BatchLayout
from bstuner.core.scaling import Rule
from bstuner.errors import SettingRefused
from bstuner.training._lightning import forget_loaders, request_loaders
from bstuner.training.batching import Batching
from bstuner.training.combination import combined
from bstuner.training.constraints import epoch_data
from bstuner.training.horizon import Horizon, horizon_of
from bstuner.training.learning_rate import LearningRate
from bstuner.training.locate import locate_batching
from bstuner.training.placement import plans_accumulation
from bstuner.training.session import FindSettings, passed_loaders
from bstuner.training.settings_in_place import SettingsInPlace
from bstuner.training.state import FrozenFit, FrozenStart
from bstuner.training.step_constants import StepConstants
from bstuner.training.step_settings import StepSettings
from bstuner.training.strategy import replicas

__all__ = [
    "FEWEST_STEPS",
    "TrialSettings",
    "largest_worth_finding",
    "locate_settings",
    "settings_in_place",
    "trial_budget",
    "wind_back",
]

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
    memory_limit: int | None = None
    clock: Callable[[], float] = time.perf_counter


def settings_in_place(
    trainer: Trainer, batching: Batching, settings: TrialSettings, restore: Callable[[], None]
) -> SettingsInPlace:
    """Find where batch and learning rate of a fit live; user code runs.

    Args:
        trainer: a Trainer inside `fit`, at `on_fit_start`.
        batching: where the micro-batch size lives.
        settings: the user's choices.
        restore: puts the run back as it was before it had optimizers; called once more at the end.

    Raises:
        SettingRefused: the fit has no one batch size to start from.

    """
    if plans_accumulation(trainer):
        raise SettingRefused(
            "Expected one accumulation for the whole fit, found GradientAccumulationScheduler, which changes the batch "
            "size by epoch. Take it out of the callbacks, or tune without it first."
        )
    if batching.reference is None:
        raise SettingRefused(
            f"Expected a batch size to start from, found none in {batching.holder}. Give it one: the run with that "
            "batch size and your learning rate is what the others are measured by."
        )
    layout = BatchLayout(batching.reference, trainer.accumulate_grad_batches, replicas(trainer))
    loaders = combined(request_loaders(trainer, "train"), "train")
    data = epoch_data(trainer, "train", loaders, batching.shares(trainer, "train"))
    constants = StepConstants.of(trainer.lr_scheduler_configs)
    learning_rate = LearningRate.locate(trainer, restore, settings.lr_arg_name)
    return SettingsInPlace(
        batching, layout, data, learning_rate, StepSettings.of(trainer, layout, data), constants, settings.scale_adam
    )


def locate_settings(
    trainer: Trainer, batching: Batching, settings: TrialSettings, start: FrozenStart
) -> SettingsInPlace:
    """Find where batch and learning rate of a fit live, and leave the fit as it is.

    Args:
        trainer: a Trainer inside `fit`, at `on_fit_start`.
        batching: where the micro-batch size lives.
        settings: the user's choices.
        start: the run as it was before it had optimizers.

    """
    frozen = FrozenFit(trainer, passed_loaders(trainer, "fit"))
    try:
        return settings_in_place(trainer, batching, settings, lambda: wind_back(trainer, frozen, start))
    finally:
        frozen.restore()


def largest_worth_finding(trainer: Trainer, settings: TrialSettings, asked: FindSettings) -> int | None:
    """The largest batch per device that a trial could have, so that no larger one need be found; None for no bound.

    The fit is left as it is.

    Args:
        trainer: a Trainer inside `fit`, at `on_fit_start`.
        settings: the user's choices for trials.
        asked: the user's choices for the search of what fits.

    """
    frozen = FrozenFit(trainer, passed_loaders(trainer, "fit"))
    try:
        batching, _ = locate_batching(trainer, "train", asked.batch_arg_name)
        if batching.reference is None:
            return None  # refused later, in words
        layout = BatchLayout(batching.reference, trainer.accumulate_grad_batches, replicas(trainer))
        loaders = combined(request_loaders(trainer, "train"), "train")
        data = epoch_data(trainer, "train", loaders, batching.shares(trainer, "train"))
        budget = trial_budget(settings, horizon_of(trainer, layout, data), layout)
    finally:
        frozen.restore()
    return max(asked.init_val, layout.micro, budget // FEWEST_STEPS // layout.world)


def trial_budget(settings: TrialSettings, horizon: Horizon, layout: BatchLayout) -> int:
    """The samples of a whole trial, over all processes."""
    return budget_in_samples(
        settings.trial_budget,
        fit_samples=horizon.fit,
        epoch_samples=horizon.epoch,
        batch_size=layout.global_batch_size,
    )


def wind_back(trainer: Trainer, frozen: FrozenFit, start: FrozenStart) -> None:
    """Put a run back as it was before it had optimizers."""
    frozen.restore()
    start.restore()
    forget_loaders(trainer)
