"""What a search may cost."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from curves import BUDGET, SPACE, own, record, view_of
from formula_runner import SPACE as FORMULA_SPACE, FormulaRunner, new_study, search
from optuna.trial import FrozenTrial, TrialState

from bstuner.core.trial import TrialRequest, TrialRun, Watch
from bstuner.core.tune_result import TuneResult
from bstuner.study.purse import FitLength, Purse
from bstuner.study.record import Record, StudyView
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.workers import LoneWorker

CAREFUL = 0.97


def purse(
    *records: Record, fit: FitLength, max_cost: float | None = 0.5, steps: dict[int, float] | None = None
) -> Purse:
    return Purse(view_of(own(), *records), SPACE, BUDGET, max_cost, fit, steps or {})


@pytest.mark.parametrize(
    ("fit", "seconds"),
    [
        (FitLength(), None),
        (FitLength(10_000), 100.0),
        (FitLength(10_000, 30.0), 30.0),
        (FitLength(10_000, 300.0), 100.0),
        (FitLength(seconds=30.0), 30.0),
    ],
)
def test_a_fit_is_as_long_as_its_samples_take_unless_its_time_is_over_sooner(
    fit: FitLength, seconds: float | None
) -> None:
    assert purse(fit=fit).fit_seconds == seconds


def test_without_a_bound_or_a_known_length_everything_can_be_paid() -> None:
    for endless in (purse(fit=FitLength()), purse(fit=FitLength(10_000), max_cost=None)):
        assert endless.left == math.inf
        assert endless.affords(256, 256)
    assert purse(fit=FitLength()).share_of_fit is None


def test_trials_and_probes_are_spent() -> None:
    told = purse(record(1, 0.2, 0.5, rate=200.0, k=1, until=512), fit=FitLength(100_000, probed=300))

    spent = 10.24 + 2.56 + 3.0
    assert told.share_of_fit == pytest.approx(spent / 1000)
    assert told.left == pytest.approx(CAREFUL * 500 - spent)


def test_a_slow_reading_is_not_held_against_the_search() -> None:
    """What warms up in the first trial would have had to warm up in the fit."""
    told = purse(record(1, 0.2, 0.5, rate=200.0), fit=FitLength(100_000))

    assert told.fit_seconds == 500.0
    assert told.share_of_fit == pytest.approx(2 * 5.12 / 500)


def test_a_batch_size_that_was_never_timed_is_expected_by_what_was() -> None:
    unknown = purse(fit=FitLength(100_000))
    assert [unknown.whole(size) for size in (8, 32, 256)] == pytest.approx([4 * 10.24, 10.24, 10.24])

    probed = purse(fit=FitLength(100_000), steps={64: 0.32, 256: 0.32})  # each step takes as long
    assert probed.whole(32) == pytest.approx(10.24)
    assert probed.whole(256) == pytest.approx(1.28)


def test_edge_and_confirmation_are_paid_before_another_trial() -> None:
    # Ten seconds each: the trial, two neighbours and a confirmation, of which the own settings have a part.
    enough, little = (purse(fit=FitLength(seconds=2 * s / CAREFUL)) for s in (10.24 * 6.01, 10.24 * 5.99))

    assert enough.affords(32, None)
    assert not little.affords(32, None)
    assert enough.for_trial(32, None) == pytest.approx(10.24 * 1.01)
    # A candidate that is slow is still to be confirmed, however quick a trial is.
    slow = purse(record(1, 0.2, 0.2, k=-1, rate=50.0), fit=FitLength(seconds=2 * 100 / CAREFUL))
    assert slow.affords(32, None)
    assert not slow.affords(32, 16)


def test_what_other_workers_run_is_spent_already() -> None:
    study = new_study()
    search(FormulaRunner(), study, space=FORMULA_SPACE, n_trials=1)
    fit = FitLength(1_000_000)

    def left() -> float:
        return Purse(StudyView.read(study, "time", "min"), FORMULA_SPACE, 10_240, 0.5, fit).left

    alone = left()
    whole = 10_240 / (32 / (0.01 + 0.0001 * 32))
    trial = study.ask(FORMULA_SPACE.distributions)
    trial.set_user_attr("effective_batch_size", 32)
    assert alone - left() == pytest.approx(whole)
    trial.set_user_attr("role", "confirm")
    assert alone - left() == pytest.approx(2 * whole), "it and the user's own"
    study.tell(trial, state=TrialState.FAIL)
    assert left() == alone


class Alive(LoneWorker):
    """Another worker of the same process."""

    def alive(self, trial: FrozenTrial) -> bool:
        return True


class Turn(Exception):
    """The second worker has had its turn."""


@dataclass
class Timed(FormulaRunner):
    """Notes the seconds of all workers."""

    seconds: list[float] = field(default_factory=list)

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        run = super().run(request, watch)
        self.seconds.append(run.samples / (run.samples_per_second or 1.0))
        return run


@dataclass
class Second(Timed):
    """Runs one trial, then leaves."""

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        if self.requests:
            raise Turn
        return super().run(request, watch)

    def wait(self, seconds: float) -> None:
        raise Turn


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_cost", [0.4, 0.8])
def test_two_workers_together_cost_no_more_than_one_may(seed: int, max_cost: float) -> None:
    """A second one runs a trial beside every trial of the first."""
    study, fit, seconds = new_study(), FitLength(16 * 10_240), list[float]()
    settings = TuneSettings("val_loss", n_trials=40, patience=None, seed=seed, max_cost=max_cost)

    def work(runner: FormulaRunner) -> TuneResult:
        return tune(runner, FORMULA_SPACE, settings, study, fit=fit, clock=lambda: 0.0, worker=Alive())

    def before(request: TrialRequest) -> None:
        if request.seed is None and request != TrialRequest(32, 0.001):
            with suppress(Turn):
                work(Second(seconds=seconds))

    result = work(Timed(before=before, seconds=seconds))

    assert result.share_of_fit == pytest.approx(sum(seconds) / (16 * seconds[0]))
    assert result.share_of_fit <= max_cost
    assert result.confirmed is not None, "what that costs was kept for it"
