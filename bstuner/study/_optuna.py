"""Every private name of Optuna that bstuner touches, each with its reason; each has a canary test.

What Optuna's reference leaves out counts as private too: the methods of a storage, which are there for Optuna's own
classes, the names of its system attributes, and the form of its files and tables. Keeping them in one place means that
an upgrade is one file to read and one test file to run.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from optuna import Study
from optuna.artifacts import ArtifactMeta
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudySummary
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Engine

__all__ = [
    "FIXED_PARAMS",
    "METRIC_NAMES",
    "artifact_attr",
    "backend_of",
    "database_url",
    "engine_of",
    "get_trial",
    "has_studies",
    "is_journal_entry",
    "journal_path",
    "set_study_system_attr",
    "set_trial_state",
    "set_trial_system_attr",
    "set_trial_user_attr",
    "storage_of",
    "study_id",
    "study_system_attrs",
    "trial_id",
]

# The system attribute with the metrics' names. set_metric_names() writes it too, but warns each time that it is
# experimental.
METRIC_NAMES = "study:metric_names"

# The system attribute with the parameters that a trial was enqueued with. enqueue_trial() writes it too, but takes no
# other system attributes along; and only there are parameters kept that nobody has asked the trial for yet.
FIXED_PARAMS = "fixed_params"


def storage_of(study: Study) -> BaseStorage:
    """The storage that a study is kept in."""
    return study._storage  # kept nowhere public


def study_id(study: Study | StudySummary) -> int:
    """The number of a study in its storage, where later studies have higher ones."""
    # _study_id: by it, storages and the addresses of optuna-dashboard name a study; kept nowhere public.
    return study._study_id


def trial_id(trial: Trial | FrozenTrial) -> int:
    """The number of a trial in its storage, over all studies."""
    # _trial_id: by it, storages name a trial; the public number counts within one study.
    return trial._trial_id


def get_trial(study: Study, trial: Trial | FrozenTrial) -> FrozenTrial:
    """A trial of a study as its storage has it now."""
    # Of a study, Optuna's public functions read all trials or none.
    return storage_of(study).get_trial(trial_id(trial))


def set_trial_state(study: Study, trial: Trial | FrozenTrial, state: TrialState) -> None:
    """Set the state of a trial without a value, if and only if nobody has told it before."""
    # tell() raises a plain ValueError, as for any wrong argument, where it sees that somebody has told the trial; and
    # it takes the last metric reported of a pruned trial for its value. A storage raises UpdateFinishedTrialError, and
    # takes no value where none is given.
    storage_of(study).set_trial_state_values(trial_id(trial), state)


def set_trial_user_attr(study: Study, trial: Trial | FrozenTrial, name: str, value: Any) -> None:
    """Write a user attribute of a trial into the storage of its study."""
    # FrozenTrial.set_user_attr() writes it into the copy that one has read, not into the storage.
    storage_of(study).set_trial_user_attr(trial_id(trial), name, value)


def set_trial_system_attr(trial: Trial, name: str, value: Any) -> None:
    """Write a system attribute of a trial."""
    # Optuna has no public way to write one once the trial is there; Trial.storage is left out of its reference.
    trial.storage.set_trial_system_attr(trial_id(trial), name, value)


def study_system_attrs(study: Study) -> dict[str, Any]:
    """All system attributes of a study."""
    # Optuna has no public way to read those of a study.
    return storage_of(study).get_study_system_attrs(study_id(study))


def set_study_system_attr(study: Study, name: str, value: Any) -> None:
    """Write a system attribute of a study."""
    # Optuna has no public way to write one.
    storage_of(study).set_study_system_attr(study_id(study), name, value)


def artifact_attr(artifact: ArtifactMeta) -> tuple[str, str]:
    """The name and the value of the system attribute that tells of an artifact."""
    # upload_artifact() writes it too, but gives the artifact another name each time.
    return f"artifacts:{artifact.artifact_id}", json.dumps(asdict(artifact))


def backend_of(storage: BaseStorage) -> object:
    """The file of a journal or the database behind Optuna's cache; any other storage itself."""
    # _backend: the journal and the cache, which create_study() puts around a database, keep it nowhere public.
    return getattr(storage, "_backend", storage)


def database_url(storage: BaseStorage) -> str | None:
    """The URL of a storage's database, with its password; None where it is no database."""
    # url: RDBStorage takes it as an argument; as an attribute, it is left out of Optuna's reference.
    return getattr(backend_of(storage), "url", None)


def engine_of(storage: RDBStorage) -> Engine:
    """The SQLAlchemy engine of a database."""
    # engine: RDBStorage makes its own and takes none; as an attribute, it is left out of Optuna's reference.
    return storage.engine


def journal_path(storage: BaseStorage) -> str | None:
    """The path of a storage's journal file; None where it is no journal file."""
    # _file_path: JournalFileBackend keeps it nowhere public.
    return getattr(backend_of(storage), "_file_path", None)


def is_journal_entry(line: bytes) -> bool:
    """Whether a line of a file is one of a journal."""
    # op_code: what an entry holds is told nowhere public. JournalStorage opens a file of another kind too, where it has
    # a single line, and spoils it with the first entry that it adds.
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and "op_code" in entry


def has_studies(tables: Collection[str]) -> bool:
    """Whether the tables of a database are those of Optuna."""
    # studies: RDBStorage makes the tables that it does not find, and has no public way to ask for them before.
    return "studies" in tables
