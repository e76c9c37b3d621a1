"""What a user may choose about a search for what fits, and who hears how it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bstuner.core.find_result import Probe
from bstuner.errors import InvalidSetting

__all__ = ["FindSettings", "Observer"]


@dataclass(frozen=True)
class FindSettings:
    """What a user may choose; the meaning of each is documented at `BatchSizeFinder`.

    Args:
        scan: how far to look for the largest sample: seconds (a float), samples (an int) or "all".
        converts: whether the caller converts what the user counts in batches to the batch size that it chooses.

    Raises:
        InvalidSetting: `scan` is none of these.

    """

    mode: Literal["power", "binsearch"] = "power"
    steps_per_trial: int = 2
    init_val: int = 2
    max_val: int | None = None
    batch_arg_name: str = "batch_size"
    margin: float = 0.1
    memory_limit: int | None = None
    probe_with: int | Callable[[Any], Any] | None = None
    scan: int | float | Literal["all"] = 5.0
    global_batch_size: int | None = None
    validation: bool = False
    converts: bool = False

    def __post_init__(self) -> None:
        is_number = isinstance(self.scan, (int, float)) and not isinstance(self.scan, bool)
        if self.scan != "all" and not (is_number and self.scan > 0):
            raise InvalidSetting(
                f"Expected scan to be seconds (a float above 0), a number of samples (a whole number above 0) or "
                f"'all', found {self.scan!r}."
            )


class Observer(Protocol):
    """Hears how a search goes on, to show it."""

    def scanning(self, done: int, total: int) -> None:
        """Samples are being looked at."""

    def probing(self, size: int, of: str) -> None:
        """A size is about to run."""

    def probed(self, probe: Probe, of: str) -> None:
        """A size has run."""
