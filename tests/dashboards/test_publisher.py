"""When a search brings its dashboards up to date, and what it does where that fails."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from formula_runner import SPACE, Diary, FormulaRunner
from optuna.storages import InMemoryStorage
from studies import FACTS, FIND

from bstuner.core.tune_result import TuneResult
from bstuner.dashboards.publisher import Publisher
from bstuner.study.findings import write_find
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.store import open_study
from bstuner.study.system_attrs import read_system_attrs

HOW = TuneSettings("val_loss", n_trials=8, patience=None, seed=1)


class Searched(NamedTuple):
    """A search that kept dashboards up to date."""

    publisher: Publisher
    diary: Diary
    result: TuneResult
    versions: list[int]  # of the note, before each run


def searched(folder: Path | None = None) -> Searched:
    study = open_study(InMemoryStorage(), "digits", FACTS)
    write_find(study, FIND)
    versions: list[int] = []
    runner = FormulaRunner(before=lambda request: versions.append(read_system_attrs(study).get("note_ver", 0)))
    diary = Diary()
    publisher = Publisher(study, folder, diary)
    result = tune(runner, SPACE, HOW, study, observer=publisher, clock=lambda: 0.0)
    return Searched(publisher, diary, result, versions)


def test_dashboards_are_up_to_date_once_the_baseline_or_a_best_trial_has_ended() -> None:
    search = searched()
    expected = [0]
    for trial in search.result.trials:
        expected.append(expected[-1] + (trial.verdict in ("baseline", "best")))
    confirmed = [expected[-1]] * 2  # before both runs that confirm the winner, the second of which changes nothing
    assert search.versions == [*expected[:-1], *confirmed]
    assert expected[-1] > 2


def test_the_observer_hears_all_that_it_would_without() -> None:
    diary = searched().diary
    alone = Diary()
    study = open_study(InMemoryStorage(), "digits", FACTS)
    tune(FormulaRunner(), SPACE, HOW, study, observer=alone, clock=lambda: 0.0)
    assert (diary.started, diary.marks, diary.ended) == (alone.started, alone.marks, alone.ended)


def test_what_goes_wrong_is_kept_for_the_end_and_ends_no_search(tmp_path: Path) -> None:
    (tmp_path / "bstuner-artifacts").write_text("a file in the place of the folder")
    search = searched(tmp_path / "bstuner-artifacts")
    trouble = search.publisher.trouble
    assert "could not be written: FileExistsError" in trouble
    assert "`bstuner dashboard` tries again" in trouble
    (tmp_path / "bstuner-artifacts").unlink()
    search.publisher.publish()
    assert (search.publisher.trouble, list(tmp_path.iterdir())) == (trouble, [])
    assert search.result == searched().result
