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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from table_runner import Table, TableRunner

from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.space import SearchSpace

TABLE = Path(__file__).parent / "data" / "h200_training_curves.jsonl"
WITHIN = (1.25, 1.1)
AFTER = (10, 20)
OTHERS_TRIALS = 80  # plain Optuna and random search are given up after so many


@dataclass(frozen=True)
class Start:
    """Where a policy starts from, and what it is measured by."""

    table: Table
    batch_size: int
    lr: float
    rule: str = "sqrt"

    @property
    def curve_seconds(self) -> float:
        """Seconds of the baseline's whole training."""
        return self.table.budget / self.batch_size * self.table.curve(self.batch_size, self.lr).step_seconds


@dataclass
class Replay:
    """One search: the time to the target and the cost of each of its trials, in order."""

    seconds: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    extra_cost: float = 0.0


def replay_ours(start: Start, target: float, seed: int, n_trials: int) -> Replay:
    """Our own search, as it is."""
    table = start.table
    space = SearchSpace.between(
        table.batch_sizes[0],
        table.batch_sizes[-1],
        reference_batch_size=start.batch_size,
        reference_lr=start.lr,
        rule=start.rule,  # type: ignore[arg-type]
    )
    study = optuna.create_study()
    settings = TuneSettings(monitor="val_loss", n_trials=n_trials, seed=seed)
    result = tune(TableRunner(table), space, settings, study, step_seconds=_step_seconds(table), clock=lambda: 0.0)
    replay = Replay()
    for trial in result.trials:
        seconds = trial.seconds
        replay.seconds.append(math.inf if seconds is None else seconds)
        curve = trial.curve[-1].seconds if trial.curve else 0.0
        replay.costs.append(curve / start.curve_seconds)
    replay.extra_cost = sum(t.curve[-1].seconds for t in result.confirmation if t.curve) / start.curve_seconds
    return replay


def _step_seconds(table: Table) -> dict[int, float]:
    """What the search for the largest batch has timed before: the answer, a quarter and a sixteenth of it."""
    sizes = table.batch_sizes
    timed = {size for size in sizes if size in (sizes[-1], sizes[-1] // 4, sizes[-1] // 16)}
    return {size: next(iter(table.cells[size].values())).step_seconds for size in timed}


def plain_suggestions(start: Start, seed: int) -> Iterator[Replay]:
    """Optuna as in its examples: batch size among choices, learning rate log-uniform, final loss as the objective."""
    yield from _others(start, optuna.samplers.TPESampler(seed=seed))


def random_suggestions(start: Start, seed: int) -> Iterator[Replay]:
    yield from _others(start, optuna.samplers.RandomSampler(seed=seed))


def _others(start: Start, target: float, sampler: optuna.samplers.BaseSampler, best: float) -> Replay:
    """Whole trainings, each told its final loss; a run that diverged gives NaN, which Optuna takes for a failure."""
    table, replay = start.table, Replay()
    study = optuna.create_study(sampler=sampler)
    while len(replay.costs) < OTHERS_TRIALS:
        trial = study.ask()
        batch_size = trial.suggest_categorical("batch_size", table.batch_sizes)
        lr = trial.suggest_float("lr", *table.lr_range, log=True)
        curve = table.curve(batch_size, lr)
        finished = len(curve.metrics) == len(table.marks)
        study.tell(trial, float(curve.metrics[-1]) if finished else math.nan, skip_if_finished=False)
        samples = table.marks[min(len(curve.metrics), len(table.marks) - 1)]
        replay.costs.append(samples / batch_size * curve.step_seconds / start.curve_seconds)
        seconds = table.seconds_to(batch_size, lr, target)
        replay.seconds.append(math.inf if seconds is None else seconds)
        if len(replay.costs) >= max(AFTER) and min(replay.seconds) <= min(WITHIN) * best:
            break
    return replay
