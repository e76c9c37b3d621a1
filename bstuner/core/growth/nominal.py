"""Where in the data the user's own optimizer steps would start: the clock of a nominal schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bstuner.errors import InvalidSetting

__all__ = ["NominalSteps"]


@dataclass(frozen=True)
class NominalSteps:
    """The optimizer steps that the user's own batch size takes, by samples.

    The last step of an epoch holds what is left of it; counted as a full one, it would put a schedule of many epochs
    out of step with the data.

    >>> steps = NominalSteps(batch_size=32, samples_per_epoch=100)
    >>> steps.per_epoch, steps.starts(6).tolist()
    (4, [0, 32, 64, 96, 100, 132])
    >>> steps.at(99), steps.at(100), steps.at(140)
    (3, 4, 5)
    >>> steps.start(5)
    132

    Args:
        batch_size: The user's own: samples per optimizer step, over all processes.
        samples_per_epoch: Samples that an epoch trains on, over all processes; None where unknown or without end.

    Raises:
        InvalidSetting: One of them is below 1.
    """

    batch_size: int
    samples_per_epoch: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no step can be made of."""
        for name in ("batch_size", "samples_per_epoch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidSetting(f"{name}: expected samples, at least 1, found {value!r}.")

    @property
    def per_epoch(self) -> int | None:
        """Steps in an epoch; None where unknown."""
        return None if self.samples_per_epoch is None else -(-self.samples_per_epoch // self.batch_size)

    def at(self, sample: int) -> int:
        """The step that a sample belongs to: as many are over, and so often has a step-wise scheduler stepped."""
        if self.samples_per_epoch is None or self.per_epoch is None:
            return sample // self.batch_size
        epoch, place = divmod(sample, self.samples_per_epoch)
        return epoch * self.per_epoch + place // self.batch_size

    def start(self, step: int) -> int:
        """Samples before a step, the first of which is 0."""
        if self.samples_per_epoch is None or self.per_epoch is None:
            return step * self.batch_size
        epoch, place = divmod(step, self.per_epoch)
        return epoch * self.samples_per_epoch + place * self.batch_size

    def starts(self, count: int) -> NDArray[np.int64]:
        """Samples before each of the first `count` steps."""
        steps = np.arange(count, dtype=np.int64)
        if self.samples_per_epoch is None or self.per_epoch is None:
            return steps * self.batch_size
        return steps // self.per_epoch * self.samples_per_epoch + steps % self.per_epoch * self.batch_size
