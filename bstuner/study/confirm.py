"""The winner once more beside the baseline, on another seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bstuner.core import Mark, Mode, Role, TrialRequest, TrialRun, TrialSummary, Verdict, Watch
from bstuner.study.objective import best_metric, to_target
from bstuner.study.record import Record, StudyView, role_of, summarize, trained_seconds
from bstuner.study.system_attrs import read_system_attrs, write_system_attr

__all__ = ["Confirmation", "claim", "confirm", "confirm_quality", "confirms", "find_confirmation", "keep"]

Run = Callable[[Role, TrialRequest, Watch], TrialRun]


class Confirmation(NamedTuple):
    """How the winner did on another seed.

    Args:
        holds: Whether it was better than the baseline again.
        runs: The two runs, the baseline's first.
        seconds_trained: Seconds of training that they took.
        value: The winner's, as Optuna is told; None where it has none.
    """

    holds: bool
    runs: tuple[TrialSummary, ...]
    seconds_trained: float
    value: float | None


def claim(study: Study, view: StudyView, winner: Record) -> None:
    """Put the confirmation of a winner in the study's queue, from where only one process can take it."""
    if not any(confirms(trial) == winner.summary.number for trial in view.in_state(TrialState.WAITING)):
        study.enqueue_trial(winner.params, user_attrs={"role": "confirm", "confirms": winner.summary.number})


def confirms(trial: FrozenTrial | Trial) -> int | None:
    """The number of the winner that a trial confirms; None for any other trial."""
    return trial.user_attrs.get("confirms") if role_of(trial) == "confirm" else None


def keep(trial: Trial, confirmation: Confirmation) -> None:
    """Keep a confirmation in the study, with the trial that claimed it."""
    trial.set_user_attr("confirmed", int(confirmation.holds))
    write_system_attr(trial, "confirmation", [asdict(run) for run in confirmation.runs])
    trial.set_user_attr("seconds_trained", confirmation.seconds_trained)


def find_confirmation(view: StudyView, winner: Record) -> Confirmation | None:
    """The confirmation of this winner that the study holds; None where there is none."""
    for trial in view.in_state(TrialState.COMPLETE, TrialState.PRUNED):
        if confirms(trial) == winner.summary.number:
            stored, told = trial.user_attrs, read_system_attrs(trial)["confirmation"]
            runs = tuple(TrialSummary(**{**run, "curve": tuple(Mark(*mark) for mark in run["curve"])}) for run in told)
            return Confirmation(bool(stored["confirmed"]), runs, stored["seconds_trained"], trial.value)
    return None


def confirm(run: Run, baseline: Record, winner: Record, seed: int, target: float, mode: Mode) -> Confirmation:
    """Race the winner against the baseline to the target, on another seed.

    The winner goes first, for as long as the baseline took. The baseline then runs only until it has lost: for as long
    as the winner took. Where the winner missed the target, the seed may be a harder one, so the baseline trains for its
    whole budget and what it reaches is the target of both.

    Args:
        run: Runs a trial of a role, watched.
        baseline: The trial of the user's own settings.
        winner: The best trial.
        seed: The seed of both.
        target: The metric to reach.
        mode: "min" where less of it is better, "max" where more is.
    """
    assert baseline.summary.seconds is not None
    limit = baseline.summary.seconds
    ours = run("confirm", _again(winner, seed), _until(target, mode, limit))
    seconds = _seconds(ours, target, mode)
    if seconds is not None:
        theirs = run("confirm baseline", _again(baseline, seed), _until(target, mode, seconds))
    else:
        theirs = run("confirm baseline", _again(baseline, seed), lambda mark: True)
        if _whole(theirs):
            target = theirs.marks[-1].metric
    holds = _sooner(ours, theirs, target, mode)
    return _told(ours, theirs, holds, target, mode, _seconds(ours, target, mode))


def confirm_quality(run: Run, baseline: Record, winner: Record, seed: int, mode: Mode) -> Confirmation:
    """Train winner and baseline for their whole budgets on another seed, and compare their best metrics.

    Args:
        run: Runs a trial of a role, watched.
        baseline: The trial of the user's own settings.
        winner: The best trial.
        seed: The seed of both.
        mode: "min" where less of the metric is better, "max" where more is.
    """
    ours = run("confirm", _again(winner, seed), lambda mark: True)
    theirs = run("confirm baseline", _again(baseline, seed), lambda mark: True)
    sign = 1 if mode == "min" else -1
    holds = _whole(ours) and (not _whole(theirs) or sign * best_metric(ours, mode) < sign * best_metric(theirs, mode))
    target = theirs.marks[-1].metric if theirs.marks else float("-inf" if mode == "min" else "inf")
    value = best_metric(ours, mode) if _whole(ours) else None
    return _told(ours, theirs, holds, target, mode, value)


def _whole(run: TrialRun) -> bool:
    return run.ending == "finished" and bool(run.marks)


def _again(record: Record, seed: int) -> TrialRequest:
    return TrialRequest(record.summary.global_batch_size, record.summary.lr, seed)


def _until(target: float, mode: Mode, seconds: float) -> Watch:
    """Go on until the target is reached or the time is over."""
    sign = 1 if mode == "min" else -1
    return lambda mark: sign * mark.metric > sign * target and mark.seconds < seconds


def _seconds(run: TrialRun, target: float, mode: Mode) -> float | None:
    return None if run.ending in ("out of memory", "not finite") else run.seconds_to_target(target, mode)


def _sooner(ours: TrialRun, theirs: TrialRun, target: float, mode: Mode) -> bool:
    mine, other = _seconds(ours, target, mode), _seconds(theirs, target, mode)
    return mine is not None and (other is None or mine < other)


def _told(
    ours: TrialRun, theirs: TrialRun, holds: bool, target: float, mode: Mode, value: float | None
) -> Confirmation:
    def summary(run: TrialRun, role: Role, verdict: Verdict) -> TrialSummary:
        if run.ending in ("out of memory", "not finite"):
            return summarize(None, role, run, run.ending)
        samples, seconds = to_target(run, target, mode)
        return summarize(None, role, run, verdict, seconds=seconds, samples=samples)

    missed: Verdict = "not reached" if _seconds(ours, target, mode) is None else "slower"
    runs = summary(theirs, "confirm baseline", "baseline"), summary(ours, "confirm", "best" if holds else missed)
    return Confirmation(holds, runs, trained_seconds(ours) + trained_seconds(theirs), value)
