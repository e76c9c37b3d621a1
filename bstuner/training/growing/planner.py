"""Plan the batches of a whole fit: from the user's learning rate schedule, or from a plan in the user's own words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch.utils.data import IterableDataset

from bstuner.core import BatchLayout, EpochData, Rule, rule_for, scale_lr
from bstuner.core.growth import BatchPlan, GrowthSettings, NominalSteps, Phase, RunPlan, grown_phases, parse_plan
from bstuner.data import batch_size_of, check_can_be_planned
from bstuner.device import RandomState
from bstuner.errors import SettingRefused
from bstuner.training._lightning import checkpoint_steps, replicas, request_loaders
from bstuner.training.growing.simulate import simulate_schedule
from bstuner.training.run import combined, epoch_data, flat_loaders, steps_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["GrowthPlanner"]

# Of a stream, that has no known end: more samples on each process than there are.
ENDLESS = 2**50

# Beyond a share of the dataset a batch is hardly a sample of it any more (Smith et al. 2018, section 4).
SHARE_OF_DATASET = 10


class GrowthPlanner:
    """Looks at a fit once, and plans it.

    Args:
        trainer: a Trainer in `on_fit_start`, with optimizers, schedulers and loaders as the user's code makes them.
        settings: the user's choices.

    Attributes:
        most: the largest micro-batch that the plan can use; it need not be tried whether a larger one fits.

    Raises:
        InvalidSetting: the plan in the user's words cannot be read, or the learning rates make none.
        SettingRefused: the fit is of a kind whose batches cannot be planned.

    """

    def __init__(self, trainer: Trainer, settings: GrowthSettings) -> None:
        self._trainer = trainer
        self._settings = settings
        self._layout, self._data, self._streams = _look(trainer)
        self._nominal = self._nominal_steps()
        self._rule: Rule = self._choose_rule()
        self._written = None if settings.text is None else parse_plan(settings.text, self._nominal.samples_per_epoch)
        self._capped_by = ""
        self._cap = None if self._written is not None else self._largest()
        self._steps = steps_of(trainer, self._layout, self._data)
        self._lrs, self._waits_for = self._run_ahead()
        self.most = max(self._layout.micro, self._largest_phase() // self._layout.world)

    def plan(self, fits: int | None) -> RunPlan:
        """Plan the fit.

        Args:
            fits: the largest micro-batch that fits, in samples; None for no larger one than the user's own.

        Raises:
            InvalidSetting: the plan in the user's words cannot be met.

        """
        settings, layout = self._settings, self._layout
        steps, lrs, cap = self._steps, self._lrs, self._cap
        # What the user's own code asks for is not refused, whatever margin a search kept.
        bound = self.most if cap is None else cap // layout.world
        fits = max(layout.micro, min(fits or 0, bound))
        if cap is not None and fits < self.most and cap > fits * layout.world * settings.max_accumulate:
            cap = max(layout.global_batch_size, fits * layout.world * settings.max_accumulate)
            self._capped_by = f"memory: {fits} samples fit at a time, {settings.max_accumulate} times per step"
        phases = self._phases(cap)
        by_users_batch = self._written is None and settings.rounding != "integer"
        plan = RunPlan(
            batches=BatchPlan(
                tuple(phases),
                samples=ENDLESS if self._streams else (self._nominal.samples_per_epoch or 0) // layout.world,
                fits=fits,
                world=layout.world,
                rule=self._rule,
                unit=layout.micro if by_users_batch else 1,
                least=self._least(),
            ),
            lrs=lrs,
            nominal=self._nominal,
            layout=layout,
            rule=self._rule,
            nominal_steps=steps,
            planned_steps=None,
            samples=None,
            max_batch_size=cap,
            rounding=settings.rounding,
            capped_by=self._what_capped(lrs, cap),
            remarks=self._remarks(),
            waits_for=self._waits_for,
            streams=self._streams,
        )
        return plan if steps is None else replace(plan, samples=plan.sample_of(steps)).ended()

    @property
    def micro(self) -> int:
        """The user's own micro-batch, in samples."""
        return self._layout.micro

    @property
    def _limit(self) -> int | float:
        return self._trainer.limit_train_batches

    def _nominal_steps(self) -> NominalSteps:
        if self._streams:
            if self._limit != 1.0:
                raise SettingRefused(
                    f"Expected limit_train_batches=1.0 for an IterableDataset, found {self._limit}: its batches would "
                    "be counted at the sizes that are planned. Bound the stream itself."
                )
            return NominalSteps(self._layout.global_batch_size)
        here = self._data.samples_per_epoch(self._layout.micro, self._limit)
        if here == 0:
            raise SettingRefused(
                "Expected training data of at least one batch, found none: drop_last=True or limit_train_batches "
                "leaves out all there is. Lower the batch size, or raise the limit."
            )
        if here is None:
            raise SettingRefused(
                "Expected training data of a known length, found a loader that tells none. Its batches cannot be "
                "planned by their place in the data."
            )
        return NominalSteps(self._layout.global_batch_size, here * self._layout.world)

    def _least(self) -> int:
        """The samples in the smallest batch that the user's own code makes, on each process."""
        here = (self._nominal.samples_per_epoch or 0) // self._layout.world
        return here % self._layout.micro or self._layout.micro

    def _run_ahead(self) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """The learning rate at each of the user's own steps, and the schedulers that may change it."""
        trainer, layout, steps = self._trainer, self._layout, self._steps
        if steps is None and self._written is None:
            raise SettingRefused(
                "Expected a fit with an end, whose learning rate schedule can be told beforehand, found neither "
                "max_epochs nor max_steps. Set one of them, or write the batch sizes down: "
                "BatchSizeScheduler('0:256 30ep:512')."
            )
        if not steps:
            return (), ()
        unknown = (steps + 1) * layout.accumulate  # then no epoch ends as far as can be told
        schedule = simulate_schedule(trainer, steps, self._data.batches(layout.micro, self._limit) or unknown)
        if self._written is not None:
            return schedule.lrs, ()
        configs = trainer.lr_scheduler_configs if self._streams else []
        by_epoch = tuple(type(each.scheduler).__name__ for each in configs if each.interval == "epoch")
        return schedule.lrs, schedule.unforeseen + by_epoch

    def _largest_phase(self) -> int:
        """The largest batch that is planned where memory sets no bound, over all processes."""
        if self._cap is not None and self._waits_for:
            return self._cap
        return max(phase.batch_size for phase in self._phases(self._cap))

    def _phases(self, cap: int | None) -> list[Phase]:
        own = self._layout.global_batch_size
        if self._written is None:
            return grown_phases(self._lrs, self._nominal, self._rule, cap, self._settings.rounding)
        return [phase._replace(lr_factor=scale_lr(1.0, phase.batch_size, own, self._rule)) for phase in self._written]

    def _choose_rule(self) -> Rule:
        if self._settings.rule != "auto":
            return self._settings.rule
        if self._settings.text is not None:
            return "none"
        optimizer = self._trainer.optimizers[0]
        return rule_for(kind.__name__ for kind in type(optimizer).__mro__).rule

    def _largest(self) -> int:
        own, samples = self._layout.global_batch_size, self._nominal.samples_per_epoch
        if samples is None:
            samples = (self._data.samples or ENDLESS) * self._layout.world
        cap, self._capped_by = samples // SHARE_OF_DATASET, f"a tenth of the {samples:,} samples of an epoch"
        wanted = self._settings.max_batch_size
        if wanted is not None and wanted < cap:
            cap, self._capped_by = wanted, f"max_batch_size={wanted}"
        return max(own, cap)

    def _what_capped(self, lrs: tuple[float, ...], cap: int | None) -> str:
        if cap is None or not lrs:
            return ""
        peak, lowest = max(lrs), min(lrs[lrs.index(max(lrs)) :])
        wanted = float("inf") if lowest == 0 else self._layout.global_batch_size * peak / lowest
        return self._capped_by if wanted > cap * (1 + 1e-9) else ""

    def _remarks(self) -> tuple[str, ...]:
        remarks = []
        if self._waits_for:
            remarks.append(
                f"{', '.join(self._waits_for)} waits for a metric, or to be told the epoch: where it cuts the "
                "learning rate, the batch grows at the next epoch instead, and the plan says no more of it."
            )
        remarks += [
            f"ModelCheckpoint(every_n_train_steps={every}) counts the optimizer steps that are taken, which are fewer "
            "than your own."
            for every in checkpoint_steps(self._trainer)
        ]
        return tuple(remarks)


def _look(trainer: Trainer) -> tuple[BatchLayout, EpochData, bool]:
    """The user's own batch, the samples there are, and whether they come as a stream."""
    state = RandomState()
    try:
        loaders = combined(trainer, request_loaders(trainer, "train"), "train")
        flat = flat_loaders(loaders)
        if len(flat) != 1:
            raise SettingRefused(
                f"Expected one training loader, whose batches can be planned, found {len(flat)}. Train on one loader, "
                "or without BatchSizeScheduler."
            )
        check_can_be_planned(flat[0])
        layout = BatchLayout(batch_size_of(flat[0]), trainer.accumulate_grad_batches, replicas(trainer))
        streams = isinstance(flat[0].dataset, IterableDataset)
        return layout, epoch_data(trainer, "train", loaders, [1.0]), streams
    finally:
        state.restore()
