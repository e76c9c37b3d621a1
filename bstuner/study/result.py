"""The answer of a search, put together from its study alone: at the end, and on the way there."""

from __future__ import annotations

from bstuner.core import Rule, TuneResult
from bstuner.study.confirm import find_confirmation
from bstuner.study.record import StudyView

__all__ = ["result_of"]


def result_of(view: StudyView, monitor: str, budget: int, rule: Rule, reference_lr: float) -> TuneResult:
    """What a study says by now; names, durations and what the caller alone knows are left to be filled.

    Args:
        view: The study, with its baseline.
        monitor: The metric.
        budget: Samples of a whole trial.
        rule: How the learning rate follows the batch size.
        reference_lr: The learning rate that the user's own code asks for.
    """
    assert view.baseline is not None
    assert view.best is not None
    winner = view.winner
    confirmation = find_confirmation(view, winner) if winner is not None else None
    baseline, best = view.baseline.summary, view.best.summary
    speedup = None
    if view.objective == "time" and baseline.seconds and best.seconds:
        speedup = baseline.seconds / best.seconds
    trained = sum(record.seconds_trained for record in view.records)
    trained += confirmation.seconds_trained if confirmation else 0.0
    return TuneResult(
        baseline=baseline,
        best=best,
        trials=tuple(record.summary for record in view.records),
        monitor=monitor,
        mode=view.mode,
        objective=view.objective,
        target=view.target,
        budget=budget,
        rule=rule,
        reference_lr=reference_lr,
        study_name="",
        storage="",
        speedup=speedup,
        cost=trained / view.baseline.seconds_trained if view.baseline.seconds_trained else 0.0,
        stopped="",
        confirmed=None if confirmation is None else confirmation.holds,
        confirmation=() if confirmation is None else confirmation.runs,
    )
