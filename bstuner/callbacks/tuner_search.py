"""Bind trials inside a fit to an Optuna study: one search, on all processes of a run."""

from __future__ import annotations

import contextlib
import math
import secrets
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from lightning_utilities.core.rank_zero import rank_zero_warn
from optuna import Study
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from bstuner.callbacks.warmup import LearningRateWarmup
from bstuner.core import FindResult, TuneResult
from bstuner.dashboards import Publisher, artifacts_folder
from bstuner.errors import StorageUnusable
from bstuner.report.terminal import TuningDisplay
from bstuner.study import (
    DEFAULT_FILE,
    FitLength,
    SearchSpace,
    StudyFacts,
    TuneSettings,
    Worker,
    open_study,
    storage_in_words,
    storage_trouble,
    tune,
    write_environment,
    write_find,
    write_search,
)
from bstuner.training.trials import Trials

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

__all__ = ["StudyChoices", "TunerSearch", "keep_for_reports"]

# Of Goyal et al. 2017 (arXiv 1706.02677): 5 of 90 epochs.
WARMUP_SHARE = 0.05
RAISED = 2.0


@dataclass(frozen=True)
class StudyChoices:
    """What a user may choose about the study; the meaning of each is documented at `BatchSizeTuner`."""

    storage: str | BaseStorage | None = None
    study_name: str | None = None
    study: Study | None = None
    sampler: BaseSampler | None = None
    pruner: BasePruner | None = None


WarmupChoice = tuple[int, float]  # the arguments of a `LearningRateWarmup`; plain, as checkpoints want them


class TunerSearch:
    """One search.

    Args:
        trainer: a Trainer inside `fit`, at `on_fit_start`.
        trials: the fit, open for trials.
        found: the largest batch that fits.
        settings: how the search is to go.
        choices: where its study is.

    Attributes:
        publisher: shows the study in dashboards; None before the search, and on processes of another rank than 0.

    """

    def __init__(
        self, trainer: Trainer, trials: Trials, found: FindResult, settings: TuneSettings, choices: StudyChoices
    ) -> None:
        self._trainer = trainer
        self._trials = trials
        self._found = found
        self._settings = replace(settings, capacity_bytes=found.usable_bytes, max_cost=trials.max_cost)
        self._choices = choices
        self.publisher: Publisher | None = None
        self._storage = choices.storage or _default_storage(trainer)
        model = type(trainer.lightning_module).__name__
        self._name = choices.study_name or f"{model}-{datetime.now():%Y-%m-%d-%H-%M-%S}-{secrets.token_hex(2)}"
        self._space = SearchSpace.between(
            trials.smallest,
            trials.largest,
            reference_batch_size=trials.layout.global_batch_size,
            reference_lr=trials.reference_lr,
            rule=trials.rule,
        )
        trials.runner.callbacks_for = self._warmup_of_a_trial

    @property
    def shown(self) -> dict[str, Any]:
        """What the display wants to know."""
        return {"monitor": self._settings.monitor, "objective": self._settings.objective}

    def run(self, display: TuningDisplay) -> TuneResult:
        """Search, on the process of rank 0; the others run what it asks for."""
        runner, peers = self._trials.runner, self._trials.peers
        result: list[TuneResult] = []
        if peers.rank == 0:
            failure = "an interrupt"
            try:
                result.append(self._search(display))
                failure = ""
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
                raise
            finally:
                runner.dismiss(failure)
        else:
            runner.follow()
        return peers.share(result)[0]

    def _search(self, display: TuningDisplay) -> TuneResult:
        with _without_optunas_own_words():
            study = open_study(
                self._storage,
                self._name,
                self._facts(),
                study=self._choices.study,
                sampler=self._choices.sampler,
                pruner=self._choices.pruner,
            )
        with storage_trouble(storage_in_words(study)):
            write_search(study, self._settings.n_trials, self._trials.in_place.learning_rate.holder)
            write_find(study, self._found)
            write_environment(study, type(self._trainer.strategy).__name__)
        self.publisher = Publisher(study, artifacts_folder(study, _root(self._trainer)), display)
        self.publisher.publish()
        own = self._choices.study
        with Worker(study) as worker, display, _without_optunas_own_words():
            display.expect(budget=self._trials.runner.budget, n_trials=self._settings.n_trials)
            try:
                result = tune(
                    self._trials.runner,
                    self._space,
                    self._settings,
                    study,
                    worker=worker,
                    observer=self.publisher,
                    sampler=self._choices.sampler or (own.sampler if own else None),
                    pruner=self._choices.pruner or (own.pruner if own else None),
                    step_seconds=self._step_seconds(),
                    fit=self._fit_length(),
                    clock=time.monotonic,
                )
            except KeyboardInterrupt as interrupt:
                # For who has typed a command and has no bars.
                interrupt.args = (display.show_interrupted(self._how_to_go_on(study.study_name)),)
                raise
            return self._complete(result, study)

    def _complete(self, result: TuneResult, study: Study) -> TuneResult:
        best = result.best
        front = sorted(result.pareto_front, key=lambda trial: trial.samples_per_second or 0.0)
        if self._settings.take == "speed" and front:
            best = front[-1]
        return replace(
            result,
            best=best,
            find=self._found,
            lr_holder=self._trials.in_place.learning_rate.holder,
            storage=storage_in_words(self._choices.study or self._storage),
            study_name=study.study_name,
            warnings=(
                *result.warnings,
                *self._trials.warnings,
                *self._trials.runner.changed(),
                *self._remarks(result),
            ),
        )

    def _remarks(self, result: TuneResult) -> Iterator[str]:
        """What the user should know of the search itself."""
        if not math.isclose(result.baseline.lr, result.reference_lr):
            yield (
                f"Your own learning rate, {result.reference_lr:g}, does not train this model: {result.monitor} was not "
                f"finite, or no better at the end of a trial than at its start. At {result.baseline.lr:g} it trains: "
                "that is what the others were compared with."
            )
        horizon = self._trials.horizon
        if self._settings.max_cost is not None and horizon.fit is None and horizon.seconds is None:
            yield (
                f"max_cost={self._settings.max_cost:g} does not bound this search: the fit has no known length to take "
                "a share of. Give the Trainer max_steps, max_epochs or max_time, or the search a timeout."
            )

    def _how_to_go_on(self, name: str) -> str:
        where = storage_in_words(self._choices.study or self._storage)
        typed = shlex.quote(name)
        return f"The study is kept in {where}; go on with study_name={name!r} (as an option: --study_name {typed})."

    def _step_seconds(self) -> dict[int, float]:
        """Seconds of an optimizer step, by its samples over all processes, as far as the finder measured them."""
        world = self._trials.layout.world
        return {probe.batch_size * world: probe.seconds for probe in self._found.probes if probe.seconds}

    def _fit_length(self) -> FitLength:
        """How long the fit is, and what the search for the largest batch has trained on."""
        # A probe is two steps.
        probed = sum(2 * probe.batch_size * self._trials.layout.world for probe in self._found.probes)
        return FitLength(self._trials.horizon.fit, self._trials.horizon.seconds, probed)

    def _facts(self) -> StudyFacts:
        lowest, highest = self._space.lr_range
        module = self._trainer.lightning_module
        return StudyFacts(
            gpu_name=self._found.device,
            gpu_memory_gib=self._found.capacity_bytes / 2**30,
            world_size=self._trials.layout.world,
            precision=str(self._trainer.precision),
            max_fitting_batch_size=self._found.batch_size,
            scaling_rule=self._trials.rule,
            reference_batch_size=self._trials.layout.global_batch_size,
            reference_lr=self._trials.reference_lr,
            trial_budget=self._trials.runner.budget,
            objective=self._settings.objective,
            monitor=self._settings.monitor,
            mode=self._settings.mode,
            log2_batch_ratio_low=self._space.low,
            log2_batch_ratio_high=self._space.high,
            base_lr_low=lowest,
            base_lr_high=highest,
            model=type(module).__name__,
            parameters=sum(weight.numel() for weight in module.parameters() if weight.requires_grad),
        )

    def warmup_of_the_fit(self, lr: float) -> WarmupChoice | None:
        """The warm-up that training at a learning rate needs; None for none."""
        return self._warmup(lr, self._trials.horizon.fit or self._trials.runner.budget)

    def _warmup_of_a_trial(self, lr: float) -> list[Callback]:
        """The same, in a trial: it takes the same share of the schedule."""
        choice = self._warmup(lr, self._trials.runner.budget)
        if choice is None:
            return []
        warmup = LearningRateWarmup(*choice)
        warmup.setup(self._trainer, self._trainer.lightning_module, "fit")
        return [warmup]

    def _warmup(self, lr: float, samples: int) -> WarmupChoice | None:
        if any(isinstance(callback, LearningRateWarmup) for callback in self._trainer.callbacks):
            return None  # the user's own
        wanted, reference = self._trials.warmup, self._trials.reference_lr
        if wanted == "auto":
            needed = lr > RAISED * reference and not self._trials.warms_up
            share = WARMUP_SHARE
        else:
            needed = wanted is not None and lr > reference
            share = (wanted or 0) / (self._trials.horizon.fit or samples)
        return (max(1, round(share * samples)), reference / lr) if needed else None


def keep_for_reports(publisher: Publisher | None, write: Callable[[Study], None]) -> None:
    """Keep in a study what its reports tell, and show it in dashboards.

    Args:
        publisher: the study's; None, on processes that have no study, for nothing to do.
        write: writes it.

    """
    if publisher is None:
        return
    try:
        with storage_trouble(storage_in_words(publisher.study)):
            write(publisher.study)
    except StorageUnusable as error:  # the search is done, and training need not wait for a database
        rank_zero_warn(f"The study lacks a part of what its reports tell. {error}")
        return
    publisher.publish()
    if publisher.trouble:
        rank_zero_warn(publisher.trouble)


def _default_storage(trainer: Trainer) -> str:
    """A file where Lightning keeps its own."""
    folder = _root(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / DEFAULT_FILE)


def _root(trainer: Trainer) -> Path:
    """The folder where Lightning keeps its own; the current folder where that is none of this machine."""
    root = str(trainer.default_root_dir)
    return Path() if "://" in root else Path(root)


@contextlib.contextmanager
def _without_optunas_own_words() -> Iterator[None]:
    """Keep Optuna's log to warnings: what it tells of each trial, the display tells too."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
