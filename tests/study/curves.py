"""Studies made of trials whose curves are straight in the logarithm of samples."""

from __future__ import annotations

import math
from typing import Any

from bstuner.core.trial import Mark, Mode
from bstuner.core.tune_result import Objective, Role, TrialSummary, Verdict
from bstuner.study.ranking import Ranking
from bstuner.study.record import Confirmation, Record, StudyView
from bstuner.study.space import BASE_LR, LOG2_BATCH_RATIO, SearchSpace

SPACE = SearchSpace(reference_batch_size=32, reference_lr=0.1, rule="none", low=-2, high=3)
BUDGET = 1024
START = 5.0


def record(
    number: int, lr: float, end: float, *, k: int = 0, rate: float = 100.0, until: int = BUDGET, **more: Any
) -> Record:
    """A trial that goes from 5 after 64 samples straight to its end after 1024, four doublings later.

    Args:
        number: Its number.
        lr: Its learning rate.
        end: Its metric at the end of the budget.
        k: Doublings of the reference batch size.
        rate: Samples per second.
        until: The samples after which it was stopped.
        more: Fields of its summary.
    """
    places = [place for place in (64, 128, 256, 512, 1024) if place <= until]
    curve = tuple(
        Mark(samples, START + (end - START) * math.log2(samples / 64) / 4, samples / rate) for samples in places
    )
    verdict: Verdict = more.pop("verdict", "reached" if until == BUDGET else "behind")
    role: Role = more.pop("role", "search")
    size = SPACE.batch_size(k)
    summary = TrialSummary(
        number,
        role,
        size,
        1,
        size,
        lr,
        verdict,
        curve[-1].metric,
        until,
        None,
        rate,
        until // size,
        curve=curve,
        **more,
    )
    return Record(summary, (), {LOG2_BATCH_RATIO: k, BASE_LR: lr}, until / rate)


def own(end: float = 1.0) -> Record:
    """The user's settings: a doubling brings them 1.0."""
    return record(0, SPACE.reference_lr, end, verdict="baseline", role="baseline")


def view_of(
    *records: Record,
    objective: Objective = "time",
    mode: Mode = "min",
    confirmations: dict[int, Confirmation] | None = None,
) -> StudyView:
    view = StudyView([], objective, mode)
    view.__dict__.update(records=list(records), confirmations=confirmations or {})
    return view


def ranking_of(*records: Record, objective: Objective = "time", mode: Mode = "min") -> Ranking:
    view = view_of(*records, objective=objective, mode=mode)
    return Ranking(view, "time" if objective == "time" else "metric")


def numbers(records: list[Record]) -> list[int | None]:
    return [record.summary.number for record in records]
