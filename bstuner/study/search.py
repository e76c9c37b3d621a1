"""The search: ask for settings, run a trial, judge it, tell; until nothing better is being found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from optuna import Study
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import Trial, TrialState

from bstuner.core import (
    Mark,
    Role,
    SilentObserver,
    TrialRequest,
    TrialRun,
    TrialRunner,
    TuneResult,
    TuningObserver,
    Watch,
)
from bstuner.errors import BaselineFailed, InvalidSetting
from bstuner.study.confirm import confirm, confirms, keep
from bstuner.study.next_step import Answer, ToRun, next_step
from bstuner.study.objective import BaselineJudge, EdgeJudge, Judge, Judgement, QualityJudge, TimeJudge
from bstuner.study.pace_sampler import PaceSampler
from bstuner.study.purse import FitLength, Purse
from bstuner.study.ranking import Ranking
from bstuner.study.record import Record, StudyView, role_of, summarize, trained_seconds, write_request, write_summary
from bstuner.study.reporter import Reporter
from bstuner.study.result import result_of
from bstuner.study.settings import TuneSettings
from bstuner.study.space import BASE_LR, LOG2_BATCH_RATIO, SearchSpace
from bstuner.study.stopping import baseline_trouble, lowered, refuse_baseline, stop_reason
from bstuner.study.tell import give_up, tell, tell_pruned
from bstuner.study.workers import LoneWorker, StudyWorker

__all__ = ["tune"]

_POLL_SECONDS = 2.0


def tune(
    runner: TrialRunner,
    space: SearchSpace,
    settings: TuneSettings,
    study: Study,
    *,
    worker: StudyWorker | None = None,
    observer: TuningObserver | None = None,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    step_seconds: Mapping[int, float] | None = None,
    fit: FitLength | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TuneResult:
    """Search a study for the batch size and learning rate that serve best, or go on with a search that was begun.

    All that is known lies in the study: a search that was interrupted goes on where it was, and several processes with
    the same study share one search. With a seed, the same curves and step times give the same study.

    Args:
        runner: Runs the trials.
        space: The settings to choose from.
        settings: How the search is to go.
        study: The study; its directions are `directions(objective, mode)`.
        worker: Tells which trials of other processes live, and frees those of dead ones; None for a process alone.
        observer: Hears how the search goes on.
        sampler: Any Optuna sampler; None for the one that knows how training time follows batch size and learning rate.
        pruner: Any Optuna pruner, on the samples of the runner's marks; None for none but the objective's own cut-offs.
        step_seconds: Seconds of an optimizer step at some global batch sizes, where they were measured before.
        fit: How long the fit is that the search is for: `max_cost` is a share of it. None where it has no end.
        clock: Seconds, for `timeout` and the duration told in the result.

    Returns:
        The result. Its `storage`, `find`, `set_values` and `warnings` are the caller's to fill.

    Raises:
        BaselineFailed: The user's own settings ran out of memory, diverged, or gave no metric.
        InvalidSetting: A pruner with two objectives.
    """
    if pruner is not None and settings.objective == "both":
        raise InvalidSetting(
            "pruner: expected none with objective='both', where only whole trials compare, found "
            f"{type(pruner).__name__}; leave it out, or choose objective='time' or 'metric'."
        )
    search = _Search(
        runner,
        space,
        settings,
        study,
        worker or LoneWorker(),
        observer or SilentObserver(),
        step_seconds or {},
        fit or FitLength(),
        clock,
    )
    study.sampler = sampler or search.default_sampler()
    study.pruner = pruner or NopPruner()
    return search.run()


class _Search:
    """One process's part in the search."""

    def __init__(
        self,
        runner: TrialRunner,
        space: SearchSpace,
        settings: TuneSettings,
        study: Study,
        worker: StudyWorker,
        observer: TuningObserver,
        step_seconds: Mapping[int, float],
        fit: FitLength,
        clock: Callable[[], float],
    ) -> None:
        self.runner = runner
        self.space = space
        self.settings = settings
        self.study = study
        self.worker = worker
        self.observer = observer
        self.step_seconds = step_seconds
        self.fit = fit
        self.clock = clock
        self.started = clock()

    def default_sampler(self) -> BaseSampler:
        """bstuner's own for time; else Optuna's, which must not draw again what it drew before it was stopped."""
        if self.settings.objective == "time":
            return PaceSampler(self.space, self.settings.mode, self.step_seconds, self.settings.seed, self._affords)
        begun = len(self.study.get_trials(deepcopy=False))
        return TPESampler(seed=None if self.settings.seed is None else self.settings.seed + begun)

    def _affords(self, view: StudyView, batch_size: int) -> bool:
        candidate = next((r.summary.global_batch_size for r in self._ranking(view).candidates), None)
        return self._purse(view).affords(batch_size, candidate)

    def run(self) -> TuneResult:
        """Take part until the search has ended, for everybody."""
        while True:
            self.worker.reap()
            view = self._view()
            others = [trial.number for trial in view.in_state(TrialState.RUNNING) if self.worker.alive(trial)]
            if view.baseline is None:
                if any(role_of(trial) == "baseline" for trial in view.trials if trial.number in others):
                    self._wait("the baseline, which another worker runs")
                    continue
                if not any(role_of(trial) == "baseline" for trial in view.in_state(TrialState.WAITING)):
                    self.study.enqueue_trial(self._next_baseline(view), user_attrs={"role": "baseline"})
                self._next_trial()
                continue
            ranking, purse = self._ranking(view), self._purse(view)
            reason = stop_reason(ranking, self.settings, purse, len(others), self.clock() - self.started)
            if reason and others:
                self._wait(f"trial {others[0]}, which another worker runs")
                continue
            if reason:
                step = next_step(ranking, self.settings, self.space, purse)
                if isinstance(step, Answer):
                    return self._result(ranking, purse, step, reason)
                self._claim(view, step)
            self._next_trial()

    def _view(self, without: int | None = None) -> StudyView:
        """The study as it is now, without the trial that is about to run."""
        view = StudyView.read(self.study, self.settings.objective, self.settings.mode)
        return view if without is None else view.without(without)

    def _ranking(self, view: StudyView) -> Ranking:
        return Ranking(view, "time" if self.settings.objective == "time" else "metric")

    def _purse(self, view: StudyView) -> Purse:
        return Purse(view, self.space, self.runner.budget, self.settings.max_cost, self.fit, self.step_seconds)

    def _next_baseline(self, view: StudyView) -> dict[str, Any]:
        """The user's own settings, or where those did not train, the next lower learning rate."""
        failed = [record.params for record in view.records if record.summary.role == "baseline"]
        if not failed:
            return self.space.baseline
        lowest = min(failed, key=lambda params: float(params[BASE_LR]))
        return lowered(lowest, self.space) or lowest

    def _claim(self, view: StudyView, step: ToRun) -> None:
        """Put what has to run in the study's queue, from where only one process can take it."""
        about = "confirms" if step.role == "confirm" else "edge_of"
        waiting = (trial.user_attrs for trial in view.in_state(TrialState.WAITING))
        if not any(attrs.get("role") == step.role and attrs.get(about) == step.of for attrs in waiting):
            self.study.enqueue_trial(step.params, user_attrs={"role": step.role, about: step.of})

    def _wait(self, reason: str) -> None:
        self.observer.waiting(reason)
        self.runner.wait(_POLL_SECONDS)

    def _next_trial(self) -> None:
        """Ask for a trial and see it through, whatever happens."""
        trial = self.study.ask(self.space.distributions)
        if not self.worker.own(trial):
            return
        role = role_of(trial)
        view = self._view(without=trial.number)
        try:
            if role == "confirm":
                self._run_confirmation(trial, view)
            elif role == "baseline":
                self._run_baseline(trial, view)
            elif view.baseline is None:  # asked for before the baseline was lost
                give_up(self.study, trial, "put back: there is no baseline yet", again=True)
            elif role != "edge" and self._begun_before(trial, view) >= self.settings.n_trials:
                give_up(self.study, trial, "another worker began the last trial")
            else:
                self._run_trial(trial, view)
        except BaselineFailed as error:
            give_up(self.study, trial, str(error))
            raise
        except Exception as error:
            if self._taken_away(trial):
                return
            give_up(self.study, trial, f"{type(error).__name__}: {error}")
            raise
        except BaseException:  # an interrupt, or the end of the process
            give_up(self.study, trial, "interrupted", again=True)
            raise

    def _begun_before(self, trial: Trial, view: StudyView) -> int:
        """How many trials with an answer, or of workers that live, came first: several may have asked at once."""
        ended = sum(
            record.summary.role != "edge" for record in view.records if (record.summary.number or 0) < trial.number
        )
        running = (other for other in view.in_state(TrialState.RUNNING) if other.number < trial.number)
        return ended + sum(role_of(other) not in ("edge", "confirm") and self.worker.alive(other) for other in running)

    def _taken_away(self, trial: Trial) -> bool:
        """Whether another worker took this one for dead, gave its trial up and put the settings back."""
        stored = self.study.get_trials(deepcopy=False)[trial.number]
        return stored.state.is_finished() and stored.user_attrs.get("outcome") == "lost"

    def _run_baseline(self, trial: Trial, view: StudyView) -> None:
        """Run the user's own settings, unless another worker was first, or where those do not train, lower ones."""
        for other in view.trials[: trial.number]:
            ended = other.state.is_finished() and other.params == trial.params and "verdict" in other.user_attrs
            runs = other.state == TrialState.RUNNING and self.worker.alive(other)
            if role_of(other) == "baseline" and (ended or runs or other.user_attrs.get("verdict") == "baseline"):
                give_up(self.study, trial, f"trial {other.number} is the baseline already")
                return
        judge = BaselineJudge(self.settings.objective, self.settings.mode)
        run = self._watched(trial, judge, self._reporter(trial, prunes=False))
        trouble = baseline_trouble(run, self.settings)
        if trouble is not None and lowered(trial.params, self.space) is not None:
            self._conclude(trial, run, Judgement(trouble, reason="these settings do not train"))
            return
        refuse_baseline(run, self.settings, self.runner.budget, self.space.reference_lr)
        self._conclude(trial, run, judge.judge(run))

    def _run_trial(self, trial: Trial, view: StudyView) -> None:
        """Run settings that may be better, or the neighbour of some that are."""
        ranking, purse = self._ranking(view), self._purse(view)
        size = self.space.batch_size(trial.params[LOG2_BATCH_RATIO])
        first = next(iter(ranking.candidates), None)
        of = trial.user_attrs.get("edge_of")
        beside = next((record for record in view.records if record.summary.number == of), None)
        judge: Judge
        if beside is not None:
            judge = EdgeJudge(
                view, beside, trial.params[BASE_LR] > beside.params[BASE_LR], purse.left - purse.for_confirmation(size)
            )
        else:
            allowance = purse.for_trial(size, None if first is None else first.summary.global_batch_size)
            judge = (TimeJudge if self.settings.objective == "time" else QualityJudge)(view, allowance)
        reporter = self._reporter(trial, prunes=beside is None)
        run = self._watched(trial, judge, reporter)
        if run.ending in ("out of memory", "not finite"):
            judgement = Judgement(run.ending)
        elif not run.marks:
            judgement = Judgement("not reached", reason=run.reason or "it ended before its first validation")
        elif run.ending == "finished" and run.samples + size <= self.runner.budget:
            ended = f"it ended by itself after {run.samples:,} of {self.runner.budget:,} samples"
            judgement = judge.judge(run)._replace(verdict="not reached", values=(), reason=ended)
        elif reporter.pruned:
            judgement = judge.judge(run)._replace(verdict="behind", values=(), reason="stopped by the pruner")
        else:
            judgement = judge.judge(run)
            if self._leads(trial, run, view, judgement):
                judgement = judgement._replace(verdict="best")
        self._conclude(trial, run, judgement)

    def _leads(self, trial: Trial, run: TrialRun, view: StudyView, judgement: Judgement) -> bool:
        """Whether a trial is ahead of all others of the study, and of the user's own settings by the margin."""
        summary = summarize(trial.number, role_of(trial), run, judgement.verdict, reason=judgement.reason)
        ranking = self._ranking(view.with_record(Record(summary, (), trial.params, trained_seconds(run))))
        first = next(iter(ranking.candidates), None)
        return first is not None and first.summary.number == trial.number

    def _reporter(self, trial: Trial, *, prunes: bool = True) -> Reporter:
        return Reporter(trial, self.runner.marks, self.settings.objective, self.settings.mode, prunes=prunes)

    def _watched(self, trial: Trial, judge: Judge, reporter: Reporter) -> TrialRun:
        """Run a trial under the eyes of its judge, of the pruner and of the observer."""
        role = role_of(trial)
        request = self.space.request(trial.params)
        promise = self.study.sampler.promise(trial.number) if isinstance(self.study.sampler, PaceSampler) else None
        write_request(trial, role, request, promise)
        self.observer.trial_started(trial.number, role, request)

        def watch(mark: Mark) -> bool:
            self.observer.trial_marked(mark)
            return reporter.report(mark, goes_on=judge.watch(mark))

        return self.runner.run(request, watch)

    def _conclude(self, trial: Trial, run: TrialRun, judgement: Judgement) -> None:
        """Keep the answer, tell Optuna, then show it."""
        self.observer.trial_ended(tell(self.study, trial, run, judgement, self.settings))

    def _run_confirmation(self, trial: Trial, view: StudyView) -> None:
        """Run winner and baseline once more, unless that is no longer wanted or somebody else does."""
        winner = next((record for record in view.records if record.summary.number == confirms(trial)), None)
        others = [t for t in view.in_state(TrialState.RUNNING) if t.number < trial.number and self.worker.alive(t)]
        if (
            view.baseline is None
            or winner is None
            or confirms(trial) in view.confirmations
            or any(confirms(other) == confirms(trial) for other in others)
        ):
            give_up(self.study, trial, "this confirmation is not wanted any more")
            return
        write_request(trial, "confirm", self.space.request(trial.params))
        runs: dict[Role, TrialRun] = {}

        def run(role: Role, request: TrialRequest, watch: Watch) -> TrialRun:
            self.observer.trial_started(None, role, request)

            def shown(mark: Mark) -> bool:
                self.observer.trial_marked(mark)
                return watch(mark)

            runs[role] = self.runner.run(request, shown)
            return runs[role]

        confirmation = confirm(run, self._ranking(view), winner, self.settings.confirmation_seed)
        # As of any other trial: where its win holds, it is the best of the study, and people will look at it.
        write_summary(trial, runs["confirm"], confirmation.runs[-1], self.settings.capacity_bytes)
        keep(trial, confirmation)
        if confirmation.value is None:
            tell_pruned(self.study, trial, self.settings.objective)
        else:
            self.study.tell(trial, confirmation.value)
        for summary in confirmation.runs:
            self.observer.trial_ended(summary)

    def _result(self, ranking: Ranking, purse: Purse, answer: Answer, stopped: str) -> TuneResult:
        """Put the answer together, from the study alone."""
        budget, monitor = self.runner.budget, self.settings.monitor
        unpaid = f", and nothing was left {answer.unpaid}" if answer.unpaid else ""
        result = result_of(ranking, answer, monitor, budget, self.space.rule, self.space.reference_lr)
        return replace(
            result,
            study_name=self.study.study_name,
            stopped=stopped + unpaid,
            share_of_fit=purse.share_of_fit,
            seconds=self.clock() - self.started,
        )
