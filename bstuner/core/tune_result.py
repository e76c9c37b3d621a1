"""What a search for batch size and learning rate found: plain numbers and words, ready to print or to store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

from bstuner.core.find_result import FindResult
from bstuner.core.scaling import Rule
from bstuner.core.trial import Mark, Mode, TrialRequest

__all__ = ["Objective", "Role", "SilentObserver", "TrialSummary", "TuneResult", "TuningObserver", "Verdict"]

Objective = Literal["time", "metric", "both"]
Role = Literal["baseline", "first", "search", "edge", "confirm baseline", "confirm"]
Verdict = Literal["baseline", "best", "reached", "slower", "behind", "not reached", "out of memory", "not finite"]


@dataclass(frozen=True)
class TrialSummary:
    """One trial as people see it.

    Args:
        number: Its number in the study; None for the runs that confirm the winner, which are not part of it.
        role: Why it was run.
        batch_size: Samples per device and forward pass.
        accumulate_grad_batches: Batches per optimizer step.
        global_batch_size: Samples per optimizer step, over all processes.
        lr: The learning rate that was used.
        verdict: What became of it. "best": ahead of all others when it ended. "reached": it reached the target, and
            was not. "slower": stopped when it had not reached the bar in the time of the best. "behind": stopped
            because it was clearly behind.
        metric: Its last metric; None if there was none.
        samples: Samples to the target where it was reached, else all it trained on.
        seconds: Seconds of training to the target; None where it was not reached.
        samples_per_second: Steady throughput; None if too short to tell.
        steps: Optimizer steps taken.
        peak_bytes: Most bytes of device memory in use at once; None where that was not measured.
        reason: Why it ended early, in words.
        curve: Its validations.
    """

    number: int | None
    role: Role
    batch_size: int
    accumulate_grad_batches: int
    global_batch_size: int
    lr: float
    verdict: Verdict
    metric: float | None = None
    samples: int = 0
    seconds: float | None = None
    samples_per_second: float | None = None
    steps: int = 0
    peak_bytes: int | None = None
    reason: str = ""
    curve: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class TuneResult:
    """The batch size and learning rate that reach the user's own quality soonest, and everything seen on the way.

    Args:
        baseline: The trial of the user's own settings, which sets the target.
        best: The best trial; the baseline's own where nothing better was found.
        trials: Every trial of the study that has ended, in order.
        monitor: The metric.
        mode: "min" where less of it is better, "max" where more is.
        objective: "time", "metric" or "both".
        target: The metric to reach: the baseline's at the end of its budget.
        bar: The metric that trials were ranked by: the target, raised towards the best end of a trial.
        budget: Samples of a whole trial.
        rule: How the learning rate follows the batch size.
        reference_lr: The learning rate that the user's own code asks for.
        lr_holder: Where that lives, in words.
        study_name: The study's name.
        storage: Where the study is kept, without password.
        speedup: How many times sooner the best may be expected to reach, in a whole fit, what the user's own settings
            reach there; 1.0 where those are the best. None for another objective than time.
        speedup_interval: From what to what that is likely to be; None where nothing was confirmed.
        as_good: The trials that cannot be told apart from the best.
        at_edge: The trials ahead of it that a higher learning rate shows to sit at the edge.
        cost: Seconds of training that all trials took, in units of the baseline's.
        share_of_fit: Seconds of training that the search took, over those of the fit with the user's own settings; None
            where the length of the fit is not known.
        stopped: Why the search ended, in words.
        confirmed: Whether the best was ahead of the baseline on other data orders too; None where it was not tried.
        confirmation: Those two runs.
        find: What the search for the largest batch found.
        set_values: What else was set beside batch size and learning rate, in words.
        by_hand: What was not put in place because only the user's code can say it, in words.
        warmup: The `samples` and `start_factor` of the `LearningRateWarmup` that belongs to it; None for none.
        warnings: What else the user should know.
        seconds: How long the whole search took, validation and all.
    """

    baseline: TrialSummary
    best: TrialSummary
    trials: tuple[TrialSummary, ...]
    monitor: str
    mode: Mode
    objective: Objective
    target: float
    bar: float
    budget: int
    rule: Rule
    reference_lr: float
    study_name: str
    storage: str
    speedup: float | None
    cost: float
    stopped: str
    confirmed: bool | None = None
    confirmation: tuple[TrialSummary, ...] = ()
    speedup_interval: tuple[float, float] | None = None
    as_good: tuple[TrialSummary, ...] = ()
    at_edge: tuple[TrialSummary, ...] = ()
    share_of_fit: float | None = None
    find: FindResult | None = None
    lr_holder: str = "lr"
    set_values: tuple[str, ...] = field(default=())
    by_hand: tuple[str, ...] = field(default=())
    warmup: tuple[int, float] | None = None
    warnings: tuple[str, ...] = field(default=())
    seconds: float = 0.0

    @property
    def answer(self) -> TrialSummary:
        """The settings to train with, the best or, where its win did not hold on another seed, the user's own."""
        return self.baseline if self.confirmed is False else self.best

    @property
    def batch_size(self) -> int:
        """Samples per device and forward pass of the answer."""
        return self.answer.batch_size

    @property
    def lr(self) -> float:
        """The learning rate of the answer."""
        return self.answer.lr

    def with_settings(self, changed: Sequence[str], warnings: Sequence[str]) -> TuneResult:
        """The same, with what was set beside batch size and learning rate, and what to know of that."""
        new = [warning for warning in warnings if warning not in self.warnings]
        return replace(self, set_values=tuple(changed), warnings=(*self.warnings, *new))

    @property
    def pareto_front(self) -> tuple[TrialSummary, ...]:
        """Of the trials that ran their whole budget, those that no other beats in both metric and throughput."""
        sign = 1 if self.mode == "min" else -1
        # By their curves: the samples of a trial that reached the target early are those it took to get there.
        whole = [t for t in self.trials if t.samples_per_second and t.curve and t.curve[-1].samples >= self.budget]

        def beaten(trial: TrialSummary) -> bool:
            mine = (sign * (trial.metric or 0.0), -(trial.samples_per_second or 0.0))
            others = ((sign * (t.metric or 0.0), -(t.samples_per_second or 0.0)) for t in whole if t is not trial)
            return any(o[0] <= mine[0] and o[1] <= mine[1] and o != mine for o in others)

        return tuple(trial for trial in whole if not beaten(trial))

    def as_dict(self) -> dict[str, Any]:
        """The result as plain types, as written to `bstuner-result.json`."""
        found = self.find.as_dict() if self.find else {}

        def shown(trial: TrialSummary) -> dict[str, Any]:
            told = asdict(trial)
            told["curve"] = [{"samples": mark.samples, "metric": mark.metric} for mark in trial.curve]
            return told

        return {
            **found,
            "batch_size": self.answer.batch_size,
            "accumulate_grad_batches": self.answer.accumulate_grad_batches,
            "global_batch_size": self.answer.global_batch_size,
            "lr": self.answer.lr,
            "baseline": shown(self.baseline),
            "best": shown(self.best),
            "speedup": self.speedup,
            "speedup_interval": None if self.speedup_interval is None else list(self.speedup_interval),
            "as_good": [trial.number for trial in self.as_good],
            "at_edge": [trial.number for trial in self.at_edge],
            "n_trials": len(self.trials),
            "trials": [shown(trial) for trial in self.trials],
            "monitor": self.monitor,
            "mode": self.mode,
            "objective": self.objective,
            "target": self.target,
            "bar": self.bar,
            "trial_budget_samples": self.budget,
            "scaling_rule": self.rule,
            "reference_lr": self.reference_lr,
            "lr_holder": self.lr_holder,
            "cost_in_baselines": self.cost,
            "share_of_fit": self.share_of_fit,
            "stopped": self.stopped,
            "confirmed": self.confirmed,
            "confirmation": [shown(trial) for trial in self.confirmation],
            "study_name": self.study_name,
            "storage": self.storage,
            "set_values": list(self.set_values),
            "by_hand": list(self.by_hand),
            "warmup": dict(zip(("samples", "start_factor"), self.warmup, strict=True)) if self.warmup else None,
            "warnings": [*found.get("warnings", []), *self.warnings],
            "tune_seconds": self.seconds,
        }


class TuningObserver(Protocol):
    """Hears how the search goes on, to show it."""

    def trial_started(self, number: int | None, role: Role, request: TrialRequest) -> None:
        """A trial is about to run."""

    def trial_marked(self, mark: Mark) -> None:
        """The trial that runs was validated."""

    def trial_ended(self, trial: TrialSummary) -> None:
        """A trial has ended."""

    def waiting(self, reason: str) -> None:
        """Another worker has to finish something first."""


class SilentObserver:
    """Shows nothing."""

    def trial_started(self, number: int | None, role: Role, request: TrialRequest) -> None:
        """Say nothing."""

    def trial_marked(self, mark: Mark) -> None:
        """Say nothing."""

    def trial_ended(self, trial: TrialSummary) -> None:
        """Say nothing."""

    def waiting(self, reason: str) -> None:
        """Say nothing."""
