from .batch_plan import BatchPlan as BatchPlan, layout_within as layout_within, lr_factor_at as lr_factor_at
from .epoch_plan import EpochPlan as EpochPlan, PlannedStep as PlannedStep
from .nominal import NominalSteps as NominalSteps
from .phases import (
    Phase as Phase,
    Rounding as Rounding,
    phase_at as phase_at,
    plan_growth as plan_growth,
    update_count as update_count,
)
from .plan_text import parse_plan as parse_plan
from .run_plan import RunPlan as RunPlan, grown_phases as grown_phases
from .settings import GrowthSettings as GrowthSettings
from .spans import (
    Span as Span,
    drawn_together as drawn_together,
    schedule_spans as schedule_spans,
    steps_saved as steps_saved,
)
