"""What a search for the largest batch found: plain numbers and words, ready to print or to store."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bstuner.core.layout import BatchLayout

__all__ = ["FindResult", "LimitedBy", "Probe"]

# A size with at least this share of the throughput of another is as good.
_NEARLY = 0.9
# As much faster than its data a model has to be to be told so: reading is timed roughly, without collation.
_TWICE = 2

LimitedBy = Literal["memory", "dataset", "max_val", "global_batch_size"]


@dataclass(frozen=True)
class Probe:
    """One size that was run.

    Example:
        >>> Probe(batch_size=64, peak_bytes=2**20, seconds=0.01, fits=True).samples_per_second
        6400.0

    Args:
        batch_size: samples per device and forward pass (micro-batch size).
        peak_bytes: most bytes allocated at once during the probe; None when memory ran out.
        seconds: one steady training step (or evaluation batch); None when it was not timed.
        fits: whether this size is safe to train with.
        reason: why it does not fit, in words; empty when it does.

    """

    batch_size: int
    peak_bytes: int | None
    seconds: float | None
    fits: bool
    reason: str = ""

    @property
    def samples_per_second(self) -> float | None:
        """Throughput of this probe."""
        return self.batch_size / self.seconds if self.seconds else None


@dataclass(frozen=True)
class FindResult:
    """The largest batch that fits, and everything measured on the way.

    Example:
        >>> probe = Probe(batch_size=64, peak_bytes=2**20, seconds=0.01, fits=True)
        >>> result = FindResult(
        ...     batch_size=64, probes=(probe,), limited_by="dataset", capacity_bytes=2**30, usable_bytes=2**29,
        ...     device="CPU", stage="fit", seconds=0.1,
        ... )
        >>> result.global_batch_size, result.throughput
        (64, {64: 6400.0})

    Args:
        batch_size: the answer: samples per device and forward pass.
        probes: every size that was run, in order.
        limited_by: what kept the answer from being larger: the memory, the dataset, `max_val`, or the global batch size
            that was wanted.
        capacity_bytes: bytes this process could use: the device's, or `memory_limit`.
        usable_bytes: the part of the capacity a batch may take, after the margin.
        device: the device's name.
        stage: "fit", "validate", "test" or "predict".
        seconds: how long the search took.
        holder: where the batch size lives, for example "Digits.batch_size".
        reference_batch_size: what the user's code asked for; None where it asked for none.
        accumulate_grad_batches: batches per optimizer step, as the Trainer has it, or as a global batch needs it.
        world_size: number of processes that train together, each on samples of its own.
        validation_batch_size: the answer for the validation loaders, where it was asked for.
        validation_probes: every validation batch size that was run, in order.
        lr: the learning rate of the first parameter group, left as it was; None without an optimizer.
        memory_intercept: bytes at batch size 0 on the fitted memory line; None where too little was measured.
        memory_slope: bytes per sample on that line.
        knee: smallest power of two with at least 90 % of the throughput of the fastest size measured; None where
            too little was measured.
        samples_per_batch: samples in a batch of that size, where a batch sampler makes another number; else None.
        scanned: how many samples were looked at to find the largest one.
        dataset_size: how many samples the dataset holds; None where that is unknown.
        read_per_second: how many samples one process reads in a second, by its loader's workers where it has some; None
            where that was too short to tell.
        changed_settings: settings that count in steps and so mean something else at the new batch size.
        warnings: what else the user should know.

    """

    batch_size: int
    probes: tuple[Probe, ...]
    limited_by: LimitedBy
    capacity_bytes: int
    usable_bytes: int
    device: str
    stage: str
    seconds: float
    holder: str = "batch_size"
    reference_batch_size: int | None = None
    accumulate_grad_batches: int = 1
    world_size: int = 1
    validation_batch_size: int | None = None
    validation_probes: tuple[Probe, ...] = ()
    lr: float | None = None
    memory_intercept: float | None = None
    memory_slope: float | None = None
    knee: int | None = None
    samples_per_batch: int | None = None
    scanned: int = 0
    dataset_size: int | None = None
    read_per_second: float | None = None
    changed_settings: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    @property
    def layout(self) -> BatchLayout:
        """Micro-batch size, accumulation and world size."""
        return BatchLayout(self.batch_size, self.accumulate_grad_batches, self.world_size)

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step, which is micro-batch size x accumulation x world size.

        Where a batch sampler makes other batches than its `batch_size` says, the samples of these count.
        """
        layout = self.layout
        return (self.samples_per_batch or layout.micro) * layout.accumulate * layout.world

    @property
    def throughput(self) -> dict[int, float]:
        """Samples per second of every size that was timed, smallest size first."""
        timed = {p.batch_size: p.samples_per_second for p in self.probes if p.samples_per_second is not None}
        return dict(sorted(timed.items()))

    @property
    def fastest(self) -> int | None:
        """The size with the most samples per second, where the answer has less than 90 % of these; else None."""
        rates = self.throughput
        best = max(rates, key=rates.__getitem__, default=None)
        if best is None or self.batch_size not in rates or rates[self.batch_size] >= _NEARLY * rates[best]:
            return None
        return best

    @property
    def taken_per_second(self) -> float | None:
        """How many samples a process takes in a second at the answer; None where that was not timed."""
        rate = self.throughput.get(self.batch_size)
        return None if rate is None else rate * (self.samples_per_batch or self.batch_size) / self.batch_size

    @property
    def waits_for_data(self) -> bool:
        """Whether the answer takes more than twice the samples in a second that are read."""
        read, taken = self.read_per_second, self.taken_per_second
        return read is not None and taken is not None and taken > _TWICE * read

    @property
    def peak_bytes(self) -> int | None:
        """Measured peak at the answer."""
        return next((p.peak_bytes for p in self.probes if p.batch_size == self.batch_size), None)

    def as_dict(self) -> dict[str, Any]:
        """The result as plain types, as written to `bstuner-result.json`."""
        line = None
        if self.memory_slope is not None:
            line = {"intercept_bytes": self.memory_intercept, "bytes_per_sample": self.memory_slope}
        return {
            "batch_size": self.batch_size,
            "accumulate_grad_batches": self.accumulate_grad_batches,
            "global_batch_size": self.global_batch_size,
            "validation_batch_size": self.validation_batch_size,
            "lr": self.lr,
            "limited_by": self.limited_by,
            "holder": self.holder,
            "reference_batch_size": self.reference_batch_size,
            "world_size": self.world_size,
            "stage": self.stage,
            "device": self.device,
            "capacity_bytes": self.capacity_bytes,
            "usable_bytes": self.usable_bytes,
            "memory_line": line,
            "throughput": {str(size): rate for size, rate in self.throughput.items()},
            "knee": self.knee,
            "fastest": self.fastest,
            "probes": [asdict(probe) for probe in self.probes],
            "validation_probes": [asdict(probe) for probe in self.validation_probes],
            "samples_per_batch": self.samples_per_batch,
            "scanned_samples": self.scanned,
            "dataset_size": self.dataset_size,
            "read_per_second": self.read_per_second,
            "changed_settings": list(self.changed_settings),
            "warnings": list(self.warnings),
            "search_seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FindResult:
        """The result from plain types, as `as_dict` makes them.

        Args:
            content: those, also by way of JSON. What the result of a newer or older version has beside them is left
                out.

        Raises:
            KeyError: something is missing.

        """
        line = content["memory_line"] or {"intercept_bytes": None, "bytes_per_sample": None}
        as_they_are = ("batch_size", "limited_by", "capacity_bytes", "usable_bytes", "device", "stage", "holder")
        counts = ("reference_batch_size", "accumulate_grad_batches", "world_size", "validation_batch_size")
        return cls(
            **{name: content[name] for name in (*as_they_are, *counts, "lr", "knee", "dataset_size")},
            probes=tuple(Probe(**probe) for probe in content["probes"]),
            validation_probes=tuple(Probe(**probe) for probe in content["validation_probes"]),
            memory_intercept=line["intercept_bytes"],
            memory_slope=line["bytes_per_sample"],
            seconds=content["search_seconds"],
            samples_per_batch=content.get("samples_per_batch"),
            scanned=content["scanned_samples"],
            read_per_second=content.get("read_per_second"),
            changed_settings=tuple(content["changed_settings"]),
            warnings=tuple(content["warnings"]),
        )
