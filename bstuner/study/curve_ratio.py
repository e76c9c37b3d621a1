"""How many samples one learning curve needs beside another, at equal metric."""

from __future__ import annotations

from collections.abc import Sequence

from bstuner.core import Mark, Mode, samples_to_target

__all__ = ["curve_ratio"]


def curve_ratio(curve: Sequence[Mark], other: Sequence[Mark], mode: Mode) -> float | None:
    """Tell how many times as many samples as another curve this one took to where it is now.

    >>> slow, fast = [Mark(100, 3.0, 1.0), Mark(200, 2.5, 2.0)], [Mark(100, 3.0, 1.0), Mark(200, 2.0, 2.0)]
    >>> curve_ratio(slow, fast, "min")
    1.414213562373095

    The answer has no unit of the metric in it, so it means the same for a loss, an accuracy or a perplexity. None where
    the other curve never came so far, or one of them is empty.

    Args:
        curve: The validations of one trial, in order.
        other: Those of another.
        mode: "min" where less of the metric is better, "max" where more is.
    """
    if not curve:
        return None
    best = (min if mode == "min" else max)(mark.metric for mark in curve)
    theirs = samples_to_target([(mark.samples, mark.metric) for mark in other], best, mode)
    return None if theirs is None else curve[-1].samples / theirs
