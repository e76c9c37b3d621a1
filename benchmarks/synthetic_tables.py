"""Write families of made-up learning curves, in the format that `policy.py` reads: what a policy is developed on.

    python benchmarks/synthetic_tables.py FOLDER [--tables N] [--seed S]

Each table is a quadratic loss with noisy gradients, of which the expected loss is computed exactly: plain SGD, SGD with
momentum, sign-like (per coordinate) and normalized updates stand for the optimizers people use. Spectrum, noise,
starting point, schedule, step times, the grid of settings and the noise of the metric are drawn for each table. Large
learning rates diverge.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

OPTIMIZERS = {"sgd": "linear", "momentum": "linear", "sign": "sqrt", "normalized": "sqrt"}
SCHEDULES = {"cosine": 0.5, "linear": 0.3, "constant": 0.2}
MARKS = 24
DIMENSIONS = 200


def draw_table(rng: np.random.Generator) -> list[dict[str, Any]]:
    optimizer = str(rng.choice(list(OPTIMIZERS)))
    schedule = str(rng.choice(list(SCHEDULES), p=list(SCHEDULES.values())))
    i = np.arange(1, DIMENSIONS + 1)
    curvature = i ** -rng.uniform(0.8, 1.8)
    start = i ** -rng.uniform(-0.3, 0.4)
    noise = curvature * 2 ** rng.uniform(-4, 3)
    smallest = 2 ** int(rng.integers(3, 6))
    batch_sizes = [smallest * 2**k for k in range(int(rng.integers(6, 9)))]
    budget = batch_sizes[-1] * int(2 ** rng.integers(5, 7))
    knee = 2 ** rng.uniform(math.log2(smallest), math.log2(batch_sizes[-1]))
    floor_share = rng.uniform(0, 1)
    irreducible = rng.choice([0.0, 1.0]) * float(0.1 * (curvature * start**2).sum())
    wobble = rng.choice([0.0, 0.003, 0.01])
    # The grid of learning rates is around what is best in the middle of the batch sizes.
    middle = batch_sizes[len(batch_sizes) // 2]
    trials = 2.0 ** np.arange(-24, 6)
    final = curves(optimizer, schedule, curvature, start, noise, middle, trials, budget)[:, -1]
    best = trials[int(np.nanargmin(np.where(np.isfinite(final), final, np.inf)))]
    below = int(rng.integers(3, 8))
    edge = rng.choice([math.inf, 2 ** rng.uniform(1, 3.5)])  # a learning rate so many times the best one diverges
    lrs = best * 2.0 ** np.arange(-below, 10 - below)
    rows = []
    for batch_size in batch_sizes:
        losses = curves(optimizer, schedule, curvature, start, noise, batch_size, lrs, budget)
        stable = lrs[int(np.argmin(np.where(np.isfinite(losses[:, -1]), losses[:, -1], np.inf)))] * edge
        losses[lrs > stable, int(rng.integers(0, MARKS // 2)) :] = np.nan
        floor = knee * (0.2 + 0.8 * floor_share)
        step_seconds = 1e-4 * max(floor, knee * (1 - floor_share) + batch_size)
        for lr, curve in zip(lrs, losses, strict=True):
            told = irreducible + curve * np.exp(wobble * rng.standard_normal(MARKS))
            marks = [[budget * (m + 1) // MARKS, float(f"{loss:.6g}")] for m, loss in enumerate(told)]
            bad = next((m for m, (_, loss) in enumerate(marks) if not math.isfinite(loss)), None)
            rows.append({
                "task": f"{optimizer}-{schedule}",
                "rule": OPTIMIZERS[optimizer],
                "batch_size": batch_size,
                "lr": float(lr),
                "step_seconds": step_seconds,
                "val_loss": marks if bad is None else [*marks[:bad], [marks[bad][0], None]],
            })  # fmt: skip
    return rows


def curves(
    optimizer: str,
    schedule: str,
    curvature: np.ndarray,
    start: np.ndarray,
    noise: np.ndarray,
    batch_size: int,
    lrs: np.ndarray,
    budget: int,
) -> np.ndarray:
    """Expected loss at each mark, a row per learning rate; NaN from where it diverged on."""
    steps = budget // batch_size
    h, c = curvature[None, :], (noise / batch_size)[None, :]
    square = np.tile(start**2, (len(lrs), 1))  # E x^2
    cross = np.zeros_like(square)  # E x v, of momentum
    velocity = np.zeros_like(square)  # E v^2
    momentum = 0.9
    marks = {math.ceil((m + 1) * steps / MARKS): m for m in range(MARKS)}
    losses = np.full((len(lrs), MARKS), np.nan)
    first = 0.5 * (curvature * start**2).sum()
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, steps + 1):
            eta = lrs[:, None] * _factor(schedule, (step - 0.5) / steps)
            if optimizer == "momentum":
                eta = eta * (1 - momentum)
                drift = 1 - eta * h  # v' = m v + h x + n;  x' = (1 - eta h) x - eta m v - eta n
                new_velocity = momentum**2 * velocity + 2 * momentum * h * cross + h**2 * square + c
                new_cross = (
                    momentum * drift * cross
                    + h * drift * square
                    - eta * momentum**2 * velocity
                    - eta * momentum * h * cross
                    - eta * c
                )
                square = drift**2 * square - 2 * drift * eta * momentum * cross + eta**2 * (momentum**2 * velocity + c)
                cross, velocity = new_cross, new_velocity
            else:
                if optimizer == "sign":
                    eta = eta / np.sqrt(h**2 * square + c)
                elif optimizer == "normalized":
                    eta = eta / np.sqrt((h**2 * square + c).sum(axis=1, keepdims=True))
                square = (1 - eta * h) ** 2 * square + eta**2 * c
            if step in marks:
                loss = 0.5 * (h * square).sum(axis=1)
                losses[:, marks[step]] = np.where(loss < 10 * first, loss, np.nan)
    for m in range(1, MARKS):  # what has diverged stays so
        losses[np.isnan(losses[:, m - 1]), m] = np.nan
    return losses


def _factor(schedule: str, progress: float) -> float:
    """The learning rate as a share of its peak: warm-up over a twentieth, then the schedule."""
    if progress < 0.05:
        return progress / 0.05
    return {
        "constant": 1.0,
        "linear": (1 - progress) / 0.95,
        "cosine": 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95)),
    }[schedule]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.tables):
        rows = draw_table(np.random.default_rng([options.seed, number]))
        path = options.folder / f"{number:03d}-{rows[0]['task']}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
