"""What Optuna is told of a trial that has ended, and what the study keeps of it."""

from __future__ import annotations

from optuna import Study
from optuna.trial import Trial, TrialState

from bstuner.core import Objective, TrialRun, TrialSummary
from bstuner.study._optuna import get_trial, set_trial_state
from bstuner.study.objective import Judgement
from bstuner.study.record import role_of, summarize, write_summary
from bstuner.study.settings import TuneSettings

__all__ = ["give_up", "tell", "tell_pruned"]

_PURPOSE = ("role", "confirms", "edge_of", "expected_gain")  # what a trial that is put back into the queue takes along


def tell(study: Study, trial: Trial, run: TrialRun, judgement: Judgement, settings: TuneSettings) -> TrialSummary:
    """Keep the answer of a trial, then tell Optuna; the trial as people see it.

    Args:
        study: The study.
        trial: A trial of it that has not ended.
        run: How it went.
        judgement: What became of it.
        settings: How the search is to go.
    """
    verdict, values, seconds, samples, reason = judgement
    summary = summarize(trial.number, role_of(trial), run, verdict, seconds=seconds, samples=samples, reason=reason)
    write_summary(trial, run, summary, settings.capacity_bytes)
    if values:
        study.tell(trial, values=values)
    else:
        tell_pruned(study, trial, settings.objective)
    return summary


def tell_pruned(study: Study, trial: Trial, objective: Objective) -> None:
    """Tell Optuna that a trial gave no value.

    Of its own, it takes the last metric reported for one. That is no number of seconds, yet dashboards would draw it
    among them.

    Args:
        study: The study.
        trial: A trial of it that has not ended.
        objective: What is optimized.
    """
    if objective != "time":
        study.tell(trial, state=TrialState.PRUNED)
        return
    study.sampler.after_trial(study, get_trial(study, trial), TrialState.PRUNED, None)
    set_trial_state(study, trial, TrialState.PRUNED)


def give_up(study: Study, trial: Trial, reason: str, again: bool = False) -> None:
    """Tell Optuna that a trial gave no answer.

    A failed trial teaches a sampler nothing, so this is for what says nothing about the settings.

    Args:
        study: The study.
        trial: A trial of it; nothing is done where it has an answer.
        reason: Why, in words.
        again: Whether its settings still need an answer: they are put back into the queue.
    """
    if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
        return  # what went wrong came after its answer
    trial.set_user_attr("outcome", "interrupted" if again else "error")
    trial.set_user_attr("error", reason)
    purpose = {str(name): value for name, value in trial.user_attrs.items() if name in _PURPOSE}
    params = trial.params
    study.tell(trial, state=TrialState.FAIL)
    if again:
        study.enqueue_trial(params, user_attrs=purpose)
