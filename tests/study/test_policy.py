"""The search replayed over recorded trainings: what it finds, and at what cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formula_runner import new_study

from bstuner.core.trial import TrialRequest
from bstuner.study.purse import FitLength
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.space import SearchSpace

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from policy import TABLE, Start, measure, replay_ours, summarize  # noqa: E402
from synthetic_tables import draw_table  # noqa: E402
from table_runner import Table, TableRunner  # noqa: E402

SEEDS = 4


@pytest.fixture(scope="module")
def h200() -> Table:
    return Table.read(TABLE)


def replayed(table: Table, batch_size: int, lr: float) -> dict[str, Any]:
    start = Start(table, batch_size, lr, table.rule or "sqrt")
    return summarize([measure(start, replay_ours(start, seed)) for seed in range(SEEDS)])


@pytest.mark.parametrize(
    ("batch_size", "lr", "cost"),
    # Trials run to their end, unless they are behind, so what a search finds costs it more than the time to the target.
    [(32, 4e-4, 2), (32, 1e-4, 2), (16, 2e-4, 2), (256, 1e-4, 3), (2048, 4e-4, 6), (64, 1.28e-2, 3), (512, 4e-4, 3)],
)
def test_few_baselines_of_training_come_near_the_best_possible_time(
    h200: Table, batch_size: int, lr: float, cost: float
) -> None:
    assert replayed(h200, batch_size, lr)["cost_to_1.25"] <= cost


@pytest.mark.parametrize(("batch_size", "lr"), [(16, 1.6e-3), (128, 3.2e-3)])
def test_a_baseline_that_is_best_already_costs_at_most_five(h200: Table, batch_size: int, lr: float) -> None:
    found = replayed(h200, batch_size, lr)

    assert found["speedup_after_20"] == 1.0
    assert found["total_cost"] <= 5


@pytest.mark.parametrize(
    ("batch_size", "lr", "max_cost"), [(32, 1e-4, 0.5), (512, 4e-4, 0.4), (16, 1.6e-3, 0.5), (64, 1.28e-2, 0.8)]
)
def test_no_search_costs_more_than_it_may(h200: Table, batch_size: int, lr: float, max_cost: float) -> None:
    """Trials are a sixteenth of the fit; nobody has timed a batch size before it is tried."""
    runner = TableRunner(h200)
    sizes = h200.batch_sizes
    space = SearchSpace.between(sizes[0], sizes[-1], reference_batch_size=batch_size, reference_lr=lr, rule="sqrt")
    for seed in range(SEEDS):
        settings = TuneSettings("val_loss", n_trials=50, patience=None, seed=seed, max_cost=max_cost)
        result = tune(runner, space, settings, new_study(), fit=FitLength(16 * runner.budget), clock=lambda: 0.0)
        ran = [trial for trial in (*result.trials, *result.confirmation) if trial.curve]
        fit = 16 * runner.budget / (result.baseline.samples_per_second or 1)
        assert 0.05 < sum(trial.curve[-1].seconds for trial in ran) / fit <= max_cost
        assert result.share_of_fit is not None
        assert result.share_of_fit <= max_cost
        assert result.best is result.baseline or result.confirmed is not None


def test_a_recorded_cell_is_replayed_as_it_was(h200: Table) -> None:
    row = next(json.loads(line) for line in TABLE.read_text().splitlines() if '"batch_size": 256' in line)
    run = TableRunner(h200).run(TrialRequest(256, row["lr"]), lambda mark: True)

    assert [[mark.samples, mark.metric] for mark in run.marks] == row["val_loss"]
    assert run.marks[-1].seconds == pytest.approx(98304 / 256 * row["step_seconds"])
    assert run.ending == "finished"


def test_between_two_learning_rates_the_curve_lies_between() -> None:
    rows = [
        {"batch_size": 8, "lr": lr, "step_seconds": 1.0, "val_loss": [[10, loss], [20, loss / 2]]}
        for lr, loss in ((0.1, 4.0), (0.4, 2.0))
    ]
    table = Table(rows)

    assert table.curve(8, 0.2).metrics.tolist() == pytest.approx([3.0, 1.5])
    assert table.curve(8, 0.5).metrics.tolist() == [2.0, 1.0]
    assert len(table.curve(8, 0.9).metrics) == 0  # more than twice the highest
    assert table.curve(8, 0.05).metrics.tolist() == [4.0, 4.0]  # half as fast as the lowest
    assert table.seconds_to(8, 0.1, 2.0) == 2.5


def test_a_run_that_diverged_is_told_so() -> None:
    marks = [[10, 3.0], [20, None]]
    table = Table([
        {"batch_size": 8, "lr": 0.1, "step_seconds": 1.0, "val_loss": [[10, 3.0], [20, 2.0]]},
        {"batch_size": 8, "lr": 0.2, "step_seconds": 1.0, "val_loss": marks},
    ])  # fmt: skip

    run = TableRunner(table).run(TrialRequest(8, 0.2), lambda mark: True)

    assert (run.ending, run.samples, len(run.marks)) == ("not finite", 20, 1)


def test_a_made_up_table_improves_and_is_drawn_the_same_again() -> None:
    rows = draw_table(np.random.default_rng([0, 4]))

    assert rows == draw_table(np.random.default_rng([0, 4]))
    table = Table(rows)
    assert table.rule in ("linear", "sqrt")
    best = min(curve.metrics[-1] for cells in table.cells.values() for curve in cells.values() if len(curve.metrics))
    assert best < 0.9 * max(row["val_loss"][0][1] for row in rows if row["val_loss"][0][1] is not None)


def test_the_command_prints_one_object_with_every_policy() -> None:
    command = [sys.executable, str(BENCHMARKS / "policy.py"), "--baseline", "32,4e-4", "--seeds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    told = json.loads(done.stdout)

    assert set(told) == {"bstuner", "optuna", "random"}
    for measures in told.values():
        for name in ("trials_to_1.25", "cost_to_1.25", "trials_to_1.1", "cost_to_1.1"):
            assert {name, f"{name}_quartiles"} <= set(measures)
        assert measures["speedup_after_10"] <= measures["speedup_after_20"]
        assert measures["total_cost"] > 0
    assert told["bstuner"]["total_cost"] < told["optuna"]["total_cost"]
