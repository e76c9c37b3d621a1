"""Train with a learning rate that falls, and with a batch that grows instead: do both end at the same loss?

    python benchmarks/growth_vs_decay.py [--records FILE] [--models NAME ...] [--optimizers NAME ...]
                                         [--schedules NAME ...] [--seeds N] [--epochs N] [--json]

The trainings are those of `examples/`, each with two optimizers and three schedules. The learning rate is the best of a
short grid for the schedule as it is, on a seed of its own. With it, every other seed trains with the schedule as it is
(decay), and with `BatchSizeScheduler` beside it (growth): at its defaults, and with AdamW by the linear rule too. All
start from the same weights and see the same samples in the same order. What counts is the loss on all validation data
after the last step.

The mean of the differences, growth less decay over the same seed, has a 95 % interval by Student's t. The comparison
holds if the whole interval is below two seed standard deviations: those of the losses that decay ends with, over the
seeds that are compared, with n - 1 below the line.

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
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import lightning as L
import torch
from torch.optim import lr_scheduler
from tune_real import digits, gpt, table, trainer_for  # which knows where the examples are

from bstuner import BatchSizeScheduler

RECORDS = Path(__file__).parent / "data" / "growth_vs_decay.jsonl"
GRID_SEED = 0  # that of the grid; the seeds that are compared follow it
FITS = 4096  # samples at a time: memory is not what ends the growth here, and no search for it is wanted
SCHEDULES = ("multi-step", "cosine", "exponential")
OPTIMIZERS = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9),
    "adamw": lambda parameters, lr: torch.optim.AdamW(parameters, lr),
}
GROWTHS = {"growth": {}, "growth, linear": {"rule": "linear"}}
GROWTHS_OF = {"sgd": ["growth"], "adamw": list(GROWTHS)}


class EighthOfLibrary(gpt.StandardLibrary):
    """Every eighth piece: few enough to be seen three times; validated on all that is held out."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train = gpt.Pieces(self.train.pieces[::8])


@dataclass(frozen=True)
class Training:
    """A training of `examples/`; its schedule counts epochs or steps, as its user would have it."""

    model: type[L.LightningModule]
    data: type[L.LightningDataModule]
    batch_size: int
    epochs: int
    interval: str
    seeds: int
    warmup: float  # share of the fit over which the learning rate first rises
    grids: dict[str, tuple[float, ...]] = field(default_factory=dict)  # learning rates, by optimizer


GPT = Training(
    gpt.GPT, EighthOfLibrary, batch_size=8, epochs=3, interval="step", seeds=5, warmup=0.05,
    grids={"sgd": (0.3, 1.0, 3.0), "adamw": (3e-3, 1e-2, 3e-2)},
)  # fmt: skip
MODELS = {
    "digits": Training(
        digits.Classifier, digits.Digits, batch_size=8, epochs=12, interval="epoch", seeds=10, warmup=0,
        grids={"sgd": (0.003, 0.01, 0.03, 0.1), "adamw": (3e-4, 1e-3, 3e-3, 1e-2)},
    ),
    "gpt": GPT,
    "gpt-small-batch": replace(
        GPT, batch_size=2, grids={"sgd": (0.05, 0.1, 0.25, 0.5), "adamw": (3e-3, 6e-3, 1.2e-2, 2.4e-2)}
    ),
}  # fmt: skip


class Fit(NamedTuple):
    """One training; with what it came to, a line of the records."""

    model: str
    optimizer: str
    schedule: str
    epochs: int
    lr: float
    arm: str  # "grid", "decay" or one of GROWTHS
    seed: int


def schedule(name: str, optimizer: torch.optim.Optimizer, length: int, warmup: int) -> lr_scheduler.LRScheduler:
    """A tenth at one half and a hundredth at three quarters; along a cosine to 0; evenly to a hundredth."""
    rise = lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup) if warmup else None
    rest = length - warmup
    fall = {
        "multi-step": lambda: lr_scheduler.MultiStepLR(optimizer, [length // 2 - warmup, length * 3 // 4 - warmup]),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, rest),
        "exponential": lambda: lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / rest)),
    }[name]()
    return lr_scheduler.SequentialLR(optimizer, [rise, fall], [warmup]) if rise else fall


def model_of(fit: Fit) -> L.LightningModule:
    training = MODELS[fit.model]

    class Scheduled(training.model):
        def configure_optimizers(self) -> Any:
            # Asked of the loader: `trainer.estimated_stepping_batches` would draw from the random generator, and the
            # samples would come in another order than those of the records.
            steps = fit.epochs * len(self.trainer.datamodule.train_dataloader())
            length = {"epoch": fit.epochs, "step": steps}[training.interval]
            optimizer = OPTIMIZERS[fit.optimizer](self.parameters(), self.lr)
            scheduler = schedule(fit.schedule, optimizer, length, round(training.warmup * length))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": training.interval}}

    return Scheduled(fit.lr)


class FirstLoss(L.Callback):
    """Keeps the loss of the first batch: the same for both arms if weights and samples are."""

    def on_train_batch_end(self, trainer: L.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            self.value = float(outputs["loss"])


def train(fit: Fit) -> dict[str, Any]:
    """Train, validate once at the end, and return the record."""
    started = time.process_time()
    L.seed_everything(fit.seed)
    training = MODELS[fit.model]
    model, data = model_of(fit), training.data(training.batch_size)
    first, growth = FirstLoss(), BatchSizeScheduler(fits=FITS, **GROWTHS.get(fit.arm, {}))
    callbacks = [first, *([growth] if fit.arm in GROWTHS else [])]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(folder, callbacks, max_epochs=fit.epochs, limit_val_batches=0)
        trainer.fit(model, datamodule=data)
        validator = trainer_for(folder, [])
        validator.validate(model, datamodule=data, verbose=False)
    losses = {"val_loss": float(validator.callback_metrics["val_loss"]), "first_loss": first.value}
    record = {name: round(loss, 6) for name, loss in losses.items()}
    record |= {"steps": trainer.global_step, "cpu_seconds": round(time.process_time() - started, 1)}
    if growth.plan is not None:
        planned = {"planned_steps": growth.plan.planned_steps, "nominal_steps": growth.plan.nominal_steps}
        record |= {**planned, "largest_batch": max(phase.batch_size for phase in growth.plan.phases)}
    return {**fit._asdict(), **record}


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
            self._of[fit] = train(fit)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                print(json.dumps(self._of[fit]), file=file)
        return self._of[fit]


def compare(records: Records, name: tuple[str, str, str], epochs: int | None, seeds: int | None) -> dict[str, Any]:
    """Choose the learning rate for decay alone, and compare the ways to grow with it on other seeds."""
    training = MODELS[name[0]]
    epochs, seeds, rates = epochs or training.epochs, seeds or training.seeds, training.grids[name[1]]
    grid = {lr: records.of(Fit(*name, epochs, lr, "grid", GRID_SEED))["val_loss"] for lr in rates}
    lr = min(grid, key=lambda rate: grid[rate] if math.isfinite(grid[rate]) else math.inf)
    arms = {
        arm: [records.of(Fit(*name, epochs, lr, arm, seed)) for seed in range(GRID_SEED + 1, GRID_SEED + 1 + seeds)]
        for arm in ("decay", *GROWTHS_OF[name[1]])
    }
    losses = {arm: [fit["val_loss"] for fit in fits] for arm, fits in arms.items()}
    decayed = arms.pop("decay")
    return {
        **dict(zip(("model", "optimizer", "schedule"), name, strict=True)),
        "grid": grid,
        "lr": lr,
        "losses": losses,
        "seed_sd": stdev(losses["decay"]),
        "growths": {arm: beside(decayed, grown) for arm, grown in arms.items()},
    }


def beside(decayed: list[dict[str, Any]], grown: list[dict[str, Any]]) -> dict[str, Any]:
    """What growth came to beside decay, seed by seed."""
    pairs = list(zip(decayed, grown, strict=True))
    low, high = interval([growth["val_loss"] - decay["val_loss"] for decay, growth in pairs])
    return {
        "difference": (low + high) / 2,
        "interval": [low, high],
        "holds": high < 2 * stdev(decay["val_loss"] for decay in decayed),
        "same_start": all(decay["first_loss"] == growth["first_loss"] for decay, growth in pairs),
        **{key: grown[0][key] for key in ("planned_steps", "nominal_steps", "largest_batch")},
        "as_planned": all(
            growth["steps"] == growth["planned_steps"] and decay["steps"] == growth["nominal_steps"]
            for decay, growth in pairs
        ),
    }


def interval(differences: list[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by Student's t."""
    from scipy.stats import t  # comes with scikit-learn

    half = float(t.ppf(0.975, len(differences) - 1)) * stdev(differences) / math.sqrt(len(differences))
    return mean(differences) - half, mean(differences) + half


def report(compared: list[dict[str, Any]]) -> str:
    headings = [
        "model optimizer schedule", "lr", "decay", "way", "loss", "difference", "95 % interval", "2 seed SD", "holds",
        "steps", "saved", "as planned",
    ]  # fmt: skip
    rows, grids, losses = [], [], []
    for each in compared:
        name = " ".join(each[key] for key in ("model", "optimizer", "schedule"))
        for arm, growth in each["growths"].items():
            low, high = growth["interval"]
            steps = growth["planned_steps"], growth["nominal_steps"]
            decayed, grown = (f"{mean(each['losses'][which]):.4f}" for which in ("decay", arm))
            rows.append([
                name, f"{each['lr']:g}", decayed, arm, grown,
                f"{growth['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{2 * each['seed_sd']:.4f}",
                "yes" if growth["holds"] else "no", f"{steps[1]:,} to {steps[0]:,}", f"{1 - steps[0] / steps[1]:.0%}",
                "yes" if growth["as_planned"] else "no",
            ])  # fmt: skip
        grids.append(f"- {name}: {', '.join(f'{lr:g}: {loss:.4f}' for lr, loss in each['grid'].items())}")
        for arm, ended in each["losses"].items():
            losses.append([name, arm, *(f"{loss:.4f}" for loss in ended)])
    seeds = [str(seed + GRID_SEED + 1) for seed in range(max(len(row) for row in losses) - 2)]
    losses = [[*row, *[""] * (len(seeds) + 2 - len(row))] for row in losses]
    tables = [table(headings, *rows), table([headings[0], "seed", *seeds], *losses)]
    return "\n\n".join([*tables, f"Validation losses of the grid, decay, seed {GRID_SEED}:", "\n".join(grids)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS, help="JSON lines: read, and added to")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--seeds", type=int, help="trainings of each arm, at least 2, instead of those of each model")
    parser.add_argument("--epochs", type=int, help="instead of those of each model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.seeds is not None and arguments.seeds < 2:
        parser.error(f"--seeds: expected at least 2, which an interval takes, found {arguments.seeds}")
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    records = Records(arguments.records)
    names = product(arguments.models, arguments.optimizers, arguments.schedules)
    compared = [compare(records, name, arguments.epochs, arguments.seeds) for name in names]
    print(json.dumps({"comparisons": compared}) if arguments.json else report(compared))


if __name__ == "__main__":
    main()
