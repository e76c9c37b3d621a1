"""What is left to do once no more settings are tried, and what the answer is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from curves import BUDGET, SPACE, own, record, view_of

from bstuner.core.tune_result import Objective
from bstuner.study.next_step import Answer, ToRun, answer_so_far, next_step
from bstuner.study.purse import FitLength, Purse
from bstuner.study.ranking import EDGE_STEP, Ranking
from bstuner.study.record import Confirmation, Record, StudyView
from bstuner.study.settings import TuneSettings

LR = SPACE.reference_lr
HOT = record(1, 10 * LR, 0.2)
ABOVE = record(2, 10 * LR * EDGE_STEP, 0.3, role="edge")
COOL = record(1, LR, 0.2, k=1)
WORSE = record(2, 10 * LR * EDGE_STEP, 2.0, role="edge")


def confirmed(winner: Record, holds: bool) -> Confirmation:
    again = replace(winner.summary, role="confirm", number=None), replace(own().summary, role="confirm baseline")
    return Confirmation(holds, (again[1], again[0]), 2 * winner.seconds_trained, 5.0 if holds else None)


def step(view: StudyView, *, fit: FitLength | None = None, **settings: Any) -> ToRun | Answer:
    how = TuneSettings("val_loss", objective=view.objective, **settings)
    ranking = Ranking(view, "time" if view.objective == "time" else "metric")
    return next_step(ranking, how, SPACE, Purse(view, SPACE, BUDGET, how.max_cost, fit or FitLength()))


def of(*records: Record, objective: Objective = "time", **confirmations: bool) -> StudyView:
    """A study of some trials; `c1=True` for one whose trial 1 was confirmed."""
    by_number = {record.summary.number: record for record in records}
    told = {int(name[1:]): confirmed(by_number[int(name[1:])], holds) for name, holds in confirmations.items()}
    return view_of(own(), *records, objective=objective, confirmations=told)


def test_where_nobody_is_better_the_own_settings_are_the_answer() -> None:
    assert step(of(record(1, 3 * LR, 0.8))) == Answer()


@pytest.mark.parametrize("objective", ["time", "metric"])
def test_a_candidate_is_looked_beside_then_confirmed_then_the_answer(objective: Objective) -> None:
    first = step(of(HOT, objective=objective))
    assert isinstance(first, ToRun)
    assert (first.role, first.of) == ("edge", 1)
    assert first.params == {"log2_batch_ratio": 0, "base_lr": pytest.approx(10 * LR * math.sqrt(10))}

    assert step(of(HOT, ABOVE, objective=objective)) == ToRun(HOT.params, "confirm", 1)

    view = of(HOT, ABOVE, objective=objective, c1=True)
    assert step(view) == Answer(HOT, view.confirmations[1])


def test_a_candidate_at_the_edge_steps_down() -> None:
    down = step(of(HOT, WORSE))
    assert isinstance(down, ToRun)
    assert (down.role, down.of) == ("edge", 1)
    assert down.params["base_lr"] == pytest.approx(10 * LR / math.sqrt(10))

    cooler = record(3, 10 * LR / math.sqrt(10), 0.3, role="edge")
    assert step(of(HOT, WORSE, cooler)) == ToRun(cooler.params, "confirm", 3)
    # One that is better by less than the margin could not be confirmed.
    assert step(of(HOT, WORSE, record(3, 10 * LR / math.sqrt(10), 0.97, role="edge"))) == Answer()
    assert step(of(HOT, WORSE, record(3, 10 * LR / math.sqrt(10), 1.1, role="edge"))) == Answer()


def test_beyond_the_range_of_learning_rates_nobody_can_tell_so_it_steps_down() -> None:
    highest = SPACE.lr_range[1]
    hottest = record(1, highest / 2, 0.2)

    down = step(of(hottest))

    assert isinstance(down, ToRun)
    assert down.params["base_lr"] == pytest.approx(highest / 2 / math.sqrt(10))


def test_a_neighbour_that_ran_out_of_memory_is_not_tried_again() -> None:
    lost = record(2, 10 * LR * EDGE_STEP, 0.2, role="edge", verdict="out of memory")

    down = step(of(HOT, lost))

    assert isinstance(down, ToRun)
    assert down.params["base_lr"] < 10 * LR


def test_no_more_is_asked_of_a_pair_no_hotter_than_the_own_settings() -> None:
    assert step(of(COOL)) == ToRun(COOL.params, "confirm", 1)


def test_where_a_candidate_does_not_hold_the_next_one_is_looked_at_and_three_at_most() -> None:
    cool = [record(number, LR, 0.2 + number / 100, k=k) for number, k in ((3, 1), (4, 2), (5, 3), (6, -1))]

    assert step(of(*cool, c3=False)) == ToRun(cool[1].params, "confirm", 4)
    assert step(of(*cool, c3=False, c4=False)) == ToRun(cool[2].params, "confirm", 5)
    held = of(*cool, c3=False, c4=True)
    assert step(held) == Answer(cool[1], held.confirmations[4])
    none = of(*cool, c3=False, c4=False, c5=False)
    # The first choice is told, and that it did not hold: the answer is the own settings.
    assert step(none) == Answer(cool[0], none.confirmations[3])


def test_two_candidates_at_the_edge_of_one_pair_below_ask_for_it_once() -> None:
    cooler = record(3, 10 * LR / math.sqrt(10), 0.3, role="edge")
    other = record(4, 9 * LR, 0.2)
    view = of(HOT, WORSE, cooler, other, c3=False)

    assert step(view) == Answer(cooler, view.confirmations[3])


def test_without_confirmation_the_first_choice_is_the_answer() -> None:
    assert step(of(HOT, WORSE), confirm=False) == Answer(HOT)


def test_two_objectives_need_nothing_unless_the_better_metric_is_taken() -> None:
    view = of(HOT, objective="both")

    assert step(view) == Answer()
    assert step(view, take="speed") == Answer()
    assert isinstance(step(view, take="metric"), ToRun)


# Two trials of ten seconds have run, at 100 samples a second. Another neighbour would take ten more, and a confirmation
# twenty; what may be spent is known to three percent.
@pytest.mark.parametrize(
    ("paid", "records", "found"),
    [
        (60, [HOT], "edge"),
        (50, [HOT], "to look beside trial 1 and confirm it"),
        (60, [COOL], "confirm"),
        (40, [COOL], "to confirm trial 1"),
    ],
)
def test_what_cannot_be_paid_is_not_run_and_that_is_said(paid: float, records: list[Record], found: str) -> None:
    told = step(of(*records), fit=FitLength(seconds=2 * paid))

    if isinstance(told, ToRun):
        assert told.role == found
    else:
        assert told == Answer(unpaid=found)


def test_what_a_candidate_cannot_pay_a_cooler_one_may() -> None:
    large = record(3, LR, 0.3, k=1)

    told = step(of(HOT, large), fit=FitLength(seconds=2 * 60.0))

    assert told == ToRun(large.params, "confirm", 3)


def test_a_study_says_what_it_has_come_to_while_it_goes_on() -> None:
    cool = [record(number, LR, 0.2 + number / 100, k=k) for number, k in ((3, 1), (4, 2))]

    def best(view: StudyView, number: int | None = None) -> int | None:
        answer = answer_so_far(Ranking(view, "time"), number)
        return None if answer.best is None else answer.best.summary.number

    assert best(of()) is None
    assert best(of(*cool)) == 3
    assert best(of(*cool, c3=False)) == 4
    assert best(of(*cool, c4=True)) == 4
    assert best(of(*cool, c3=False, c4=False)) is None
    assert best(of(*cool, c3=False, c4=False), number=3) == 3
    assert best(of(*cool, objective="both")) is None
