"""Studies for tests that look at what is kept: searched by formulas, in any storage, in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from formula_runner import SPACE, FormulaRunner
from optuna import Study

from bstuner.core.find_result import FindResult, Probe
from bstuner.core.trial import Ending, TrialRequest
from bstuner.study.findings import write_answer, write_environment, write_find, write_search
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.storage import Storage
from bstuner.study.store import StudyFacts, open_study
from bstuner.study.workers import Worker

MIB = 2**20

FACTS = StudyFacts(
    gpu_name="NVIDIA H200",
    gpu_memory_gib=139.8,
    world_size=1,
    precision="bf16-mixed",
    max_fitting_batch_size=1024,
    scaling_rule="none",
    reference_batch_size=32,
    reference_lr=0.001,
    trial_budget=10_240,
    objective="time",
    monitor="val_loss",
    mode="min",
    log2_batch_ratio_low=-2,
    log2_batch_ratio_high=3,
    base_lr_low=1e-5,
    base_lr_high=0.3,
    model="Digits",
    parameters=85_002,
)

# A sample takes a MiB beside a GiB of weights, a step 10 ms and 0.1 ms per sample, as in the formula's trials.
FIND = FindResult(
    batch_size=256,
    probes=(
        *(Probe(size, (1024 + size) * MIB, 0.01 + 0.0001 * size, fits=True) for size in (2, 8, 16, 64, 256)),
        Probe(512, None, None, fits=False, reason="out of memory in training"),
    ),
    limited_by="memory",
    capacity_bytes=1536 * MIB,
    usable_bytes=1382 * MIB,
    device="NVIDIA H200",
    stage="fit",
    seconds=2.25,
    holder="Digits.batch_size",
    reference_batch_size=32,
    lr=0.001,
    memory_intercept=1024.0 * MIB,
    memory_slope=1.0 * MIB,
    knee=256,
    scanned=1797,
    dataset_size=1797,
)


def ends(request: TrialRequest) -> Ending:
    """How trials of the largest batch and of high learning rates end."""
    return "out of memory" if request.global_batch_size == 256 else "not finite" if request.lr > 0.05 else "finished"


def searched(
    storage: Storage = None,
    name: str = "digits",
    *,
    facts: StudyFacts = FACTS,
    find: FindResult = FIND,
    runner: FormulaRunner | None = None,
    before: Callable[[TrialRequest], None] = lambda request: None,
    **settings: Any,
) -> Study:
    """A study as a tuner leaves it: with a baseline, better trials, some that ran out of memory, and an answer.

    Args:
        storage: Where it is kept.
        name: The study's name.
        facts: What its trials stand for.
        find: What was found before.
        runner: Runs the trials.
        before: Called before each of them.
        settings: Those of the search; by default 12 trials, drawn from seed 1.
    """
    study = open_study(storage, name, facts)
    how = TuneSettings(
        **{
            "monitor": facts.monitor,
            "mode": facts.mode,
            "objective": facts.objective,
            "n_trials": 12,
            "patience": None,
            "seed": 1,
            "capacity_bytes": find.usable_bytes,
            **settings,
        }
    )
    write_search(study, how.n_trials, "Digits.lr")
    write_find(study, find)
    write_environment(study, "SingleDeviceStrategy")
    runner = runner or FormulaRunner(mode=facts.mode, ends=ends)
    runner.before = before
    with Worker(study) as worker:
        result = tune(runner, SPACE, how, study, worker=worker, clock=lambda: 0.0)
    write_answer(study, result.with_settings(["max_steps: 400 -> 200"], ["a warning"]))
    return study
