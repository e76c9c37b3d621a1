from .find_display import SearchDisplay as SearchDisplay
from .find_summary import render_find as render_find
from .schedule_summary import render_schedule as render_schedule
from .study_summary import render_study as render_study
from .tune_display import TuningDisplay as TuningDisplay
from .tune_summary import render_tune as render_tune, tune_rows as tune_rows
