from .api import best as best, find as find, schedule as schedule, tune as tune
from .callbacks import (
    BatchSizeFinder as BatchSizeFinder,
    BatchSizeScheduler as BatchSizeScheduler,
    BatchSizeTuner as BatchSizeTuner,
    LearningRateWarmup as LearningRateWarmup,
)
from .core import FindResult as FindResult, Probe as Probe, TuneResult as TuneResult
from .errors import BstunerError as BstunerError
from .training.run.search_state import searching as searching
