"""How the batch is to grow, as far as that can be said without the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bstuner.core import Rule, check, is_whole
from bstuner.core.growth.phases import Rounding
from bstuner.core.growth.plan_text import parse_plan

__all__ = ["GrowthSettings"]


@dataclass(frozen=True)
class GrowthSettings:
    """What a user may choose; the meaning of each is documented at `BatchSizeScheduler`.

    >>> GrowthSettings("0:256 30ep:512", max_batch_size=512)
    Traceback (most recent call last):
    bstuner.errors.InvalidSetting: max_batch_size: expected None beside a written plan, found 512.

    Args:
        text: A plan in the user's own words; None for one from the learning rate schedule.
        rule: How the learning rate follows the batch size.
        rounding: What batch sizes are rounded to.
        max_batch_size: The largest batch, in samples per optimizer step over all processes; None for no such bound.
        max_accumulate: The most micro-batches per optimizer step that the batch grows by.

    Raises:
        InvalidSetting: One of them is out of range or unreadable.
    """

    text: str | None = None
    rule: Rule | Literal["auto"] = "auto"
    rounding: Rounding = "power"
    max_batch_size: int | None = None
    max_accumulate: int = 8

    def __post_init__(self) -> None:
        """Refuse now, not in the fit, what cannot be followed."""
        _check_text(self.text)
        rules = ("auto", "linear", "sqrt", "none") if self.text is not None else ("auto", "linear", "sqrt")
        check(self.rule in rules, "rule", " or ".join(map(repr, rules)), self.rule)
        roundings = ("power", "nearest", "integer")
        check(self.rounding in roundings, "rounding", " or ".join(map(repr, roundings)), self.rounding)
        most = self.max_batch_size
        check(most is None or is_whole(most), "max_batch_size", "None or a whole number of at least 1", most)
        check(is_whole(self.max_accumulate), "max_accumulate", "a whole number of at least 1", self.max_accumulate)
        check(self.text is None or most is None, "max_batch_size", "None beside a written plan", most)


def _check_text(plan: object) -> None:
    if plan is None:
        return
    starts = [token.partition(":")[0] for token in plan.split()[1:]] if isinstance(plan, str) else []
    # Between samples and epochs, only the length of an epoch tells the order; among epochs any length does.
    if len({start.lower().endswith("ep") for start in starts}) < 2:
        parse_plan(plan, samples_per_epoch=10**9)  # type: ignore[arg-type]  # which refuses what is no text
