"""The search: ask for settings, run a trial, judge it, tell; until nothing better is being found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from optuna import Study
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
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
from bstuner.study.confirm import claim, confirm, confirm_quality, confirms, find_confirmation, keep
from bstuner.study.objective import BaselineJudge, Judge, Judgement, QualityJudge, TimeJudge
from bstuner.study.pace_sampler import PaceSampler
from bstuner.study.record import StudyView, role_of, write_request
from bstuner.study.reporter import Reporter
from bstuner.study.result import result_of
from bstuner.study.settings import TuneSettings
from bstuner.study.space import SearchSpace
from bstuner.study.stopping import check_baseline, stop_reason
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
    study.sampler = sampler or _default_sampler(space, settings, step_seconds, len(study.get_trials(deepcopy=False)))
    study.pruner = pruner or NopPruner()
    return _Search(runner, space, settings, study, worker or LoneWorker(), observer or SilentObserver(), clock).run()


def _default_sampler(
    space: SearchSpace, settings: TuneSettings, step_seconds: Mapping[int, float] | None, begun: int
) -> BaseSampler:
    if settings.objective == "time":
        return PaceSampler(space, settings.mode, step_seconds, settings.seed)
    # A search that goes on must not draw again what it drew at first.
    return TPESampler(seed=None if settings.seed is None else settings.seed + begun)


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
        clock: Callable[[], float],
    ) -> None:
        self.runner = runner
        self.space = space
        self.settings = settings
        self.study = study
        self.worker = worker
        self.observer = observer
        self.clock = clock
        self.started = clock()

    def run(self) -> TuneResult:
        """Take part until the search has ended, for everybody."""
        while True:
            self.worker.reap()
            view = self._view()
            others = [trial.number for trial in view.in_state(TrialState.RUNNING) if self.worker.alive(trial)]
            reason = None
            if view.baseline is None:
                if any(role_of(trial) == "baseline" for trial in view.trials if trial.number in others):
                    self._wait("the baseline, which another worker runs")
                    continue
                if not any(role_of(trial) == "baseline" for trial in view.in_state(TrialState.WAITING)):
                    self.study.enqueue_trial(self.space.baseline, user_attrs={"role": "baseline"})
            else:
                reason = stop_reason(view, self.settings, len(others), self.clock() - self.started)
            if reason and others:
                self._wait(f"trial {others[0]}, which another worker runs")
                continue
            if reason and not self._to_confirm(view):
                return self._result(view, reason)
            self._next_trial()

    def _view(self) -> StudyView:
        return StudyView.read(self.study, self.settings.objective, self.settings.mode)

    def _wait(self, reason: str) -> None:
        self.observer.waiting(reason)
        self.runner.wait(_POLL_SECONDS)

    def _next_trial(self) -> None:
        """Ask for a trial and see it through, whatever happens."""
        trial = self.study.ask(self.space.distributions)
        if not self.worker.own(trial):
            return
        role = role_of(trial)
        view = self._view()
        try:
            if role == "confirm":
                self._run_confirmation(trial, view)
            elif role == "baseline":
                self._run_baseline(trial, view)
            elif view.baseline is None:  # asked for before the baseline was lost
                give_up(self.study, trial, "put back: there is no baseline yet", again=True)
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

    def _taken_away(self, trial: Trial) -> bool:
        """Whether another worker took this one for dead, gave its trial up and put the settings back."""
        stored = self.study.get_trials(deepcopy=False)[trial.number]
        return stored.state.is_finished() and stored.user_attrs.get("outcome") == "lost"

    def _run_baseline(self, trial: Trial, view: StudyView) -> None:
        """Run the user's own settings, unless another worker was first."""
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        for other in view.trials[: trial.number]:
            taken = other.state in ended or (other.state == TrialState.RUNNING and self.worker.alive(other))
            if role_of(other) == "baseline" and taken:
                give_up(self.study, trial, f"trial {other.number} is the baseline already")
                return
        judge = BaselineJudge(self.settings.objective, self.settings.mode)
        run = self._watched(trial, judge, self._reporter(trial, prunes=False))
        check_baseline(run, self.settings, self.runner.budget)
        self._conclude(trial, run, judge.judge(run))

    def _run_trial(self, trial: Trial, view: StudyView) -> None:
        """Run settings that may be better."""
        assert view.baseline is not None
        assert view.best is not None
        objective, mode = self.settings.objective, self.settings.mode
        judge: Judge = (
            TimeJudge(view.target, mode, view.best, view.baseline)
            if objective == "time"
            else QualityJudge(objective, view.target, mode, view.best)
        )
        reporter = self._reporter(trial)
        run = self._watched(trial, judge, reporter)
        if run.ending in ("out of memory", "not finite"):
            judgement = Judgement(run.ending)
        elif not run.marks:
            judgement = Judgement("not reached", reason=run.reason or "it ended before its first validation")
        elif reporter.pruned:
            judgement = judge.judge(run)._replace(verdict="behind", values=(), reason="stopped by the pruner")
        else:
            judgement = judge.judge(run)
        self._conclude(trial, run, judgement)

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

    def _to_confirm(self, view: StudyView) -> bool:
        """Whether a winner waits for its confirmation, which is then in the queue."""
        winner = view.winner
        if winner is None or not self.settings.confirm or find_confirmation(view, winner) is not None:
            return False
        claim(self.study, view, winner)
        return True

    def _run_confirmation(self, trial: Trial, view: StudyView) -> None:
        """Run winner and baseline on another seed, unless that is no longer wanted or somebody else does."""
        winner = view.winner
        others = [t for t in view.in_state(TrialState.RUNNING) if t.number < trial.number and self.worker.alive(t)]
        if (
            view.baseline is None
            or winner is None
            or confirms(trial) != winner.summary.number
            or find_confirmation(view, winner) is not None
            or any(confirms(other) == winner.summary.number for other in others)
        ):
            give_up(self.study, trial, "this confirmation is not wanted any more")
            return
        write_request(trial, "confirm", self.space.request(trial.params))

        def run(role: Role, request: TrialRequest, watch: Watch) -> TrialRun:
            self.observer.trial_started(None, role, request)

            def shown(mark: Mark) -> bool:
                self.observer.trial_marked(mark)
                return watch(mark)

            return self.runner.run(request, shown)

        seed, mode = self.settings.confirmation_seed, self.settings.mode
        if self.settings.objective == "time":
            confirmation = confirm(run, view.baseline, winner, seed, view.target, mode)
        else:
            confirmation = confirm_quality(run, view.baseline, winner, seed, mode)
        keep(trial, confirmation)
        if confirmation.value is None:
            tell_pruned(self.study, trial, self.settings.objective)
        else:  # the worse of the two seeds: it is no trial of its own, so it must not become the study's best
            worse = max if self.study.direction == StudyDirection.MINIMIZE else min
            self.study.tell(trial, worse(confirmation.value, winner.value[0]))
        for summary in confirmation.runs:
            self.observer.trial_ended(summary)

    def _result(self, view: StudyView, stopped: str) -> TuneResult:
        """Put the answer together, from the study alone."""
        return replace(
            result_of(view, self.settings.monitor, self.runner.budget, self.space.rule, self.space.reference_lr),
            study_name=self.study.study_name,
            stopped=stopped,
            seconds=self.clock() - self.started,
        )
