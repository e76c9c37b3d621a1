"""Seconds of training per sample at every batch size of a study: measured, or by what was timed near."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bstuner.core import StepTime
from bstuner.study.record import StudyView

__all__ = ["expected_paces"]


def expected_paces(view: StudyView, step_seconds: Mapping[int, float], sizes: Sequence[int]) -> dict[int, float] | None:
    """Tell the seconds per sample to expect at some global batch sizes; None where fewer than two were ever timed.

    Args:
        view: The study.
        step_seconds: Seconds of an optimizer step at some global batch sizes, where they were measured before.
        sizes: The global batch sizes to tell it for.
    """
    timed = {**step_seconds, **{size: pace * size for size, pace in view.paces.items()}}
    if len(timed) < 2:
        return None
    fit = StepTime.fit(list(timed), list(timed.values()))
    return {size: timed.get(size, fit.seconds(size)) / size for size in sizes}
