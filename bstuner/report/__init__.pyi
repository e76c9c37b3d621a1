from .files import write_json as write_json, write_text as write_text, write_yaml as write_yaml
from .plan_json import plan_as_dict as plan_as_dict, plan_for_study as plan_for_study
from .snippet import json_snippet as json_snippet, python_snippet as python_snippet, yaml_snippet as yaml_snippet
from .verdict import state_words as state_words, verdict_words as verdict_words
from .words import (
    alike_words as alike_words,
    confirmed_words as confirmed_words,
    data_words as data_words,
    device_words as device_words,
    edge_words as edge_words,
    fastest_words as fastest_words,
    fits_words as fits_words,
    format_lr as format_lr,
    format_metric as format_metric,
    format_ratio as format_ratio,
    format_saved as format_saved,
    format_seconds as format_seconds,
    format_settings as format_settings,
    format_sooner as format_sooner,
    growth_words as growth_words,
    knee_words as knee_words,
    quality as quality,
)
