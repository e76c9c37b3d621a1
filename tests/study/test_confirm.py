"""When a win holds with another order of the data, what Optuna is told of it, and what is claimed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from curves import SPACE, own, ranking_of, record, view_of

from bstuner.core.layout import BatchLayout
from bstuner.core.trial import Ending, TrialRequest, TrialRun, Watch
from bstuner.core.tune_result import Objective, Role
from bstuner.study.claim import claimed_speedup
from bstuner.study.confirm import confirm
from bstuner.study.ranking import Ranking
from bstuner.study.record import Confirmation, Record

LR = SPACE.reference_lr
OWN = Record(own().summary, (10.24,), own().params, 10.24)
WINNER = Record(record(1, LR, 0.2, k=1).summary, (18.0,), record(1, LR, 0.2, k=1).params, 10.24)


def again(
    winner: dict[str, Any],
    users: dict[str, Any],
    ran: list[Role] | None = None,
    *,
    first: Record = WINNER,
    objective: Objective = "time",
    before: dict[int, Confirmation] | None = None,
) -> tuple[Ranking, Confirmation]:
    """A confirmation in which both run so: `end`, `rate`, `until` of their curves, and `ending`."""

    def run(role: Role, request: TrialRequest, watch: Watch) -> TrialRun:
        told = {"end": 1.0, "ending": "finished", **(winner if role == "confirm" else users)}
        ending: Ending = told.pop("ending")
        summary = record(0, request.lr, told.pop("end"), **told).summary
        marks = summary.curve if ending == "finished" else ()
        assert all(watch(mark) for mark in marks)
        assert request.seed == 7
        (ran if ran is not None else []).append(role)
        layout = BatchLayout(request.global_batch_size)
        return TrialRun(request, layout, ending, marks, summary.samples, summary.steps, summary.samples_per_second)

    view = view_of(OWN, first, objective=objective, confirmations=before)
    ranking = Ranking(view, "time" if objective == "time" else "metric")
    return ranking, confirm(run, ranking, first, seed=7)


@pytest.mark.parametrize(
    ("winner", "users", "holds"),
    [
        ({"end": 0.2}, {"end": 1.0}, True),
        ({"end": 0.9}, {"end": 1.0}, False),  # 0.8 and 0.1 doublings: less than a half on average
        ({"end": 0.75}, {"end": 1.0}, True),
        ({"end": 3.2}, {"end": 4.0}, True),  # with an order that is harder for both
        ({"end": 1.5}, {"end": 1.0}, False),
        ({"end": 0.2, "rate": 50.0}, {"end": 1.0}, False),  # better, but later there
        ({"ending": "not finite"}, {"end": 1.0}, False),
        ({"ending": "out of memory"}, {"end": 1.0}, False),
        ({"end": 0.2}, {"ending": "not finite"}, True),  # nobody need beat what does not train
    ],
)
def test_a_win_holds_where_it_is_sooner_on_both_and_better_by_the_margin(
    winner: dict[str, Any], users: dict[str, Any], holds: bool
) -> None:
    _, confirmation = again(winner, users)

    assert confirmation.holds is holds
    assert (confirmation.value is not None) is holds


def test_the_paces_are_those_of_the_two_that_ran_side_by_side() -> None:
    """In its first trial the winner was four times as fast, as the baseline had to warm up."""
    fast = Record(record(1, LR, 0.2, k=1, rate=400.0).summary, (12.0,), WINNER.params, 2.56)

    ranking, confirmation = again({"end": 0.2, "rate": 110.0}, {"end": 1.0, "rate": 100.0}, first=fast)

    assert confirmation.holds
    assert confirmation.value is not None
    samples = 64 * 2 ** (4 * 4 / 4.8)  # to the own end, of 1024
    assert confirmation.value == pytest.approx(10.24 * samples / 110 / 10.24)
    claim = claimed_speedup(ranking, fast, confirmation)
    assert claim is not None
    told, low, high = claim
    assert low < told < high
    assert 1 < told / (1024 / samples * 1.1) < 1.3, "what trials have told, and no four times as much"


@pytest.mark.parametrize("rate", [100.0, 25.0])
def test_where_the_own_settings_are_lost_the_first_order_alone_counts(rate: float) -> None:
    first = Record(record(1, LR, 0.2, k=1, rate=rate).summary, (18.0,), WINNER.params, 10.24)

    ranking, confirmation = again({"end": 0.2, "rate": rate}, {"ending": "not finite"}, first=first)

    assert confirmation.holds is (rate == 100.0), "sooner in that"
    if confirmation.holds:
        assert confirmation.value == pytest.approx(10.24 * 2 ** (4 * 4 / 4.8) / 16)
        assert claimed_speedup(ranking, first, confirmation) is not None


def test_the_worse_of_the_two_is_told() -> None:
    _, confirmation = again({"end": 0.2}, {"end": 0.2 + 1e-9})
    assert not confirmation.holds
    _, confirmation = again({"end": 0.6}, {"end": 1.0})

    samples = 64 * 2 ** (4 * 4 / 4.4)
    assert confirmation.value == pytest.approx(10.24 * samples / 1024)
    assert confirmation.value < OWN.value[0], "less than what the own trial was told"


def test_the_baseline_is_run_once_more_and_no_more() -> None:
    ran: list[Role] = []
    _, first = again({"end": 0.9}, {"end": 1.0}, ran)
    assert ran == ["confirm", "confirm baseline"]
    assert [run.role for run in first.runs] == ["confirm baseline", "confirm"]

    _, second = again({"end": 0.2}, {"end": 9.0}, ran, before={5: first})

    assert ran == ["confirm", "confirm baseline", "confirm"]
    assert second.holds
    assert second.runs[0] == first.runs[0]
    assert second.seconds_trained == pytest.approx(first.seconds_trained / 2)


def test_nor_for_a_winner_that_is_lost() -> None:
    ran: list[Role] = []

    _, confirmation = again({"ending": "not finite"}, {}, ran)

    assert ran == ["confirm"]
    assert [run.verdict for run in confirmation.runs] == ["not finite"]


@pytest.mark.parametrize("objective", ["metric", "both"])
def test_where_the_metric_counts_the_end_alone_decides(objective: Objective) -> None:
    first = Record(record(1, LR, 0.2, k=1, rate=10.0).summary, (0.2,), WINNER.params, 102.4)

    _, confirmation = again({"end": 0.4, "rate": 10.0}, {"end": 1.0}, first=first, objective=objective)

    assert confirmation.holds
    # The worse of the two, where there is one.
    assert confirmation.value == (pytest.approx(0.4) if objective == "metric" else None)


def test_a_claim_needs_both_runs() -> None:
    ranking, confirmation = again({"ending": "not finite"}, {})
    assert claimed_speedup(ranking, WINNER, confirmation) is None

    never = ranking_of(OWN, WINNER)
    _, slower = again({"end": 1.5}, {"end": 1.0})
    claim = claimed_speedup(never, WINNER, slower)
    assert claim is not None, "the first trial still tells something"
    assert math.log(claim[2] / claim[0]) == pytest.approx(math.log(claim[0] / claim[1]))
