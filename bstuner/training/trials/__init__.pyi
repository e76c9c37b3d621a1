from .locate import largest_worth_finding as largest_worth_finding, locate_settings as locate_settings
from .open import Trials as Trials, open_trials as open_trials
from .settings import TrialSettings as TrialSettings
