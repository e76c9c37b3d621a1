"""The bar that rises, the order of trials, and which of them sit at the edge."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from curves import BUDGET, START, numbers, own, ranking_of, record, view_of

from bstuner.core.trial import Mode
from bstuner.study.bar import Bar
from bstuner.study.ranking import EDGE_STEP
from bstuner.study.record import Record

LR = 0.1


def in_units(record: Record, scale: float, offset: float) -> Record:
    """The same trial, with its metric in another unit."""
    summary = record.summary
    curve = tuple(mark._replace(metric=scale * mark.metric + offset) for mark in summary.curve)
    return record.__class__(
        replace(summary, curve=curve, metric=curve[-1].metric), (), record.params, record.seconds_trained
    )


def in_mode(mode: Mode, *records: Record) -> list[Record]:
    return [in_units(record, 1.0 if mode == "min" else -1.0, 0.0) for record in records]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_bar_rises_by_three_quarters_towards_the_best_end(mode: Mode) -> None:
    sign = 1 if mode == "min" else -1
    records = in_mode(mode, own(), record(1, LR, 0.6), record(2, LR, 0.2), record(3, LR, 1.4))

    bar = Bar.of(view_of(*records, mode=mode))

    assert bar.leader is records[2]
    assert bar.level == pytest.approx(sign * 0.4)
    assert bar.doubling == pytest.approx(1.0), "the own trial's; the leader's is 1.2"
    assert bar.ahead(records[1], records[0]) == pytest.approx(0.4)


def test_only_trials_that_ran_to_their_end_raise_it() -> None:
    others = [
        record(1, LR, -3.0, until=512),
        record(2, LR, -3.0, verdict="not finite"),
        record(3, LR, 1.2),
        replace_curve(record(4, LR, 1.0), ()),
    ]
    bar = Bar.of(view_of(own(), *others))

    assert (bar.leader.summary.number, bar.level) == (0, 1.0)


def replace_curve(record: Record, curve: tuple[Any, ...]) -> Record:
    return record.__class__(replace(record.summary, curve=curve), (), record.params, 0.0)


def test_a_large_batch_has_its_end_a_step_before_the_budget() -> None:
    large = record(1, LR, 0.0, k=3)  # steps of 256
    almost = replace_curve(large, (*large.summary.curve[:-1], large.summary.curve[-1]._replace(samples=769)))
    early = replace_curve(large, (*large.summary.curve[:-1], large.summary.curve[-1]._replace(samples=768)))

    assert Bar.of(view_of(own(), almost)).leader is almost
    assert Bar.of(view_of(own(), early)).leader.summary.number == 0


def test_the_samples_to_the_bar_are_read_or_estimated_with_their_uncertainty() -> None:
    leader, never, stopped, hopeless = (
        record(1, LR, 0.2),
        record(2, LR, 1.0),
        record(3, LR, 1.0, until=256),
        record(4, LR, START + 4, until=256),
    )
    bar = Bar.of(view_of(own(), leader, never, stopped, hopeless))  # 0.4

    assert bar.reach(leader).samples == pytest.approx(64 * 2 ** (4 * 4.6 / 4.8))
    whole, partly = bar.reach(never), bar.reach(stopped)
    assert whole.samples > BUDGET, "it had the chance, and did not"
    assert not whole.at_least
    # To where it is, after two doublings, the leader needed 2 * 4 / 4.8 of them.
    assert partly.samples == pytest.approx(bar.reach(leader).samples * 2 ** (2 - 2 * 4 / 4.8))
    assert whole.error < partly.error
    assert bar.reach(hopeless).at_least
    assert bar.reach(record(5, LR, 1.0, until=64, verdict="not finite")) == (2 * BUDGET, 0.5, True)


def test_the_own_settings_are_left_only_by_a_margin() -> None:
    ranking = ranking_of(own(), record(1, LR, 0.55), record(2, 2 * LR, 0.45))

    assert numbers(ranking.candidates) == [2]
    assert numbers(ranking_of(own(), record(1, LR, 1.0)).candidates) == []


def test_who_is_there_sooner_comes_first_and_of_equals_the_cooler() -> None:
    slow, fast, hot = record(1, LR, 0.4), record(2, 3 * LR, 0.2, rate=190.0, k=1), record(3, 9 * LR, 0.2, k=1, rate=190)
    ranking = ranking_of(own(), slow, fast, hot)

    # The first takes 10.2 s to the bar of 0.4, the others 4.8 s.
    assert numbers(ranking.candidates) == [2, 3, 1]
    assert numbers(ranking.alike(fast)) == [3]
    assert numbers(ranking.alike(slow)) == []
    tied = ranking_of(own(), slow, record(2, 3 * LR, 0.2, rate=120.0, k=1))
    assert numbers(tied.candidates) == [1, 2]
    assert numbers(tied.alike(slow)) == [2]


def test_of_equal_rates_the_better_end_decides() -> None:
    ranking = ranking_of(own(), record(1, LR, 0.3), record(2, LR, 0.2, k=1))

    assert numbers(ranking.candidates) == [2, 1]


def test_one_reading_of_a_pace_decides_nothing() -> None:
    """Of a batch size that ran more than once, the best reading counts for all of its trials."""
    disturbed, again = record(1, LR, 0.2, rate=20.0), record(2, 9 * LR, 0.2, rate=100.0)

    ranking = ranking_of(own(), disturbed, again)

    assert ranking.bar.seconds(disturbed) == ranking.bar.seconds(again)
    assert numbers(ranking.candidates) == [1, 2]


def test_where_the_metric_counts_the_end_is_what_they_are_ordered_by() -> None:
    records = own(), record(1, 3 * LR, 0.2, rate=10.0), record(2, LR, 0.5, rate=900.0, k=1), record(3, LR, 0.4)

    assert numbers(ranking_of(*records, objective="metric").candidates) == [3, 1, 2]


@pytest.mark.parametrize("objective", ["time", "metric"])
def test_another_unit_of_the_metric_and_its_mirror_give_the_same_order(objective: Any) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        others = [
            record(
                number,
                LR * 10 ** rng.uniform(-1, 1),
                rng.uniform(-1, 1.5),
                k=int(rng.integers(-1, 2)),
                rate=rng.uniform(50, 200),
                until=int(rng.choice([256, 1024, 1024, 1024])),
            )
            for number in range(1, 12)
        ]
        plain = ranking_of(own(), *others, objective=objective)
        told = numbers(plain.candidates), [plain.edge(each) for each in plain.candidates]
        assert len(told[0]) > 1
        for scale, offset, mode in (
            (1000.0, 7.0, "min"),
            (1e-3, -70.0, "min"),
            (-1.0, 0.0, "max"),
            (-0.02, 1.0, "max"),
        ):
            changed = [in_units(each, scale, offset) for each in (own(), *others)]
            ranking = ranking_of(*changed, objective=objective, mode=mode)  # type: ignore[arg-type]
            assert (numbers(ranking.candidates), [ranking.edge(each) for each in ranking.candidates]) == told
            leader, other = ranking.bar.leader, changed[1]
            reach, expected = ranking.bar.reach(other), plain.bar.reach(others[0])
            assert (reach.samples, reach.error) == pytest.approx((expected.samples, expected.error))
            assert leader.summary.number == plain.bar.leader.summary.number


HOT = record(1, 4 * LR, 0.2)


def beside(factor: float, end: float = 0.2, **more: Any) -> Record:
    return record(2, 4 * LR * factor, end, **more)


@pytest.mark.parametrize(
    ("others", "edge"),
    [
        ([], "unknown"),
        ([beside(EDGE_STEP)], "inside"),
        ([beside(EDGE_STEP, 0.4)], "inside"),  # not worse by a quarter of a doubling
        ([beside(EDGE_STEP, 0.5)], "at the edge"),
        ([beside(EDGE_STEP, until=64, verdict="not finite")], "at the edge"),
        ([beside(2, until=64, verdict="not finite")], "at the edge"),  # no farther, and worse
        ([beside(2)], "unknown"),  # nearer, and no worse: what is farther is not known
        ([beside(10)], "inside"),  # farther, and no worse
        ([beside(10, 3.0)], "unknown"),  # farther, and worse: that says nothing of the step
        ([beside(EDGE_STEP, 0.5, k=1)], "unknown"),  # at another batch size
        ([beside(EDGE_STEP, verdict="out of memory")], "unknown"),
        ([beside(EDGE_STEP, 9.0, until=128)], "unknown"),  # stopped before it could tell
        ([beside(EDGE_STEP, 9.0, until=256)], "at the edge"),
        ([beside(EDGE_STEP, 0.2, until=256)], "unknown"),
        ([beside(1.1, 3.0)], "unknown"),  # the same rate, but for luck
        ([beside(1 / EDGE_STEP, 3.0)], "unknown"),  # below
        ([beside(EDGE_STEP), beside(2, until=64, verdict="not finite")], "at the edge"),
    ],
)
def test_a_pair_is_at_the_edge_where_a_higher_rate_is_worse(others: list[Record], edge: str) -> None:
    assert ranking_of(own(), HOT, *others).edge(HOT) == edge


def test_what_is_no_hotter_than_the_own_settings_needs_no_neighbour() -> None:
    cool = record(1, LR, 0.2, k=2)
    assert ranking_of(own(), cool).edge(cool) == "inside"
    ranking = ranking_of(own(), hotter_by_its_rule := in_rate(record(1, LR, 0.2, k=2), LR * 2))
    assert ranking.edge(hotter_by_its_rule) == "unknown"


def in_rate(record: Record, base_lr: float) -> Record:
    """The same with another rate at the reference batch size, as under another rule of scaling."""
    return record.__class__(record.summary, (), {**record.params, "base_lr": base_lr}, record.seconds_trained)


def test_the_cooler_one_is_about_a_step_below_and_ran_to_its_end() -> None:
    down = 1 / math.sqrt(10)
    hot = record(1, 40 * LR, 0.2)
    near, exact, *others = (
        record(2, 40 * LR * factor, 0.5, **more)
        for factor, more in (
            (0.5, {}),
            (down, {}),
            (down, {"until": 512}),
            (down, {"k": 1}),
            (0.8, {}),
            (0.1, {}),
        )
    )

    assert ranking_of(own(), hot, near, exact, *others).cooler(hot) is exact
    assert ranking_of(own(), hot, near, *others).cooler(hot) is near
    assert ranking_of(own(), hot, *others).cooler(hot) is None
    assert ranking_of(own(), HOT).cooler(HOT) is None, "the user's own settings are none to choose"
