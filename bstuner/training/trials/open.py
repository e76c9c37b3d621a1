"""Open a fit for trials: what its data, its memory and its schedule allow of them, and the way back."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bstuner.core import BatchLayout, EpochData, FindResult, Rule, sample_marks
from bstuner.device import memory_of, name_on_host
from bstuner.errors import MonitorMissing, SettingRefused
from bstuner.ranks import Peers, run_on_all
from bstuner.training._lightning import (
    is_overridden,
    loaders_noticed,
    replicas,
    request_loaders,
    unwrap,
    validates,
    wrap,
)
from bstuner.training.batching import Batching, Placement
from bstuner.training.freezing import FrozenFit, FrozenStart, wind_back
from bstuner.training.run import (
    Horizon,
    combined,
    epoch_data,
    horizon_of,
    muted,
    passed_loaders,
    search_is_on,
    short_collections,
)
from bstuner.training.settings import LearningRate, SettingsInPlace
from bstuner.training.trials.layouts import TrialLayouts
from bstuner.training.trials.locate import settings_in_place
from bstuner.training.trials.runner import FitRunner, TrialPlan
from bstuner.training.trials.settings import FEWEST_STEPS, TrialSettings, cost_bound, trial_budget

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["Trials", "open_trials"]


@dataclass(frozen=True)
class Trials:
    """A fit that is open for trials.

    Args:
        runner: runs them.
        peers: the processes of the run.
        in_place: where batch and learning rate live.
        layout: the user's own batch.
        horizon: the length of the fit.
        rule: how the learning rate follows the batch.
        smallest: the smallest global batch that a trial may have.
        largest: the largest one.
        warmup: the user's choice of a warm-up.
        warms_up: whether the user's own schedule starts below its learning rate.
        max_cost: the most that a search may cost, as a share of the fit; None for no bound.
        warnings: what the user should know.

    """

    runner: FitRunner
    peers: Peers
    in_place: SettingsInPlace
    layout: BatchLayout
    horizon: Horizon
    rule: Rule
    smallest: int
    largest: int
    warmup: int | Literal["auto"] | None
    warms_up: bool
    max_cost: float | None
    warnings: tuple[str, ...]

    @property
    def reference_lr(self) -> float:
        """The learning rate that the user's own code asks for."""
        return float(self.in_place.learning_rate.reference)


@contextlib.contextmanager
def open_trials(
    trainer: Trainer, start: FrozenStart, found: FindResult, placement: Placement, settings: TrialSettings
) -> Iterator[Trials]:
    """Open a fit for trials; afterwards it is as it was.

    Args:
        trainer: a Trainer inside `fit`, at `on_fit_start`.
        start: the run as it was before it had optimizers.
        found: the largest batch that fits.
        placement: where it lives.
        settings: the user's choices.

    """
    if not validates(trainer):
        raise MonitorMissing(
            f"Expected a fit that validates, to read monitor={settings.monitor!r} there, found none: no validation "
            "loader, no validation_step(), or limit_val_batches=0."
        )
    peers = Peers.here(trainer.strategy.root_device)
    unwrap(trainer)
    frozen = FrozenFit(trainer, passed_loaders(trainer, "fit"))
    warms_up = _warms_up(trainer)
    device = trainer.strategy.root_device
    memory = memory_of(device, settings.memory_limit, frozen.tensors, sharers=peers.sharers(name_on_host(device)))
    with short_collections(), muted(), search_is_on(), loaders_noticed(frozen.add):
        try:
            opened: list[tuple[SettingsInPlace, int | None]] = []

            def look() -> None:
                validation = _validation_samples(trainer, placement.batching)
                back = functools.partial(wind_back, trainer, frozen, start)
                opened.append((settings_in_place(trainer, placement.batching, settings, back), validation))

            run_on_all(peers, look, put_back=frozen.restore)
            in_place, validation = opened[0]
            _refuse_other_validations(trainer, placement.batching)
            data, layout = EpochData.least(peers.gather(in_place.data)), in_place.layout
            layouts = TrialLayouts(trainer, layout, found, data)
            horizon = horizon_of(trainer, layout, data)
            budget = trial_budget(settings, horizon, layout)
            marks = sample_marks(budget, layout.global_batch_size, validation)
            plan = TrialPlan(
                settings.monitor, marks, budget / horizon.fit if horizon.fit else None, data, layouts.layout
            )
            runner = FitRunner(trainer, plan, in_place, frozen, start, memory, peers, settings.clock)
            max_cost, short = cost_bound(settings, budget, horizon)
            rule, warning = _rule(in_place.learning_rate, settings)
            yield Trials(
                runner,
                peers,
                in_place,
                layout,
                horizon,
                rule,
                layouts.smallest,
                max(layout.global_batch_size, min(layouts.largest, budget // FEWEST_STEPS)),
                settings.warmup,
                warms_up,
                max_cost,
                (
                    *short,
                    *in_place.learning_rate.warnings,
                    *([warning] if warning else []),
                    *_own_scheduler_step(trainer),
                ),
            )
        finally:
            frozen.restore()
            memory.release()
    # Only now, since it needs all processes: after an error there may be fewer, and the run ends anyway.
    wrap(trainer)
    peers.close()


def _validation_samples(trainer: Trainer, batching: Batching) -> int | None:
    """How many samples one validation has, over all processes; None where unknown."""
    loaders = combined(trainer, request_loaders(trainer, "val"), "val")
    validation = epoch_data(trainer, "val", loaders, batching.shares(trainer, "val"))
    samples = sum(loader.samples or 0 for loader in validation.loaders) * replicas(trainer)
    limit = trainer.limit_val_batches
    if isinstance(limit, float):
        return math.ceil(samples * limit) or None
    most = limit * sum(loader.size(batching.reference or 1) for loader in validation.loaders)
    return (min(samples, most) if samples else most) or None


def _refuse_other_validations(trainer: Trainer, batching: Batching) -> None:
    limit = trainer.limit_val_batches
    if isinstance(limit, int) and any(share is not None for share in batching.shares(trainer, "val")):
        raise SettingRefused(
            f"Expected trials to be validated on the same samples, found Trainer(limit_val_batches={limit}), which "
            f"counts batches, while the validation loader follows {batching.holder}. Give it as a share of the "
            "validation data (a float up to 1.0), or build that loader with a batch size of its own."
        )


def _own_scheduler_step(trainer: Trainer) -> Iterator[str]:
    module = trainer.lightning_module
    if trainer.lr_scheduler_configs and is_overridden("lr_scheduler_step", module):
        yield (
            f"{type(module).__name__}.lr_scheduler_step() is your own: trials call it as often as the whole fit would, "
            "but an epoch or a step that it reads from the Trainer is that of the trial, so the schedule may not be "
            "run through there. The training that follows is not concerned."
        )


def _warms_up(trainer: Trainer) -> bool:
    """Whether the schedulers have put a learning rate below the one it is a part of."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return any(group.get("max_lr", group.get("initial_lr", group["lr"])) > 1.001 * group["lr"] for group in groups)


def _rule(learning_rate: LearningRate, settings: TrialSettings) -> tuple[Rule, str]:
    if settings.scaling_rule != "auto":
        return settings.scaling_rule, ""
    found = learning_rate.rule
    unknown = (
        "The optimizer is of a class that is not known to follow a scaling rule: the square root is used, which raises "
        "the learning rate less than the linear one. Choose with scaling_rule=..."
    )
    return found.rule, "" if found.known else unknown
