"""Which study a command that looks at one is about."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from studies import FACTS

from bstuner.cli.studies import existing_storage, pick_study
from bstuner.errors import StorageUnusable, StudyMissing
from bstuner.study.storage import DEFAULT_FILE, open_storage
from bstuner.study.store import open_study


def test_the_file_in_the_current_folder_is_the_default() -> None:
    open_study(None, "digits", FACTS)
    assert pick_study(existing_storage(None)).study_name == "digits"


@pytest.mark.parametrize("storage", [None, "other.log", "sqlite:///other.db"])
def test_where_there_is_no_file_none_is_made(storage: str | None) -> None:
    name = "other.db" if storage and "sqlite" in storage else storage or DEFAULT_FILE
    with pytest.raises(StorageUnusable, match=f"expected a file with studies, found none at .*{name}"):
        existing_storage(storage)
    assert list(Path().iterdir()) == []


def test_in_a_database_without_studies_no_tables_are_made() -> None:
    sqlite3.connect("other.db").close()
    with pytest.raises(StorageUnusable, match=r"found none in sqlite:///other\.db"):
        existing_storage("sqlite:///other.db")
    assert Path("other.db").stat().st_size == 0


def test_without_a_name_the_study_that_began_last_is_taken() -> None:
    for name in ("first", "second", "never"):
        study = open_study(None, name, FACTS)
        if name != "never":
            study.ask()
    storage = existing_storage(None)
    assert pick_study(storage).study_name == "second"
    assert pick_study(storage, "first").study_name == "first"


def test_the_newest_of_two_studies_without_trials_is_taken() -> None:
    open_study(None, "zebra", FACTS)
    open_study(None, "ant", replace(FACTS, model="Net"))
    assert pick_study(existing_storage(None)).study_name == "ant"


def test_a_study_that_is_not_there_is_told_with_those_that_are() -> None:
    open_study(None, "digits", FACTS)
    with pytest.raises(StudyMissing, match=r"found 'digit', none of that name\. There are: digits\."):
        pick_study(existing_storage(None), "digit")


def test_studies_of_another_origin_do_not_count() -> None:
    optuna.create_study(storage=open_storage(None), study_name="foreign").ask()
    with pytest.raises(StudyMissing, match=r"found none, but 1 that it did not make\. .*--storage"):
        pick_study(existing_storage(None))
    open_study(None, "digits", FACTS)
    assert pick_study(existing_storage(None)).study_name == "digits"
    with pytest.raises(StudyMissing, match="found 'foreign', a study that bstuner did not make"):
        pick_study(existing_storage(None), "foreign")
