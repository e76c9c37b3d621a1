"""How often Lightning steps a learning-rate scheduler."""

from __future__ import annotations

import math

__all__ = ["calls_by_epoch", "calls_by_step", "is_due"]


def is_due(step: int, batches: int, accumulate: int = 1, frequency: int = 1) -> bool:
    """Tell whether a scheduler with interval "step" is stepped after an optimizer step.

    >>> [step for step in range(1, 12) if is_due(step, batches=8, frequency=3)]
    [3, 6, 11]

    Args:
        step: Optimizer steps since the start, that one included.
        batches, accumulate, frequency: As for `calls_by_step`.
    """
    within = (step - 1) % math.ceil(batches / accumulate) + 1
    return min(within * accumulate, batches) % frequency == 0


def calls_by_step(step: int, batches: int, accumulate: int = 1, frequency: int = 1) -> int:
    """Tell how often a scheduler with interval "step" has been stepped after so many optimizer steps.

    Its frequency counts the batches of an epoch, and begins anew with each.

    >>> [calls_by_step(step, batches=8, frequency=3) for step in (2, 3, 8, 10, 11)]
    [0, 1, 2, 2, 3]

    Args:
        step: Optimizer steps since the start.
        batches: Batches in an epoch.
        accumulate: Batches per optimizer step; the last step of an epoch may have fewer.
        frequency: The scheduler's.
    """
    epochs, left = divmod(step, math.ceil(batches / accumulate))

    def within(steps: int) -> int:
        # After full windows of batches, those whose count the frequency divides; then perhaps the short window at
        # the end.
        full = min(steps, batches // accumulate)
        short = steps > full and batches % frequency == 0
        return full // (math.lcm(accumulate, frequency) // accumulate) + short

    return epochs * within(math.ceil(batches / accumulate)) + within(left)


def calls_by_epoch(step: int, batches: int, accumulate: int = 1, frequency: int = 1) -> int:
    """Tell how often a scheduler with interval "epoch" has been stepped after so many optimizer steps.

    >>> [calls_by_epoch(step, batches=8, frequency=2) for step in (15, 16, 31, 32)]
    [0, 1, 1, 2]

    Args:
        step: Optimizer steps since the start.
        batches: Batches in an epoch.
        accumulate: Batches per optimizer step; the last step of an epoch may have fewer.
        frequency: The scheduler's.
    """
    return step // math.ceil(batches / accumulate) // frequency
