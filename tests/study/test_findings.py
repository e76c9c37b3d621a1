"""What a study holds for people is read back as it was, in every storage, at any time."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from crew import Crew
from formula_runner import FormulaRunner, search
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from postgres import Server
from studies import FACTS, FIND, searched

from bstuner.cli.studies import existing_storage, pick_study
from bstuner.core.find_result import FindResult
from bstuner.core.trial import TrialRequest
from bstuner.errors import BaselineFailed, StudyMismatch
from bstuner.study.findings import Findings, write_answer, write_environment, write_find, write_growth, write_search
from bstuner.study.store import open_study
from bstuner.study.system_attrs import read_system_attrs

GROWTH = {"sizes": [[0, 32]], "points": [[0, 0.1, 0.1], [3200, 0.05, 0.1]]}


def test_a_search_for_the_largest_batch_survives_json() -> None:
    told = replace(FIND, validation_probes=FIND.probes[:2], validation_batch_size=64, warnings=("a", "b"))
    assert FindResult.from_dict(json.loads(json.dumps(told.as_dict()))) == told
    no_line = replace(FIND, memory_intercept=None, memory_slope=None, knee=None, dataset_size=None)
    assert FindResult.from_dict(json.loads(json.dumps(no_line.as_dict()))) == no_line


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        return server.new_database()
    return {"journal": "study.log", "sqlite": "sqlite:///study.db"}[request.param]


def test_everything_is_read_back_as_it_was_written(storage: str) -> None:
    study = searched(storage, n_trials=4)
    write_growth(study, GROWTH)
    there = Findings.read(pick_study(existing_storage(storage, writes=False)))
    assert there == Findings.read(study)
    assert (there.state, there.n_trials, len(there.trials), there.running) == ("ended", 4, 6, ())
    assert (there.facts, there.find, there.growth) == (FACTS, FIND, GROWTH)
    assert there.result is not None
    assert there.result.find == FIND
    assert there.result.lr_holder == "Digits.lr"
    assert there.result.set_values == ("max_steps: 400 -> 200",)
    assert there.result.warnings == ("a warning",)
    assert there.result.stopped == "all 4 trials were run"
    assert there.environment.strategy == "SingleDeviceStrategy"
    assert there.environment.hosts == (os.uname().nodename,)
    assert there.environment.versions["optuna"] == optuna.__version__


def test_the_result_is_that_of_the_search() -> None:
    study = searched("study.log")
    result = search(FormulaRunner(before=refuse), study, n_trials=12, patience=None)
    told = [field for field in vars(result) if getattr(result, field) != getattr(Findings.read(study).result, field)]
    assert told == ["storage", "find", "lr_holder", "set_values", "warnings"]  # which the caller of a search fills


def refuse(request: TrialRequest) -> None:
    raise AssertionError("a search that has ended runs nothing")


def test_while_it_searches_a_study_tells_what_runs_and_what_was_found_so_far(storage: str) -> None:
    seen: list[Findings] = []

    def look(request: TrialRequest) -> None:
        seen.append(Findings.read(pick_study(existing_storage(storage, writes=False))))

    searched(storage, before=look, n_trials=4)
    first, second, *_, last = seen
    assert (first.state, first.result, first.trials, len(first.running)) == ("searching", None, (), 1)
    assert (first.running[0].global_batch_size, first.running[0].lr) == (32, 0.001)
    assert first.running[0].host == os.uname().nodename
    assert second.result is not None
    assert second.result.best == second.result.baseline == second.trials[0]
    assert [len(findings.trials) for findings in seen] == [0, 1, 2, 3, 4, 5, 6, 6]  # two neighbours; the last confirm
    assert {findings.state for findings in seen} == {"searching"}
    assert last.result is not None
    assert last.result.confirmed is None


def test_an_answer_counts_only_for_the_trials_it_was_given_for() -> None:
    study = searched("study.log", n_trials=4)
    seen: list[Findings] = []
    searched("study.log", n_trials=5, before=lambda request: seen.append(Findings.read(study)))
    assert seen[0].state == "searching"
    assert seen[0].result is not None
    assert seen[0].result.set_values == ()
    now = Findings.read(study)
    assert (now.state, now.n_trials, len(now.trials)) == ("ended", 5, 7)


def test_an_interrupt_shows() -> None:
    def interrupt(request: TrialRequest) -> None:
        if request.global_batch_size != 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched("study.log", before=interrupt)
    findings = Findings.read(open_study("study.log", "digits", FACTS))
    assert (findings.state, len(findings.trials), findings.running) == ("interrupted", 1, ())


def test_a_process_that_was_killed_shows_on_its_machine(crew: Crew) -> None:
    killed = crew.start(search_and_die, str(Path("study.log").resolve()))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    study = open_study("study.log", "digits", FACTS)
    assert study.trials[0].state == TrialState.RUNNING
    findings = Findings.read(study)
    assert (findings.state, findings.running) == ("interrupted", ())


def search_and_die(storage: str) -> None:
    searched(storage, before=lambda request: os.kill(os.getpid(), signal.SIGKILL))


def test_a_baseline_that_failed_is_told_in_its_own_words() -> None:
    with pytest.raises(BaselineFailed) as failed:
        searched("study.log", runner=FormulaRunner(ends=lambda request: "out of memory"))
    findings = Findings.read(open_study("study.log", "digits", FACTS))
    assert (findings.state, findings.failure, findings.result) == ("failed", str(failed.value), None)


def test_a_study_of_an_older_version_lacks_what_that_did_not_keep() -> None:
    study = optuna.create_study(storage="sqlite:///old.db", study_name="old")
    new = searched(InMemoryStorage(), n_trials=3)
    kept_since = {"n_trials", "lr_holder", "model", "parameters"}
    for name, value in new.user_attrs.items():
        if name not in kept_since:
            study.set_user_attr(name, value)
    study.add_trials(new.trials)
    findings = Findings.read(study)
    assert (findings.state, findings.n_trials, findings.find, findings.growth) == ("unknown", None, None, None)
    assert (findings.environment.strategy, findings.environment.device) == ("", "NVIDIA H200")
    assert findings.result is not None
    assert [trial.number for trial in findings.result.trials] == [0, 1, 2, 3, 4]


def test_a_study_of_another_origin_or_without_its_settings_is_refused() -> None:
    study = optuna.create_study(study_name="mine")
    with pytest.raises(StudyMismatch, match="found 'mine', which it did not"):
        Findings.read(study)
    study.set_user_attr("bstuner_version", "0.0.1")
    with pytest.raises(StudyMismatch, match=r"made by bstuner 0\.0\.1, without some of them: .*gpu_name"):
        Findings.read(study)


def test_a_worker_that_joins_later_destroys_nothing() -> None:
    study = searched("study.log", n_trials=4)
    before = study.user_attrs, read_system_attrs(study)
    write_search(study, 4, "Digits.lr")
    write_find(study, replace(FIND, batch_size=128, seconds=1.0))
    write_environment(study, "DDPStrategy")
    assert (study.user_attrs, read_system_attrs(study)) == before
    result = Findings.read(study).result
    assert result is not None
    write_answer(study, result)  # it comes to the same answer
    assert (study.user_attrs, read_system_attrs(study)) == before


def test_the_end_of_the_front_that_was_taken_is_read_back() -> None:
    facts = replace(FACTS, objective="both")
    study = searched("study.log", facts=facts, n_trials=6)
    result = Findings.read(study).result
    assert result is not None
    assert result.best == result.baseline
    fastest = max(result.pareto_front, key=lambda trial: trial.samples_per_second or 0.0)
    write_answer(study, replace(result, best=fastest))
    again = Findings.read(study).result
    assert again is not None
    assert again.best == fastest != again.baseline


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_that_is_opened_to_be_read_refuses_changes(kind: str, request: pytest.FixtureRequest) -> None:
    storage = "sqlite:///study.db" if kind == "sqlite" else request.getfixturevalue("server").new_database()
    open_study(storage, "digits", FACTS)
    study = pick_study(existing_storage(storage, writes=False))
    with pytest.raises(StorageInternalError) as refused:
        study.set_user_attr("mine", 1)
    assert "read" in str(refused.value.__cause__)
    assert "only" in str(refused.value.__cause__)
    assert "mine" not in open_study(storage, "digits", FACTS).user_attrs


def test_to_read_a_journal_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    searched("study.log", n_trials=2)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    Findings.read(pick_study(existing_storage("study.log", writes=False)))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
