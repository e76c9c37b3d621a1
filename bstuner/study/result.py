"""The answer of a search, put together from its study alone: at the end, and on the way there."""

from __future__ import annotations

from bstuner.core import Rule, TuneResult
from bstuner.study.claim import claimed_speedup
from bstuner.study.next_step import Answer
from bstuner.study.ranking import Ranking
from bstuner.study.record import Record

__all__ = ["result_of"]


def result_of(
    ranking: Ranking, answer: Answer, monitor: str, budget: int, rule: Rule, reference_lr: float
) -> TuneResult:
    """What a study says by now; names, durations and what the caller alone knows are left to be filled.

    Args:
        ranking: The trials of the study, in their order.
        answer: What the search has come to.
        monitor: The metric.
        budget: Samples of a whole trial.
        rule: How the learning rate follows the batch size.
        reference_lr: The learning rate that the user's own code asks for.
    """
    view, own = ranking.view, ranking.own
    best, confirmation = answer.best, answer.confirmation
    claim = None
    if best is not None and confirmation is not None and confirmation.holds and view.objective == "time":
        claim = claimed_speedup(ranking, best, confirmation)
    speedup = 1.0
    if claim is not None:
        speedup = claim[0]
    elif best is not None and best.summary.seconds and own.summary.seconds:
        speedup = own.summary.seconds / best.summary.seconds
    return TuneResult(
        baseline=own.summary,
        best=(best or own).summary,
        trials=tuple(record.summary for record in view.records),
        monitor=monitor,
        mode=view.mode,
        objective=view.objective,
        target=view.target,
        bar=ranking.bar.level,
        budget=budget,
        rule=rule,
        reference_lr=reference_lr,
        study_name="",
        storage="",
        speedup=speedup if view.objective == "time" else None,
        speedup_interval=None if claim is None else claim[1:],
        as_good=() if best is None else tuple(record.summary for record in ranking.alike(best)),
        at_edge=tuple(record.summary for record in _at_edge(ranking, best)),
        cost=view.seconds_trained / own.seconds_trained if own.seconds_trained else 0.0,
        stopped="",
        confirmed=None if confirmation is None else confirmation.holds,
        confirmation=() if confirmation is None else confirmation.runs,
    )


def _at_edge(ranking: Ranking, best: Record | None) -> list[Record]:
    """The candidates that would have come before the answer."""
    ahead = []
    for candidate in ranking.candidates:
        if candidate is best:
            break
        if ranking.edge(candidate) == "at the edge":
            ahead.append(candidate)
    return ahead
