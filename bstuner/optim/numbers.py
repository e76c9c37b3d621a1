"""The numbers among the settings of optimizers and schedulers: read them, and scale Adam's."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from bstuner.core import AdamConstants, scale_adam

__all__ = ["like", "number_in", "scaled_adam", "scaled_momentum"]


def number_in(value: Any) -> float | None:
    """A value as a number, where it is one number: not a flag, not None, not a mark for a value that is missing."""
    if isinstance(value, bool):
        return None
    single = isinstance(value, Tensor) and value.numel() == 1
    return float(value) if single or isinstance(value, numbers.Real) else None


def like(original: Any, value: float) -> Any:
    """A number, as a tensor where the original is one."""
    return torch.full_like(original, value) if isinstance(original, Tensor) else value


def scaled_adam(settings: dict[str, Any], defaults: dict[str, Any], batch_size: int, reference: int) -> bool:
    """Scale the betas and the epsilon among the settings of an optimizer that has Adam's; whether it has.

    Args:
        settings: Of a group, or the defaults; changed in place.
        defaults: The optimizer's defaults, which tell whether it has Adam's constants.
        batch_size: Samples per optimizer step, over all processes.
        reference: Samples per optimizer step for which the settings are meant.
    """
    betas = defaults.get("betas")
    if not isinstance(betas, (list, tuple)) or len(betas) != 2 or number_in(defaults.get("eps")) is None:
        return False
    first, second = settings.get("betas", betas)
    eps = settings.get("eps", defaults["eps"])
    scaled = scale_adam(AdamConstants(float(first), float(second), float(eps)), batch_size, reference)
    if "betas" in settings:
        settings["betas"] = (like(first, scaled.beta1), like(second, scaled.beta2))
    if "eps" in settings:
        settings["eps"] = scaled.eps
    return True


def scaled_momentum(value: Any, batch_size: int, reference: int) -> Any:
    """Scale a momentum, or one for each group, that a scheduler puts in the place of Adam's first beta."""
    if isinstance(value, (list, tuple)):
        return [scaled_momentum(each, batch_size, reference) for each in value]
    return like(value, math.pow(float(value), batch_size / reference))
