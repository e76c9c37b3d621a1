"""Replay searches over recorded pairs, and see what their answers come to in the whole fit.

    python benchmarks/judges.py [--tables FILE ...] [--starts N] [--seeds N] [--json]

A table holds pairs of batch size and learning rate of one task, each with the curve of a short trial and that of the
whole fit. Any pair may be the user's own. Judges choose by trials alone:

- *bstuner*: `BatchSizeTuner` with its defaults, for a fit of which a trial is a sixteenth.
- *soonest*: of the same trials, the one that reached what the own trial ended with in the fewest seconds, which is how
  bstuner judged before; without a neighbour at the edge, and without a margin.
- *TPE*: as many whole trials as bstuner ran, chosen by Optuna's own sampler; the best loss at the end.

What counts is the whole fit with what they chose: how often it ends *worse* than the user's own, by more than a
hundredth of the way from start to end, how often it *never* gets to the own end, and the seconds of training to it, as
times *sooner* (0 for never, 1 for the own settings).
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import optuna
from pair_table import PairRunner, PairTable

from bstuner.core import TuneResult
from bstuner.errors import BaselineFailed
from bstuner.study import FitLength, SearchSpace, TuneSettings, tune

DATA = Path(__file__).parent / "data"
SHARE = 16  # trials in a fit
WORSE_BY = 0.01

Pair = tuple[int, float]


class Outcome(NamedTuple):
    """What an answer comes to in the whole fit."""

    own: bool
    worse: bool
    sooner: float
    cost: float | None = None


def search(table: PairTable, own: Pair, seed: int) -> tuple[TuneResult, PairRunner]:
    """The search of `BatchSizeTuner`, with its defaults."""
    runner = PairRunner(table, seed)
    sizes = list(table.cells)
    space = SearchSpace.between(sizes[0], sizes[-1], reference_batch_size=own[0], reference_lr=own[1], rule=table.rule)
    largest = sizes[-1]
    timed = {size: table.paces[size] * size for size in (largest, largest // 4, largest // 16) if size in table.cells}
    settings = TuneSettings(monitor="val_loss", seed=seed)
    fit = FitLength(SHARE * runner.budget)
    result = tune(runner, space, settings, optuna.create_study(), step_seconds=timed, fit=fit, clock=lambda: 0.0)
    return result, runner


def soonest(result: TuneResult) -> Pair:
    """The trial that was there first."""
    there = [trial for trial in result.trials if trial.seconds is not None]
    first = min(there, key=lambda trial: trial.seconds or math.inf)
    return first.global_batch_size, first.lr


def by_tpe(table: PairTable, own: Pair, seed: int, trials: int) -> Pair:
    """Whole trials, chosen by Optuna as it comes; the best loss of them and of the own."""
    runner = PairRunner(table, seed)
    rates = sorted({lr for rates in table.cells.values() for lr in rates})
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({"batch_size": own[0], "lr": own[1]})
    for _ in range(trials):
        trial = study.ask()
        batch = trial.suggest_categorical("batch_size", list(table.cells))
        lr = trial.suggest_float("lr", rates[0], rates[-1], log=True)
        curve = table.curve(batch, lr, "trial")
        if table.diverges(batch, lr, "trial"):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, curve[-1][1] * math.exp(runner._rng.normal(0, 0.003)))
    return study.best_params["batch_size"], study.best_params["lr"]


def outcome(table: PairTable, own: Pair, answer: Pair, cost: float | None = None) -> Outcome:
    """What an answer comes to in the whole fit, where the own one comes to something."""
    theirs = table.curve(*own, "fit")
    end, start = theirs[-1][1], theirs[0][1]
    if answer == own:
        return Outcome(True, False, 1.0, cost)
    mine = table.curve(*answer, "fit")
    last = math.inf if table.diverges(*answer, "fit") else mine[-1][1]
    seconds, reference = table.seconds_to(*answer, end, "fit"), table.seconds_to(*own, end, "fit")
    sooner = 0.0 if seconds is None or reference is None else reference / seconds
    return Outcome(False, last > end + WORSE_BY * abs(start - end), sooner, cost)


def replay(table: PairTable, starts: int, seeds: int) -> dict[str, list[Outcome]]:
    """Every judge from some of the table's pairs."""
    sizes = list(table.cells)
    pairs = [(batch, lr) for batch in sizes[1:-2] for lr in table.cells[batch]]
    random.Random(1).shuffle(pairs)
    found: dict[str, list[Outcome]] = {"bstuner": [], "soonest": [], "TPE": []}
    for own in pairs[:starts]:
        for seed in range(seeds):
            try:
                result, _ = search(table, own, seed)
            except BaselineFailed:
                continue
            trained = own[0], result.baseline.lr
            if table.diverges(*trained, "fit"):
                continue
            answer = result.answer.global_batch_size, result.answer.lr
            found["bstuner"].append(outcome(table, trained, answer, result.share_of_fit))
            found["soonest"].append(outcome(table, trained, soonest(result)))
            found["TPE"].append(outcome(table, trained, by_tpe(table, trained, seed, len(result.trials))))
    return found


def summarize(outcomes: list[Outcome]) -> dict[str, Any]:
    """Shares and medians."""
    count = len(outcomes)
    costs = [each.cost for each in outcomes if each.cost is not None]
    return {
        "searches": count,
        "worse": sum(each.worse for each in outcomes) / count,
        "never": sum(each.sooner == 0 for each in outcomes) / count,
        "own": sum(each.own for each in outcomes) / count,
        "sooner": median(each.sooner for each in outcomes),
        "cost": median(costs) if costs else None,
        "most_cost": max(costs, default=None),
    }


def text(name: str, judges: dict[str, dict[str, Any]]) -> str:
    """A table for people."""
    lines = [f"{name:18}{'searches':>9}{'worse':>8}{'never':>8}{'own':>7}{'sooner':>8}{'cost':>7}{'most':>7}"]
    for judge, told in judges.items():
        cost = "      -      -" if told["cost"] is None else f"{told['cost']:7.2f}{told['most_cost']:7.2f}"
        shares = f"{told['worse']:8.1%}{told['never']:8.1%}{told['own']:7.0%}"
        lines.append(f"  {judge:16}{told['searches']:9}{shares}{told['sooner']:8.2f}{cost}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = sorted(DATA.glob("whole_fit_*_0.jsonl"))
    parser.add_argument("--tables", type=Path, nargs="+", default=tables)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    told = {}
    for path in options.tables:
        table = PairTable.read(path)
        found = replay(table, options.starts, options.seeds)
        told[table.name] = {judge: summarize(outcomes) for judge, outcomes in found.items() if outcomes}
        if not options.json:
            print(text(table.name, told[table.name]), flush=True)
    if options.json:
        print(json.dumps(told))
    else:
        print(f"TPE of Optuna {optuna.__version__}")


if __name__ == "__main__":
    main()
