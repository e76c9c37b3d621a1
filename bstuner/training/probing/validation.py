"""The largest validation batch that fits beside training, found apart from the training batch."""

from __future__ import annotations

from bstuner.core import BatchSizeSearch, EpochData, Probe
from bstuner.errors import NothingFits
from bstuner.ranks import run_on_all
from bstuner.training._lightning import request_loaders
from bstuner.training.batching import Batching, locate_validation_batching
from bstuner.training.probing.session import Session
from bstuner.training.run import combined, epoch_data, largest_allowed

__all__ = ["ValidationSearch"]

# Leaves behind it the same weights, gradients and optimizer state as a full batch, for validation to run beside.
_FEW = 2


class ValidationSearch:
    """A search for the batch size of a fit's validation loaders; user code runs.

    Args:
        session: the search it is part of.

    Attributes:
        batching: where the validation batch size lives.
        probes: what ran.

    """

    batching: Batching

    def __init__(self, session: Session) -> None:
        self._session = session
        self.probes: list[Probe] = []
        trainer, found = session.trainer, []

        def look() -> None:
            self.batching = locate_validation_batching(trainer)
            shares = self.batching.shares(trainer, "val")
            found.append(epoch_data(trainer, "val", combined(trainer, request_loaders(trainer, "val"), "val"), shares))

        run_on_all(session.peers, look)
        self._high = largest_allowed(trainer, "validate", EpochData.least(session.peers.gather(found[0])))
        if session.settings.max_val is not None:
            self._high = min(session.settings.max_val, self._high or session.settings.max_val)

    def apply_few(self) -> None:
        """Make the validation batches so small that they do not get into the way of a search for another size."""
        self.batching.apply(_FEW)

    def run(self, train_size: int) -> int:
        """Search; the answer has run together with the training batch.

        Args:
            train_size: the training batch size that was found.

        Raises:
            NothingFits: not even the smallest validation batch runs.

        """
        settings = self._session.settings
        low = settings.init_val if self._high is None else min(settings.init_val, self._high)
        search = BatchSizeSearch(
            self._session.capacity, low=low, high=self._high, margin=settings.margin, mode=settings.mode
        )
        while (size := search.next_size()) is not None:
            search.record(size, self._probe(min(_FEW, train_size), size).peak_bytes)
        best = search.best
        while best:
            # Both at their full size, as training will run them: what is free may be in other pieces by then.
            if self._probe(train_size, best).fits:
                return best
            best //= 2
        last = self.probes[-1]
        raise NothingFits(
            f"Expected some validation batch to fit into {self._session.usable_in_words()}, but a batch of "
            f"{last.batch_size} does not: {last.reason}. Free memory on the device, or raise memory_limit."
        )

    def _probe(self, train_size: int, size: int) -> Probe:
        def apply(size: int) -> None:
            self._session.batching.apply(train_size)
            self.batching.apply(size)

        self.probes.append(self._session.probe(size, apply, of="validation batch size"))
        return self.probes[-1]
