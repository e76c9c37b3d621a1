"""What is left to do once no more settings are tried: to look over the edge, to confirm, or to answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bstuner.core import Role
from bstuner.study.purse import Purse
from bstuner.study.ranking import DOWN_STEP, EDGE_STEP, Ranking
from bstuner.study.record import Confirmation, Record
from bstuner.study.settings import TuneSettings
from bstuner.study.space import BASE_LR, LOG2_BATCH_RATIO, SearchSpace

__all__ = ["Answer", "ToRun", "answer_so_far", "next_step"]

# The seed of the data is drawn once more for each, and the luckiest of many would hold by chance.
_MOST_CONFIRMATIONS = 3


@dataclass(frozen=True)
class ToRun:
    """A trial that has to run before there is an answer.

    Args:
        params: Its parameters.
        role: "edge" or "confirm".
        of: The number of the trial that it is about.
    """

    params: dict[str, Any]
    role: Role
    of: int


@dataclass(frozen=True)
class Answer:
    """What a search has come to.

    Args:
        best: The trial with the best settings; None for the user's own.
        confirmation: How they did once more; None where that was not tried.
        unpaid: What could not be paid any more, in words; empty for nothing.
    """

    best: Record | None = None
    confirmation: Confirmation | None = None
    unpaid: str = ""


@dataclass
class _Steps:
    """Goes through the candidates, the first choice first."""

    ranking: Ranking
    settings: TuneSettings
    space: SearchSpace
    purse: Purse
    refused: list[tuple[Record, Confirmation]] = field(default_factory=list)
    unpaid: str = ""

    def next(self) -> ToRun | Answer:
        for candidate in self.ranking.candidates:
            step = self._candidate(candidate)
            if step is not None:
                return step
            if len(self.refused) == _MOST_CONFIRMATIONS:
                break
        if self.refused:
            return Answer(*self.refused[0], self.unpaid)
        return Answer(unpaid=self.unpaid)

    def _candidate(self, candidate: Record) -> ToRun | Answer | None:
        """What one candidate waits for; None where it is none any more."""
        if not self.settings.confirm:
            return Answer(candidate)
        chosen: Record | None = candidate
        edge = self.ranking.edge(candidate)
        if edge == "unknown":
            if self._can_try(candidate, EDGE_STEP):
                return self._beside(candidate, EDGE_STEP)
            edge = "at the edge"  # nobody can tell, so the cautious one is taken
        if edge == "at the edge":
            chosen = self.ranking.cooler(candidate)
            if chosen is None and self._can_try(candidate, 1 / DOWN_STEP):
                return self._beside(candidate, 1 / DOWN_STEP)
            if chosen is not None and not self.ranking.is_better(chosen):
                chosen = None  # it could not be confirmed
        return self._confirmed(chosen) if chosen is not None else None

    def _can_try(self, candidate: Record, factor: float) -> bool:
        low, high = self.space.lr_range
        within = low <= candidate.params[BASE_LR] * factor <= high
        return within and not self.ranking.was_tried(candidate, factor)

    def _beside(self, candidate: Record, factor: float) -> ToRun | None:
        """The neighbour of a candidate at a learning rate so many times as high; None where that cannot be paid."""
        lr, batch = candidate.params[BASE_LR] * factor, candidate.params[LOG2_BATCH_RATIO]
        size = candidate.summary.global_batch_size
        if self.purse.left < self.purse.whole(size) + self.purse.for_confirmation(size):
            self.unpaid = f"to look beside trial {candidate.summary.number} and confirm it"
            return None
        return ToRun({LOG2_BATCH_RATIO: batch, BASE_LR: lr}, "edge", _number(candidate))

    def _confirmed(self, chosen: Record) -> ToRun | Answer | None:
        confirmation = self.ranking.view.confirmations.get(_number(chosen))
        if confirmation is not None:
            if confirmation.holds:
                return Answer(chosen, confirmation)
            if all(chosen is not record for record, _ in self.refused):
                self.refused.append((chosen, confirmation))
            return None
        if self.purse.left < self.purse.for_confirmation(chosen.summary.global_batch_size):
            self.unpaid = f"to confirm trial {chosen.summary.number}"
            return None
        return ToRun(chosen.params, "confirm", _number(chosen))


def next_step(ranking: Ranking, settings: TuneSettings, space: SearchSpace, purse: Purse) -> ToRun | Answer:
    """Tell what has to run before a search can answer, or its answer.

    A candidate is one whose neighbour at a higher learning rate is known to be no worse; where that is worse, the
    candidate sits at the edge, and its neighbour at a lower rate takes its place. It is the answer if it does as well
    with another order of the data. If not, the next candidate is looked at, and the user's own settings come last.

    Args:
        ranking: The trials of the study, in their order.
        settings: How the search is to go.
        space: The settings to choose from.
        purse: What may still be spent.
    """
    if settings.objective == "both" and settings.take != "metric":
        return Answer()
    return _Steps(ranking, settings, space, purse).next()


def answer_so_far(ranking: Ranking, number: int | None = None) -> Answer:
    """What a study says while its search goes on, or what it has said at its end.

    Args:
        ranking: The trials of the study, in their order.
        number: The trial that the search has ended with; None while it goes on.
    """
    confirmations = ranking.view.confirmations
    if number is not None:
        best = next((r for r in ranking.view.records if r.summary.number == number and r is not ranking.own), None)
        return Answer(best, confirmations.get(number))
    if ranking.view.objective == "both":
        return Answer()
    refused = {of for of, confirmation in confirmations.items() if not confirmation.holds}
    open_still = (record for record in ranking.candidates if _number(record) not in refused)
    best = next((r for r in ranking.view.records if _number(r) in confirmations.keys() - refused), None)
    best = best or next(open_still, None)
    return Answer(best, None if best is None else confirmations.get(_number(best)))


def _number(record: Record) -> int:
    assert record.summary.number is not None  # it is in the study
    return record.summary.number
