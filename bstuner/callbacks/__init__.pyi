from .finder import BatchSizeFinder as BatchSizeFinder
from .scheduler import BatchSizeScheduler as BatchSizeScheduler
from .tuner import BatchSizeTuner as BatchSizeTuner
from .warmup import LearningRateWarmup as LearningRateWarmup
