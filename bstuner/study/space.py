"""What is searched: the global batch size in doublings of the reference, and the learning rate at the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from bstuner.core import Rule, TrialRequest, scale_lr
from bstuner.errors import InvalidSetting

__all__ = ["BASE_LR", "LOG2_BATCH_RATIO", "SearchSpace"]

LOG2_BATCH_RATIO = "log2_batch_ratio"
BASE_LR = "base_lr"

# How far the base learning rate may be from the user's own. Users' learning rates are more often too low than too
# high, by ten times and now and then by a hundred; and a large batch may want less than its rule gives it.
_LR_DOWN, _LR_UP = 100.0, 300.0


@dataclass(frozen=True)
class SearchSpace:
    """The settings a search may try, the user's own among them.

    >>> space = SearchSpace(reference_batch_size=96, reference_lr=0.001, rule="sqrt", low=-2, high=4)
    >>> space.batch_sizes
    (24, 48, 96, 192, 384, 768, 1536)
    >>> space.request({"log2_batch_ratio": 2, "base_lr": 0.001})
    TrialRequest(global_batch_size=384, lr=0.002, seed=None)

    Args:
        reference_batch_size: The global batch size that the user's own code asks for, in samples.
        reference_lr: The learning rate that the user's own code asks for.
        rule: How the learning rate follows the batch size.
        low: The smallest global batch size is the reference times 2**low; 0 or less.
        high: The largest is the reference times 2**high; 0 or more.

    Raises:
        InvalidSetting: The user's own settings are not among those, or a batch size is no whole number.
    """

    reference_batch_size: int
    reference_lr: float
    rule: Rule
    low: int
    high: int

    def __post_init__(self) -> None:
        """Refuse a range that cannot be searched."""
        if not (self.reference_batch_size >= 1 and 0 < self.reference_lr < math.inf):
            raise InvalidSetting(
                f"reference: expected a batch size of at least 1 and a positive learning rate, found "
                f"{self.reference_batch_size!r} and {self.reference_lr!r}; pass those of the user's own code."
            )
        if not self.low <= 0 <= self.high:
            raise InvalidSetting(
                f"low, high: expected a range around 0, where the user's own batch size is, found {self.low} to "
                f"{self.high}; widen it."
            )
        if self.reference_batch_size % 2**-self.low:
            raise InvalidSetting(
                f"low: expected a whole batch size, found {self.reference_batch_size} / {2**-self.low}; raise it."
            )
        lowest, highest = self.lr_range
        if lowest == 0 or highest == math.inf:
            raise InvalidSetting(
                f"reference_lr: expected a learning rate that can be divided by {_LR_DOWN:g} and multiplied by "
                f"{_LR_UP:g}, found {self.reference_lr}; check that of your optimizer."
            )

    @classmethod
    def between(
        cls, smallest: int, largest: int, *, reference_batch_size: int, reference_lr: float, rule: Rule
    ) -> SearchSpace:
        """The widest space with global batch sizes from `smallest` to `largest`.

        >>> SearchSpace.between(10, 1000, reference_batch_size=96, reference_lr=0.001, rule="sqrt").batch_sizes
        (12, 24, 48, 96, 192, 384, 768)

        Args:
            smallest: The smallest global batch size allowed; ignored where the reference is smaller.
            largest: The largest allowed; ignored where the reference is larger.
            reference_batch_size: As for the class.
            reference_lr: As for the class.
            rule: As for the class.
        """
        low = high = 0
        while not reference_batch_size % 2 ** (1 - low) and reference_batch_size // 2 ** (1 - low) >= max(smallest, 1):
            low -= 1
        while reference_batch_size * 2 ** (high + 1) <= largest:
            high += 1
        return cls(reference_batch_size, reference_lr, rule, low, high)

    @property
    def lr_range(self) -> tuple[float, float]:
        """The lowest and the highest learning rate at the reference batch size."""
        return self.reference_lr / _LR_DOWN, self.reference_lr * _LR_UP

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Every global batch size, ascending."""
        return tuple(self.batch_size(k) for k in range(self.low, self.high + 1))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The parameters as Optuna knows them."""
        return {
            LOG2_BATCH_RATIO: IntDistribution(self.low, self.high),
            BASE_LR: FloatDistribution(*self.lr_range, log=True),
        }

    @property
    def baseline(self) -> dict[str, Any]:
        """The parameters of the user's own settings."""
        return {LOG2_BATCH_RATIO: 0, BASE_LR: self.reference_lr}

    def batch_size(self, k: int) -> int:
        """The global batch size of a number of doublings."""
        return self.reference_batch_size << k if k >= 0 else self.reference_batch_size >> -k

    def request(self, params: Mapping[str, Any]) -> TrialRequest:
        """What a trial with these parameters is to run."""
        batch_size = self.batch_size(params[LOG2_BATCH_RATIO])
        lr = scale_lr(params[BASE_LR], batch_size, self.reference_batch_size, self.rule)
        return TrialRequest(batch_size, lr)
