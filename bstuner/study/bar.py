"""The bar that a search raises: from where the user's own settings ended, towards the best end that was seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bstuner.core import Mode, curve_doubling, samples_to_target
from bstuner.study.curve_ratio import curve_ratio
from bstuner.study.record import Record, StudyView

__all__ = ["Bar", "Reach"]

# How far the bar rises from the own end towards the best end. At 1 the best end alone could reach it; at 0, where the
# user's own settings ended, it is passed first by settings that are hot and end badly.
_RISES = 0.75


class Reach(NamedTuple):
    """The samples that a trial needs to the bar.

    Args:
        samples: So many; estimated from its curve beside the leader's where it never got there.
        error: Standard error of their logarithm.
        at_least: Whether they are only known to be at least so many.
    """

    samples: float
    error: float
    at_least: bool = False


@dataclass(frozen=True)
class Bar:
    """What the trials of a study are ranked by.

    Args:
        mode: "min" where less of the metric is better, "max" where more is.
        own: The trial of the user's own settings.
        leader: The trial with the best end of those that ran to their budget; the own one where none ended better.
        level: The metric to reach.
        doubling: What a doubling of the training brings at the end of a trial, in the metric: the unit in which ends
            are compared. The lower one of the own trial and the leader: a hot one gains late what it spoilt before.
        paces: Seconds of training per sample, by global batch size.
    """

    mode: Mode
    own: Record
    leader: Record
    level: float
    doubling: float
    paces: Mapping[int, float]

    @classmethod
    def of(cls, view: StudyView) -> Bar:
        """The bar as a study has raised it by now.

        Args:
            view: The study, with its baseline.
        """
        own = view.baseline
        assert own is not None
        sign = 1 if view.mode == "min" else -1
        leader = min((r for r in view.records if is_whole(r, own)), key=lambda r: sign * end_of(r), default=own)
        if sign * end_of(leader) >= sign * end_of(own):
            leader = own
        level = end_of(own) + _RISES * (end_of(leader) - end_of(own))
        doubling = min(curve_doubling(record.summary.curve, view.mode) for record in (own, leader))
        return cls(view.mode, own, leader, level, doubling, view.paces)

    def ahead(self, record: Record, other: Record) -> float:
        """By how many doublings one trial ended better than another; below 0 where it ended worse."""
        return self.doublings(end_of(other) - end_of(record))

    def doublings(self, less: float) -> float:
        """What a metric that is lower by so much is worth."""
        better = less if self.mode == "min" else -less
        return better / self.doubling if self.doubling else math.copysign(math.inf, better) if better else 0.0

    def reach(self, record: Record) -> Reach:
        """How many samples a trial needs to the bar, from its curve."""
        summary = record.summary
        samples = samples_to_target([(mark.samples, mark.metric) for mark in summary.curve], self.level, self.mode)
        if samples is not None:
            return Reach(samples, 0.08)
        budget = self.own.summary.curve[-1].samples
        if summary.verdict == "not finite" or not summary.curve:
            return Reach(2 * budget, 0.5, at_least=True)
        trained = summary.curve[-1].samples
        ahead = self.reach(self.leader).samples
        ratio = curve_ratio(summary.curve, self.leader.summary.curve, self.mode)
        whole = is_whole(record, self.own)
        if ratio is None:
            return Reach(trained, 0.2, at_least=True)
        sign = 1 if self.mode == "min" else -1
        first = self.leader.summary.curve[0].metric
        early = all(sign * mark.metric >= sign * first for mark in summary.curve)
        estimate = max(ratio * ahead, 1.05 * trained if whole else trained)
        return Reach(estimate, 0.1 + 0.4 * (1 - min(1.0, trained / ahead)), at_least=early)

    def seconds(self, record: Record) -> float:
        """Seconds of training to the bar, at the pace of its batch size; infinite where that is not known."""
        return self.reach(record).samples * self.paces.get(record.summary.global_batch_size, math.inf)


def is_whole(record: Record, own: Record) -> bool:
    """Whether a trial ran to the end of its budget, up to a step."""
    summary = record.summary
    finite = summary.verdict not in ("out of memory", "not finite")
    return (
        finite
        and bool(summary.curve)
        and (summary.curve[-1].samples + summary.global_batch_size > own.summary.curve[-1].samples)
    )


def end_of(record: Record) -> float:
    """The metric where a trial ended."""
    return record.summary.curve[-1].metric
