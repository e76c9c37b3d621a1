"""Probe a run at one batch size: does it fit, how much memory does it take, how long is a step?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bstuner.core import Probe
from bstuner.device import DeviceMemory, is_out_of_memory
from bstuner.errors import BstunerError
from bstuner.ranks import Peers, run_on_all
from bstuner.training.freezing import FrozenFit
from bstuner.training.probing.batches import ProbeData, given
from bstuner.training.probing.loop import Batches, probe_evaluation, probe_fit
from bstuner.training.probing.timing import Timing
from bstuner.training.run import wrap_for_probe

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["REFUSED", "Prober"]

# How the reason begins why a size does not fit that the user's own code refused.
REFUSED = "refused by your code: "


@dataclass
class _Outcome:
    """How a probe went on one process."""

    peak_bytes: int | None = None
    seconds: float | None = None
    retried: bool = False
    given: int | None = None


class Prober:
    """Runs probes inside a fit or an evaluation, each from the same frozen state, on all processes at once.

    Args:
        trainer: a Trainer inside `fit`, `validate`, `test` or `predict`.
        stage: which of the four.
        data: the batches.
        memory: the device.
        peers: the processes of the run. Memory and time are those of the worst of them.
        frozen: the state to start each probe from.
        usable_bytes: a size whose peak is above this does not fit.
        steps: optimizer steps (or evaluation batches) of a probe.
        accumulate: batches per optimizer step, at a batch size.
        searched: which loader's batch size is searched for, by its place.
        length: batches of an epoch of the user's own, at a batch size; infinity where that is not known.
        fresh: whether the fit has yet to call its `on_fit_start` hooks.

    Attributes:
        most: the most samples that the data makes a batch of; None where no probe has shown it.

    """

    def __init__(
        self,
        trainer: Trainer,
        stage: str,
        data: ProbeData,
        memory: DeviceMemory,
        peers: Peers,
        frozen: FrozenFit,
        usable_bytes: int,
        steps: int,
        accumulate: Callable[[int], int],
        searched: int,
        length: Callable[[int], float],
        fresh: bool,
    ) -> None:
        self._trainer = trainer
        self._stage = stage
        self._data = data
        self._memory = memory
        self._peers = peers
        self._frozen = frozen
        self._usable = usable_bytes
        self._steps = steps
        self._fresh = fresh
        self._epoch = trainer.current_epoch
        self._batches_per_step = accumulate
        self._searched = searched
        self._length = length
        self._given: dict[int, int] = {}
        self.most: int | None = None

    def probe(self, size: int, apply: Callable[[int], None], refusable: bool = False) -> Probe:
        """Run one size for memory and time, and leave the run as it was frozen.

        Args:
            size: the batch size.
            apply: puts it in place.
            refusable: whether the user's code may refuse this size: an error of it is then an answer, not a failure.

        Raises:
            PeerError: another process failed for a reason that is not memory.

        """

        def attempt(outcome: _Outcome) -> None:
            run, batches = self._prepare(size, apply)
            timing = Timing(self._memory, self._accumulate(size))
            with self._memory.measure(self._frozen.tensors) as reading:
                run(timing, self._steps, self._fresh, validate=True)
            if self._memory.slows_steps and self._peers.meet(reading.peak_bytes <= self._usable):
                # The steps just measured have warmed everything up; one more, without the counter, is a steady one.
                timing = Timing(self._memory, self._accumulate(size), warm_up=0)
                run(timing, 1, fresh=False, validate=False)
            outcome.peak_bytes, outcome.seconds = reading.peak_bytes, timing.seconds
            outcome.retried, outcome.given = timing.retried, given(batches, self._searched)

        reason, outcomes = self._try_on_all(size, attempt, refusable)
        if reason:
            return Probe(size, None, None, fits=False, reason=reason)
        seconds = max(outcome.seconds for outcome in outcomes if outcome.seconds is not None)
        if self._falls_short(size, [outcome.given for outcome in outcomes if outcome.given is not None]):
            return Probe(size, None, seconds, fits=False, reason=f"the data makes no batch of more than {self.most}")
        if any(outcome.retried for outcome in outcomes):
            return Probe(size, None, seconds, fits=False, reason="ran only by allocator retries")
        peak = max(outcome.peak_bytes for outcome in outcomes if outcome.peak_bytes is not None)
        fits = peak <= self._usable
        return Probe(size, peak, seconds, fits, reason="" if fits else "over the margin")

    def _falls_short(self, size: int, given: list[int]) -> bool:
        """Whether batches that are taken as they come hold fewer samples than asked for: then none larger exists."""
        if not given:
            return False
        most = self._given[size] = min(given)
        # That a batch size counts samples (not tokens, say) shows where it was met; that the data is at its end, where
        # a larger one gave no more.
        met = any(asked == came for asked, came in self._given.items())
        no_more = any(asked < size and came >= most for asked, came in self._given.items())
        if most < size and (met or no_more):
            self.most = most
        return self.most is not None and self.most < size

    def time(self, size: int, apply: Callable[[int], None]) -> float | None:
        """Seconds of one steady step at a size that is likely to fit; None where it does not run all the same."""

        def attempt(outcome: _Outcome) -> None:
            timing = Timing(self._memory, self._accumulate(size))
            run, _ = self._prepare(size, apply)
            run(timing, 2, self._fresh, validate=False)
            outcome.seconds = timing.seconds

        _, outcomes = self._try_on_all(size, attempt, refusable=True)
        times = [outcome.seconds for outcome in outcomes]
        return None if None in times else max(seconds for seconds in times if seconds is not None)

    def _try_on_all(
        self, size: int, attempt: Callable[[_Outcome], None], refusable: bool
    ) -> tuple[str, list[_Outcome]]:
        """Run on every process, put this one back, and tell where memory ran out, and how it went on each."""
        mine = _Outcome()

        def excuse(error: BaseException) -> str:
            if is_out_of_memory(error):
                return f"out of memory in {_stage_in_words(self._trainer)}"
            if refusable and isinstance(error, Exception) and not isinstance(error, BstunerError):
                return f"{REFUSED}{type(error).__name__}: {error}"
            return ""

        reasons = run_on_all(self._peers, lambda: attempt(mine), put_back=self._put_back, excuse=excuse)
        words = [
            f"{reason} on process {rank}" if self._peers.size > 1 else reason
            for rank, reason in enumerate(reasons)
            if reason
        ]
        return next(iter(words), ""), self._peers.gather(mine)

    def _put_back(self) -> None:
        self._frozen.restore()
        self._memory.release()

    def _accumulate(self, size: int) -> int:
        # Two batches show all that accumulation adds: gradients that stay alive during the next forward pass.
        return min(2, self._batches_per_step(size)) if self._stage == "fit" else 1

    def _prepare(self, size: int, apply: Callable[[int], None]) -> tuple[Callable[..., None], Batches]:
        """Apply a size and ask for the loaders, while the Trainer still has the user's loops."""
        apply(size)
        batches = self._data.main()
        validation = self._data.validation() if self._stage == "fit" else None
        wrap_for_probe(self._trainer, self._peers)

        def run(timing: Timing, steps: int, fresh: bool, validate: bool) -> None:
            if self._stage == "fit":
                probe_fit(
                    self._trainer,
                    batches,
                    validation if validate else None,
                    timing,
                    self._peers,
                    steps=steps,
                    accumulate=self._accumulate(size),
                    epoch=self._epoch,
                    length=self._length(size),
                    fresh=fresh,
                )
            else:
                probe_evaluation(self._trainer, self._stage, batches, timing, steps=steps)

        return run, batches


def _stage_in_words(trainer: Trainer) -> str:
    stage = trainer.state.stage.value if trainer.state.stage else ""
    words = {"train": "training", "validate": "validation", "test": "testing", "predict": "prediction"}
    return words.get(stage, stage)
