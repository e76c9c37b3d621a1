from .budget import (
    MAX_COST as MAX_COST,
    TRIALS_OF_A_SEARCH as TRIALS_OF_A_SEARCH,
    TrialBudget as TrialBudget,
    budget_in_samples as budget_in_samples,
    check_trial_budget as check_trial_budget,
    sample_marks as sample_marks,
)
from .checks import check as check, is_whole as is_whole
from .epoch_data import (
    EpochData as EpochData,
    LoaderData as LoaderData,
    last_batch_of_one as last_batch_of_one,
    limited as limited,
)
from .find_result import FindResult as FindResult, LimitedBy as LimitedBy, Probe as Probe
from .find_settings import FindSettings as FindSettings, Observer as Observer
from .layout import (
    BatchLayout as BatchLayout,
    fuller_layouts as fuller_layouts,
    nearest_layouts as nearest_layouts,
    possible_micro_batches as possible_micro_batches,
)
from .memory_size import format_bytes as format_bytes, parse_bytes as parse_bytes
from .regret import Regret as Regret
from .scaling import (
    AdamConstants as AdamConstants,
    Rule as Rule,
    RuleFound as RuleFound,
    rule_for as rule_for,
    scale_adam as scale_adam,
    scale_lr as scale_lr,
    unscale_lr as unscale_lr,
    warmup_lr as warmup_lr,
)
from .scheduler_calls import calls_by_epoch as calls_by_epoch, calls_by_step as calls_by_step, is_due as is_due
from .search import BatchSizeSearch as BatchSizeSearch
from .step_time import StepTime as StepTime, contradicting as contradicting
from .trial import (
    Ending as Ending,
    Mark as Mark,
    Mode as Mode,
    TrialRequest as TrialRequest,
    TrialRun as TrialRun,
    TrialRunner as TrialRunner,
    Watch as Watch,
    curve_doubling as curve_doubling,
    metric_at as metric_at,
    samples_to_target as samples_to_target,
)
from .tune_result import (
    Objective as Objective,
    Role as Role,
    SilentObserver as SilentObserver,
    TrialSummary as TrialSummary,
    TuneResult as TuneResult,
    TuningObserver as TuningObserver,
    Verdict as Verdict,
)
