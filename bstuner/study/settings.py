"""How a search is to go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from bstuner.core import MAX_COST, Mode, Objective
from bstuner.errors import InvalidSetting

__all__ = ["Take", "TuneSettings"]

Take = Literal["metric", "speed"]


@dataclass(frozen=True)
class TuneSettings:
    """How a search is to go.

    >>> TuneSettings(monitor="val_loss", n_trials=0)
    Traceback (most recent call last):
    bstuner.errors.InvalidSetting: n_trials: expected a whole number of at least 1, found 0.

    Args:
        monitor: The metric.
        mode: "min" where less of it is better, "max" where more is.
        objective: "time": the least training time to the baseline's quality. "metric": the best quality at equal
            samples. "both": nothing is stopped early, and a front of the two is the answer.
        n_trials: Most trials in the study, the baseline among them.
        timeout: Seconds after which no trial is started; None for no limit. The baseline and the confirmation run all
            the same: without them there is no answer.
        patience: Stop after this many trials in a row that brought nothing better, or sooner where they cost three
            baselines of training or nothing that is left promises anything; None to go on to `n_trials`.
        seed: Of the search, and of the data order that confirms the winner.
        max_cost: The most that the search may cost, as a share of the fit's training time; None for no bound.
        take: Where two things count, the end of the trade-off that is the answer; None for the user's own settings.
        confirm: Whether a winner has to prove itself: beside a neighbour at a higher learning rate, and once more with
            another order of the data. Where two things count, only if `take` is "metric".
        capacity_bytes: Device memory that a trial may use; None where that is not known.

    Raises:
        InvalidSetting: An argument is out of range.
    """

    monitor: str
    mode: Mode = "min"
    objective: Objective = "time"
    n_trials: int = 20
    timeout: float | None = None
    patience: int | None = 10
    seed: int | None = None
    max_cost: float | None = MAX_COST
    take: Take | None = None
    confirm: bool = True
    capacity_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be searched by."""
        for name, count in (("n_trials", self.n_trials), ("patience", self.patience)):
            if count is None and name == "patience":
                continue
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise InvalidSetting(f"{name}: expected a whole number of at least 1, found {count!r}.")
        if self.timeout is not None and not (isinstance(self.timeout, (int, float)) and self.timeout >= 0):
            raise InvalidSetting(f"timeout: expected seconds, 0 or more, found {self.timeout!r}.")
        cost = self.max_cost
        if cost is not None and not (isinstance(cost, (int, float)) and not isinstance(cost, bool) and cost > 0):
            raise InvalidSetting(f"max_cost: expected a share of the fit above 0, or None, found {cost!r}.")
        seed = self.seed
        if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 - 1):
            raise InvalidSetting(f"seed: expected a whole number from 0, below 2**32 - 1, or None, found {seed!r}.")
        if self.take is not None and (self.objective != "both" or self.take not in get_args(Take)):
            raise InvalidSetting(
                f"take: expected 'metric' or 'speed' with objective='both', else None, found {self.take!r}."
            )
        for name, word, known in (
            ("mode", self.mode, ("min", "max")),
            ("objective", self.objective, ("time", "metric", "both")),
        ):
            if word not in known:
                raise InvalidSetting(f"{name}: expected one of {', '.join(known)}, found {word!r}.")

    @property
    def confirmation_seed(self) -> int:
        """The seed of the runs that confirm the winner: not that of the run to come, which has none of its own."""
        return (self.seed or 0) + 1
