"""Which trials of a study are better than the user's own settings, in what order, and which are at the edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from bstuner.core import Mark, Objective, metric_at
from bstuner.study.bar import Bar, is_whole
from bstuner.study.record import Record, StudyView
from bstuner.study.space import BASE_LR, LOG2_BATCH_RATIO

__all__ = ["DOWN_STEP", "EDGE_STEP", "MARGIN", "Edge", "Ranking"]

# By how many doublings a trial must end better than the user's own before these are left. A doubling is what the own
# trial gained in the second half of its samples.
MARGIN = 0.5
# Times to the bar within this factor cannot be told apart: the cooler pair is taken.
_TIE = 1.5
# How far the neighbour at the edge is. Another trial counts as it where it is no nearer and no worse, or no farther and
# worse, give or take a third.
EDGE_STEP = math.sqrt(10)
_NEAR, _FAR = EDGE_STEP / 1.35, EDGE_STEP * 1.35
# How far to step down from there.
DOWN_STEP = math.sqrt(10)
_BELOW = (1.8, 5.7)
_SAME = 1.35
# The neighbour is worse where it ends by so many doublings behind: then the pair is at the edge.
_EDGE_MARGIN = 0.25
# A neighbour that was stopped tells on which side it is from this share of the budget on.
_TOLD_FROM = 0.25

Edge = Literal["unknown", "inside", "at the edge"]


@dataclass(frozen=True)
class Ranking:
    """The order of a study's trials.

    Args:
        view: The study, with its baseline.
        objective: What it is an order of: "time" for the seconds to the bar, "metric" for the end.
    """

    view: StudyView
    objective: Objective

    @cached_property
    def own(self) -> Record:
        """The trial of the user's own settings."""
        assert self.view.baseline is not None
        return self.view.baseline

    @cached_property
    def bar(self) -> Bar:
        """What they are ranked by."""
        return Bar.of(self.view)

    def is_better(self, record: Record) -> bool:
        """Whether a trial ran to its end and ended better than the user's own settings by the margin."""
        return is_whole(record, self.own) and record is not self.own and self.bar.ahead(record, self.own) >= MARGIN

    @cached_property
    def candidates(self) -> list[Record]:
        """The trials that are better than the user's own settings, the first choice first.

        By seconds to the bar, or by the end where the metric is what counts. Of those that cannot be told apart, the
        one with the lower learning rate comes first, and the better end decides between equal rates.
        """
        left = [record for record in self.view.records if self.is_better(record)]
        ordered: list[Record] = []
        while left:
            chosen = min(self._alike(left), key=lambda r: (r.summary.lr, -self.bar.ahead(r, self.own)))
            left.remove(chosen)
            ordered.append(chosen)
        return ordered

    def alike(self, record: Record) -> list[Record]:
        """The other candidates that cannot be told apart from one."""
        others = [other for other in self.candidates if other is not record]
        if self.objective != "time":
            return [other for other in others if abs(self.bar.ahead(other, record)) <= _EDGE_MARGIN]
        mine = self.bar.seconds(record)
        return [other for other in others if mine / _TIE <= self.bar.seconds(other) <= mine * _TIE]

    def _alike(self, records: Sequence[Record]) -> list[Record]:
        """Of some trials, those that cannot be told apart from the best."""
        if self.objective != "time":
            best = max(self.bar.ahead(record, self.own) for record in records)
            return [record for record in records if self.bar.ahead(record, self.own) >= best - _EDGE_MARGIN]
        best = min(self.bar.seconds(record) for record in records)
        return [record for record in records if self.bar.seconds(record) <= _TIE * best]

    def edge(self, record: Record) -> Edge:
        """Whether a higher learning rate at the same batch size is known to be worse than a trial's own.

        A pair that is no hotter than the user's own settings, neither in its learning rate nor in that at the reference
        batch size, cannot be ruined by a heat that those have stood.

        Args:
            record: A trial that ran to its end.
        """
        own = self.own
        if record.summary.lr <= own.summary.lr and record.params[BASE_LR] <= own.params[BASE_LR]:
            return "inside"
        if any(self._is_worse(other, record) for other in self._beside(record, _SAME, _FAR)):
            return "at the edge"
        beyond = self._beside(record, _NEAR, math.inf)
        return "inside" if any(self._is_worse(other, record) is False for other in beyond) else "unknown"

    def cooler(self, record: Record) -> Record | None:
        """The trial about one step below another, where one was run to its end."""
        others = self._beside(record, 1 / _BELOW[1], 1 / _BELOW[0])
        below = [other for other in others if is_whole(other, self.own) and other is not self.own]
        step = record.summary.lr / DOWN_STEP
        return min(below, key=lambda r: abs(math.log(r.summary.lr / step)), default=None)

    def was_tried(self, record: Record, factor: float) -> bool:
        """Whether about so many times a trial's learning rate was tried for all it can tell."""
        return any(
            other.summary.role == "edge" or other.summary.verdict == "not finite" or is_whole(other, self.own)
            for other in self._beside(record, factor / _SAME, factor * _SAME)
        )

    def _beside(self, record: Record, low: float, high: float) -> list[Record]:
        """The trials at the same batch size whose learning rate is so many times as high."""
        batch, lr = record.params[LOG2_BATCH_RATIO], record.params[BASE_LR]
        return [
            other
            for other in self.view.records
            if other.params[LOG2_BATCH_RATIO] == batch and low <= other.params[BASE_LR] / lr <= high
        ]

    def _is_worse(self, other: Record, record: Record) -> bool | None:
        """Whether a trial does worse than another of the same batch size; None where it was stopped before it told."""
        summary = other.summary
        if summary.verdict == "out of memory":
            return None
        if summary.verdict == "not finite" or not summary.curve:
            return True
        last: Mark = summary.curve[-1]
        behind = self.bar.doublings(last.metric - metric_at(record.summary.curve, last.samples)) > _EDGE_MARGIN
        if is_whole(other, self.own):
            return self.bar.ahead(record, other) > _EDGE_MARGIN
        told = last.samples >= _TOLD_FROM * self.own.summary.curve[-1].samples
        return True if told and behind else None
