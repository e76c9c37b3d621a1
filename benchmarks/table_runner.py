"""A trial runner that replays a table of recorded learning curves, in microseconds per trial."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bstuner.core.layout import BatchLayout
from bstuner.core.scaling import Rule
from bstuner.core.trial import Mark, TrialRequest, TrialRun, Watch, samples_to_target


@dataclass(frozen=True)
class Curve:
    """The metric at each of the table's marks; cut short where the run diverged."""

    metrics: np.ndarray
    step_seconds: float


class Table:
    """Recorded trainings over batch size and learning rate.

    Between learning rates, and between batch sizes where one in between is asked for, curves are interpolated in the
    logarithm. Above what was measured the highest learning rate counts, but more than twice that diverges. Below, the
    lowest one counts, slowed down in proportion.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        rows = list(rows)
        self.marks: tuple[int, ...] = max((tuple(int(s) for s, _ in row["val_loss"]) for row in rows), key=len)
        self.budget = self.marks[-1]
        self.cells: dict[int, dict[float, Curve]] = {}
        for row in rows:
            metrics = np.array([math.nan if loss is None else loss for _, loss in row["val_loss"]], dtype=float)
            finite = np.isfinite(metrics)
            cut = len(metrics) if finite.all() else int(np.argmin(finite))
            curve = Curve(metrics[:cut], row["step_seconds"])
            self.cells.setdefault(row["batch_size"], {})[row["lr"]] = curve
        self.batch_sizes = sorted(self.cells)
        self.rule: Rule | None = rows[0].get("rule")
        lrs = [lr for cells in self.cells.values() for lr in cells]
        self.lr_range = min(lrs), max(lrs)

    @classmethod
    def read(cls, path: Path) -> Table:
        return cls(json.loads(line) for line in path.read_text().splitlines() if line.strip())

    def curve(self, batch_size: int, lr: float) -> Curve:
        if batch_size in self.cells:
            return self._between_lrs(batch_size, lr)
        above = min(max(bisect_right(self.batch_sizes, batch_size), 1), len(self.batch_sizes) - 1)
        low, high = self.batch_sizes[above - 1], self.batch_sizes[above]
        share = math.log(batch_size / low) / math.log(high / low)
        return _blend(self._between_lrs(low, lr), self._between_lrs(high, lr), share)

    def _between_lrs(self, batch_size: int, lr: float) -> Curve:
        cells = self.cells[batch_size]
        if lr in cells:
            return cells[lr]
        lrs = sorted(cells)
        above = bisect_right(lrs, lr)
        if lr > 2 * lrs[-1]:
            return Curve(np.empty(0), cells[lrs[-1]].step_seconds)
        if above == len(lrs):
            return cells[lrs[-1]]
        if above == 0:
            slow = cells[lrs[0]]
            marks = np.array(self.marks[: len(slow.metrics)], float)
            return Curve(np.interp(marks * lr / lrs[0], marks, slow.metrics), slow.step_seconds)
        low, high = lrs[above - 1], lrs[above]
        return _blend(cells[low], cells[high], math.log(lr / low) / math.log(high / low))

    def seconds_to(self, batch_size: int, lr: float, target: float) -> float | None:
        """Seconds to a target loss; None where the run never reaches it."""
        curve = self.curve(batch_size, lr)
        marks = [(s, float(m)) for s, m in zip(self.marks, curve.metrics, strict=False)]
        samples = samples_to_target(marks, target, "min")
        return None if samples is None else samples / batch_size * curve.step_seconds

    def best_seconds(self, target: float, points: int = 240) -> float:
        """The least seconds to a target, on a fine grid of learning rates at every batch size of the table."""
        times = [
            self.seconds_to(batch_size, float(lr), target)
            for batch_size in self.batch_sizes
            for lr in np.geomspace(min(self.cells[batch_size]), max(self.cells[batch_size]), points)
        ]
        return min((seconds for seconds in times if seconds is not None), default=math.inf)


def _blend(low: Curve, high: Curve, share: float) -> Curve:
    """A curve between two: as short as the shorter one."""
    length = min(len(low.metrics), len(high.metrics))
    metrics = (1 - share) * low.metrics[:length] + share * high.metrics[:length]
    return Curve(metrics, low.step_seconds ** (1 - share) * high.step_seconds**share)


class TableRunner:
    """Runs trials on a table. Every seed gives the same curve, as the table holds one."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.budget = table.budget
        self.marks = table.marks
        self.requests: list[TrialRequest] = []

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        self.requests.append(request)
        curve = self.table.curve(request.global_batch_size, request.lr)
        rate = request.global_batch_size / curve.step_seconds
        marks: list[Mark] = []
        ending, reason = "finished", ""
        for samples, metric in zip(self.marks, curve.metrics, strict=False):
            marks.append(Mark(samples, float(metric), samples / rate))
            if not watch(marks[-1]):
                ending = "stopped"
                break
        else:
            if len(curve.metrics) < len(self.marks):
                ending, reason = "not finite", "the recorded run diverged"
        samples = marks[-1].samples if marks else 0
        if ending == "not finite":
            samples = self.marks[len(curve.metrics)]
        return TrialRun(
            request=request,
            layout=BatchLayout(request.global_batch_size),
            ending=ending,
            marks=tuple(marks),
            samples=samples,
            steps=math.ceil(samples / request.global_batch_size),
            samples_per_second=rate,
            reason=reason,
        )

    def wait(self, seconds: float) -> None:
        raise AssertionError("a replay is alone with its study")
