"""The figures hold what the study holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from plans import CONSTANT, ENDLESS, MANY, PROCESSES, STEPS, STREAM, STREAM_WITHOUT_END
from plotly import graph_objects as go
from studies import FACTS, FIND, searched

from bstuner.core.growth.phases import phase_at
from bstuner.core.growth.run_plan import RunPlan
from bstuner.core.growth.spans import schedule_spans
from bstuner.core.trial import TrialRequest
from bstuner.report.figures.curves import (
    curves_figure,
    front_figure,
    growth_figure,
    memory_figure,
    throughput_figure,
    trials_figure,
)
from bstuner.report.plan_json import plan_for_study
from bstuner.study.findings import Findings

FIGURES = (memory_figure, throughput_figure, trials_figure, curves_figure, front_figure, growth_figure)


@pytest.fixture(scope="module")
def findings() -> Findings:
    return Findings.read(searched(InMemoryStorage()))


@pytest.fixture(scope="module")
def front() -> Findings:
    return Findings.read(searched(InMemoryStorage(), facts=replace(FACTS, objective="both"), n_trials=6))


def traces(figure: go.Figure | None) -> dict[str, Any]:
    assert figure is not None
    return {trace.name: trace for trace in figure.data}


def test_memory_has_every_probe_the_line_and_the_limits(findings: Findings) -> None:
    figure = memory_figure(findings)
    drawn = traces(figure)
    assert drawn["fits"].x == (2, 8, 16, 64, 256)
    assert drawn["fits"].y == tuple((1024 + size) / 1024 for size in (2, 8, 16, 64, 256))
    assert drawn["out of memory"].x == (512,)
    line = drawn["1.0 MiB per sample"]
    assert [line.y[at] - 1 == pytest.approx(line.x[at] / 1024) for at in range(2)] == [True, True]
    assert (drawn["answer"].x, drawn["answer"].y) == ((256,), (1.25,))
    assert figure is not None
    assert [shape.label.text for shape in figure.layout.shapes] == ["usable 1.3 GiB", "capacity 1.5 GiB"]


def test_limits_far_above_all_that_was_measured_are_left_out(findings: Findings) -> None:
    roomy = replace(FIND, probes=FIND.probes[:5], capacity_bytes=2**40, usable_bytes=2**39, limited_by="dataset")
    figure = memory_figure(replace(findings, find=roomy))
    assert figure is not None
    assert list(figure.layout.shapes) == []


def test_throughput_has_every_timed_size_with_knee_and_answer(findings: Findings) -> None:
    drawn = traces(throughput_figure(findings))
    assert drawn["measured"].x == (2, 8, 16, 64, 256)
    assert drawn["measured"].y == tuple(FIND.throughput.values())
    assert (drawn["knee"].x, drawn["knee"].y) == ((256,), (FIND.throughput[256],))
    assert drawn["largest that fits"].x == (256,)


def test_a_knee_between_the_sizes_that_were_timed_lies_where_it_is_defined(findings: Findings) -> None:
    drawn = traces(throughput_figure(replace(findings, find=replace(FIND, knee=128))))
    assert drawn["knee"].y == (0.9 * FIND.throughput[256],)


def test_every_trial_is_there_once_told_apart_by_what_became_of_it(findings: Findings) -> None:
    drawn = traces(trials_figure(findings))
    kinds = {name: trace for name, trace in drawn.items() if name not in ("yours", "best")}
    assert sum(len(trace.x) for trace in kinds.values()) == len(findings.trials) >= 12
    reached = [trial for trial in findings.trials if trial.seconds is not None]
    assert kinds["reached the target"].x == tuple(trial.global_batch_size for trial in reached)
    assert kinds["reached the target"].y == tuple(trial.lr for trial in reached)
    assert kinds["reached the target"].marker.color == tuple(math.log10(trial.seconds or 0) for trial in reached)
    failed = {verdict: [t.lr for t in findings.trials if t.verdict == verdict] for verdict in WORDS}
    assert all(failed.values())
    assert {verdict: list(kinds[name].y) for verdict, name in WORDS.items()} == failed
    assert len({kinds[name].marker.symbol for name in kinds}) == len(kinds)
    assert findings.result is not None
    assert (drawn["yours"].x, drawn["yours"].y) == ((32,), (0.001,))
    assert (drawn["best"].x, drawn["best"].y) == ((findings.result.best.global_batch_size,), (findings.result.best.lr,))


WORDS = {"out of memory": "out of memory", "not finite": "diverged"}


def test_a_trial_that_runs_is_drawn_too() -> None:
    seen: list[Findings] = []
    storage = InMemoryStorage()

    def look(request: TrialRequest) -> None:
        seen.append(Findings.read(optuna.load_study(study_name="digits", storage=storage)))

    searched(storage, n_trials=2, before=look)
    first, second = seen[:2]
    assert traces(trials_figure(first))["running"].x == (32,)
    drawn = traces(trials_figure(second))
    assert len(drawn["running"].x) == 1
    assert drawn["reached the target"].x == (32,)
    assert drawn["yours"].x == (32,)


def test_the_curves_are_those_of_the_trials(findings: Findings) -> None:
    figure = curves_figure(findings)
    drawn = traces(figure)
    result = findings.result
    assert result is not None
    for name, trial in (("yours", result.baseline), ("best", result.best)):
        assert drawn[name].x == tuple(mark.samples for mark in trial.curve)
        assert drawn[name].y == tuple(mark.metric for mark in trial.curve)
    again = [drawn[f"{name} again"] for name in ("yours", "best")]
    assert [trace.y for trace in again] == [tuple(m.metric for m in run.curve) for run in result.confirmation]
    others = [trial for trial in findings.trials if trial.number not in (0, result.best.number)]
    seen = [y for y in drawn["others"].y if y is not None]
    assert seen == [mark.metric for trial in others for mark in trial.curve]
    assert figure is not None
    assert [shape.y0 for shape in figure.layout.shapes] == [result.target]
    by_time = traces(curves_figure(findings, against="seconds"))
    assert by_time["best"].x == tuple(mark.seconds for mark in result.best.curve)


def test_a_curve_of_one_validation_is_seen(findings: Findings) -> None:
    result = findings.result
    assert result is not None
    short = replace(result.best, curve=result.best.curve[-1:])
    drawn = traces(curves_figure(replace(findings, result=replace(result, best=short))))
    assert len(drawn["best"].x) == 1
    assert {trace.mode for trace in drawn.values()} == {"lines+markers"}


def test_there_is_room_for_a_name_below_the_lowest_trial_and_above_the_highest(findings: Findings) -> None:
    figure = trials_figure(findings)
    assert figure is not None
    low, high = figure.layout.yaxis.range
    places = [math.log10(trial.lr) for trial in findings.trials]
    assert min(min(places) - low, high - max(places)) / (high - low) > 0.14  # of 240 pixels in a dashboard: 33


@pytest.mark.parametrize("plan", [STEPS, PROCESSES, MANY, ENDLESS, CONSTANT, STREAM, STREAM_WITHOUT_END])
def test_a_growth_plan_is_drawn_as_it_is_planned(plan: RunPlan, findings: Findings) -> None:
    kept = json.dumps(plan_for_study(plan))
    assert len(kept) < 2**15  # half of what the smallest of the usual databases keeps
    growth = json.loads(kept)
    assert len(growth["phases"]) <= 12
    known = [phase["steps"] for phase in growth["phases"]]
    assert None in known or sum(known) == sum(span.steps or 0 for span in schedule_spans(plan))
    figure = growth_figure(replace(findings, growth=growth))
    assert figure is not None
    batches, *rates = [trace for trace in figure.data if trace.name == "planned"]
    drawn = set(zip(batches.x[:-1], batches.y[:-1], strict=True))
    assert drawn <= {(span.start_sample, span.batch_size) for span in schedule_spans(plan)}
    assert (batches.x[0], len(drawn)) == (0, len(batches.x) - 1)
    phases = plan.phases
    for rate in rates:
        for sample, lr in zip(rate.x, rate.y, strict=True):
            assert lr == plan.nominal_lr(sample) * phase_at(phases, sample).lr_factor
    assert bool(rates) == bool(plan.lrs)


def test_colours_and_words_follow_the_objective(front: Findings) -> None:
    drawn = traces(trials_figure(front))
    whole = drawn["trained for the whole budget"]
    assert whole.marker.colorbar.title.text == "best val_loss"
    assert set(whole.marker.color) == {
        min(mark.metric for mark in trial.curve) for trial in front.trials if trial.curve
    }
    assert whole.marker.reversescale is True
    assert "best" not in drawn
    assert front.result is not None
    points = {(trial.samples_per_second, trial.metric) for trial in front.result.pareto_front}
    there = traces(front_figure(front))["front"]
    assert set(zip(there.x, there.y, strict=True)) == points


def test_there_is_a_front_only_where_two_things_count(findings: Findings) -> None:
    assert front_figure(findings) is None


@pytest.mark.parametrize("figure", FIGURES)
def test_where_there_are_no_data_there_is_no_figure(figure: Callable[..., Any], findings: Findings) -> None:
    empty = replace(findings, find=None, result=None, growth=None, trials=(), running=())
    assert figure(empty) is None


def test_users_words_are_no_tags() -> None:
    facts = replace(FACTS, monitor="<b>loss</b>")
    found = Findings.read(searched(InMemoryStorage(), facts=facts, n_trials=3))
    for figure in filter(None, (each(found) for each in FIGURES)):
        assert "<b>" not in figure.to_json()
        assert "\\u003cb\\u003e" not in figure.to_json()


def test_figures_hold_plain_lists_alone(findings: Findings, front: Findings) -> None:
    for figure in filter(None, (each(found) for each in FIGURES for found in (findings, front))):
        assert '"bdata"' not in figure.to_json()
        assert json.loads(figure.to_json())["data"]
