"""What may be claimed of a winner: how many times sooner a whole fit gets to the user's own end, from what to what.

Two short trials of each, side by side, tell how many times sooner a trial gets to the own trial's end. A whole fit is
another thing: what a hot start gains early is a smaller part of it. On recorded pairs of trials and whole fits
(`benchmarks/whole_fit_tables.py`), the logarithm of what whole fits realized was a line in that of what trials
had told; the interval holds four of five.
"""

from __future__ import annotations

import math

from bstuner.study.confirm import seconds_ratio
from bstuner.study.ranking import Ranking
from bstuner.study.record import Confirmation, Record

__all__ = ["claimed_speedup"]

# Of log realized on log told: slope, offset, and half the width that holds four of five.
_SLOPE, _OFFSET, _HALF_WIDTH = 0.8, 0.0, 0.65


def claimed_speedup(ranking: Ranking, winner: Record, confirmation: Confirmation) -> tuple[float, float, float] | None:
    """How many times sooner a whole fit may be expected to be, and from what to what; None where it cannot be told.

    Args:
        ranking: The trials of the study.
        winner: The answer.
        confirmation: How it did once more.
    """
    if len(confirmation.runs) != 2:
        return None
    theirs, mine = confirmation.runs
    pairs = ((winner.summary, ranking.own.summary), (mine, theirs))
    ratios = [seconds_ratio(a, b, mine, theirs, ranking.view.mode) for a, b in pairs]
    told = [-math.log(ratio) for ratio in ratios if ratio]
    if not told:
        return None
    middle = _OFFSET + _SLOPE * sum(told) / len(told)
    low, high = middle - _HALF_WIDTH, middle + _HALF_WIDTH
    return math.exp(middle), math.exp(low), math.exp(high)
