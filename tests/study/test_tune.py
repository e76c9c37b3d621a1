"""The search as a whole, on curves that are formulas."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import optuna
import pytest
from formula_runner import SPACE, Diary, FormulaRunner, new_study, search
from optuna.trial import TrialState

from bstuner.core.trial import Ending, TrialRequest
from bstuner.core.tune_result import Objective, TrialSummary, TuneResult
from bstuner.errors import BaselineFailed, InvalidSetting
from bstuner.study.purse import FitLength
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.space import SearchSpace


def is_baseline(request: TrialRequest) -> bool:
    return (request.global_batch_size, request.lr) == (SPACE.reference_batch_size, SPACE.reference_lr)


def all_others(ending: Ending) -> Any:
    return lambda request: "finished" if is_baseline(request) else ending


def after(trials: int, error: BaseException) -> Any:
    """Let so many trials pass, then fail once."""
    asked = iter(range(10**6))

    def fail(request: TrialRequest) -> None:
        if next(asked) == trials:
            raise error

    return fail


def searched(result: TuneResult) -> tuple[TrialSummary, ...]:
    """The trials of a search, without those beside its first choices."""
    return tuple(trial for trial in result.trials if trial.role != "edge")


def told(study: optuna.Study) -> list[tuple[Any, ...]]:
    """What a study holds of its trials that gave an answer, without their numbers."""
    return [
        (
            trial.state,
            trial.params,
            trial.values,
            {**trial.user_attrs, "confirms": None, "edge_of": None, "reason": None},
        )
        for trial in study.trials
        if trial.state != TrialState.FAIL
    ]


def test_a_search_finds_settings_that_are_much_faster_and_confirms_them() -> None:
    runner = FormulaRunner()
    result = search(runner, n_trials=20)

    assert (result.baseline.seconds or 0) / (result.best.seconds or math.inf) > 3
    assert result.speedup_interval is not None
    low, high = result.speedup_interval
    assert 1 < low < (result.speedup or 0) < high
    assert result.confirmed is True
    assert [run.role for run in result.confirmation] == ["confirm baseline", "confirm"]
    assert {request.seed for request in runner.requests[-2:]} == {2}
    assert all(request.seed is None for request in runner.requests[:-2])


def test_the_answer_does_not_sit_at_the_edge() -> None:
    """Here twice the best learning rate diverges, yet it looks as good in a trial."""

    class Cliff(FormulaRunner):
        def metric(self, request: TrialRequest, samples: int) -> float:
            off = max(0.0, math.log(self.best_lr / request.lr))
            return math.exp(-3 * math.exp(-off) * samples / self.budget)

    runner = Cliff(ends=lambda request: "not finite" if request.lr > 0.02 else "finished")
    study = new_study()
    result = search(runner, study, n_trials=12)

    assert result.confirmed is True
    assert result.answer.lr <= 0.02 / 2
    beside = [trial for trial in study.trials if trial.user_attrs.get("role") == "edge"]
    assert {trial.user_attrs["edge_of"] for trial in beside} <= {trial.number for trial in result.trials}
    assert result.at_edge


def test_of_pairs_that_cannot_be_told_apart_the_cooler_is_taken() -> None:
    class Plateau(FormulaRunner):
        def metric(self, request: TrialRequest, samples: int) -> float:
            off = max(0.0, math.log(0.003 / request.lr))
            return math.exp(-3 * math.exp(-off) * samples / self.budget)

    space = SearchSpace(reference_batch_size=32, reference_lr=0.0003, rule="none", low=0, high=0)
    sampler = optuna.samplers.RandomSampler(seed=1)
    settings = TuneSettings("val_loss", n_trials=15, patience=None, seed=1)
    result = tune(Plateau(), space, settings, new_study(), sampler=sampler, clock=lambda: 0.0)

    as_fast = [t for t in (*result.as_good, result.best) if t.lr >= 0.003 and t.verdict != "behind"]
    assert result.best.lr == min(trial.lr for trial in as_fast)


def test_the_baseline_comes_first_and_trains_its_whole_budget() -> None:
    runner = FormulaRunner()
    result = search(runner, n_trials=4)

    assert runner.requests[0] == TrialRequest(32, 0.001)
    assert runner.trained[0] == runner.budget
    assert result.target == runner.metric(runner.requests[0], runner.budget)
    assert all(samples <= runner.budget for samples in runner.trained)


def test_trials_cost_less_than_whole_trainings() -> None:
    result = search(FormulaRunner(), n_trials=20, patience=None)

    assert len(searched(result)) == 20
    assert result.cost < 10


@pytest.mark.parametrize("seed", range(6))
def test_a_search_never_costs_more_than_it_may(seed: int) -> None:
    runner = FormulaRunner()
    settings = TuneSettings("val_loss", n_trials=50, patience=None, seed=seed)

    result = tune(runner, SPACE, settings, new_study(), fit=FitLength(16 * runner.budget), clock=lambda: 0.0)

    rates = {run.global_batch_size: run.samples_per_second for run in result.trials if run.samples_per_second}
    taken = zip(runner.requests, runner.trained, strict=True)
    seconds = sum(samples / (rates[request.global_batch_size] or 1) for request, samples in taken if samples)
    fit = 16 * runner.budget / (result.baseline.samples_per_second or 1)
    assert result.share_of_fit == pytest.approx(seconds / fit)
    assert result.share_of_fit <= 0.5
    assert result.confirmed is True


def test_a_search_that_cannot_be_paid_leaves_the_users_settings() -> None:
    runner = FormulaRunner()
    settings = TuneSettings("val_loss", seed=1, max_cost=0.1)

    result = tune(runner, SPACE, settings, new_study(), fit=FitLength(16 * runner.budget), clock=lambda: 0.0)

    assert result.best is result.baseline
    assert result.stopped == "no further trial was to be had for 10% of the fit"
    assert len(runner.requests) == 1


def test_the_time_that_ends_a_fit_bounds_the_search_too() -> None:
    runner = FormulaRunner()
    settings = TuneSettings("val_loss", seed=1)
    seconds = runner.budget / (32 / (0.01 + 0.0001 * 32))

    result = tune(
        runner, SPACE, settings, new_study(), fit=FitLength(1000 * runner.budget, 4 * seconds), clock=lambda: 0.0
    )

    assert result.share_of_fit is not None
    assert result.share_of_fit <= 0.5


def test_a_metric_that_is_better_when_larger_gives_the_same_search() -> None:
    least, most = search(FormulaRunner(), n_trials=8), search(FormulaRunner(mode="max"), n_trials=8)

    assert [(t.global_batch_size, t.lr) for t in least.trials] == [(t.global_batch_size, t.lr) for t in most.trials]
    assert [t.verdict for t in least.trials] == [t.verdict for t in most.trials]
    assert most.target == pytest.approx(1 - least.target)


@pytest.mark.parametrize("objective", ["time", "metric", "both"])
def test_a_fixed_seed_gives_the_same_study(objective: Objective) -> None:
    studies = [new_study(objective) for _ in range(2)]
    results = [search(FormulaRunner(), study, objective=objective, n_trials=8) for study in studies]

    assert told(studies[0]) == told(studies[1])
    assert results[0].trials == results[1].trials


def test_another_seed_gives_another_study() -> None:
    results = [search(FormulaRunner(), seed=seed, n_trials=5) for seed in (1, 2)]

    assert results[0].trials[1].lr != results[1].trials[1].lr


@pytest.mark.parametrize("ending", ["out of memory", "not finite"])
def test_when_every_other_trial_goes_wrong_the_users_settings_stay(ending: Ending) -> None:
    study = new_study()
    result = search(FormulaRunner(ends=all_others(ending)), study, n_trials=31, patience=None)

    assert len(searched(result)) == 31
    assert result.best is result.baseline
    assert (result.speedup, result.confirmed) == (1.0, None)
    others = study.trials[1:]
    assert {trial.state for trial in others} == {TrialState.PRUNED}
    assert {trial.user_attrs["verdict"] for trial in others} == {ending}
    assert {trial.user_attrs["oom"] for trial in others} == {int(ending == "out of memory")}
    assert {trial.user_attrs["reason"] for trial in others} == {f"it was {ending}"}


def test_a_batch_that_ran_out_of_memory_is_not_tried_again_nor_a_larger_one() -> None:
    def ends(request: TrialRequest) -> Ending:
        return "out of memory" if request.global_batch_size > 64 else "finished"

    result = search(FormulaRunner(ends=ends), n_trials=20, patience=None)

    failed = [trial.global_batch_size for trial in result.trials if trial.verdict == "out of memory"]
    assert failed
    assert all(later < earlier for earlier, later in pairwise(failed))
    assert result.best.global_batch_size <= 64


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("out of memory", "learning rate 0.001 it ran out of memory .*; start from a smaller batch size"),
        ("not finite", "learning rates from 0.001 down to 1e-05 val_loss was not finite .*; start from a lower"),
    ],
)
def test_a_baseline_that_goes_wrong_is_an_error_before_any_trial(ending: Ending, message: str) -> None:
    runner, study = FormulaRunner(ends=lambda request: ending), new_study()

    with pytest.raises(BaselineFailed, match=f"batch size 32, {message}"):
        search(runner, study)

    assert len(runner.requests) == (1 if ending == "out of memory" else 5)
    assert study.trials[-1].state == TrialState.FAIL
    assert {trial.state for trial in study.trials[:-1]} <= {TrialState.PRUNED}


def test_a_baseline_that_diverges_is_lowered_until_it_trains() -> None:
    runner = FormulaRunner(ends=lambda request: "not finite" if request.lr > 0.0002 else "finished", best_lr=0.0002)
    study = new_study()

    result = search(runner, study, n_trials=8)

    assert [request.lr for request in runner.requests[:3]] == pytest.approx([0.001, 0.000316, 0.0001], rel=0.01)
    assert result.baseline.lr == pytest.approx(0.0001)
    assert result.baseline.number == 2
    assert [trial.verdict for trial in result.trials[:3]] == ["not finite", "not finite", "baseline"]
    assert result.target == runner.metric(TrialRequest(32, result.baseline.lr), runner.budget)


def test_a_baseline_that_never_gets_better_is_lowered_too() -> None:
    class Stuck(FormulaRunner):
        def metric(self, request: TrialRequest, samples: int) -> float:
            return 2.0 if request.lr > 0.0005 else super().metric(request, samples)

    result = search(Stuck(best_lr=0.0003), n_trials=6)

    assert [trial.verdict for trial in result.trials[:2]] == ["not reached", "baseline"]
    assert result.baseline.lr == pytest.approx(0.001 / math.sqrt(10))
    assert result.trials[0].reason == "these settings do not train"


def test_a_loss_with_the_mode_of_a_score_is_refused_at_last() -> None:
    with pytest.raises(BaselineFailed, match=r"from 0.001 down to 1e-05 val_loss was no better .* check mode='max'"):
        search(FormulaRunner(), new_study(), mode="max")


def test_a_baseline_that_failed_is_tried_again_when_the_search_is_resumed() -> None:
    study = new_study()
    with pytest.raises(BaselineFailed):
        search(FormulaRunner(ends=lambda request: "out of memory"), study)

    result = search(FormulaRunner(), study, n_trials=3)

    assert len(searched(result)) == 3
    assert result.baseline.number == 1


def test_one_trial_is_the_baseline_alone() -> None:
    runner = FormulaRunner()
    result = search(runner, n_trials=1)

    assert len(runner.requests) == 1
    assert result.best is result.baseline
    assert (result.speedup, result.cost, result.stopped) == (1.0, 1.0, "the one trial was run")


def test_a_single_batch_size_leaves_the_learning_rate_to_search() -> None:
    space = SearchSpace(reference_batch_size=32, reference_lr=0.001, rule="sqrt", low=0, high=0)
    result = search(FormulaRunner(), space=space, n_trials=12)

    assert {trial.global_batch_size for trial in result.trials} == {32}
    assert 0.002 < result.best.lr < 0.02  # a step below the best of all, which sits at the edge


def test_settings_that_are_best_already_are_said_to_be_so_and_cost_little() -> None:
    # A thousand times fewer samples per batch are of use: the smallest batch at the best learning rate wins.
    space = SearchSpace(reference_batch_size=64, reference_lr=0.01, rule="none", low=0, high=0)
    result = search(FormulaRunner(), space=space, n_trials=100)

    assert result.best is result.baseline
    assert result.stopped.startswith("your settings were already the best found: ")
    assert result.speedup == 1.0
    assert result.cost <= 5
    assert not result.confirmation


def test_the_search_stops_where_nothing_better_is_found() -> None:
    study = new_study()
    result = search(FormulaRunner(), study, n_trials=200, patience=4)

    assert result.best.number is not None
    numbers = [trial.number or 0 for trial in searched(result) if trial.verdict == "best"]
    assert len([trial for trial in searched(result) if (trial.number or 0) > max(numbers)]) <= 4
    assert result.stopped.startswith("nothing better was found in the last ")


def test_without_patience_every_trial_is_run() -> None:
    result = search(FormulaRunner(), n_trials=40, patience=None)

    assert len(searched(result)) == 40
    assert result.stopped == "all 40 trials were run"


def test_the_timeout_ends_the_search_between_trials() -> None:
    ticks = iter(range(1000))
    runner, settings = FormulaRunner(), TuneSettings("val_loss", n_trials=50, timeout=6.0, seed=1, patience=None)

    result = tune(runner, SPACE, settings, new_study(), clock=lambda: float(next(ticks)))

    assert result.stopped == "the timeout of 6 s was over"
    assert 1 < len(result.trials) < 10
    assert result.confirmed is not None or result.best is result.baseline
    assert result.seconds >= 6


def test_without_time_the_baseline_is_run_all_the_same() -> None:
    assert len(search(FormulaRunner(), timeout=0.0).trials) == 1


def test_a_win_that_does_not_hold_with_other_data_is_told_after_three_candidates() -> None:
    runner = FormulaRunner(on_other_seed=0.1)
    result = search(runner, n_trials=12)

    again = [request for request in runner.requests if request.seed is not None]
    assert [is_baseline(TrialRequest(r.global_batch_size, r.lr)) for r in again].count(True) == 1
    assert 2 <= len(again) <= 4
    assert result.answer is result.baseline
    assert result.confirmed is False
    assert (result.speedup or 0) > 1
    assert len(result.confirmation) == 2


def test_a_seed_that_is_harder_for_all_does_not_undo_a_win() -> None:
    class Harder(FormulaRunner):
        def metric(self, request: TrialRequest, samples: int) -> float:
            loss = super().metric(request, samples)
            return loss if request.seed is None else 5 + loss

    result = search(Harder(), n_trials=12)

    assert result.confirmed is True
    assert result.confirmation[0].curve[-1].samples == result.budget  # the baseline had to tell what can be reached


def test_a_winner_that_diverges_on_another_seed_is_not_confirmed() -> None:
    def ends(request: TrialRequest) -> Ending:
        return (
            "finished"
            if request.seed is None or is_baseline(TrialRequest(*request.__dict__.values()))
            else "not finite"
        )

    result = search(FormulaRunner(ends=ends), n_trials=8)

    assert result.confirmed is False
    assert [run.verdict for run in result.confirmation] == ["not finite"]  # the baseline need not run for that


def test_both_train_for_a_whole_budget_to_compare_their_ends() -> None:
    runner = FormulaRunner()
    search(runner, n_trials=15)

    assert runner.trained[-2:] == [runner.budget, runner.budget]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_trial_of_the_study_is_the_confirmed_answer_or_the_baseline(seed: int) -> None:
    study = new_study()
    result = search(FormulaRunner(), study, n_trials=8, seed=seed)

    best = study.best_trial
    settings = best.user_attrs["effective_batch_size"], best.user_attrs["lr"]
    assert settings == (result.answer.global_batch_size, result.answer.lr)
    assert best.user_attrs["role"] == ("confirm" if result.confirmed else "baseline")

    lost = new_study()
    result = search(FormulaRunner(on_other_seed=0.1), lost, n_trials=8, seed=seed)
    assert lost.best_trial.user_attrs["role"] == "baseline"
    assert result.answer is result.baseline


def test_what_is_told_does_not_depend_on_what_comes_later() -> None:
    study = new_study()
    search(FormulaRunner(), study, n_trials=4, patience=None)
    before = {trial.number: trial.values for trial in study.trials}
    search(FormulaRunner(), study, n_trials=12, patience=None)

    assert {trial.number: trial.values for trial in study.trials if trial.number in before} == before


def test_nothing_is_confirmed_where_that_was_not_asked() -> None:
    runner = FormulaRunner()
    result = search(runner, n_trials=6, confirm=False)

    assert (result.confirmed, len(runner.requests)) == (None, 6)


def test_an_interrupted_trial_is_run_again_by_the_resumed_search() -> None:
    whole, broken = new_study(), new_study()
    search(FormulaRunner(), whole, n_trials=8, patience=None)
    with pytest.raises(KeyboardInterrupt):
        search(FormulaRunner(before=after(4, KeyboardInterrupt())), broken, n_trials=8, patience=None)

    interrupted = broken.trials[4]
    assert interrupted.state == TrialState.FAIL
    assert (interrupted.user_attrs["outcome"], interrupted.user_attrs["error"]) == ("interrupted", "interrupted")
    assert [trial.state for trial in broken.trials[5:]] == [TrialState.WAITING]
    runner = FormulaRunner()
    result = search(runner, broken, n_trials=8, patience=None)

    assert told(broken) == told(whole)
    assert len(searched(result)) == 8
    beside = len(result.trials) - 8
    assert len(runner.requests) == 4 + beside + 2  # the four that were left, the neighbours, and the two that confirm


@pytest.mark.parametrize("trials", [0, 9, 10])
def test_an_interrupt_in_baseline_or_confirmation_loses_nothing(trials: int) -> None:
    whole, broken = new_study(), new_study()
    expected = search(FormulaRunner(), whole, n_trials=9, patience=None)
    with pytest.raises(KeyboardInterrupt):
        search(FormulaRunner(before=after(trials, KeyboardInterrupt())), broken, n_trials=9, patience=None)

    result = search(FormulaRunner(), broken, n_trials=9, patience=None)

    assert told(broken) == told(whole)
    assert (result.confirmed, result.speedup) == (expected.confirmed, expected.speedup)


def test_an_error_in_a_trial_is_kept_in_the_study_and_raised() -> None:
    study = new_study()
    with pytest.raises(ZeroDivisionError):
        search(FormulaRunner(before=after(2, ZeroDivisionError("by nothing"))), study)

    assert study.trials[2].state == TrialState.FAIL
    assert study.trials[2].user_attrs["error"] == "ZeroDivisionError: by nothing"
    assert len(study.trials) == 3


def test_an_observer_that_fails_after_an_answer_does_not_undo_it() -> None:
    class Broken(Diary):
        def trial_ended(self, trial: Any) -> None:
            raise RuntimeError("cannot draw")

    study = new_study()
    with pytest.raises(RuntimeError, match="cannot draw"):
        search(FormulaRunner(), study, observer=Broken())

    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_a_search_that_has_ended_is_told_again_without_training() -> None:
    study = new_study()
    first = search(FormulaRunner(), study, n_trials=10)
    runner = FormulaRunner()
    second = search(runner, study, n_trials=10)

    assert runner.requests == []
    assert first == second


def test_more_trials_go_on_where_the_search_ended() -> None:
    study = new_study()
    search(FormulaRunner(), study, n_trials=3)
    runner = FormulaRunner()
    result = search(runner, study, n_trials=12, patience=None)

    assert len(searched(result)) == 12
    assert not any(is_baseline(request) for request in runner.requests if request.seed is None)
    assert len([request for request in runner.requests if request.seed is None]) >= 9


def test_a_process_that_vanished_leaves_no_gap() -> None:
    study = new_study()
    search(FormulaRunner(), study, n_trials=3, confirm=False)
    study.ask(SPACE.distributions)  # runs for ever

    result = search(FormulaRunner(), study, n_trials=6)

    assert len(searched(result)) == 6


def test_the_observer_hears_everything() -> None:
    diary, runner = Diary(), FormulaRunner()
    result = search(runner, observer=diary, n_trials=5)

    beside = range(5, len(result.trials))
    assert diary.started == [
        (0, "baseline"), *((number, "search") for number in range(1, 5)), *((number, "edge") for number in beside),
        (None, "confirm"), (None, "confirm baseline"),
    ]  # fmt: skip
    assert [trial.number for trial in diary.ended] == [*range(len(result.trials)), None, None]
    assert tuple(diary.ended[: len(result.trials)]) == result.trials
    assert diary.marks == sum(samples * 20 // runner.budget for samples in runner.trained)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_quality_at_equal_samples_is_found_by_whole_trials(mode: Any) -> None:
    runner = FormulaRunner(mode=mode)
    result = search(runner, objective="metric", n_trials=12, patience=None)

    sign = 1 if mode == "min" else -1
    metrics = [sign * (trial.metric or math.inf) for trial in searched(result)]
    assert all(trial.curve[-1].samples == runner.budget for trial in searched(result))
    assert sign * (result.best.metric or 0) <= sorted(metrics)[len(metrics) // 2]
    assert result.speedup is None
    assert result.confirmed is True


def test_two_objectives_give_a_front_and_leave_the_choice() -> None:
    runner = FormulaRunner()
    result = search(runner, objective="both", n_trials=15)

    assert len(runner.requests) == 15
    assert result.best is result.baseline
    assert (result.confirmed, result.speedup) == (None, None)
    assert len(result.pareto_front) >= 2


class StopsAt(optuna.pruners.BasePruner):
    """Prunes at one step, and keeps what it was told."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.values: list[dict[int, float]] = []

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        self.values.append(dict(trial.intermediate_values))
        return trial.last_step == self.step


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_a_pruner_hears_of_the_shared_marks_in_the_studys_direction(mode: Any, sign: int) -> None:
    runner, study = FormulaRunner(mode=mode), new_study()
    settings = TuneSettings("val_loss", mode=mode, n_trials=5, seed=1, patience=None, confirm=False)
    pruner = StopsAt(step=runner.marks[1])

    result = tune(runner, SPACE, settings, study, pruner=pruner, clock=lambda: 0.0)

    assert {trial.verdict for trial in result.trials[1:]} == {"behind"}
    assert {trial.reason for trial in result.trials[1:]} == {"stopped by the pruner"}
    assert {tuple(values) for values in pruner.values} == {runner.marks[:1], runner.marks[:2]}
    assert pruner.values[1][runner.marks[1]] == sign * runner.metric(runner.requests[1], runner.marks[1])


def test_a_pruner_has_no_say_over_the_baseline_nor_over_a_trial_that_has_arrived() -> None:
    runner, study = FormulaRunner(), new_study()
    settings = TuneSettings("val_loss", n_trials=5, seed=1, patience=None, confirm=False)
    first = tune(runner, SPACE, settings, study, clock=lambda: 0.0)
    arrived = study.trials[first.best.number].last_step

    class StopsThere(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.number == 0 or trial.last_step == arrived

    again = tune(FormulaRunner(), SPACE, settings, new_study(), pruner=StopsThere(), clock=lambda: 0.0)

    assert (again.baseline.verdict, again.best.number) == ("baseline", first.best.number)


@pytest.mark.parametrize(
    ("objective", "mode"), [("time", "min"), ("time", "max"), ("metric", "min"), ("metric", "max")]
)
def test_every_trial_reports_its_whole_curve_the_baseline_too(objective: Any, mode: Any) -> None:
    runner, study = FormulaRunner(mode=mode), new_study(objective, mode)

    result = search(runner, study, objective=objective, n_trials=6, confirm=False)

    sign = -1 if (objective, mode) == ("time", "max") else 1
    for trial, summary in zip(study.trials, result.trials, strict=True):
        assert list(trial.intermediate_values) == list(runner.marks[: len(summary.curve)])
        assert list(trial.intermediate_values.values()) == [sign * mark.metric for mark in summary.curve]


def test_a_pruner_is_refused_with_two_objectives() -> None:
    settings = TuneSettings("val_loss", objective="both")

    with pytest.raises(InvalidSetting, match=r"pruner: expected none with objective='both'.*MedianPruner"):
        tune(FormulaRunner(), SPACE, settings, new_study("both"), pruner=optuna.pruners.MedianPruner())


@pytest.mark.parametrize(
    "sampler", [optuna.samplers.RandomSampler(seed=1), optuna.samplers.TPESampler(seed=1, n_startup_trials=3)]
)
def test_any_sampler_of_optuna_serves(sampler: optuna.samplers.BaseSampler) -> None:
    study, settings = new_study(), TuneSettings("val_loss", n_trials=15, patience=None, seed=1)

    result = tune(FormulaRunner(), SPACE, settings, study, sampler=sampler, clock=lambda: 0.0)

    assert study.sampler is sampler
    assert len(searched(result)) == 15
    assert (result.speedup or 0) > 1
