"""Where a fit has what trials are to change, and what the fit allows of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bstuner.core import BatchLayout, FindSettings
from bstuner.errors import SettingRefused
from bstuner.training._lightning import replicas, request_loaders
from bstuner.training.batching import Batching, locate_batching, plans_accumulation
from bstuner.training.freezing import FrozenFit, FrozenStart, wind_back
from bstuner.training.run import combined, epoch_data, horizon_of, passed_loaders
from bstuner.training.settings import LearningRate, SettingsInPlace, StepConstants, StepSettings
from bstuner.training.trials.settings import FEWEST_STEPS, TrialSettings, trial_budget, warn_of_short_fit

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["largest_worth_finding", "locate_settings", "settings_in_place"]


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
    loaders = combined(trainer, request_loaders(trainer, "train"), "train")
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

    The fit is left as it is. Where it is too short for a search, the user is told.

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
        loaders = combined(trainer, request_loaders(trainer, "train"), "train")
        data = epoch_data(trainer, "train", loaders, batching.shares(trainer, "train"))
        horizon = horizon_of(trainer, layout, data)
        budget = trial_budget(settings, horizon, layout)
    finally:
        frozen.restore()
    warn_of_short_fit(settings, budget, horizon, layout)
    return max(asked.init_val, layout.micro, budget // FEWEST_STEPS // layout.world)
