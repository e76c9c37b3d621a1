"""Studies for tests that look at what is kept: searched by formulas, in any storage, in a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from formula_runner import SPACE, FormulaRunner, search
from optuna import Study

from bstuner.core.tune_result import TuneResult
from bstuner.study.storage import Storage
from bstuner.study.store import StudyFacts, open_study

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


def tuned_study(
    storage: Storage, name: str = "digits", runner: FormulaRunner | None = None, **settings: Any
) -> tuple[Study, TuneResult]:
    """A study as a search leaves it, and what the search found."""
    runner = runner or FormulaRunner()
    settings = {"n_trials": 8, "capacity_bytes": 2**31, **settings}
    facts = replace(FACTS, mode=runner.mode, objective=settings.get("objective", "time"), trial_budget=runner.budget)
    lowest, highest = SPACE.lr_range
    study = open_study(storage, name, replace(facts, base_lr_low=lowest, base_lr_high=highest))
    return study, search(runner, study, **settings)
