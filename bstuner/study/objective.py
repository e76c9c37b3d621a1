"""What a trial is judged by: the seconds it needs to the user's own quality and beyond, its quality, or both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bstuner.core import Mark, Mode, Objective, TrialRun, Verdict, metric_at, samples_to_target
from bstuner.study.bar import Bar, is_whole
from bstuner.study.curve_ratio import curve_ratio
from bstuner.study.record import Record, StudyView

__all__ = [
    "BaselineJudge",
    "EdgeJudge",
    "Judge",
    "Judgement",
    "QualityJudge",
    "TimeJudge",
    "best_metric",
    "directions",
    "to_target",
]

# Clearly behind: from this share of the best time on, a curve that took longer than the best one to the same metric. At
# the start it would have to take twice as long, at the end any longer. Curves cross, most of all early, so what is
# early has to be far behind. The same in samples beside the baseline, whose samples are all that a trial has.
_JUDGED_FROM = 0.25
# A neighbour at the edge is stopped where it is so many doublings behind, from this share of the budget on.
_EDGE_LOST, _EDGE_JUDGED_FROM = 2.0, 0.25


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
    """Stops a trial once it cannot be expected to reach the bar about as soon as the best.

    Who reaches it goes on to its end, which may raise the bar.

    Args:
        view: The study as the trial begins, with its baseline.
        allowance: Seconds of training that the trial may take.
    """

    view: StudyView
    allowance: float
    _marks: list[Mark] = field(default_factory=list)
    _reason: str = ""
    _behind: bool = False

    def __post_init__(self) -> None:
        """Look up once what every validation is compared with."""
        bar = Bar.of(self.view)
        whole = [record for record in self.view.records if is_whole(record, bar.own)]
        best = min(whole, key=bar.seconds)
        self._level, self._own, self._best, self._best_seconds = bar.level, bar.own, best, bar.seconds(best)
        self._best_samples = bar.reach(best).samples

    def watch(self, mark: Mark) -> bool:
        """Go on while the bar is within reach."""
        self._marks.append(mark)
        mode, share = self.view.mode, mark.seconds / self._best_seconds
        sign = 1 if mode == "min" else -1
        if mark.seconds > self.allowance:
            self._reason = f"stopped after {mark.seconds:.3g} s, all that the search could still spend on it"
        elif any(sign * seen.metric <= sign * self._level for seen in self._marks):
            return True
        elif _clearly(in_time := self._pace_in_time(mark), share):
            self._behind = True
            self._reason = f"took {in_time:.1f} times as long as the best trial to the same metric"
        else:
            curve = self._own.summary.curve
            in_samples = curve_ratio(self._marks, curve, mode) or 0.0
            if _clearly(in_samples, mark.samples / curve[-1].samples):
                self._behind = True
                self._reason = f"took {in_samples:.1f} times as many samples as the baseline to the same metric"
        return not self._reason

    def judge(self, run: TrialRun) -> Judgement:
        """Tell its time to the target. What it is told for is fixed: it does not depend on where the bar is."""
        assert self.view.baseline is not None
        samples, seconds = to_target(run, self.view.target, self.view.mode)
        # A win that is not confirmed may not hold. The user's own settings would then have to follow, so they count on
        # top: until a win is confirmed, these are the best of the study.
        own = self.view.baseline.value[0]
        values = () if seconds is None else (seconds + own,)
        if run.ending == "finished":
            missed = "" if seconds is not None else "the target was not reached within the budget"
            return Judgement("not reached" if missed else "reached", values, seconds, samples, missed)
        return Judgement("behind" if self._behind else "slower", values, seconds, samples, self._reason)

    def _pace_in_time(self, mark: Mark) -> float:
        """How many times as long as the best trial this one took to where it is."""
        samples = curve_ratio(self._marks, self._best.summary.curve, self.view.mode) or 0.0
        if not mark.seconds:
            return 0.0  # not known yet
        return samples * (mark.seconds / mark.samples) / (self._best_seconds / self._best_samples)


@dataclass
class EdgeJudge:
    """Runs the neighbour of a candidate to its end, unless one above it is hopelessly behind before.

    Args:
        view: The study as the trial begins, with its baseline.
        candidate: The trial that it is the neighbour of.
        above: Whether it is the neighbour at a higher learning rate. One at a lower rate is slow at first, and may end
            best.
        allowance: Seconds of training that the trial may take.
    """

    view: StudyView
    candidate: Record
    above: bool
    allowance: float
    _reason: str = ""

    def watch(self, mark: Mark) -> bool:
        """Go on while it is not hopelessly behind."""
        bar, curve = Bar.of(self.view), self.candidate.summary.curve
        behind = bar.doublings(mark.metric - metric_at(curve, mark.samples))
        if mark.seconds > self.allowance:
            self._reason = f"stopped after {mark.seconds:.3g} s, all that the search could still spend on it"
        elif self.above and mark.samples >= _EDGE_JUDGED_FROM * curve[-1].samples and behind > _EDGE_LOST:
            self._reason = f"far behind trial {self.candidate.summary.number}, whose neighbour it is"
        return not self._reason

    def judge(self, run: TrialRun) -> Judgement:
        """As any other trial."""
        judge: Judge = (
            TimeJudge(self.view, self.allowance)
            if self.view.objective == "time"
            else QualityJudge(self.view, self.allowance)
        )
        judgement = judge.judge(run)
        return judgement if run.ending == "finished" else judgement._replace(verdict="behind", reason=self._reason)


@dataclass
class QualityJudge:
    """Every trial trains for its whole budget, and its best metric counts, beside its time where both do.

    Args:
        view: The study as the trial begins, with its baseline.
        allowance: Seconds of training that the trial may take.
    """

    view: StudyView
    allowance: float

    def watch(self, mark: Mark) -> bool:
        """Only whole budgets compare, so what it may cost alone stops it. A pruner may, too."""
        return mark.seconds <= self.allowance

    def judge(self, run: TrialRun) -> Judgement:
        """Tell its quality."""
        samples, seconds = to_target(run, self.view.target, self.view.mode)
        if run.ending != "finished":
            spent = f"stopped after {run.marks[-1].seconds:.3g} s, all that the search could still spend on it"
            return Judgement("behind", (), seconds, samples, spent)
        values = _quality(run, self.view.objective, self.view.mode)
        return Judgement("not reached" if seconds is None else "reached", values, seconds, samples)


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
