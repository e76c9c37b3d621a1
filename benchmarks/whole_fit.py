"""Let the tuner choose, train the whole fit with what it chose, and compare that with the whole fit of the user's own.

    python benchmarks/whole_fit.py [--records FILE] [--tasks NAME ...] [--starts NAME ...] [--seeds N] [--own-fits N]
                                   [--json]

Six tasks that need nothing but scikit-learn and Python itself, with SGD and AdamW, three schedules, and a user's
learning rate that is too low, good, or too hot but training: every combination of optimizer, schedule and start comes
up once, nine in each half of the tasks. A tenth training diverges as its user has it. The tuner has its defaults.

One fit with `BatchSizeTuner` is a search and, in the same run, the whole fit with what it put in place; another one
with the same seed has the user's own settings. Both are validated on all validation data, at the same marks. It counts:

- *worse*: the mean end of the tuned fits, over the seeds, is above that of the own fits by more than two seed standard
  deviations and by more than a hundredth of the way from start to end. The deviation is that of the own fits with
  more seeds, pooled over the trainings of one task and optimizer.
- *realised*: seconds of the whole own fit, over those of the tuned fit to where that one ended; 0 where it never gets
  there, and 1 where the user's own settings stay in place.
- *cost*: seconds of training in the search over those of the own fit, as the search says; *all in*: all seconds of the
  search, validation and all, over those of training in the own fit, as measured.

Seconds are those that the process was at work; in fits, on training alone. The constants of the tuner were chosen
knowing the first half of the tasks, and its promises are for the other.

Every fit is a line of the records as soon as it has ended. What is there is not trained again: with the records that
are kept beside this script, the tables are printed at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean, median, variance
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset
from tune_real import digits as digits_example, table, trainer_for  # which knows where the examples are
from whole_fit_tables import (
    OPTIMIZERS,
    Data,
    TinyGPT,
    classify,
    continue_text,
    denoiser,
    digits,
    library,
    noisy_patches,
    patches,
    pieces,
    predict,
)

import bstuner
from bstuner.core.trial import samples_to_target

RECORDS = Path(__file__).parent / "data" / "whole_fit.jsonl"
FIRST, IN_THE_LOGARITHM, EVENLY = 1 / 256, 12, 24  # marks: the first one's share of the fit, and how many of which
SCHEDULES = ("constant", "cosine", "steps")


@cache
def sums() -> Data:
    """Two digits side by side, and their sum."""

    def of(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        left, right = torch.randint(len(images), (2, count), generator=torch.Generator().manual_seed(0))
        return torch.cat([images[left], images[right]], dim=3), labels[left] + labels[right]

    return Data(of(*digits().train, 6000), of(*digits().val, 600))


@cache
def colours() -> Data:
    """Patches of photos without their colours, and with them."""
    gray = [images.mean(1, keepdim=True) for images, _ in (patches().train, patches().val)]
    return Data((gray[0], patches().train[0]), (gray[1], patches().val[0]))


@cache
def lines() -> Data:
    """Pieces of 16 bytes of Python's standard library, and the byte after each of theirs."""
    return Data.split(pieces(library()[0], 17, 120), val=600)


@cache
def long_lines() -> Data:
    return Data.split(pieces(library()[0], 33, 96), val=400)


def adder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 32, 64), nn.ReLU(), nn.Linear(64, 19),
    )  # fmt: skip


def colourist() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(),
        nn.Linear(128, 192), nn.Unflatten(1, (3, 8, 8)),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.gru, self.head = nn.Embedding(256, 24), nn.GRU(24, 48, batch_first=True), nn.Linear(48, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.token(x))[0])


class Start(NamedTuple):
    """What a user begins with."""

    optimizer: str
    schedule: str
    lr: float


@dataclass(frozen=True)
class Task:
    about: str
    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    loss: Callable[..., tuple[Tensor, Tensor | None]]
    batch_size: int
    epochs: int
    starts: dict[str, Start]
    calibrated: bool = False  # whether the tuner's constants were chosen knowing it
    trainer: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "digits": Task(
        "the CNN of examples/digits.py, with BatchNorm", digits, lambda: digits_example.Classifier().net, classify,
        batch_size=16, epochs=14, calibrated=True, starts={
            "low": Start("sgd", "constant", 1e-4),
            "good": Start("adamw", "cosine", 3e-3),
            "hot": Start("sgd", "steps", 0.1),
        },
    ),
    "gpt": Task(
        "a GPT of one layer on bytes", long_lines, TinyGPT, continue_text,
        batch_size=8, epochs=1, calibrated=True, trainer={"val_check_interval": 0.1}, starts={
            "low": Start("adamw", "cosine", 2e-4),
            "good": Start("sgd", "steps", 0.2),
            "hot": Start("adamw", "constant", 0.03),
        },
    ),
    "denoise": Task(
        "noise taken out of patches of photos, by convolutions with BatchNorm", noisy_patches, denoiser, predict,
        batch_size=16, epochs=3, calibrated=True, starts={
            "low": Start("sgd", "steps", 3e-3),
            "good": Start("adamw", "constant", 3e-3),
            "hot": Start("sgd", "cosine", 0.15),
        },
    ),
    "sums": Task(
        "the sum of two digits side by side, by convolutions with BatchNorm", sums, adder, classify,
        batch_size=16, epochs=6, starts={
            "low": Start("adamw", "steps", 1e-4),
            "good": Start("sgd", "constant", 0.02),
            "hot": Start("adamw", "cosine", 0.01),
        },
    ),
    "colours": Task(
        "the colours of patches of photos without them, by an MLP", colours, colourist, predict,
        batch_size=16, epochs=4, starts={
            "low": Start("adamw", "constant", 1e-4),
            "good": Start("sgd", "cosine", 2.0),
            "hot": Start("adamw", "steps", 0.02),
            "diverges": Start("sgd", "cosine", 50.0),
        },
    ),
    "gru": Task(
        "a GRU on bytes", lines, Recurrent, continue_text,
        batch_size=8, epochs=1, trainer={"val_check_interval": 0.1}, starts={
            "low": Start("sgd", "cosine", 5e-3),
            "good": Start("adamw", "steps", 0.012),
            "hot": Start("sgd", "constant", 0.7),
        },
    ),
}  # fmt: skip
STARTS = ("low", "good", "hot", "diverges")


class Fit(NamedTuple):
    """One training; with what it came to, a line of the records."""

    task: str
    start: str
    optimizer: str
    schedule: str
    batch_size: int
    epochs: int
    lr: float
    arm: str  # "own", or "tuned": the search too
    seed: int


class Samples(L.LightningDataModule):
    def __init__(self, data: Data, batch_size: int) -> None:
        super().__init__()
        self.data, self.batch_size = data, batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self.data.train), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self.data.val), batch_size=200)


class Training(L.LightningModule):
    def __init__(self, fit: Fit) -> None:
        super().__init__()
        self.fit, self.task, self.lr = fit, TASKS[fit.task], fit.lr
        self.net = self.task.model()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.task.loss(self.net, batch)[0]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.task.loss(self.net, batch)[0])

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.fit.optimizer](self.parameters(), self.lr)
        if self.fit.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler: lr_scheduler.LRScheduler = {
            "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, steps),
            "steps": lambda: lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4]),
        }[self.fit.schedule]()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Curve(L.Callback):
    """Validates the fit itself, not the trials, at marks of its own, and keeps samples, seconds of training and loss.

    A fit whose loss leaves the finite numbers is not worth going on with.
    """

    def __init__(self, data: Data, total: int, tuner: bstuner.BatchSizeTuner | None) -> None:
        shares = [FIRST ** (1 - number / IN_THE_LOGARITHM) for number in range(IN_THE_LOGARITHM)]
        shares += [number / EVENLY for number in range(1, EVENLY + 1)]
        self._marks = sorted({math.ceil(total * share) for share in shares}, reverse=True)
        self._data, self._tuner = data, tuner
        self._samples, self._seconds = 0, 0.0
        self._since: float | None = None  # while training goes on
        self.began = 0.0  # when training did, after the search
        self.points: list[tuple[int, float, float | None]] = []

    def on_train_start(self, trainer: L.Trainer, model: Any) -> None:
        if self._tuner is None or self._tuner.result is not None:
            self.began = time.process_time()
            self._validate(trainer, model)
            self._since = time.process_time()

    def on_train_batch_end(self, trainer: L.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._since is None:
            return
        self._samples += len(batch[0])
        if self._samples >= self._marks[-1]:
            self.on_validation_start()
            while self._marks and self._samples >= self._marks[-1]:
                self._marks.pop()
            self._validate(trainer, model)
            self._since = time.process_time()

    def on_validation_start(self, *_: Any) -> None:
        if self._since is not None:
            self._seconds += time.process_time() - self._since

    def on_validation_end(self, *_: Any) -> None:
        if self._since is not None:
            self._since = time.process_time()

    def _validate(self, trainer: L.Trainer, model: Training) -> None:
        model.net.eval()
        with torch.no_grad():
            loss = float(model.task.loss(model.net, self._data.val)[0])
        model.net.train()
        finite = math.isfinite(loss)
        trainer.should_stop = trainer.should_stop or not finite
        self.points.append((self._samples, round(self._seconds, 4), float(f"{loss:.6g}") if finite else None))


def train(fit: Fit) -> dict[str, Any]:
    """Train, after a search or not, and return the record."""
    began = time.process_time()
    L.seed_everything(fit.seed)
    task = TASKS[fit.task]
    model, data = Training(fit), task.data()
    tuner = bstuner.BatchSizeTuner(seed=fit.seed) if fit.arm == "tuned" else None
    curve = Curve(data, fit.epochs * len(data.train[0]), tuner)
    record: dict[str, Any] = dict(fit._asdict())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        callbacks = [curve] if tuner is None else [tuner, curve]
        trainer = trainer_for(folder, callbacks, max_epochs=fit.epochs, **task.trainer)
        began = time.process_time()
        try:
            trainer.fit(model, datamodule=Samples(data, fit.batch_size))
        except bstuner.BstunerError as refusal:
            record["refused"] = str(refusal)
    if tuner is not None and tuner.result is not None:
        record |= said(tuner.result, fit) | {"search_seconds": round(curve.began - began, 3)}
        record["warned"] = [str(each.message) for each in caught if "falls behind" in str(each.message)]
    return {**record, "curve": curve.points}


def said(result: bstuner.TuneResult, fit: Fit) -> dict[str, Any]:
    """What the search chose, and what it claims."""
    answer = result.answer
    return {
        "answer": [answer.global_batch_size, answer.lr],
        "stays": (answer.global_batch_size, answer.lr) == (fit.batch_size, fit.lr),
        "speedup": result.speedup,
        "interval": result.speedup_interval,
        "as_good": len(result.as_good),
        "share_of_fit": result.share_of_fit,
        "trials": len(result.trials),
        "confirmed": result.confirmed,
        "stopped": result.stopped,
        "warnings": list(result.warnings),
    }


class Records:
    """The fits that have ended, by what they were."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._of = {Fit(*(record[name] for name in Fit._fields)): record for record in map(json.loads, lines)}

    def of(self, fit: Fit) -> dict[str, Any]:
        """The record of a fit, which is trained if there is none."""
        if fit not in self._of:
            print(*fit, file=sys.stderr, flush=True)
            line = json.dumps(train(fit))
            self._of[fit] = json.loads(line)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                print(line, file=file)
        return self._of[fit]


def end(record: dict[str, Any]) -> float:
    last = record["curve"][-1][2] if record["curve"] else None
    return math.inf if last is None else last


def seconds_to(record: dict[str, Any], target: float) -> float | None:
    """Seconds of training until the target is first reached, in a straight line between two marks."""
    curve = [(seconds, loss) for _, seconds, loss in record["curve"] if loss is not None]
    return samples_to_target(curve, target, "min")


def realised(own: dict[str, Any], tuned: dict[str, Any], own_seconds: float) -> float:
    """How many times sooner the tuned fit is where the own fit ends."""
    if tuned["stays"]:
        return 1.0
    spent = seconds_to(tuned, end(own))
    return 0.0 if spent is None else own_seconds / max(spent, 1e-3)


def compare(records: Records, name: str, start: str, seeds: int, own_fits: int, epochs: int | None) -> dict[str, Any]:
    """Train one start of one task: with its own settings by as many seeds as a deviation takes, and tuned."""
    task = TASKS[name]
    begun = task.starts[start]
    settings = (name, start, begun.optimizer, begun.schedule, task.batch_size, epochs or task.epochs, begun.lr)
    numbers = range(1, 1 + seeds)
    pairs = [[records.of(Fit(*settings, arm, seed)) for arm in ("own", "tuned")] for seed in numbers]
    diverges = start == "diverges"
    more = [] if diverges else [records.of(Fit(*settings, "own", seed)) for seed in range(1 + seeds, 1 + own_fits)]
    return {
        "task": name,
        "start": start,
        "optimizer": begun.optimizer,
        "schedule": begun.schedule,
        "own": [task.batch_size, begun.lr],
        "calibrated": task.calibrated,
        "began": mean(own["curve"][0][2] for own, _ in pairs),
        "own_ends": [end(own) for own, _ in pairs] + [end(own) for own in more],
        "rows": [row(own, tuned) for own, tuned in pairs],
    }


def row(own: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    """One search, and the fit that followed it."""
    both = {"seed": own["seed"], "own_end": end(own), "tuned_end": end(tuned), "refused": tuned.get("refused")}
    if both["refused"] is not None:
        return both
    said = {key: tuned[key] for key in ("answer", "stays", "interval", "speedup", "share_of_fit", "confirmed")}
    row = {**both, **said, "warned": bool(tuned["warned"]), "realised": None, "to_first": None, "all_in": None}
    if math.isfinite(both["own_end"]):
        whole, first = own["curve"][-1][1], seconds_to(own, both["own_end"])
        row |= {"realised": realised(own, tuned, whole), "to_first": realised(own, tuned, first)}
        row["all_in"] = tuned["search_seconds"] / whole
    return row


def judge(compared: list[dict[str, Any]]) -> None:
    """Tell which of them end worse than the user's own."""
    groups: dict[tuple[str, str], list[list[float]]] = {}
    for each in compared:
        if each["start"] != "diverges":
            groups.setdefault((each["task"], each["optimizer"]), []).append(each["own_ends"])
    for each in compared:
        each["worse"] = None
        if each["start"] == "diverges":
            continue
        each["sd"] = pooled(groups[each["task"], each["optimizer"]])
        own, tuned = (mean(row[which] for row in each["rows"]) for which in ("own_end", "tuned_end"))
        each["allowed"] = max(2 * each["sd"], 0.01 * (each["began"] - own))
        each["worse"] = not tuned - own <= each["allowed"]


def pooled(groups: Iterable[list[float]]) -> float:
    """The standard deviation within groups that differ in their means."""
    groups = list(groups)
    return math.sqrt(sum(variance(g) * (len(g) - 1) for g in groups) / sum(len(g) - 1 for g in groups))


def summary(compared: list[dict[str, Any]]) -> dict[str, Any]:
    """What it comes to, over one half of the tasks."""
    trained = [each for each in compared if each["start"] != "diverges"]
    rows = [row for each in trained for row in each["rows"]]
    searched = [row for row in rows if row["refused"] is None]
    claimed = [row for row in searched if row["interval"] is not None and not row["stays"]]
    held = sum(row["interval"][0] <= row["realised"] <= row["interval"][1] for row in claimed)
    return {
        "trainings": len(trained),
        "worse": sum(each["worse"] for each in trained),
        "searches": len(rows),
        "refused": sum(row["refused"] is not None for each in compared for row in each["rows"]),
        "stays": sum(row["stays"] for row in searched),
        "realised": medians(trained, "realised"),
        "to_first": medians(trained, "to_first"),
        "cost": middle_and_most(row["share_of_fit"] for row in searched),
        "all_in": middle_and_most(row["all_in"] for row in searched),
        "claims": len(claimed),
        "held": held,
        "coverage": binomial(held, len(claimed)) if claimed else None,
        "width": middle(row["interval"][1] / row["interval"][0] for row in claimed),
    }


def medians(trained: list[dict[str, Any]], what: str) -> dict[str, float | None]:
    """By start; a search that refuses brings nothing."""
    rows = [(each["start"], row) for each in trained for row in each["rows"]]
    return {start: middle(row.get(what, 0.0) for of, row in rows if of == start) for start in STARTS[:3]}


def middle(values: Iterable[float]) -> float | None:
    values = list(values)
    return median(values) if values else None


def middle_and_most(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    values = [value for value in values if value is not None]
    return middle(values), max(values, default=None)


def binomial(successes: int, of: int, confidence: float = 0.9) -> tuple[float, float]:
    """The interval of a probability, by Clopper and Pearson."""
    from scipy.stats import beta  # comes with scikit-learn

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, of - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, of - successes)) if successes < of else 1.0
    return low, high


def report(compared: list[dict[str, Any]], halves: dict[str, dict[str, Any]]) -> str:
    headings = [
        "task optimizer schedule", "start", "seed", "own", "answer", "own end", "tuned end", "allowed", "worse",
        "claimed", "realised", "cost", "all in",
    ]  # fmt: skip
    texts = []
    for calibrated in (False, True):
        rows = [cells(each, row) for each in compared if each["calibrated"] == calibrated for row in each["rows"]]
        if rows:
            name = "known" if calibrated else "reported"
            texts += [f"Tasks {name}:", table(headings, *rows), in_words(halves[name])]
    notes = "\n".join(f"- {name}: {task.about}" for name, task in TASKS.items())
    return "\n\n".join([*texts, notes])


def cells(each: dict[str, Any], row: dict[str, Any]) -> list[str]:
    name = " ".join(each[key] for key in ("task", "optimizer", "schedule"))
    known = [name, each["start"], str(row["seed"]), "{}, {:.3g}".format(*each["own"])]
    ends = [f"{row[which]:.4g}" for which in ("own_end", "tuned_end")]
    told = ["-", "-"] if each["worse"] is None else [f"{each['allowed']:.2g}", "yes" if each["worse"] else "no"]
    if row["refused"] is not None:
        return [*known, "refused", *ends, *told, "-", "-", "-", "-"]
    answer = "stays" if row["stays"] else "{}, {:.3g}".format(*row["answer"])
    claimed = "-" if row["interval"] is None else "{:.2g}x to {:.2g}x".format(*row["interval"])
    if row["interval"] is None and row["speedup"] is not None:
        claimed = f"{row['speedup']:.2g}x"
    measured = [
        form.format(row[which]) if row[which] is not None else "-"
        for which, form in (("realised", "{:.2f}x"), ("share_of_fit", "{:.2f}"), ("all_in", "{:.2f}"))
    ]
    return [*known, answer, *ends, *told, claimed, *measured]


def in_words(half: dict[str, Any]) -> str:
    def shown(value: float | None, unit: str = "") -> str:
        return "-" if value is None else f"{value:.2f}{unit}"

    def by_start(what: str) -> str:
        return ", ".join(f"{start} {shown(value, 'x')}" for start, value in half[what].items())

    lines = [
        f"- trainings that end worse: {half['worse']} of {half['trainings']}",
        f"- searches that refuse: {half['refused']}; that leave the settings as they are: {half['stays']} of "
        f"{half['searches']}",
        f"- realised, medians: {by_start('realised')}",
        f"- the same, from the own fit's seconds to where it first is at its end: {by_start('to_first')}",
        f"- cost: median {shown(half['cost'][0])}, most {shown(half['cost'][1])}; "
        f"all in: median {shown(half['all_in'][0])}, most {shown(half['all_in'][1])}",
    ]
    if half["coverage"] is not None:
        low, high = half["coverage"]
        lines.append(
            f"- claimed intervals that hold: {half['held']} of {half['claims']}, {low:.0%} to {high:.0%} with 90 % "
            f"confidence; median width {half['width']:.1f}x"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS, help="JSON lines: read, and added to")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", type=int, default=2, help="searches of each training, each with a seed of its own")
    parser.add_argument("--own-fits", type=int, default=5, help="own fits of each training, at least 2")
    parser.add_argument("--epochs", type=int, help="instead of those of each task")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.own_fits < 2:
        parser.error(f"--own-fits: expected at least 2, which a deviation takes, found {arguments.own_fits}")
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    records = Records(arguments.records)
    which = [(name, start) for name in arguments.tasks for start in TASKS[name].starts if start in arguments.starts]
    compared = [compare(records, *each, arguments.seeds, arguments.own_fits, arguments.epochs) for each in which]
    judge(compared)
    halves = {}
    for name, calibrated in (("reported", False), ("known", True)):
        half = [each for each in compared if each["calibrated"] == calibrated]
        if any(each["start"] != "diverges" for each in half):
            halves[name] = summary(half)
    print(json.dumps({"trainings": compared, "halves": halves}) if arguments.json else report(compared, halves))


if __name__ == "__main__":
    main()
