"""What may be claimed of a winner: how many times sooner a whole fit gets to the user's own end, from what to what.

Two short trials of each, side by side, tell how many times sooner a trial gets to the own trial's end. A whole fit is
another thing, and now and then far off; but on recorded pairs of trials and whole fits (`benchmarks/judges.py`) the
logarithm of what whole fits realized was, with a wide spread, that of what trials had told (slope 1.02).
"""

from __future__ import annotations

import math

from bstuner.study.confirm import seconds_ratios
from bstuner.study.ranking import Ranking
from bstuner.study.record import Confirmation, Record

__all__ = ["claimed_speedup"]

# Of the logarithm: how much whole fits realized beyond what trials had told, and half the width of the interval. Chosen
# on six of the recorded tasks. An interval that held four of five there would be six times as wide as its lower end;
# this one, four times as wide, held 64 % of them, and 62 % on the other five tasks.
_BEYOND, _HALF_WIDTH = 0.12, 0.69


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
    told = [-math.log(ratio) for ratio in seconds_ratios(ranking, winner, mine, theirs) if ratio]
    if not told:
        return None
    middle = _BEYOND + sum(told) / len(told)
    low, high = middle - _HALF_WIDTH, middle + _HALF_WIDTH
    return math.exp(middle), math.exp(low), math.exp(high)
