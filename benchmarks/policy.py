"""Replay search policies over a table of recorded trainings: what do they find, and at what cost?

    python benchmarks/policy.py [--table FILE] --baseline B,LR [--baseline ...] [--seeds N] [--json]

A table holds one training per line: batch size, learning rate, seconds per step and the validation loss at some numbers
of samples. A policy starts from a baseline (batch size, learning rate), whose final loss is the target. What counts is
the time to that target, in units of the best possible one on the table, and the training spent to find it, in units of
the baseline's whole training.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from table_runner import Table, TableRunner

from bstuner.core.scaling import Rule
from bstuner.core.tune_result import TrialSummary
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.space import SearchSpace

TABLE = Path(__file__).parent / "data" / "h200_training_curves.jsonl"
WITHIN = (1.25, 1.1)
AFTER = (10, 20)
OTHERS_TRIALS = 80  # plain Optuna and random search are given up after so many


@dataclass(frozen=True)
class Start:
    """Where a search starts from, and what it is measured by."""

    table: Table
    batch_size: int
    lr: float
    rule: Rule = "sqrt"

    @cached_property
    def target(self) -> float:
        """The baseline's final loss."""
        metrics = self.table.curve(self.batch_size, self.lr).metrics
        if len(metrics) < len(self.table.marks):
            raise SystemExit(f"--baseline: {self.batch_size},{self.lr:g} diverges in this table; choose another one.")
        return float(metrics[-1])

    @cached_property
    def seconds(self) -> float:
        """Seconds of the baseline's whole training: the unit of cost."""
        return self.cost_of(self.batch_size, self.lr, self.table.budget)

    @cached_property
    def best_seconds(self) -> float:
        """The least possible seconds to the target, the baseline's own included."""
        own = self.table.seconds_to(self.batch_size, self.lr, self.target)
        return min(self.seconds if own is None else own, self.table.best_seconds(self.target))

    def cost_of(self, batch_size: int, lr: float, samples: int) -> float:
        """Seconds to train on so many samples."""
        return samples / batch_size * self.table.curve(batch_size, lr).step_seconds


@dataclass
class Replay:
    """One search: of each trial, in order, the seconds it reaches the target in and its cost in baselines."""

    seconds: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    confirmation_cost: float = 0.0


def replay_ours(start: Start, seed: int, n_trials: int = 20) -> Replay:
    """The search of `BatchSizeTuner`, with its defaults."""
    table = start.table
    space = SearchSpace.between(
        table.batch_sizes[0],
        table.batch_sizes[-1],
        reference_batch_size=start.batch_size,
        reference_lr=start.lr,
        rule=start.rule,
    )
    settings = TuneSettings(monitor="val_loss", n_trials=n_trials, seed=seed)
    result = tune(
        TableRunner(table),
        space,
        settings,
        optuna.create_study(),
        step_seconds=timed_before(table),
        clock=lambda: 0.0,
    )

    def costs(trials: Iterable[TrialSummary]) -> list[float]:
        spent = (trial.curve[-1].seconds if trial.curve else 0.0 for trial in trials)
        return [seconds / start.seconds for seconds in spent]

    times = [math.inf if trial.seconds is None else trial.seconds for trial in result.trials]
    return Replay(times, costs(result.trials), sum(costs(result.confirmation)))


def timed_before(table: Table) -> dict[int, float]:
    """What the search for the largest batch has timed: its answer, a quarter and a sixteenth of it."""
    largest = table.batch_sizes[-1]
    sizes = [size for size in (largest, largest // 4, largest // 16) if size in table.cells]
    return {size: next(iter(table.cells[size].values())).step_seconds for size in sizes}


def replay_plain(start: Start, seed: int) -> Replay:
    """Optuna as in its examples: batch size among choices, learning rate log-uniform, the final loss is minimized."""
    return replay_others(start, optuna.samplers.TPESampler(seed=seed))


def replay_random(start: Start, seed: int) -> Replay:
    """Random search over the same."""
    return replay_others(start, optuna.samplers.RandomSampler(seed=seed))


def replay_others(start: Start, sampler: optuna.samplers.BaseSampler) -> Replay:
    """Whole trainings. One that diverged returns NaN, which Optuna takes for a failure, and costs what it ran."""
    table, replay = start.table, Replay()
    study = optuna.create_study(sampler=sampler)
    while len(replay.costs) < OTHERS_TRIALS:
        trial = study.ask()
        batch_size = trial.suggest_categorical("batch_size", table.batch_sizes)
        lr = trial.suggest_float("lr", *table.lr_range, log=True)
        metrics = table.curve(batch_size, lr).metrics
        if len(metrics) == len(table.marks):
            study.tell(trial, float(metrics[-1]))
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        samples = table.marks[min(len(metrics), len(table.marks) - 1)]
        replay.costs.append(start.cost_of(batch_size, lr, samples) / start.seconds)
        seconds = table.seconds_to(batch_size, lr, start.target)
        replay.seconds.append(math.inf if seconds is None else seconds)
        if len(replay.costs) >= max(AFTER) and min(replay.seconds) <= min(WITHIN) * start.best_seconds:
            break
    return replay


POLICIES: dict[str, Callable[[Start, int], Replay]] = {
    "bstuner": replay_ours,
    "optuna": replay_plain,
    "random": replay_random,
}


def measure(start: Start, replay: Replay) -> dict[str, float]:
    """What one search found, and at what cost; infinite where it never did."""
    own = start.table.seconds_to(start.batch_size, start.lr, start.target) or start.seconds
    best = np.minimum.accumulate(replay.seconds)
    cost = np.cumsum(replay.costs)
    measured: dict[str, float] = {}
    for within in WITHIN:
        found = np.nonzero(best <= within * start.best_seconds)[0]
        measured[f"trials_to_{within}"] = float(found[0]) + 1 if len(found) else math.inf
        measured[f"cost_to_{within}"] = float(cost[found[0]]) if len(found) else math.inf
    for trials in AFTER:
        # Whoever finds nothing better keeps the baseline.
        measured[f"speedup_after_{trials}"] = max(1.0, own / float(best[min(trials, len(best)) - 1]))
    whole = len(cost) if replay.confirmation_cost or len(cost) < max(AFTER) else max(AFTER)
    measured["total_cost"] = float(cost[whole - 1]) + replay.confirmation_cost
    return measured


def summarize(measured: list[dict[str, float]]) -> dict[str, float | list[float | None] | None]:
    """Each measure's median over the seeds, and its quartiles; null where that seed never got there."""

    def quantile(name: str, share: float) -> float | None:
        value = float(np.quantile([one[name] for one in measured], share, method="inverted_cdf"))
        return round(value, 3) if math.isfinite(value) else None

    told: dict[str, float | list[float | None] | None] = {}
    for name in measured[0]:
        told[name] = quantile(name, 0.5)
        told[f"{name}_quartiles"] = [quantile(name, 0.25), quantile(name, 0.75)]
    return told


def table_text(name: str, start: Start, found: dict[str, dict[str, Any]]) -> str:
    """A table for people: medians, with quartiles behind."""
    own = start.table.seconds_to(start.batch_size, start.lr, start.target) or start.seconds
    lines = [f"baseline {name}: loss {start.target:.4g}, at best {own / start.best_seconds:.2f} times sooner"]
    lines.append(f"  {'':18}" + "".join(f"{policy:>26}" for policy in found))

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    for measure_name in [name for name in next(iter(found.values())) if not name.endswith("_quartiles")]:
        cells = []
        for told in found.values():
            lower, upper = map(shown, told[f"{measure_name}_quartiles"])
            cells.append(f"{shown(told[measure_name])} ({lower} to {upper})")
        lines.append(f"  {measure_name:18}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)


def parse_baseline(text: str) -> tuple[int, float]:
    batch_size, _, lr = text.partition(",")
    return int(batch_size), float(lr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--baseline", type=parse_baseline, action="append", required=True, metavar="B,LR")
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--rule", choices=("linear", "sqrt", "none"), help="by default the table's, else sqrt")
    parser.add_argument("--policies", nargs="+", choices=tuple(POLICIES), default=list(POLICIES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table.read(options.table)
    rule = options.rule or table.rule or "sqrt"
    answers = {}
    for batch_size, lr in options.baseline:
        start = Start(table, batch_size, lr, rule)
        name = f"{batch_size},{lr:g}"
        answers[name] = {
            policy: summarize([measure(start, POLICIES[policy](start, seed)) for seed in range(options.seeds)])
            for policy in options.policies
        }
        if not options.json:
            print(table_text(name, start, answers[name]), flush=True)
    if options.json:
        print(json.dumps(answers if len(answers) > 1 else next(iter(answers.values()))))


if __name__ == "__main__":
    main()
