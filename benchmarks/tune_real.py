"""Tune real trainings on the CPU, then train with the user's settings and with the tuned ones, side by side.

    python benchmarks/tune_real.py [--cases NAME ...] [--repeats N] [--trials N] [--json]

The trainings are those of `examples/`, started from settings that a user might have. After each search, with its own
seed, both settings train afresh with another seed: once for the budget of a trial, which is what the search looks at,
and once for the whole fit, which is what its user wants. Both are validated on the way. The metric that the user's
settings end with is the target, and what counts is when each of the two first reaches it.

Seconds are those of training alone, without validation. One core each; `cpu` is the time that the process was at work,
which tests that run beside it change less than the clock on the wall.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch

import bstuner
from bstuner.core.trial import samples_to_target

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import digits
import gpt

MARKS = 24  # validations of a run: as many as a trial has at most
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Settings = tuple[int, float]  # batch size, learning rate


@dataclass(frozen=True)
class Case:
    """A training of `examples/`, and the settings of its user."""

    about: str
    model: Callable[[float], L.LightningModule]
    data: Callable[[int], L.LightningDataModule]
    batch_size: int
    lr: float
    epochs: int
    tuner: dict[str, Any] = field(default_factory=dict)


def digits_at(lr: float, about: str) -> Case:
    return Case(f"{about}, SGD with momentum", digits.Classifier, digits.Digits, batch_size=32, lr=lr, epochs=5)


CASES = {
    "digits": digits_at(0.01, "the CNN of examples/digits.py at a learning rate of 0.01"),
    "digits-as-is": digits_at(0.05, "examples/digits.py as it stands"),
    "digits-low": digits_at(0.001, "the same with the default learning rate of torch's SGD"),
    # Without max_val the search would fill the machine's memory: on a CPU that takes longer than training does.
    "gpt": Case("examples/gpt.py as it stands, AdamW", gpt.GPT, gpt.StandardLibrary, 16, 3e-4, 1, {"max_val": 512}),
}


@dataclass(frozen=True)
class Run:
    """One training: the metric and the seconds by samples, and its time in all."""

    curve: list[tuple[int, float]]
    seconds: dict[str, list[float]]  # by clock, at each point of the curve

    @property
    def final(self) -> float:
        return self.curve[-1][1]

    def to(self, target: float) -> dict[str, float] | None:
        """Samples and seconds until the target is first reached, in a straight line between two validations."""
        samples = samples_to_target(self.curve, target, "min")
        if samples is None:
            return None
        return {"samples": samples, **{clock: self._at(samples, seconds) for clock, seconds in self.seconds.items()}}

    def _at(self, samples: float, seconds: list[float]) -> float:
        before = (0, 0.0)
        for (mark, _), second in zip(self.curve, seconds, strict=True):
            if samples <= mark:
                return before[1] + (second - before[1]) * (samples - before[0]) / (mark - before[0])
            before = mark, second
        return before[1]


class Curve(L.Callback):
    """Keeps the metric at each validation, and the seconds of training up to it."""

    def __init__(self) -> None:
        self.samples = 0
        self.curve: list[tuple[int, float]] = []
        self.seconds: dict[str, list[float]] = {clock: [] for clock in CLOCKS}
        self._spent = dict.fromkeys(CLOCKS, 0.0)

    def on_train_start(self, *_: Any) -> None:
        self._started = {name: clock() for name, clock in CLOCKS.items()}

    def on_train_batch_end(self, trainer: L.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.samples += len(batch if isinstance(batch, torch.Tensor) else batch[0])

    def on_validation_start(self, *_: Any) -> None:
        for name, clock in CLOCKS.items():
            self._spent[name] += clock() - self._started[name]

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.curve.append((self.samples, float(trainer.callback_metrics["val_loss"])))
        for name in CLOCKS:
            self.seconds[name].append(self._spent[name])
        self._started = {name: clock() for name, clock in CLOCKS.items()}


def trainer_for(folder: str, callbacks: list[L.Callback], **limits: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=callbacks,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **quiet,
        **limits,
    )


def train(case: Case, settings: Settings, seed: int, samples: int | None, warmup: tuple[int, float] | None) -> Run:
    """Train by hand: for a number of samples, or for the whole fit."""
    batch_size, lr = settings
    L.seed_everything(seed)
    model, data = case.model(lr), case.data(batch_size)
    data.setup("fit")
    whole = case.epochs * len(data.train)
    limits = {"max_epochs": case.epochs} if samples is None else {"max_steps": max(1, samples // batch_size)}
    batches = limits.get("max_steps") or case.epochs * math.ceil(len(data.train) / batch_size)
    limits |= {"val_check_interval": max(1, batches // MARKS), "check_val_every_n_epoch": None}
    curve = Curve()
    callbacks = [curve]
    if warmup is not None:
        share = (samples or whole) / whole
        callbacks.append(bstuner.LearningRateWarmup(max(1, round(warmup[0] * share)), warmup[1]))
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(folder, callbacks, **limits)
        trainer.fit(model, datamodule=data)
        if curve.curve[-1][0] < curve.samples:
            trainer.validate(model, datamodule=data, verbose=False)
    return Run(curve.curve, curve.seconds)


def search(case: Case, seed: int, n_trials: int) -> bstuner.TuneResult:
    L.seed_everything(seed)
    settings = {"seed": seed, "n_trials": n_trials, **case.tuner}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(folder, [], max_epochs=case.epochs)
        return bstuner.tune(trainer, case.model(case.lr), datamodule=case.data(case.batch_size), **settings)


def compare(case: Case, result: bstuner.TuneResult, seed: int, samples: int | None) -> dict[str, Any]:
    """Train with both settings; which goes first changes with the seed."""
    own, tuned = (case.batch_size, case.lr), (result.batch_size, result.lr)
    runs: dict[Settings, Run] = {}
    for settings in (own, tuned) if seed % 2 else (tuned, own):
        if settings not in runs:
            runs[settings] = train(case, settings, seed, samples, result.warmup if settings == tuned else None)
    target = runs[own].final
    reached = {"own": runs[own].to(target), "tuned": runs[tuned].to(target)}
    ratios = None
    if reached["own"] and reached["tuned"]:
        ratios = {what: reached["own"][what] / reached["tuned"][what] for what in reached["own"]}
    return {
        "seed": seed,
        "target": target,
        "final": {"own": target, "tuned": runs[tuned].final},
        "whole": {"own": runs[own].seconds["wall"][-1], "tuned": runs[tuned].seconds["wall"][-1]},
        "reached": reached,
        "sooner": ratios,
        "curves": {"own": asdict(runs[own]), "tuned": asdict(runs[tuned])},
    }


def measure(case: Case, seed: int, n_trials: int) -> dict[str, Any]:
    before = {name: clock() for name, clock in CLOCKS.items()}
    result = search(case, seed, n_trials)
    spent = {name: clock() - before[name] for name, clock in CLOCKS.items()}
    told = result.as_dict()
    for trial in (told["baseline"], told["best"], *told["trials"], *told["confirmation"]):
        trial.pop("curve")
    trial, fit = (compare(case, result, 1000 + seed, samples) for samples in (result.budget, None))
    return {"seed": seed, "search": told, "search_seconds": spent, "budget": result.budget, "trial": trial, "fit": fit}


def table(*rows: list[str]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in texts
    )


def ratio(comparison: dict[str, Any], what: str) -> str:
    return "never" if comparison["sooner"] is None else f"{comparison['sooner'][what]:.2f}x"


def middle(measured: list[dict[str, Any]], length: str, what: str) -> str:
    """The median; a run that never gets there is slower than any other."""
    ratios = [each[length]["sooner"][what] if each[length]["sooner"] else 0.0 for each in measured]
    return f"{median(ratios):.2f}x" if median(ratios) else "never"


def report(cases: dict[str, list[dict[str, Any]]]) -> str:
    summary = [["case", "batch, lr", "trial: cpu", "samples", "fit: wall", "cpu", "samples", "search, baselines"]]
    details = [
        [
            "case",
            "seed",
            "tuned to",
            "search says",
            "confirmed",
            "length",
            "wall",
            "cpu",
            "samples",
            "loss, own",
            "tuned",
        ]
    ]
    costs = [["case", "seed", "trials", "baselines of training", "wall, s", "cpu, s", "a whole fit, s", "ended"]]
    for name, measured in cases.items():
        case = CASES[name]
        ratios = [middle(measured, *which) for which in (("trial", "cpu"), ("trial", "samples"))]
        ratios += [middle(measured, "fit", what) for what in ("wall", "cpu", "samples")]
        spent = median(each["search"]["cost_in_baselines"] for each in measured)
        summary.append([name, f"{case.batch_size}, {case.lr:g}", *ratios, f"{spent:.1f}"])
        for each in measured:
            found = each["search"]
            says = "-" if found["speedup"] is None else f"{found['speedup']:.2f}x"
            answer = [f"{found['batch_size']}, {found['lr']:.3g}", says, str(found["confirmed"])]
            for length in ("trial", "fit"):
                losses = [f"{each[length]['final'][which]:.4f}" for which in ("own", "tuned")]
                sooner = [ratio(each[length], what) for what in ("wall", "cpu", "samples")]
                details.append([name, str(each["seed"]), *answer, length, *sooner, *losses])
            costs.append([
                name, str(each["seed"]), str(found["n_trials"]), f"{found['cost_in_baselines']:.1f}",
                f"{each['search_seconds']['wall']:.0f}", f"{each['search_seconds']['cpu']:.0f}",
                f"{each['fit']['whole']['own']:.0f}", found["stopped"],
            ])  # fmt: skip
    notes = "\n".join(f"- {name}: {CASES[name].about}" for name in cases)
    return "\n\n".join([table(*summary), notes, table(*details), table(*costs)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3, help="searches of each case, each with a seed of its own")
    parser.add_argument("--trials", type=int, default=20, help="most trials of a search, as `n_trials` of the tuner")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    cases: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.cases}
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # Ctrl-C: what was measured so far is reported
        for seed in range(1, arguments.repeats + 1):
            for name, measured in cases.items():
                with contextlib.redirect_stdout(sys.stderr):  # where the search shows its trials
                    measured.append(measure(CASES[name], seed, arguments.trials))
    cases = {name: measured for name, measured in cases.items() if measured}
    if arguments.json:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "lightning": L.__version__}
        print(json.dumps({**versions, "cores": os.cpu_count(), "repeats": arguments.repeats, "cases": cases}))
    else:
        print(report(cases))


if __name__ == "__main__":
    main()
