"""What a study keeps of each trial, and a search rebuilt from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, get_args

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bstuner.core import Mark, Mode, Objective, Role, TrialRequest, TrialRun, TrialSummary, Verdict
from bstuner.study.system_attrs import read_system_attrs, write_system_attr

__all__ = [
    "Confirmation",
    "Record",
    "StudyView",
    "role_of",
    "summarize",
    "trained_seconds",
    "write_request",
    "write_summary",
]

GIB = 2**30
# For dashboards, which know few words: what became of the training itself.
_OUTCOMES = {"out of memory": "oom", "not finite": "not finite", "slower": "pruned", "behind": "pruned"}


def role_of(trial: FrozenTrial | Trial) -> Role:
    """Why a trial is run: as it was enqueued, else to search."""
    role = trial.user_attrs.get("role", "search")
    return role if role in get_args(Role) else "search"


def write_request(trial: Trial, role: Role, request: TrialRequest, promise: float | None = None) -> None:
    """Keep what a trial is asked to run, before it runs: it may never come back.

    Args:
        trial: The trial.
        role: Why it is run.
        request: What it is asked to run.
        promise: The share of the best time that it is expected to save, where its sampler tells.
    """
    if promise is not None:
        trial.set_user_attr("expected_gain", promise)
    trial.set_user_attr("role", role)
    trial.set_user_attr("effective_batch_size", request.global_batch_size)
    trial.set_user_attr("lr", request.lr)


def write_summary(trial: Trial, run: TrialRun, summary: TrialSummary, capacity_bytes: int | None = None) -> None:
    """Keep how a trial went: numbers where a dashboard can plot them, and all that a result is rebuilt from."""
    peak = None if run.peak_bytes is None else run.peak_bytes / GIB
    capacity = None if capacity_bytes is None else capacity_bytes / GIB
    oom = run.ending == "out of memory"
    attributes = {
        "batch_size": summary.batch_size,
        "accumulate_grad_batches": summary.accumulate_grad_batches,
        "samples_per_second": summary.samples_per_second,
        "steps": summary.steps,
        "samples_seen": run.samples,
        "samples_to_target": summary.samples if summary.seconds is not None else None,
        "seconds_to_target": summary.seconds,
        "seconds_trained": trained_seconds(run),
        "metric": summary.metric,
        "peak_memory_gib": peak,
        "memory_headroom_gib": None if peak is None or capacity is None else capacity - peak,
        "oom": int(oom),
        # What Optuna's own constraint says below: dashboards do not show that, and only numbers are their axes.
        "feasible": int(not oom and (peak is None or capacity is None or peak <= capacity)),
        "outcome": _OUTCOMES.get(summary.verdict, "ok"),
        "verdict": summary.verdict,
        "reason": summary.reason,
    }
    for name, value in attributes.items():
        if value is not None:
            trial.set_user_attr(name, value)
    write_system_attr(trial, "curve", [list(mark) for mark in summary.curve])
    if peak is not None and capacity is not None:
        trial.set_constraint("memory_gib", peak - capacity)


def summarize(
    number: int | None,
    role: Role,
    run: TrialRun,
    verdict: Verdict,
    *,
    seconds: float | None = None,
    samples: float | None = None,
    reason: str = "",
) -> TrialSummary:
    """What people see of a trial, from how it ran and what it was judged to be.

    Args:
        number: Its number in the study.
        role: Why it was run.
        run: How it went.
        verdict: What became of it.
        seconds: Seconds of training to the target; None where it was not reached.
        samples: Samples to the target; None where it was not reached.
        reason: Why it ended early, in words; the run's own where empty.
    """
    return TrialSummary(
        number=number,
        role=role,
        batch_size=run.layout.micro,
        accumulate_grad_batches=run.layout.accumulate,
        global_batch_size=run.request.global_batch_size,
        lr=run.request.lr,
        verdict=verdict,
        metric=run.marks[-1].metric if run.marks else None,
        samples=run.samples if samples is None else round(samples),
        seconds=seconds,
        samples_per_second=run.samples_per_second,
        steps=run.steps,
        peak_bytes=run.peak_bytes,
        reason=reason or run.reason,
        curve=run.marks,
    )


def trained_seconds(run: TrialRun) -> float:
    """Seconds of training that a run took, at its steady throughput."""
    if run.samples_per_second:
        return run.samples / run.samples_per_second
    return run.marks[-1].seconds if run.marks else 0.0


@dataclass(frozen=True)
class Record:
    """A trial of the study that has ended with an answer.

    Args:
        summary: The trial as people see it.
        value: What Optuna was told, a number per objective; empty for a pruned trial.
        params: Its parameters.
        seconds_trained: Seconds of training it took.
        promise: The share of the best time that it was expected to save; None where its sampler did not tell.
    """

    summary: TrialSummary
    value: tuple[float, ...]
    params: dict[str, Any]
    seconds_trained: float
    promise: float | None = None

    @classmethod
    def of(cls, trial: FrozenTrial) -> Record:
        """Rebuild it from the study."""
        attrs = trial.user_attrs
        peak = attrs.get("peak_memory_gib")
        summary = TrialSummary(
            number=trial.number,
            role=role_of(trial),
            batch_size=attrs["batch_size"],
            accumulate_grad_batches=attrs["accumulate_grad_batches"],
            global_batch_size=attrs["effective_batch_size"],
            lr=attrs["lr"],
            verdict=attrs["verdict"],
            metric=attrs.get("metric"),
            samples=attrs.get("samples_to_target", attrs["samples_seen"]),
            seconds=attrs.get("seconds_to_target"),
            samples_per_second=attrs.get("samples_per_second"),
            steps=attrs["steps"],
            peak_bytes=None if peak is None else round(peak * GIB),
            reason=attrs["reason"],
            curve=tuple(Mark(*mark) for mark in read_system_attrs(trial).get("curve", ())),
        )
        value = tuple(trial.values or ()) if trial.state == TrialState.COMPLETE else ()
        return cls(summary, value, dict(trial.params), attrs["seconds_trained"], attrs.get("expected_gain"))


class Confirmation(NamedTuple):
    """How a winner did beside the baseline, with another order of the data.

    Args:
        holds: Whether it was ahead again.
        runs: The two runs, the baseline's first.
        seconds_trained: Seconds of training that they took.
        value: The winner's, as Optuna is told; None where it has none.
    """

    holds: bool
    runs: tuple[TrialSummary, ...]
    seconds_trained: float
    value: float | None

    @classmethod
    def of(cls, trial: FrozenTrial) -> Confirmation:
        """Read it from the trial that claimed it."""
        stored, told = trial.user_attrs, read_system_attrs(trial)["confirmation"]
        runs = tuple(TrialSummary(**{**run, "curve": tuple(Mark(*mark) for mark in run["curve"])}) for run in told)
        return cls(bool(stored["confirmed"]), runs, stored["seconds_trained"], trial.value)


class StudyView:
    """A study as it is now, read once.

    Args:
        trials: All its trials.
        objective: What is optimized.
        mode: "min" where less of the monitored metric is better, "max" where more is.
    """

    def __init__(self, trials: Sequence[FrozenTrial], objective: Objective, mode: Mode) -> None:
        self.trials = trials
        self.objective = objective
        self.mode: Mode = mode

    @classmethod
    def read(cls, study: Study, objective: Objective, mode: Mode) -> StudyView:
        """Read a study. What failed (by an error, an interrupt or the end of its process) is left out of it."""
        return cls(study.get_trials(deepcopy=False), objective, mode)

    def in_state(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in one of these states, in order."""
        return [trial for trial in self.trials if trial.state in states]

    @cached_property
    def records(self) -> list[Record]:
        """Every trial that ended with an answer, in order, without those that confirm a winner.

        A trial without a verdict was told by somebody else, for example added by hand; it says nothing here.
        """
        ended = self.in_state(TrialState.COMPLETE, TrialState.PRUNED)
        return [Record.of(trial) for trial in ended if role_of(trial) != "confirm" and "verdict" in trial.user_attrs]

    @cached_property
    def baseline(self) -> Record | None:
        """The trial that has set the target: the user's own settings, if need be at a rate at which they train."""
        return next((record for record in self.records if record.summary.verdict == "baseline"), None)

    @cached_property
    def confirmations(self) -> dict[int, Confirmation]:
        """How each winner that was tried once more did, by its number."""
        ended = self.in_state(TrialState.COMPLETE, TrialState.PRUNED)
        return {
            trial.user_attrs["confirms"]: Confirmation.of(trial)
            for trial in ended
            if role_of(trial) == "confirm" and "confirmed" in trial.user_attrs
        }

    @cached_property
    def paces(self) -> dict[int, float]:
        """Seconds of training per sample, by global batch size: the best reading, as what disturbs one slows it."""
        again = (run for confirmation in self.confirmations.values() for run in confirmation.runs)
        paces: dict[int, float] = {}
        for run in (*(record.summary for record in self.records), *again):
            if run.samples_per_second:
                size = run.global_batch_size
                paces[size] = min(1 / run.samples_per_second, paces.get(size, math.inf))
        return paces

    @property
    def seconds_trained(self) -> float:
        """Seconds of training that all trials took, confirmations included, at the paces of their batch sizes.

        Not by the clock of each: what the first of them has warmed up the fit would have had to warm up itself.
        """

        def warm(summary: TrialSummary, seconds: float) -> float:
            pace = self.paces.get(summary.global_batch_size)
            return seconds * summary.samples_per_second * pace if summary.samples_per_second and pace else seconds

        once = sum(warm(record.summary, record.seconds_trained) for record in self.records)
        again = (run for confirmation in self.confirmations.values() for run in confirmation.runs)
        return once + sum(warm(run, run.curve[-1].seconds) for run in again if run.curve)

    def without(self, number: int) -> StudyView:
        """The study as the trial of this number finds it, which has begun but says nothing yet."""
        return StudyView([trial for trial in self.trials if trial.number != number], self.objective, self.mode)

    def with_record(self, record: Record) -> StudyView:
        """The study as it will be with one more trial, which has ended but is not told yet."""
        view = StudyView(self.trials, self.objective, self.mode)
        view.__dict__.update(records=[*self.records, record], confirmations=self.confirmations)
        return view

    @property
    def target(self) -> float:
        """The metric to reach: the baseline's at the end of its budget."""
        assert self.baseline is not None
        assert self.baseline.summary.metric is not None
        return self.baseline.summary.metric
