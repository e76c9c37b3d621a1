from ._optuna import (
    artifact_attr as artifact_attr,
    storage_of as storage_of,
    study_id as study_id,
    study_system_attrs as study_system_attrs,
)
from .findings import (
    Findings as Findings,
    best as best,
    write_answer as write_answer,
    write_environment as write_environment,
    write_find as write_find,
    write_growth as write_growth,
    write_search as write_search,
)
from .purse import FitLength as FitLength
from .search import tune as tune
from .settings import TuneSettings as TuneSettings
from .space import SearchSpace as SearchSpace
from .storage import (
    DEFAULT_FILE as DEFAULT_FILE,
    open_storage as open_storage,
    storage_file as storage_file,
    storage_in_words as storage_in_words,
    storage_trouble as storage_trouble,
)
from .store import StudyFacts as StudyFacts, is_ours as is_ours, open_study as open_study
from .system_attrs import write_study_system_attrs as write_study_system_attrs
from .workers import Worker as Worker
