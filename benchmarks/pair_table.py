"""Pairs of batch size and learning rate, each with the curve of a short trial and that of the whole fit."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bstuner.core import BatchLayout, Mark, Rule, TrialRequest, TrialRun, Watch, samples_to_target

Kind = Literal["trial", "fit"]

_MARKS = 14
# A learning rate above all that were recorded is taken to diverge from this many times the highest on.
_BEYOND = 1.8


@dataclass(frozen=True)
class PairTable:
    """The recorded pairs of one task.

    Between learning rates curves are interpolated in the logarithm; a pair between one that diverged and one that did
    not diverges where the former did.

    Args:
        name: The task.
        rows: One per pair, with "batch", "lr", "trial" and "fit", the curves as [samples, seconds, loss].
    """

    name: str
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> PairTable:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return cls(rows[0].get("task", path.stem), [row for row in rows if row["trial"]])

    @cached_property
    def cells(self) -> dict[int, dict[float, dict[str, Any]]]:
        cells: dict[int, dict[float, dict[str, Any]]] = {}
        for row in self.rows:
            cells.setdefault(row["batch"], {})[row["lr"]] = row
        return dict(sorted(cells.items()))

    @cached_property
    def rule(self) -> Rule:
        return "sqrt" if self.rows[0].get("optimizer", "sgd").startswith("adam") else "linear"

    @cached_property
    def samples(self) -> dict[Kind, int]:
        """Samples of a trial and of the fit."""
        kinds: tuple[Kind, ...] = ("trial", "fit")
        return {kind: max(point[0] for row in self.rows for point in row[kind]) for kind in kinds}

    @cached_property
    def marks(self) -> dict[Kind, list[int]]:
        """The samples at which curves are read: evenly spaced in their logarithm."""
        trial, fit = self.samples["trial"], self.samples["fit"]
        return {
            "trial": sorted({int(place) for place in np.geomspace(max(trial / 64, 1), trial, _MARKS)}),
            "fit": sorted({int(place) for place in np.geomspace(fit / 100, 0.995 * fit, 4 * _MARKS)}),
        }

    @cached_property
    def paces(self) -> dict[int, float]:
        """Seconds per sample at each batch size: the median of the whole fits."""
        return {
            batch: float(np.median([row["fit"][-1][1] / row["fit"][-1][0] for row in rows.values() if row["fit"]]))
            for batch, rows in self.cells.items()
        }

    def curve(self, batch: int, lr: float, kind: Kind) -> list[tuple[int, float]]:
        """The samples and losses of a pair at the marks; cut short where it diverged."""
        rates = sorted(self.cells[batch])
        if lr > _BEYOND * rates[-1]:
            return []
        lr = min(max(lr, rates[0]), rates[-1])
        above = next(rate for rate in rates if rate >= lr * (1 - 1e-9))
        below = max(rate for rate in rates if rate <= lr * (1 + 1e-9))
        share = 0.0 if above == below else math.log(lr / below) / math.log(above / below)
        parts = [
            (self._finite(batch, rate, kind), weight) for rate, weight in ((below, 1 - share), (above, share)) if weight
        ]
        read: list[tuple[int, float]] = []
        for mark in self.marks[kind]:
            if mark < batch and mark != self.marks[kind][-1]:
                continue
            if any(not points or (cut and mark > points[-1][0]) for (points, cut), _ in parts):
                break
            losses = [_at(points, mark) * weight for (points, _), weight in parts]
            read.append((mark, sum(losses)))
        return read

    def diverges(self, batch: int, lr: float, kind: Kind) -> bool:
        """Whether a pair does not get to the end."""
        curve = self.curve(batch, lr, kind)
        return not curve or curve[-1][0] < self.marks[kind][-1]

    def seconds_to(self, batch: int, lr: float, target: float, kind: Kind) -> float | None:
        """Seconds of training to a loss; None where it never gets there."""
        samples = samples_to_target(self.curve(batch, lr, kind), target, "min")
        return None if samples is None else samples * self.paces[batch]

    def _finite(self, batch: int, lr: float, kind: Kind) -> tuple[list[tuple[int, float]], bool]:
        """The points of a recorded curve, and whether it was cut short."""
        row = self.cells[batch][lr]
        points = [(n, loss) for n, _, loss in row[kind] if loss is not None and math.isfinite(loss)]
        return points, len(points) < len(row[kind]) or not points or points[-1][0] < 0.85 * self.samples[kind]


def _at(points: list[tuple[int, float]], mark: int) -> float:
    samples, losses = zip(*points, strict=True)
    return float(np.interp(math.log(mark), np.log(samples), losses))


class PairRunner:
    """Runs trials on a table, with a little noise in losses and times, as on a busy machine."""

    def __init__(self, table: PairTable, seed: int, loss_noise: float = 0.003, time_noise: float = 0.05) -> None:
        self.table = table
        self.budget = table.samples["trial"]
        self.marks = tuple(table.marks["trial"])
        self.runs: list[TrialRun] = []
        self._rng = np.random.default_rng(seed)
        self._noise = loss_noise, time_noise

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        batch = request.global_batch_size
        loss_noise, time_noise = self._noise
        pace = self.table.paces[batch] * math.exp(self._rng.normal(0, time_noise))
        curve = self.table.curve(batch, request.lr, "trial")
        marks: list[Mark] = []
        ending = "not finite" if not curve or curve[-1][0] < self.marks[-1] else "finished"
        for samples, loss in curve:
            marks.append(Mark(samples, loss * math.exp(self._rng.normal(0, loss_noise)), samples * pace))
            if not watch(marks[-1]):
                ending = "stopped"
                break
        samples = marks[-1].samples if marks else self.marks[0]
        run = TrialRun(
            request,
            BatchLayout(batch),
            ending=ending,
            marks=tuple(marks),
            samples=samples,
            steps=max(1, samples // batch),
            samples_per_second=1 / pace,
        )
        self.runs.append(run)
        return run

    def wait(self, seconds: float) -> None:
        raise AssertionError("a replay is alone with its study")
