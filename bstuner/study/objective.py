"""What a trial is judged by: the seconds it needs to the user's own quality, its quality at equal samples, or both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bstuner.core import Mark, Mode, Objective, TrialRun, Verdict, samples_to_target
from bstuner.study.curve_ratio import curve_ratio
from bstuner.study.record import Record

__all__ = ["BaselineJudge", "Judge", "Judgement", "QualityJudge", "TimeJudge", "best_metric", "directions", "to_target"]

# Clearly behind: from this share of the best time on, a curve that took longer than the best one to the same metric. At
# the start it would have to take twice as long, at the end any longer. Curves cross, most of all early, so what is
# early has to be far behind. The same in samples beside the baseline, whose samples are all that a trial has.
_JUDGED_FROM = 0.25


def _clearly(behind: float, share: float) -> bool:
    """Whether a trial that has used this share of what it has is too far behind to make up for it."""
    return share >= _JUDGED_FROM and behind >= 2 - share


class Judgement(NamedTuple):
    """What became of a trial.

    Args:
        verdict: In a word.
        values: What Optuna is told, a number per objective; empty for a pruned trial.
        seconds: Seconds of training to the target; None where it was not reached.
        samples: Samples to the target; None where it was not reached.
        reason: Why it was stopped, in words.
    """

    verdict: Verdict
    values: tuple[float, ...] = ()
    seconds: float | None = None
    samples: float | None = None
    reason: str = ""


class Judge(Protocol):
    """Watches one trial, then judges it."""

    def watch(self, mark: Mark) -> bool:
        """Hear of a validation; False stops the trial."""

    def judge(self, run: TrialRun) -> Judgement:
        """Judge the whole run. It has a validation, and neither ran out of memory nor left the finite numbers."""


def directions(objective: Objective, mode: Mode) -> list[str]:
    """The directions of a study, as `optuna.create_study` takes them.

    >>> directions("time", "max"), directions("metric", "max"), directions("both", "min")
    (['minimize'], ['maximize'], ['minimize', 'minimize'])

    Args:
        objective: "time": seconds to the target. "metric": the monitored metric. "both": the metric, then the seconds
            that the whole budget takes.
        mode: "min" where less of the metric is better, "max" where more is.
    """
    metric = "minimize" if mode == "min" else "maximize"
    return {"time": ["minimize"], "metric": [metric], "both": [metric, "minimize"]}[objective]


@dataclass
class BaselineJudge:
    """The user's own settings run to the end of the budget, whatever comes."""

    objective: Objective
    mode: Mode

    def watch(self, mark: Mark) -> bool:
        """Never stop it."""
        return True

    def judge(self, run: TrialRun) -> Judgement:
        """Its last metric is the target, which it may have reached before."""
        target = run.marks[-1].metric
        samples, seconds = to_target(run, target, self.mode)
        values = _quality(run, self.objective, self.mode) if self.objective != "time" else (seconds or 0.0,)
        return Judgement("baseline", values, seconds, samples)


@dataclass
class TimeJudge:
    """Stops a trial once it has reached the target, or cannot be expected to do so sooner than the best.

    Args:
        target: The metric to reach.
        mode: "min" where less of it is better, "max" where more is.
        best: The fastest trial so far.
        baseline: The trial that set the target.
    """

    target: float
    mode: Mode
    best: Record
    baseline: Record
    _marks: list[Mark] = field(default_factory=list)
    _behind: str = ""

    def watch(self, mark: Mark) -> bool:
        """Go on while the target is neither reached nor out of reach."""
        self._marks.append(mark)
        sign = 1 if self.mode == "min" else -1
        if sign * mark.metric <= sign * self.target:
            return False
        share = mark.seconds / self._best_seconds
        if share >= 1:
            return False
        in_time, in_samples = (
            self._pace_in_time(mark),
            curve_ratio(self._marks, self.baseline.summary.curve, self.mode) or 0.0,
        )
        if _clearly(in_time, share):
            self._behind = f"took {in_time:.1f} times as long as the best trial to the same metric"
        elif _clearly(in_samples, mark.samples / self.baseline.summary.curve[-1].samples):
            self._behind = f"took {in_samples:.1f} times as many samples as the baseline to the same metric"
        return not self._behind

    def judge(self, run: TrialRun) -> Judgement:
        """Compare its time to the target with the best."""
        samples, seconds = to_target(run, self.target, self.mode)
        if seconds is not None:
            return Judgement("best" if seconds < self._best_seconds else "slower", (seconds,), seconds, samples)
        if self._behind:
            return Judgement("behind", reason=self._behind)
        if run.ending == "finished":
            return Judgement("not reached", reason="the target was not reached within the budget")
        return Judgement("slower", reason=f"the target was not reached in the best time, {self._best_seconds:.3g} s")

    def _pace_in_time(self, mark: Mark) -> float:
        """How many times as long as the best trial this one took to where it is."""
        samples = curve_ratio(self._marks, self.best.summary.curve, self.mode) or 0.0
        if not mark.seconds:
            return 0.0  # not known yet
        return samples * (mark.seconds / mark.samples) / (self._best_seconds / self.best.summary.samples)

    @property
    def _best_seconds(self) -> float:
        assert self.best.summary.seconds is not None
        return self.best.summary.seconds


@dataclass
class QualityJudge:
    """Every trial trains for its whole budget, and its best metric counts, beside its time where both do.

    Args:
        objective: "metric" or "both".
        target: The baseline's last metric.
        mode: "min" where less of it is better, "max" where more is.
        best: The best trial so far.
    """

    objective: Objective
    target: float
    mode: Mode
    best: Record

    def watch(self, mark: Mark) -> bool:
        """Never stop it: only whole budgets compare. A pruner may."""
        return True

    def judge(self, run: TrialRun) -> Judgement:
        """Compare its quality with the best."""
        samples, seconds = to_target(run, self.target, self.mode)
        if run.ending != "finished":
            return Judgement("behind", (), seconds, samples)
        values = _quality(run, self.objective, self.mode)
        sign = 1 if self.mode == "min" else -1
        verdict: Verdict = "not reached" if seconds is None else "reached"
        if self.objective == "metric" and sign * values[0] < sign * self.best.value[0]:
            verdict = "best"
        return Judgement(verdict, values, seconds, samples)


def to_target(run: TrialRun, target: float, mode: Mode) -> tuple[float | None, float | None]:
    """Samples and seconds of a run to the target; None where it never got there."""
    samples = samples_to_target([(mark.samples, mark.metric) for mark in run.marks], target, mode)
    return samples, run.seconds_to_target(target, mode)


def best_metric(run: TrialRun, mode: Mode) -> float:
    """The best metric of a run that was validated."""
    return (min if mode == "min" else max)(mark.metric for mark in run.marks)


def _quality(run: TrialRun, objective: Objective, mode: Mode) -> tuple[float, ...]:
    """The best metric of a whole budget, and for two objectives the seconds that the budget took."""
    best = best_metric(run, mode)
    seconds = run.samples / run.samples_per_second if run.samples_per_second else run.marks[-1].seconds
    return (best,) if objective == "metric" else (best, seconds)
