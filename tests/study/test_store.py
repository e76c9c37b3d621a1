"""Where a study is kept, and what it is bound to."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from bstuner.errors import InvalidSetting, StorageUnusable, StudyMismatch
from bstuner.study import store
from bstuner.study.storage import open_storage
from bstuner.study.store import DEFAULT_FILE, StudyFacts, open_study, storage_in_words

FACTS = StudyFacts(
    gpu_name="NVIDIA H200",
    gpu_memory_gib=139.8,
    world_size=2,
    precision="bf16-mixed",
    max_fitting_batch_size=1024,
    scaling_rule="sqrt",
    reference_batch_size=96,
    reference_lr=0.001,
    trial_budget=98_304,
    objective="time",
    monitor="val_loss",
    mode="min",
    log2_batch_ratio_low=-2,
    log2_batch_ratio_high=4,
    base_lr_low=1e-5,
    base_lr_high=0.3,
)


def test_a_journal_in_the_current_folder_is_the_default(tmp_path: Path) -> None:
    study = open_study(None, "digits", FACTS)
    study.enqueue_trial({"x": 1})
    assert Path(DEFAULT_FILE).exists()
    assert storage_in_words(None) == storage_in_words(study) == str(tmp_path / DEFAULT_FILE)
    assert len(open_study(DEFAULT_FILE, "digits", FACTS).trials) == 1


def test_a_journal_stays_where_it_was_when_training_changes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study("study.log", "digits", FACTS)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    study.enqueue_trial({"x": 1})
    assert len(study.trials) == 1
    assert list(Path().iterdir()) == []


def test_a_study_keeps_what_it_stands_for() -> None:
    kept = open_study(InMemoryStorage(), "digits", FACTS).user_attrs
    assert asdict(FACTS).items() <= kept.items()
    assert (kept["budget_unit"], kept["step_unit"]) == ("samples", "samples")
    assert kept["bstuner_version"]
    assert kept["versions"]["optuna"] == optuna.__version__
    assert {"python", "torch", "lightning"} <= kept["versions"].keys()


@pytest.mark.parametrize(
    ("objective", "mode", "directions", "names"),
    [
        ("time", "max", ["MINIMIZE"], ["seconds to the baseline's val_acc"]),
        ("metric", "max", ["MAXIMIZE"], ["val_acc"]),
        ("metric", "min", ["MINIMIZE"], ["val_acc"]),
        ("both", "max", ["MAXIMIZE", "MINIMIZE"], ["val_acc", "seconds per trial"]),
    ],
)
def test_dashboards_learn_what_is_optimized(objective: str, mode: str, directions: list[str], names: list[str]) -> None:
    facts = replace(FACTS, objective=objective, mode=mode, monitor="val_acc")  # type: ignore[arg-type]
    study = open_study(InMemoryStorage(), "digits", facts)
    assert [direction.name for direction in study.directions] == directions
    assert study.metric_names == names


def test_a_study_from_another_device_or_range_is_refused_with_every_difference() -> None:
    open_study("study.log", "digits", FACTS)
    other = replace(FACTS, gpu_name="NVIDIA A100", log2_batch_ratio_high=3, objective="metric")
    with pytest.raises(StudyMismatch) as refused:
        open_study("study.log", "digits", other)
    message = str(refused.value)
    assert "gpu_name: expected 'NVIDIA H200', found 'NVIDIA A100'" in message
    assert "log2_batch_ratio_high: expected 4, found 3" in message
    assert "objective: expected 'time', found 'metric'" in message
    assert message.count("expected") == 3
    assert "another study_name" in message
    assert open_study("study.log", "digits", FACTS).user_attrs["gpu_name"] == "NVIDIA H200"


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, 7) for n in asdict(FACTS) if n not in ("gpu_memory_gib", "max_fitting_batch_size", "mode", "objective")],
)
def test_each_fact_binds_the_study(name: str, value: int) -> None:
    open_study("study.log", "digits", FACTS)
    with pytest.raises(StudyMismatch, match=f"{name}: expected .*, found 7"):
        open_study("study.log", "digits", replace(FACTS, **{name: value}))


def test_machines_of_one_kind_may_differ_a_little() -> None:
    open_study("study.log", "digits", FACTS)
    other = replace(FACTS, gpu_memory_gib=139.7, max_fitting_batch_size=1023, base_lr_low=1e-5 * (1 + 1e-15))
    assert other.base_lr_low != FACTS.base_lr_low
    assert open_study("study.log", "digits", other).user_attrs["gpu_memory_gib"] == 139.8


def test_the_users_own_study_is_used() -> None:
    own = optuna.create_study(study_name="mine", direction="minimize")
    own.enqueue_trial({"x": 1})
    assert open_study(None, "ignored", FACTS, study=own) is own
    assert not Path(DEFAULT_FILE).exists()
    assert own.user_attrs["monitor"] == "val_loss"
    with pytest.raises(StudyMismatch, match="world_size: expected 2, found 4"):
        open_study(None, "ignored", replace(FACTS, world_size=4), study=own)


def test_the_users_own_study_keeps_its_metric_names() -> None:
    own = optuna.create_study(direction="minimize")
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        own.set_metric_names(["seconds"])
    assert open_study(None, "ignored", FACTS, study=own).metric_names == ["seconds"]


def test_the_users_own_study_of_another_direction_is_refused() -> None:
    own = optuna.create_study(study_name="mine", direction="maximize")
    with pytest.raises(StudyMismatch, match=r"to minimize, found 'mine', which is to maximize.*\['minimize'\]"):
        open_study(None, "ignored", FACTS, study=own)
    assert own.user_attrs == {}


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_FACTS_WAIT", 0.0)


@pytest.mark.usefixtures("_no_waiting")
def test_a_study_with_trials_of_another_origin_is_refused() -> None:
    foreign = optuna.create_study(storage=open_storage("study.log"), study_name="digits")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyMismatch, match=r"'digits' in .*study\.log with trials of another origin"):
        open_study("study.log", "digits", FACTS)
    assert foreign.user_attrs == {}


@pytest.mark.usefixtures("_no_waiting")
def test_a_study_whose_maker_died_before_it_wrote_anything_is_taken_over() -> None:
    optuna.create_study(storage=open_storage("study.log"), study_name="digits")
    assert open_study("study.log", "digits", FACTS).user_attrs["gpu_name"] == "NVIDIA H200"


@pytest.mark.usefixtures("_no_waiting")
def test_an_empty_study_of_another_direction_is_refused() -> None:
    optuna.create_study(storage=open_storage("study.log"), study_name="digits", direction="maximize")
    with pytest.raises(StudyMismatch, match="to minimize"):
        open_study("study.log", "digits", FACTS)


def test_sqlite_keeps_a_study() -> None:
    study = open_study("sqlite:///study.db", "digits", FACTS)
    study.enqueue_trial({"x": 1})
    again = open_study("sqlite:///study.db", "digits", FACTS)
    assert len(again.trials) == 1
    assert storage_in_words(again) == "sqlite:///study.db"
    for each in (study, again):
        each._storage._backend.engine.dispose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("postgresql://me:s3cret@host:5432/studies", "postgresql://me@host:5432/studies"),
        ("mysql+pymysql://me:s3cret@host/studies?charset=utf8", "mysql+pymysql://me@host/studies?charset=utf8"),
        ("postgresql://me@/studies?host=/run/pg&password=s3cret", "postgresql://me@/studies?host=%2Frun%2Fpg"),
        ("postgresql://me:s3%40cret@host/studies", "postgresql://me@host/studies"),
        ("mssql+pyodbc://?odbc_connect=PWD%3Ds3cret", "mssql+pyodbc://"),
        ("sqlite:////data/study.db", "sqlite:////data/study.db"),
        ("/data/study.log", "/data/study.log"),
        (Path("/data/study.log"), "/data/study.log"),
    ],
)
def test_storages_are_named_without_their_password(storage: str | Path, words: str) -> None:
    assert storage_in_words(storage) == words


def test_storage_objects_are_named_too(tmp_path: Path) -> None:
    database = RDBStorage("sqlite:///study.db")
    assert storage_in_words(database) == "sqlite:///study.db"
    assert storage_in_words(optuna.create_study(storage=database)) == "sqlite:///study.db"
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    assert storage_in_words(journal) == str(tmp_path / "study.log")
    assert storage_in_words(InMemoryStorage()) == "the memory of this process"
    database.engine.dispose()


@pytest.mark.parametrize(
    "storage",
    ["study.db", "study", "postgresql:/me:s3cret@host/studies", "postgresql://me:s3cret@host:port/studies", "://"],
)
def test_what_names_no_storage_is_refused_and_no_password_is_told(storage: str) -> None:
    with pytest.raises(InvalidSetting, match=r"ends in \.log, or a URL such as sqlite:///study\.db") as refused:
        open_study(storage, "digits", FACTS)
    assert "s3cret" not in str(refused.value)
    assert list(Path().iterdir()) == []


def test_an_unknown_kind_of_database_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="sqlite, postgresql or mysql, found 'postgres'"):
        open_study("postgres://me:s3cret@host/studies", "digits", FACTS)


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(StorageUnusable, match=r"speaks to postgresql, found none.*'bstuner\[postgresql\]'"):
        open_study("postgresql+pg8000://me:s3cret@host/studies", "digits", FACTS)


def test_a_database_that_cannot_be_reached_is_an_error_that_says_so() -> None:
    with pytest.raises(StorageUnusable, match="Start the server") as refused:
        open_study("postgresql://me:s3cret@127.0.0.1:1/studies", "digits", FACTS)
    assert "postgresql://me@127.0.0.1:1/studies" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_folder_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(StorageUnusable, match=r"nowhere/study\.log: No such file or directory\. Make its folder"):
        open_study("nowhere/study.log", "digits", FACTS)
    with pytest.raises(StorageUnusable, match="unable to open database file"):
        open_study("sqlite:///nowhere/study.db", "digits", FACTS)


def test_a_folder_in_place_of_a_file_is_an_error_that_says_so() -> None:
    Path("study.log").mkdir()
    with pytest.raises(StorageUnusable, match="Is a directory"):
        open_study("study.log", "digits", FACTS)


JOURNAL = b'{"op_code":0,"worker_id":"w","study_name":"digits","directions":[1]}\n'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"one line of text\n", "a file of another kind"),
        (b"epoch,loss\n1,0.5\n2,0.4\n", "a file of another kind"),
        (b'{"epoch": 1, "loss": 0.5}\n', "a file of another kind"),
        (b"SQLite format 3\0" + bytes(100), "a file of another kind"),
        (JOURNAL + b"what is this\n" + JOURNAL, "a line that cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(content: bytes, found: str) -> None:
    Path("study.log").write_bytes(content)
    with pytest.raises(StorageUnusable, match=found):
        open_study("study.log", "digits", FACTS)
    assert Path("study.log").read_bytes() == content
    assert [path.name for path in Path().iterdir()] == ["study.log"]


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is() -> None:
    Path("study.db").write_text("text\n" * 1000)
    with pytest.raises(StorageUnusable, match="file is not a database"):
        open_study("sqlite:///study.db", "digits", FACTS)
    assert Path("study.db").read_text() == "text\n" * 1000


def test_an_empty_file_becomes_a_journal() -> None:
    Path("study.log").touch()
    assert open_study("study.log", "digits", FACTS).directions == [StudyDirection.MINIMIZE]


def test_a_database_of_another_program_keeps_its_tables() -> None:
    with sqlite3.connect("study.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.execute("INSERT INTO mine VALUES (7)")
    study = open_study("sqlite:///study.db", "digits", FACTS)
    assert connection.execute("SELECT x FROM mine").fetchall() == [(7,)]
    connection.close()
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_a_study_of_another_model_is_refused() -> None:
    storage = InMemoryStorage()
    open_study(storage, "mine", replace(FACTS, model="GPT", parameters=1000))
    open_study(storage, "mine", replace(FACTS, model="GPT", parameters=1000))
    with pytest.raises(StudyMismatch, match="parameters"):
        open_study(storage, "mine", replace(FACTS, model="GPT", parameters=2000))
