"""Trainers on a device, at a precision."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision

__all__ = ["OVERFLOWS", "generator", "on"]

# A precision: float16, with a loss scaler whose first scales are too large for any gradient.
OVERFLOWS = "16-mixed, first steps skipped"


def on(device: str, precision: str = "32-true", **more: Any) -> dict[str, Any]:
    """Settings of a Trainer."""
    settings = {"accelerator": device, "devices": 1, "deterministic": True, **more}
    if precision == OVERFLOWS:
        scaler = torch.amp.GradScaler(device, init_scale=2.0**24)
        return {**settings, "plugins": [MixedPrecision("16-mixed", device, scaler=scaler)]}
    return {**settings, "precision": precision}


def generator(device: str) -> torch.Tensor:
    """The state of the device's random generator."""
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()
