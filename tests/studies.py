"""Studies for tests that look at what is kept: searched by formulas, in any storage, in a second."""

from __future__ import annotations

from bstuner.study.store import StudyFacts

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
