"""Whether a fit with the settings of a search falls behind what the user's own settings had reached in their trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bstuner.core.trial import Mark, Mode, curve_doubling, metric_at

__all__ = ["Regret"]

# Behind is who is worse by more than so many doublings of the own trial, at so many validations in a row. On recorded
# pairs of trials and whole fits this caught three of four fits that ended worse, and five of a hundred that did not.
_BEHIND = 0.5
_IN_A_ROW = 2


@dataclass
class Regret:
    """Hears the validations of a fit and says when it has fallen behind.

    >>> regret = Regret([Mark(100, 3.0, 0.0), Mark(400, 1.0, 0.0)], "min")
    >>> [regret.hear(samples, metric) for samples, metric in ((200, 1.9), (300, 2.5), (400, 2.4))]
    [None, None, 'it was 2.4 after 400 samples, where your own settings had reached 1 after 400']

    Args:
        curve: The validations of the trial with the user's own settings. Beyond its end, the end counts.
        mode: "min" where less of the metric is better, "max" where more is.
        behind: Validations in a row at which it was behind, by now.
    """

    curve: Sequence[Mark]
    mode: Mode
    behind: int = 0

    def hear(self, samples: int, metric: float) -> str | None:
        """Tell in words what is wrong, or None.

        Args:
            samples: Samples that the fit has trained on, over all processes.
            metric: Its metric.
        """
        if samples < self.curve[0].samples:
            return None  # a metric may not be defined at first
        if not math.isfinite(metric):
            return f"it was {metric} after {samples:,} samples"
        at = min(samples, self.curve[-1].samples)
        theirs = metric_at(self.curve, at)
        worse = metric - theirs if self.mode == "min" else theirs - metric
        self.behind = self.behind + 1 if worse > _BEHIND * curve_doubling(self.curve, self.mode) else 0
        if self.behind < _IN_A_ROW:
            return None
        yours = f"where your own settings had reached {theirs:.4g} after {at:,}"
        return f"it was {metric:.4g} after {samples:,} samples, {yours}"
