"""An Optuna sampler that reads the learning curves of a study, those of trials that were stopped too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from bstuner.core import Mode
from bstuner.study.bar import Bar
from bstuner.study.pace import expected_paces
from bstuner.study.pace_model import Observation, PaceModel
from bstuner.study.record import Record, StudyView, role_of
from bstuner.study.space import BASE_LR, LOG2_BATCH_RATIO, SearchSpace

__all__ = ["PaceSampler"]

_LR_STEP = 0.3  # in the logarithm: finer than learning rates matter
_UNKNOWN_OVERHEAD = 4.0  # where no step was timed, a step is taken to cost as much as so many reference batches on top


class PaceSampler(BaseSampler):
    """Chooses the settings that promise to save the most training time, for a study of seconds to a target.

    Args:
        space: The settings to choose from.
        mode: "min" where less of the monitored metric is better, "max" where more is.
        step_seconds: Seconds of an optimizer step at some global batch sizes, where they were measured before.
        seed: Of the small random shifts between studies.
        affords: Tells whether a trial of a global batch size may be started.
    """

    def __init__(
        self,
        space: SearchSpace,
        mode: Mode,
        step_seconds: Mapping[int, float] | None = None,
        seed: int | None = None,
        affords: Callable[[StudyView, int], bool] = lambda view, batch_size: True,
    ) -> None:
        self._space = space
        self._mode: Mode = mode
        self._step_seconds = dict(step_seconds or {})
        self._seed = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._affords = affords
        self._promises: dict[int, float] = {}
        self._fallback = RandomSampler(seed=seed)

    def promise(self, number: int) -> float | None:
        """The share of the best time that a trial was expected to save; None where this sampler did not choose it."""
        return self._promises.get(number)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Both parameters are chosen together."""
        return self._space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose the settings of the next trial."""
        view = StudyView.read(study, "time", self._mode).without(trial.number)
        if view.baseline is None:
            return self._space.baseline
        k, log_lr = self._candidates(view, trial)
        if not len(k):
            return {}
        bar = Bar.of(view)
        own, fastest = bar.reach(bar.own).samples, min(view.records, key=bar.seconds)
        best = math.log(bar.seconds(fastest) / bar.seconds(bar.own))
        most = math.log(bar.own.summary.curve[-1].samples / own)
        seen = self._observations(view, bar, fastest, trial)
        gain = self._model(view, bar).expected_gain(seen, best, most, k, log_lr)
        chosen = int(np.argmax(gain))
        self._promises[trial.number] = float(gain[chosen])
        lowest, highest = self._space.lr_range
        lr = min(max(self._space.reference_lr * math.exp(log_lr[chosen]), lowest), highest)
        return {LOG2_BATCH_RATIO: int(k[chosen]), BASE_LR: lr}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What is not of this space is drawn at random."""
        return self._fallback.sample_independent(study, trial, param_name, param_distribution)

    def _candidates(self, view: StudyView, trial: FrozenTrial) -> tuple[np.ndarray, np.ndarray]:
        """A grid over the space, shifted at random, without what ran out of memory or diverged already."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        count = sum(t.number < trial.number for t in view.in_state(*states))
        rng = np.random.default_rng([self._seed, count])
        low, high = (math.log(lr / self._space.reference_lr) for lr in self._space.lr_range)
        lrs = np.arange(low + rng.uniform(0, _LR_STEP), high, _LR_STEP)
        sizes = {k: self._space.batch_size(k) for k in range(self._space.low, self._space.high + 1)}
        ks = np.array([k for k, size in sizes.items() if self._affords(view, size)])
        k, log_lr = (grid.ravel() for grid in np.meshgrid(ks, lrs, indexing="ij"))
        for record in view.records:
            at_k, at_lr = self._place(record.params)
            if record.summary.verdict == "out of memory" and at_k > 0:
                keep = k < at_k
            elif record.summary.verdict == "not finite":
                keep = (k != at_k) | (log_lr < at_lr - _LR_STEP)
            else:
                continue
            k, log_lr = k[keep], log_lr[keep]
        return k, log_lr

    def _place(self, params: Mapping[str, Any]) -> tuple[int, float]:
        return params[LOG2_BATCH_RATIO], math.log(params[BASE_LR] / self._space.reference_lr)

    def _observations(self, view: StudyView, bar: Bar, fastest: Record, trial: FrozenTrial) -> list[Observation]:
        """What each trial says about the samples to the bar."""
        own = bar.reach(bar.own).samples
        seen = []
        for record in view.records:
            if record.summary.verdict != "out of memory":
                samples, error, at_least = bar.reach(record)
                seen.append(Observation(*self._place(record.params), math.log(samples / own), error, at_least))
        best = math.log(bar.reach(fastest).samples / own)
        for other in view.in_state(TrialState.RUNNING):
            if other.number != trial.number and len(other.params) == 2 and role_of(other) != "confirm":
                seen.append(Observation(*self._place(other.params), best, 0.3))  # so that workers spread out
        return seen

    def _model(self, view: StudyView, bar: Bar) -> PaceModel:
        sizes = self._space.batch_sizes
        paces = expected_paces(view, self._step_seconds, sizes)
        if paces is None:
            paces = {size: 1 + _UNKNOWN_OVERHEAD * self._space.reference_batch_size / size for size in sizes}
        ks = range(self._space.low, self._space.high + 1)
        _, own_lr = self._place(bar.own.params)
        return PaceModel.prior(ks, sizes, [paces[size] for size in sizes], self._space.rule, own_lr)
