"""What a trial is judged by."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bstuner.core.layout import BatchLayout
from bstuner.core.trial import Ending, Mark, Mode, TrialRequest, TrialRun
from bstuner.core.tune_result import Objective
from bstuner.errors import InvalidSetting
from bstuner.study.objective import BaselineJudge, EdgeJudge, Judgement, QualityJudge, TimeJudge, directions
from bstuner.study.record import Record, StudyView, summarize
from bstuner.study.settings import TuneSettings

BUDGET = 1000


def run_of(metrics: list[float], rate: float = 100.0, ending: Ending = "finished", budget: int = BUDGET) -> TrialRun:
    """A run validated ten times in a budget, as far as there are metrics."""
    step = budget // 10
    marks = tuple(Mark(step * i, metric, step * i / rate) for i, metric in enumerate(metrics, start=1))
    return TrialRun(
        TrialRequest(10, 0.1), BatchLayout(10), ending, marks, step * len(metrics), 0, rate if marks else None
    )


def view_of(run: TrialRun, objective: Objective = "time", mode: Mode = "min") -> StudyView:
    """A study with a baseline that ran so."""
    judgement = BaselineJudge(objective, mode).judge(run)
    summary = summarize(0, "baseline", run, judgement.verdict, seconds=judgement.seconds, samples=judgement.samples)
    return StudyView([], objective, mode).with_record(Record(summary, judgement.values, {}, 0.0))


def watched(judge: TimeJudge, run: TrialRun) -> Judgement:
    """The run as far as its judge lets it go, judged."""
    for number, mark in enumerate(run.marks, start=1):
        if not judge.watch(mark):
            run = replace(run, marks=run.marks[:number], samples=mark.samples, ending="stopped")
            break
    return judge.judge(run)


FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def judge_beside(metrics: list[float], mode: Mode = "min", allowance: float = math.inf) -> TimeJudge:
    return TimeJudge(view_of(run_of(metrics), mode=mode), allowance)


def test_the_baseline_takes_its_whole_training_to_its_own_last_metric() -> None:
    assert BaselineJudge("time", "min").judge(run_of(FALLING)) == ("baseline", (10.0,), 10.0, 1000.0, "")


def test_a_baseline_that_got_worse_again_is_met_where_it_first_was_as_good() -> None:
    judgement = BaselineJudge("time", "min").judge(run_of([1.0, 0.5, 0.1, 0.3]))

    assert judgement.seconds == pytest.approx(6**0.5)  # half-way from 2 to 3, in the logarithm


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_faster_trial_goes_on_to_its_end_which_may_raise_the_bar(mode: Mode) -> None:
    sign = 1 if mode == "min" else -1
    judge = judge_beside([sign * m for m in FALLING], mode)
    faster = run_of([sign * m for m in (0.8, 0.6, 0.4, 0.2, 0.0, -0.2, -0.4, -0.6, -0.7, -0.8)])

    judgement = watched(judge, faster)

    assert judgement.verdict == "reached"
    assert judgement.seconds == pytest.approx(20**0.5)
    # A win that is not confirmed counts with the baseline's ten seconds on top.
    assert judgement.values == pytest.approx((10 + 20**0.5,))
    assert judgement.samples == pytest.approx(100 * 20**0.5)


def test_a_trial_is_stopped_where_it_has_cost_what_is_left() -> None:
    judge = judge_beside(FALLING, allowance=3.5)
    run = run_of(FALLING)

    assert [judge.watch(mark) for mark in run.marks[:4]] == [True, True, True, False]
    judgement = judge.judge(replace(run, marks=run.marks[:4], ending="stopped"))
    assert (judgement.verdict, judgement.values) == ("slower", ())
    assert "all that the search could still spend" in judgement.reason


def test_a_trial_clearly_behind_at_equal_time_is_stopped_early() -> None:
    judge = judge_beside(FALLING)
    hopeless = run_of([1.0 - 0.02 * i for i in range(10)])

    seen = [judge.watch(mark) for mark in hopeless.marks]

    assert seen[:2] == [True, True]  # too early to tell
    assert False in seen[2:6]
    judgement = judge.judge(replace(hopeless, ending="stopped"))
    assert (judgement.verdict, judgement.values) == ("behind", ())
    assert "times as long as the best trial" in judgement.reason


def test_a_trial_that_cannot_get_there_within_its_samples_is_stopped_early() -> None:
    judge = judge_beside(FALLING)
    # Ten times as many samples per second, so never late; but at equal samples far behind.
    hasty = run_of([1.0 - 0.03 * i for i in range(10)], rate=1000.0)

    seen = [judge.watch(mark) for mark in hasty.marks]

    assert False in seen
    assert "as many samples as the baseline" in judge.judge(replace(hasty, ending="stopped")).reason


def test_a_trial_that_starts_slowly_may_still_win() -> None:
    judge = judge_beside(FALLING)
    late = run_of([1.0, 0.95, 0.8, 0.5, 0.2, 0.05, 0.04, 0.03, 0.02, 0.01])

    assert watched(judge, late).seconds == pytest.approx(100 * 5 * (6 / 5) ** (2 / 3) / 100)


def test_a_whole_trial_that_never_reaches_the_target_is_not_reached() -> None:
    judge = judge_beside(FALLING)
    judgement = judge.judge(run_of([0.5] * 10, rate=1000.0))

    assert (judgement.verdict, judgement.values) == ("not reached", ())


@pytest.mark.parametrize(("mode", "expected"), [("min", 0.1), ("max", 1.0)])
def test_quality_is_the_best_metric_of_a_whole_budget(mode: Mode, expected: float) -> None:
    run = run_of(FALLING)

    judgement = QualityJudge(view_of(run, "metric", mode), math.inf).judge(run)

    assert judgement.values == (expected,)
    assert judgement.verdict == "reached"


def test_with_two_objectives_the_seconds_of_the_whole_budget_count_too() -> None:
    better = view_of(run_of([metric / 2 for metric in FALLING], rate=50.0), "both")

    judgement = QualityJudge(better, math.inf).judge(run_of(FALLING, rate=50.0))

    assert judgement[:2] == ("not reached", (0.1, 20.0))


def test_a_trial_that_was_stopped_has_no_quality() -> None:
    judge = QualityJudge(view_of(run_of(FALLING), "metric"), math.inf)

    assert judge.judge(run_of([0.01], ending="stopped")).values == ()


def test_a_neighbour_above_is_stopped_where_it_is_hopeless_and_one_below_never() -> None:
    view = view_of(run_of(FALLING))
    assert view.baseline is not None
    hopeless = run_of([2.0] * 10)
    above, below = (EdgeJudge(view, view.baseline, higher, math.inf) for higher in (True, False))

    stopped = [above.watch(mark) for mark in hopeless.marks].index(False)

    assert hopeless.marks[stopped].samples < BUDGET
    assert all(below.watch(mark) for mark in hopeless.marks)
    judgement = above.judge(replace(hopeless, ending="stopped"))
    assert (judgement.verdict, judgement.values) == ("behind", ())
    assert "whose neighbour it is" in judgement.reason


def test_directions_follow_objective_and_mode() -> None:
    assert directions("time", "max") == ["minimize"]
    assert directions("metric", "min") == ["minimize"]
    assert directions("metric", "max") == ["maximize"]
    assert directions("both", "max") == ["maximize", "minimize"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_trials": 0}, "n_trials: expected a whole number of at least 1, found 0"),
        ({"patience": 0}, "patience"),
        ({"patience": True}, "patience"),
        ({"n_trials": None}, "n_trials"),
        ({"timeout": -1.0}, "timeout: expected seconds"),
        ({"timeout": float("nan")}, "timeout"),
        ({"mode": "maximum"}, "mode: expected one of min, max, found 'maximum'"),
        ({"objective": "speed"}, "objective: expected one of time, metric, both"),
        ({"max_cost": 0}, "max_cost: expected a share of the fit above 0, or None, found 0"),
        ({"max_cost": True}, "max_cost"),
        ({"take": "metric"}, "take: expected 'metric' or 'speed' with objective='both'"),
        ({"take": "lr", "objective": "both"}, "take"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        TuneSettings(monitor="val_loss", **wrong)  # type: ignore[arg-type]
