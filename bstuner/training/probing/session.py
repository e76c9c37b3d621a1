"""One search inside one run: what it looks at, what it probes, and the way back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from bstuner.core import EpochData, FindSettings, Observer, Probe, format_bytes
from bstuner.data import known_batch_size
from bstuner.device import DeviceMemory, memory_of, name_on_host
from bstuner.errors import NothingFits
from bstuner.ranks import Peers, run_on_all
from bstuner.training._lightning import loaders_noticed, request_loaders, unwrap, validates, wrap
from bstuner.training.batching import Batching, check_following, locate_batching, samples_drawn
from bstuner.training.freezing import FrozenFit
from bstuner.training.probing.batches import ProbeData, Scanned
from bstuner.training.probing.compilation import Compilation
from bstuner.training.probing.prober import Prober
from bstuner.training.run import (
    combined,
    epoch_data,
    flat_loaders,
    largest_allowed,
    limit_of,
    muted,
    noting,
    passed_loaders,
    search_is_on,
    short_collections,
)

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["Session", "open_session"]


class Session:
    """A search inside a run, on all of its processes at once; made by `open_session`.

    Attributes:
        peers: the processes.
        memory: the device of this process.
        capacity: bytes that the process with the least may use.
        usable: the part of the capacity that a batch may take.
        batching: where the batch size lives.
        batching_warning: what the user should know about that; empty for nothing.
        data: the batches.
        compilation: what of the model is compiled, and whether it stays so in the search.
        epoch: what the loaders hold, on the process that has the least.

    """

    batching: Batching
    batching_warning: str
    data: ProbeData
    epoch: EpochData

    def __init__(self, trainer: Trainer, stage: str, settings: FindSettings, observer: Observer, fresh: bool) -> None:
        self.trainer = trainer
        self.stage = stage
        self.settings = settings
        self._role = "train" if stage == "fit" else stage
        self._observer = observer
        self._fresh = fresh
        self.peers = Peers.here(trainer.strategy.root_device)
        unwrap(trainer)
        self._frozen = FrozenFit(trainer, passed_loaders(trainer, stage))
        device = trainer.strategy.root_device
        self.memory: DeviceMemory = memory_of(
            device, settings.memory_limit, self._frozen.tensors, sharers=self.peers.sharers(name_on_host(device))
        )
        # The byte counter looks at each op, and what is compiled runs none that it could see.
        self.compilation = Compilation(trainer.lightning_module, allowed=not self.memory.slows_steps)
        self.capacity = min(self.peers.gather(self.memory.capacity))
        self.usable = int(self.capacity * (1 - settings.margin))

    def locate(self) -> None:
        """Find where the batch size lives. From here on user code runs: there is something to restore."""

        def locate() -> None:
            name = self.settings.batch_arg_name
            self.batching, self.batching_warning = locate_batching(self.trainer, self._role, name)

        run_on_all(self.peers, locate)

    def look(self, accumulate: Callable[[int], int]) -> None:
        """Look at the data.

        Args:
            accumulate: batches per optimizer step, at a batch size.

        """
        found: list[EpochData] = []

        def look() -> None:
            warning = check_following(self.trainer, self._role, self.batching)
            self.batching_warning = " ".join(filter(None, (self.batching_warning, warning)))
            shares = self.batching.shares(self.trainer, self._role)
            settings = self.settings
            self.data = ProbeData(self.trainer, self.stage, settings.probe_with, settings.scan, self._observer.scanning)
            found.append(epoch_data(self.trainer, self._role, self.data.loaders, shares))

        run_on_all(self.peers, look)
        self.epoch = EpochData.least(self.peers.gather(found[0]))
        self._prober = Prober(
            self.trainer,
            self.stage,
            self.data,
            self.memory,
            self.peers,
            self._frozen,
            self.usable,
            self.settings.steps_per_trial,
            accumulate,
            self.epoch.searched,
            _batches_of_an_epoch(self.epoch, limit_of(self.trainer, self.stage)),
            self._fresh,
        )

    def noticing(self) -> AbstractContextManager[None]:
        """Freeze also what the user's hooks return while the search asks them for loaders."""
        return loaders_noticed(self._frozen.add)

    def changed(self) -> list[str]:
        """What the user should know of what cannot be put back, on any process."""
        return sorted({warning for warnings in self.peers.gather(self._frozen.changed()) for warning in warnings})

    def close(self) -> None:
        """Put the run back."""
        self._frozen.restore()
        self.memory.release()

    def probe(
        self,
        size: int,
        apply: Callable[[int], None] | None = None,
        of: str = "batch size",
        refusable: bool = False,
    ) -> Probe:
        """Run one size on all processes.

        Args:
            size: the batch size.
            apply: puts it in place; None for where the batch size lives.
            of: what the size is one of, in words.
            refusable: whether the user's code may refuse this size: an error of it is then an answer, not a failure.

        """
        self._observer.probing(size, of)
        with noting(f"a probe of {of} {size}"):
            probe = self._prober.probe(size, apply or self.batching.apply, refusable)
        self._observer.probed(probe, of)
        return probe

    def time(self, size: int) -> float | None:
        """Seconds of one steady step at a size that is likely to fit; None where it does not run all the same."""
        self._observer.probing(size, "batch size")
        with noting(f"a probe of batch size {size}"):
            return self._prober.time(size, self.batching.apply)

    def allowed_by_validation(self) -> int | None:
        """The largest batch size that leaves every validation loader that follows it a batch; None for no bound."""
        found: list[EpochData | None] = [None]

        def look() -> None:
            if not validates(self.trainer):
                return
            loaders = combined(self.trainer, request_loaders(self.trainer, "val"), "val")
            shares = self.batching.shares(self.trainer, "val")
            if any(shares):
                found[0] = epoch_data(self.trainer, "val", loaders, shares)

        run_on_all(self.peers, look)
        epochs = [epoch for epoch in self.peers.gather(found[0]) if epoch is not None]
        return largest_allowed(self.trainer, "validate", EpochData.least(epochs), full=False) if epochs else None

    def samples_at(self, size: int) -> int:
        """Samples that training really has in a batch of a size, which a batch sampler of the user's may decide."""
        found: list[int | None] = []

        def look() -> None:
            self.batching.apply(size)
            loaders = combined(self.trainer, request_loaders(self.trainer, self._role), self._role)
            found.append(samples_drawn(flat_loaders(loaders)[self.epoch.searched]))

        asked = self.epoch.loaders[self.epoch.searched].size(size)
        if not self.data.decided_by_samplers:
            return asked
        run_on_all(self.peers, look)
        return max((samples for samples in self.peers.gather(found[0]) if samples is not None), default=asked)

    def scanned(self) -> list[Scanned]:
        """How far all processes together looked for the largest samples, for each loader."""
        return [Scanned.of_all(each) for each in zip(*self.peers.gather(self.data.scanned()), strict=True)]

    @property
    def most(self) -> int | None:
        """The most samples that the data makes a batch of; None where no probe has shown it."""
        return self._prober.most

    def resident(self) -> int:
        """Bytes that the weights and the state of the run take, on the process where they take the most."""
        return max(self.peers.gather(self.memory.allocated(self._frozen.tensors)))

    def usable_in_words(self) -> str:
        """How much a batch may take, and why."""
        return (
            f"{format_bytes(self.usable)} ({format_bytes(self.capacity)} on {self.memory.label} less the margin of "
            f"{self.settings.margin:.0%})"
        )

    def nothing_fits(self, probes: Sequence[Probe]) -> NothingFits:
        """The error for a search in which nothing fitted."""
        smallest = min(probes, key=lambda probe: probe.batch_size)
        return NothingFits(
            f"Expected some batch to fit into {self.usable_in_words()}, but a batch of "
            f"{smallest.batch_size} does not: {smallest.reason}{self._of_its_own(smallest)}. "
            "Free memory on the device, raise memory_limit, or shrink the model, its inputs or its precision."
        )

    def _of_its_own(self, probe: Probe) -> str:
        """The batch size of the validation loaders, where a probe did not get through these."""
        if self.stage != "fit" or not probe.reason.startswith("out of memory in validation"):
            return ""
        sizes = [known_batch_size(loader) for loader in flat_loaders(request_loaders(self.trainer, "val"))]
        known = " and ".join(str(size) for size in sizes if size is not None)
        return f", whose loader has a batch size of {known}: make that smaller, or search for it with validation=True"


@contextlib.contextmanager
def open_session(
    trainer: Trainer, stage: str, settings: FindSettings, observer: Observer, *, fresh: bool
) -> Iterator[Session]:
    """Open a search; afterwards the run is as it was.

    Args:
        trainer: a Trainer inside `fit`, `validate`, `test` or `predict`.
        stage: which of the four.
        settings: the user's choices.
        observer: hears how it goes on.
        fresh: whether the fit has yet to call its `on_fit_start` hooks.

    """
    session = Session(trainer, stage, settings, observer, fresh)
    with short_collections(), session.compilation, muted(), search_is_on(), session.noticing():
        try:
            yield session
        finally:
            session.close()
    # Only now, since it needs all processes: after an error there may be fewer, and the run ends anyway.
    wrap(trainer)
    session.peers.close()


def _batches_of_an_epoch(epoch: EpochData, limit: int | float) -> Callable[[int], float]:
    # Apart from the session, which would else wait for the garbage collector, with the workers of the user's loaders.
    def batches(size: int) -> float:
        number = epoch.batches(size, limit)
        return math.inf if number is None else number

    return batches
