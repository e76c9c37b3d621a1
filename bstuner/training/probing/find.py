"""Find the largest batch that fits, inside a run, and put the run back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bstuner.core import (
    BatchLayout,
    BatchSizeSearch,
    FindResult,
    FindSettings,
    LimitedBy,
    Observer,
    Probe,
    StepTime,
    contradicting,
    format_bytes,
)
from bstuner.errors import NothingFits
from bstuner.training._lightning import replicas
from bstuner.training.batching import GlobalBatch, Placement
from bstuner.training.probing.prober import REFUSED
from bstuner.training.probing.session import Session, open_session
from bstuner.training.probing.validation import ValidationSearch
from bstuner.training.probing.warnings import accumulation_warnings, data_warnings, layout_warnings, thaw_warnings
from bstuner.training.run import changed_settings, largest_allowed, last_batch_trouble, limit_of, refuse_contradictions

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["find_largest"]


def find_largest(
    trainer: Trainer, stage: str, settings: FindSettings, observer: Observer, *, fresh: bool
) -> tuple[FindResult, Placement]:
    """Search; afterwards the run is as it was, and the answer is yet to be put in place.

    Args:
        trainer: a Trainer inside `fit`, `validate`, `test` or `predict`.
        stage: which of the four.
        settings: the user's choices.
        observer: hears how it goes on.
        fresh: whether the fit has yet to call its `on_fit_start` hooks.

    """
    with open_session(trainer, stage, settings, observer, fresh=fresh) as session:
        return _Search(session).run()


class _Search:
    """The questions asked of one session, in order."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.trainer, self.stage, self.settings = session.trainer, session.stage, session.settings
        fitting = self.stage == "fit"
        self.global_batch = GlobalBatch(self.trainer, self.settings.global_batch_size if fitting else None)
        self.validation: ValidationSearch | None = None
        self.ceiling: int | None = None  # the largest size that dataset and max_val allow
        self.probes: list[Probe] = []

    def run(self) -> tuple[FindResult, Placement]:
        started = time.perf_counter()
        session = self.session
        self._check_resident()
        session.locate()
        session.look(self.global_batch.accumulate)
        reference, unit = session.batching.reference, 1.0
        if reference is not None:
            unit = session.samples_at(reference) / session.epoch.loaders[session.epoch.searched].size(reference)
        self.global_batch.refuse_other_unit(session.epoch, session.batching.holder, unit)
        self.global_batch.refuse_short_epoch(session.epoch)
        if self.settings.validation and self.stage == "fit" and session.data.validation():
            self.validation = ValidationSearch(session)
        search, limit = self._find()
        answer, warning = self._avoid_last_batch_of_one(search.best or 0)
        if answer != search.best:
            limit = "dataset"
        validation_size = self.validation.run(answer) if self.validation else None
        step_time = self._time_smaller_sizes(answer)
        if not self.settings.converts:
            refuse_contradictions(self.trainer, self.stage, session.epoch, answer)
        fitting = self.stage == "fit"
        layout = self.global_batch.layout(answer) if fitting else BatchLayout(answer, 1, replicas(self.trainer))
        self.global_batch.refuse_short_limit(session.epoch, layout)
        scanned, line = session.scanned(), search.line
        looked_at = next((each for each in scanned if each.searched), None)
        result = FindResult(
            batch_size=answer,
            probes=tuple(self.probes),
            limited_by=limit,
            capacity_bytes=session.capacity,
            usable_bytes=session.usable,
            device=session.memory.label,
            stage=self.stage,
            seconds=time.perf_counter() - started,
            holder=session.batching.holder,
            reference_batch_size=reference,
            accumulate_grad_batches=layout.accumulate,
            world_size=layout.world,
            validation_batch_size=validation_size,
            validation_probes=tuple(self.validation.probes) if self.validation else (),
            lr=self._learning_rate(),
            memory_intercept=line.intercept if line else None,
            memory_slope=line.slope if line else None,
            samples_per_batch=session.samples_at(answer) if unit != 1 else None,
            knee=step_time.knee if step_time else None,
            scanned=looked_at.scanned if looked_at else 0,
            dataset_size=looked_at.total if looked_at else None,
            read_per_second=looked_at.per_second if looked_at else None,
            changed_settings=changed_settings(self.trainer, reference, layout) if fitting and reference else (),
            warnings=(
                *([warning] if warning else []),
                *data_warnings(session, scanned),
                *self._refusals(),
                *thaw_warnings(session),
                *session.compilation.warnings(),
                *self._layout_warnings(search, layout),
            ),
        )
        placement = Placement(
            session.batching,
            answer,
            None if self.global_batch.sizes is None else layout.accumulate,
            (self.validation.batching, validation_size) if self.validation and validation_size else None,
        )
        return session.peers.share(result), placement  # one answer for all: clocks differ

    def _find(self) -> tuple[BatchSizeSearch, LimitedBy]:
        settings, sizes = self.settings, self.global_batch.sizes
        high = self._allowed_by_data()
        limit: LimitedBy = "dataset"
        if settings.max_val is not None and (high is None or settings.max_val < high):
            high, limit = settings.max_val, "max_val"
        self.ceiling = high
        if sizes is not None and (high is None or sizes[-1] <= high):
            high, limit = sizes[-1], "global_batch_size"
        if sizes is not None and high is not None and high < sizes[0]:
            raise self.global_batch.impossible(high, 1)
        # Below a pair from each, BatchNorm may refuse one of several loaders; the next power of two, as the search may
        # round down to one.
        low = max(settings.init_val, 1 << (self.session.epoch.smallest_pair - 1).bit_length())
        low = low if high is None else min(low, high)
        search = self._search_from(low, high)
        # What the user's own code makes of a batch may need more samples than the smallest: then from its own size on.
        own = 1 << ((self.session.batching.reference or 1) - 1).bit_length()
        own = own if high is None else min(own, high)
        while (size := search.next_size()) is not None:
            probe = self._probe(size, refusable=low < own or not self._all_refused())
            if low < own and self._all_refused():
                low = own
                search = self._search_from(low, high)
                continue
            search.record(size, probe.peak_bytes)
        if search.best is None:
            fits = max((probe.batch_size for probe in self.probes if probe.fits), default=0)
            if fits:  # but none of the sizes that would make the wanted batch does
                raise self.global_batch.impossible(self._fits(search) or fits, 1)
            raise self.session.nothing_fits(self.probes)
        if self.session.most is not None and 2 * search.best > self.session.most:
            return search, "dataset"
        return search, "memory" if search.limited_by == "memory" else limit

    def _search_from(self, low: int, high: int | None) -> BatchSizeSearch:
        settings, sizes = self.settings, self.global_batch.sizes
        return BatchSizeSearch(
            self.session.capacity, low=low, high=high, margin=settings.margin, mode=settings.mode, sizes=sizes
        )

    def _may_be_refused(self, size: int) -> bool:
        """Whether it says little of the model if the user's code fails at a size, since others are more like its own.

        Some models take no fewer samples than some number, some only multiples of one: what ran and what the user's
        code asks for are such sizes, and so are their multiples.
        """
        ran = min((probe.batch_size for probe in self.probes if probe.fits), default=None)
        unit = ran or self.session.batching.reference
        if unit is None or size < self.session.epoch.smallest_pair:
            return False
        return size < unit if ran is None else size % unit > 0

    def _allowed_by_data(self) -> int | None:
        """The largest size at which an epoch has a batch, of training and of the validation that follows it."""
        allowed = [largest_allowed(self.trainer, self.stage, self.session.epoch)]
        if self.stage == "fit" and self.validation is None:
            allowed.append(self.session.allowed_by_validation())
        return min((size for size in allowed if size is not None), default=None)

    def _probe(self, size: int, refusable: bool = True) -> Probe:
        def apply(size: int) -> None:
            self.session.batching.apply(size)
            if self.validation is not None:
                self.validation.apply_few()

        try:
            probe = self.session.probe(size, apply, refusable=refusable and self._may_be_refused(size))
        except Exception as error:
            if self.probes and self._all_refused():
                raise
            # Many models cannot train on one sample (BatchNorm refuses it): that is why 1 comes last.
            fits = max((probe.batch_size for probe in self.probes if probe.fits), default=self.ceiling)
            if size == 1 and self.global_batch.sizes is not None and fits is not None and fits > 1:
                raise self.global_batch.impossible(fits, 2) from error
            if size < self.session.epoch.smallest_pair and self.probes:
                raise NothingFits(
                    f"{self.session.nothing_fits(self.probes)} A batch of {size} fails for another reason: "
                    f"{type(error).__name__}: {error}"
                ) from error
            raise
        self.probes.append(probe)
        return probe

    def _all_refused(self) -> bool:
        """Whether the user's code has run at no size so far; in its own words, then, it fails at the next."""
        return all(probe.reason.startswith(REFUSED) for probe in self.probes)

    def _refusals(self) -> tuple[str, ...]:
        """What sizes the user's code refused, though others ran."""
        refused = {p.batch_size: p.reason.removeprefix(REFUSED) for p in self.probes if p.reason.startswith(REFUSED)}
        if not refused:
            return ()
        size, error = next(iter(refused.items()))
        sizes = ", ".join(map(str, sorted(refused)))
        return (
            f"Your code refuses a batch size of {sizes} ({error.splitlines()[0]} at {size}): others were searched.",
        )

    def _learning_rate(self) -> float | None:
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        return next((group["lr"] for group in groups if "lr" in group), None) if self.stage == "fit" else None

    def _check_resident(self) -> None:
        resident = self.session.resident()
        if resident > self.session.usable:
            raise NothingFits(
                f"Expected the model to leave room for a batch; its weights and state alone take "
                f"{format_bytes(resident)} of the {format_bytes(self.session.usable)} usable "
                f"({format_bytes(self.session.capacity)} less the margin of {self.settings.margin:.0%}). "
                "Raise memory_limit, lower margin, or use a smaller model or precision."
            )

    def _layout_warnings(self, search: BatchSizeSearch, layout: BatchLayout) -> tuple[str, ...]:
        if self.global_batch.sizes is None:
            return ()
        batches = self.session.epoch.batches(layout.micro, limit_of(self.trainer, self.stage))
        return (
            *accumulation_warnings(self.trainer.lightning_module, layout),
            *layout_warnings(layout, self._fits(search) or self.ceiling or layout.micro, batches),
        )

    def _fits(self, search: BatchSizeSearch) -> int | None:
        """The largest size that fits by the memory line and the other limits; None before there is a line."""
        line = search.line
        if line is None or line.slope <= 0:
            return None
        fits = int((self.session.usable - line.intercept) / line.slope)
        return fits if self.ceiling is None else min(fits, self.ceiling)

    def _avoid_last_batch_of_one(self, best: int) -> tuple[int, str]:
        """A smaller size, probed too, if `best` would leave BatchNorm a last batch of one sample."""
        trouble = last_batch_trouble(self.trainer, self.stage, self.session.epoch)
        if trouble is None or not trouble.at(best):
            return best, ""
        for size in self._smaller(best):
            known = next((p for p in self.probes if p.batch_size == size), None)
            if not trouble.at(size) and (known or self._probe(size)).fits:
                return size, ""
        return best, trouble.words

    def _smaller(self, best: int) -> Sequence[int]:
        """Sizes below `best` that may be the answer too, from the largest down; 1 is none."""
        if self.global_batch.sizes is not None:
            return [size for size in reversed(self.global_batch.sizes) if 1 < size < best]
        halves = [best >> k for k in range(1, best.bit_length() - 1)]
        return [best - 1, *halves] if self.settings.mode == "binsearch" else halves

    def _time_smaller_sizes(self, answer: int) -> StepTime | None:
        """Time a quarter and a sixteenth of the answer, and fit the step time through all that was timed."""
        timed = {p.batch_size: p.seconds for p in self.probes if p.seconds is not None and p.fits}
        refused = [p.batch_size for p in self.probes if p.reason.startswith(REFUSED)]
        smallest = max(self.session.epoch.smallest_pair, *(size + 1 for size in refused if size < answer), 0)
        for size in (answer // 4, answer // 16):
            if size >= smallest and size not in timed:
                seconds = self.session.time(size)
                if seconds is not None:
                    timed[size] = seconds
                    self.probes.append(Probe(size, None, seconds, fits=True))
        if len(timed) < 2:
            return None
        for size in contradicting(timed):
            seconds = self.session.time(size)
            if seconds is not None and seconds < timed[size]:
                timed[size] = seconds
                self.probes = [replace(p, seconds=seconds) if p.batch_size == size else p for p in self.probes]
        return StepTime.fit(list(timed), list(timed.values()))
