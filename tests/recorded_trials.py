"""A search for batch size and learning rate, as its report is given it."""

from __future__ import annotations

from dataclasses import replace

from bstuner import FindResult, Probe
from bstuner.core.tune_result import Role, TrialSummary, TuneResult, Verdict

GIB = 2**30

FOUND = FindResult(
    batch_size=1024,
    probes=(Probe(2, GIB, 0.01, fits=True), Probe(256, None, 0.1, fits=True), Probe(1024, 64 * GIB, 0.4, fits=True)),
    limited_by="memory",
    capacity_bytes=140 * GIB,
    usable_bytes=126 * GIB,
    device="NVIDIA H200",
    stage="fit",
    seconds=2.24,
    memory_intercept=0.0,
    memory_slope=GIB / 16,
    knee=256,
)


def trial(number: int | None, role: Role, batch: int, lr: float, verdict: Verdict, **more: object) -> TrialSummary:
    return TrialSummary(number, role, batch, 1, batch, lr, verdict, **more)  # type: ignore[arg-type]


BASELINE = trial(
    0, "baseline", 32, 4e-4, "baseline", metric=1.186, samples=98_304, seconds=19.4, samples_per_second=5067.0
)
MEMORY = trial(1, "first", 1024, 2.26e-3, "out of memory", reason="out of memory in training")
DIVERGED = trial(2, "search", 512, 0.31, "not finite", samples=4096, samples_per_second=25_000.0)
SLOWER = trial(
    3, "search", 64, 1e-3, "slower", metric=1.34, samples=32_768, samples_per_second=9000.0, reason="too slow"
)
BEST = trial(4, "search", 256, 6.4e-3, "best", metric=1.18, samples=65_536, seconds=3.2, samples_per_second=20_480.0)
AGAIN = (
    replace(BASELINE, number=None, role="confirm baseline", seconds=18.5),
    replace(BEST, number=None, role="confirm", seconds=3.4),
)
RESULT = TuneResult(
    baseline=BASELINE,
    best=BEST,
    trials=(BASELINE, MEMORY, DIVERGED, SLOWER, BEST),
    monitor="val_loss",
    mode="min",
    objective="time",
    target=1.186,
    bar=1.15,
    budget=98_304,
    rule="sqrt",
    reference_lr=4e-4,
    study_name="first",
    storage="study.journal",
    speedup=19.4 / 3.2,
    cost=1.75,
    stopped="all 5 trials were run",
    confirmed=True,
    confirmation=AGAIN,
    find=FOUND,
    seconds=34.2,
)
