"""Find the batch size, and the learning rate with it, for PyTorch Lightning."""

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
