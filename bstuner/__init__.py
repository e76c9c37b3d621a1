"""Find the batch size, and the learning rate with it, for PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bstuner.api import find, schedule, tune
    from bstuner.callbacks.finder import BatchSizeFinder
    from bstuner.callbacks.scheduler import BatchSizeScheduler
    from bstuner.callbacks.tuner import BatchSizeTuner
    from bstuner.callbacks.warmup import LearningRateWarmup
    from bstuner.core.result import FindResult, Probe
    from bstuner.core.tune_result import TuneResult
    from bstuner.errors import BstunerError

__all__ = [
    "BatchSizeFinder",
    "BatchSizeScheduler",
    "BatchSizeTuner",
    "BstunerError",
    "FindResult",
    "LearningRateWarmup",
    "Probe",
    "TuneResult",
    "find",
    "schedule",
    "tune",
]

# Imported when first used: Lightning takes seconds, and a command line with a typing error should not wait for it.
_MODULES = {
    "BatchSizeFinder": "bstuner.callbacks.finder",
    "BatchSizeScheduler": "bstuner.callbacks.scheduler",
    "BatchSizeTuner": "bstuner.callbacks.tuner",
    "BstunerError": "bstuner.errors",
    "FindResult": "bstuner.core.result",
    "LearningRateWarmup": "bstuner.callbacks.warmup",
    "Probe": "bstuner.core.result",
    "TuneResult": "bstuner.core.tune_result",
    "find": "bstuner.api",
    "schedule": "bstuner.api",
    "tune": "bstuner.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
