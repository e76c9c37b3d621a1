from .learning_rate import LearningRate as LearningRate
from .scheduler_steps import StepConstants as StepConstants
from .trainer_steps import StepSettings as StepSettings
from .tuned import SettingsInPlace as SettingsInPlace, TunedPlacement as TunedPlacement
