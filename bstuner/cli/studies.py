"""Which study a command is about that looks at what is there: where it is kept, and which one it is."""

from __future__ import annotations

from datetime import datetime

import optuna
from optuna import Study
from optuna.storages import BaseStorage

from bstuner.errors import StudyMissing
from bstuner.study import is_ours, open_storage, storage_in_words, storage_trouble, study_id

__all__ = ["existing_storage", "our_studies", "pick_study"]


def existing_storage(storage: str | None, *, writes: bool = True) -> BaseStorage:
    """Open a storage that is there: nothing is made where there is none.

    Args:
        storage: An Optuna URL, or a path of a journal file that ends in .log; None for the file bstuner-study.log in
            the current folder.
        writes: Whether anything is to be written to it.

    Raises:
        InvalidSetting: It is neither.
        StorageUnusable: There is no such file, it is one of another kind, or the database cannot be reached.

    """
    return open_storage(storage, new=False, writes=writes)


def our_studies(storage: BaseStorage) -> list[Study]:
    """All studies of a storage that bstuner made.

    Args:
        storage: Where they are kept.

    Raises:
        StorageUnusable: The storage cannot be read.

    """
    with storage_trouble(storage_in_words(storage)):
        found = optuna.get_all_study_summaries(storage, include_best_trial=False)
        return [optuna.load_study(study_name=each.study_name, storage=storage) for each in found if is_ours(each)]


def pick_study(storage: BaseStorage, study_name: str | None = None) -> Study:
    """Load a study by its name, or the one that bstuner began last.

    Args:
        storage: Where it is kept.
        study_name: Its name; None for the last one.

    Raises:
        StudyMissing: There is no study of that name that bstuner made, or none at all.
        StorageUnusable: The storage cannot be read.

    """
    place = storage_in_words(storage)
    with storage_trouble(place):
        found = {study.study_name: study for study in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        ours = {name: study for name, study in found.items() if is_ours(study)}
        if not ours:
            others = f", but {len(found)} that it did not make" if found else ""
            raise StudyMissing(
                f"Expected a study that bstuner made in {place}, found none{others}. Tune first, or name where the "
                "study is kept with --storage."
            )
        if study_name is not None and study_name not in ours:
            what = "a study that bstuner did not make" if study_name in found else "none of that name"
            raise StudyMissing(
                f"study_name: expected the name of a study that bstuner made in {place}, found {study_name!r}, {what}. "
                f"There are: {', '.join(ours)}."
            )
        last = max(ours, key=lambda name: (ours[name].datetime_start or datetime.min, study_id(ours[name])))
        return optuna.load_study(study_name=study_name or last, storage=storage)
