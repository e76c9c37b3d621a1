"""The search finds what is optimal on a model of training that is solved exactly.

A quadratic loss 0.5 * sum h x^2 with gradient noise of variance c / batch: plain SGD, a constant learning rate. The
expected loss after t steps is known in closed form, r = (1 - lr h)^2 per coordinate:

    E x^2 = r^t x0^2 + lr^2 c / (batch (1 - r)) (1 - r^t)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from formula_runner import new_study

from bstuner.core.layout import BatchLayout
from bstuner.core.trial import Mark, TrialRequest, TrialRun, Watch, samples_to_target
from bstuner.core.tune_result import TrialSummary
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.space import SearchSpace

BATCH_SIZES = tuple(2**k for k in range(3, 12))
LRS = np.geomspace(0.002, 1.9, 100)


@dataclass
class QuadraticRunner:
    """Curvatures 1/i, noise in proportion to them; a step costs as much as its batch and 64 samples more."""

    budget: int = 65_536
    dimensions: int = 100
    noise: float = 8.0

    @property
    def marks(self) -> tuple[int, ...]:
        return tuple(self.budget * part // 32 for part in range(1, 33))

    def losses(self, batch_size: int, lr: float, steps: Sequence[int]) -> list[float]:
        h = 1 / np.arange(1, self.dimensions + 1)
        r = (1 - lr * h) ** 2
        stationary = lr**2 * self.noise * h / (batch_size * (1 - r))
        kept = r ** np.array(steps)[:, None]
        return list((0.5 * h * (kept + stationary * (1 - kept))).sum(axis=1))

    def rate(self, batch_size: int) -> float:
        return batch_size / (1e-4 * (64 + batch_size))

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        batch_size, marks = request.global_batch_size, []
        if request.lr >= 2:  # 2 / the largest curvature: it diverges
            return TrialRun(request, BatchLayout(batch_size), "not finite", reason="it diverged")
        ending = "finished"
        losses = self.losses(batch_size, request.lr, [samples // batch_size for samples in self.marks])
        for samples, loss in zip(self.marks, losses, strict=True):
            marks.append(Mark(samples, loss, samples / self.rate(batch_size)))
            if not watch(marks[-1]):
                ending = "stopped"
                break
        samples, rate = marks[-1].samples, self.rate(batch_size)
        return TrialRun(
            request,
            BatchLayout(batch_size),
            ending,  # type: ignore[arg-type]
            tuple(marks),
            samples,
            samples // batch_size,
            rate,
        )

    def wait(self, seconds: float) -> None:
        raise AssertionError("nobody else is here")

    def best_seconds(self, target: float) -> float:
        """The least time to the target over a fine grid of learning rates at every batch size."""
        runs = (self.run(TrialRequest(size, float(lr)), lambda mark: True) for size in BATCH_SIZES for lr in LRS)
        times = [run.seconds_to_target(target, "min") for run in runs]
        return min(seconds for seconds in times if seconds is not None)


def seconds_to(bar: float, trial: TrialSummary) -> float:
    samples = samples_to_target([(mark.samples, mark.metric) for mark in trial.curve], bar, "min")
    return math.inf if samples is None else samples / (trial.samples_per_second or 1)


def test_the_closed_form_is_the_recursion() -> None:
    runner, h = QuadraticRunner(), 1 / np.arange(1, 101)
    square = np.ones(100)
    for _ in range(50):
        square = (1 - 0.3 * h) ** 2 * square + 0.3**2 * 8 * h / 16

    assert runner.losses(16, 0.3, [50])[0] == pytest.approx(0.5 * (h * square).sum())


@pytest.mark.parametrize(("batch_size", "lr"), [(32, 0.01), (8, 0.005), (256, 0.03), (64, 0.3), (1024, 1.5)])
def test_the_grid_optimum_is_found_from_good_and_bad_settings(batch_size: int, lr: float) -> None:
    runner = QuadraticRunner()
    space = SearchSpace.between(8, 2048, reference_batch_size=batch_size, reference_lr=lr, rule="linear")

    ratios = []
    for seed in range(3):
        settings = TuneSettings("loss", n_trials=25, seed=seed, confirm=False, patience=None)
        result = tune(runner, space, settings, new_study(), clock=lambda: 0.0)
        # Trials are ranked by their time to the bar, which they raise themselves.
        there = (seconds_to(result.bar, trial) for trial in result.trials if trial.samples_per_second)
        ratios.append(min(there) / runner.best_seconds(result.bar))

    assert max(ratios) <= 1.25
