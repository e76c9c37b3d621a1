"""Canaries: each private name of Optuna that we touch still is what we take it for.

A failure here after an upgrade says which function of `bstuner/study/_optuna.py` to read again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from optuna import Study
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy import create_engine, event, inspect

from bstuner.study import _optuna

KINDS = ("memory", "journal", "database")


class Place(NamedTuple):
    """A storage of one kind, and what was put into it."""

    kind: str
    storage: BaseStorage
    file: Path

    def study(self, name: str = "mine") -> Study:
        return optuna.create_study(storage=self.storage, study_name=name)


def database(file: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{file}")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    kind = request.param
    file = tmp_path / ("studies.log" if kind == "journal" else "studies.db")
    storage: BaseStorage
    if kind == "memory":
        storage = InMemoryStorage()
    elif kind == "journal":
        storage = JournalStorage(JournalFileBackend(str(file)))
    else:
        storage = database(file)
    yield Place(kind, storage, file)
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


@pytest.fixture
def study(place: Place) -> Study:
    return place.study()


def test_a_study_tells_its_storage(place: Place) -> None:
    study = place.study()
    there = _optuna.storage_of(study)
    assert isinstance(there, BaseStorage)
    assert (there is place.storage) == (place.kind != "database"), "a database gets a cache around it"
    assert [each.study_name for each in there.get_all_studies()] == ["mine"]


def test_a_study_and_its_summary_tell_its_number_and_later_ones_have_higher_numbers(place: Place) -> None:
    studies = [place.study(name) for name in ("b", "a")]
    first, second = (_optuna.study_id(study) for study in studies)
    assert first < second
    summaries = optuna.get_all_study_summaries(place.storage)
    assert {each.study_name: _optuna.study_id(each) for each in summaries} == {"b": first, "a": second}
    assert place.storage.get_study_name_from_id(second) == "a"


def test_a_trial_tells_a_number_of_its_own_over_all_studies(place: Place) -> None:
    studies = [place.study(name) for name in ("one", "two")]
    trials = [study.ask() for study in studies]
    assert [trial.number for trial in trials] == [0, 0]
    numbers = [_optuna.trial_id(trial) for trial in trials]
    assert len(set(numbers)) == 2
    assert [_optuna.trial_id(study.trials[0]) for study in studies] == numbers


def test_a_trial_is_read_as_its_storage_has_it_now(study: Study) -> None:
    study.ask()
    trial = study.ask()
    before = study.trials[1]
    trial.set_user_attr("seen", 1)
    for asked in (trial, before):
        assert _optuna.get_trial(study, asked).number == 1
        assert _optuna.get_trial(study, asked).user_attrs == {"seen": 1}
    assert before.user_attrs == {}


def test_a_state_is_set_once_and_without_a_value(study: Study) -> None:
    told, ours = study.ask(), study.ask()
    for trial in (told, ours):
        trial.report(5.0, step=1)
    study.tell(told, state=TrialState.PRUNED)
    _optuna.set_trial_state(study, ours, TrialState.PRUNED)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 2
    assert [trial.value for trial in study.trials] == [5.0, None]
    assert study.trials[1].datetime_complete is not None
    for again in (ours, study.trials[1]):
        with pytest.raises(UpdateFinishedTrialError):
            _optuna.set_trial_state(study, again, TrialState.FAIL)
    with pytest.raises(ValueError, match="Cannot tell"):
        study.tell(ours, state=TrialState.FAIL)


def test_a_user_attribute_of_a_trial_that_was_read_gets_into_its_storage(study: Study) -> None:
    trial, frozen = study.ask(), study.trials[0]
    frozen.set_user_attr("kept", 1)
    assert study.trials[0].user_attrs == {}, "Optuna's own function writes into the copy alone"
    _optuna.set_trial_user_attr(study, frozen, "kept", 1)
    _optuna.set_trial_user_attr(study, trial, "too", 2)
    assert study.trials[0].user_attrs == {"kept": 1, "too": 2}
    _optuna.set_trial_state(study, trial, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        _optuna.set_trial_user_attr(study, frozen, "late", 3)


def test_a_system_attribute_of_a_trial_is_kept_apart_from_those_of_the_user(study: Study) -> None:
    trial = study.ask()
    _optuna.set_trial_system_attr(trial, "ours", {"a": [1, 2.5, None]})
    assert study.trials[0].system_attrs["ours"] == {"a": [1, 2.5, None]}
    assert study.trials[0].user_attrs == {}
    _optuna.set_trial_state(study, trial, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        _optuna.set_trial_system_attr(trial, "ours", 2)


def test_system_attributes_of_a_study_are_kept_apart_from_those_of_the_user(place: Place) -> None:
    study, other = place.study(), place.study("other")
    study.set_user_attr("users", 0)
    _optuna.set_study_system_attr(study, "ours", {"a": [1, 2.5, None]})
    _optuna.set_study_system_attr(study, "more", "text")
    assert _optuna.study_system_attrs(study) == {"ours": {"a": [1, 2.5, None]}, "more": "text"}
    assert study.user_attrs == {"users": 0}
    assert _optuna.study_system_attrs(other) == {}
    again = optuna.load_study(storage=place.storage, study_name="mine")
    assert _optuna.study_system_attrs(again)["more"] == "text"


def test_the_names_of_the_metrics_are_a_system_attribute(study: Study) -> None:
    with pytest.warns(ExperimentalWarning):
        study.set_metric_names(["seconds"])
    assert _optuna.study_system_attrs(study) == {_optuna.METRIC_NAMES: ["seconds"]}
    _optuna.set_study_system_attr(study, _optuna.METRIC_NAMES, ["loss"])
    assert study.metric_names == ["loss"]


def test_parameters_wait_in_a_system_attribute(study: Study) -> None:
    study.enqueue_trial({"x": 0.25})
    assert study.trials[0].params == {}
    assert study.trials[0].system_attrs == {_optuna.FIXED_PARAMS: {"x": 0.25}}
    attributes = {_optuna.FIXED_PARAMS: {"x": 0.5}, "ours": 1}
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, system_attrs=attributes))
    assert [study.ask({"x": FloatDistribution(0, 1)}).params["x"] for _ in range(2)] == [0.25, 0.5]
    assert study.trials[1].system_attrs == attributes


def test_an_artifact_is_told_as_optuna_tells_it(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "probes.json"
    file.write_text("{}")
    study, other = place.study(), place.study("other")
    upload_artifact(artifact_store=FileSystemArtifactStore(tmp_path), file_path=str(file), study_or_trial=study)
    (meta,) = get_all_artifact_meta(study)
    assert asdict(meta) == {**asdict(meta), "filename": "probes.json", "mimetype": "application/json", "encoding": None}
    assert dict([_optuna.artifact_attr(meta)]) == _optuna.study_system_attrs(study)
    ours = ArtifactMeta("a-name", "mine.json", "application/json", None)
    _optuna.set_study_system_attr(other, *_optuna.artifact_attr(ours))
    assert get_all_artifact_meta(other) == [ours]


def test_the_backend_is_a_journals_file_or_the_database_behind_the_cache(place: Place) -> None:
    there = _optuna.storage_of(place.study())
    if place.kind == "journal":
        assert isinstance(_optuna.backend_of(there), JournalFileBackend)
    else:
        assert _optuna.backend_of(there) is place.storage
        assert _optuna.backend_of(place.storage) is place.storage


def test_a_database_tells_its_url_and_a_journal_file_its_path(place: Place) -> None:
    for there in (place.storage, _optuna.storage_of(place.study())):
        assert _optuna.database_url(there) == (f"sqlite:///{place.file}" if place.kind == "database" else None)
        assert _optuna.journal_path(there) == (str(place.file) if place.kind == "journal" else None)


def test_the_engine_of_a_database_is_what_it_speaks_through(tmp_path: Path) -> None:
    storage, heard = database(tmp_path / "studies.db"), []
    engine = _optuna.engine_of(storage)
    event.listen(engine, "before_cursor_execute", lambda connection, cursor, statement, *_: heard.append(statement))
    optuna.create_study(storage=storage, study_name="mine")
    engine.dispose()
    assert any(statement.startswith("INSERT INTO studies") for statement in heard)


def test_every_line_of_a_journal_is_told_from_those_of_other_files(tmp_path: Path) -> None:
    file = tmp_path / "studies.log"
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(file))))
    study.set_user_attr("users", 0)
    _optuna.set_study_system_attr(study, "ours", 1)
    study.enqueue_trial({"x": 0.25})
    trial = study.ask({"x": FloatDistribution(0, 1)})
    trial.report(1.0, step=1)
    study.tell(trial, 1.0)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 7
    assert all(_optuna.is_journal_entry(line) for line in lines)
    assert not any(map(_optuna.is_journal_entry, (b"hello\n", b"\xff\n", b"[1]\n", b'"op_code"\n', b'{"a": 1}\n')))


def test_optuna_opens_a_file_of_another_kind_as_a_journal_and_spoils_it(tmp_path: Path) -> None:
    """The reason why it is looked at before."""
    file = tmp_path / "other.log"
    file.write_text("hello\n")
    storage = JournalStorage(JournalFileBackend(str(file)))
    with pytest.raises(ValueError, match="Expecting value"):
        optuna.create_study(storage=storage)
    assert len(file.read_text().splitlines()) == 2


def test_a_database_with_studies_is_told_by_its_tables(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'studies.db'}")
    assert not _optuna.has_studies(inspect(engine).get_table_names())
    database(tmp_path / "studies.db").engine.dispose()
    assert _optuna.has_studies(inspect(engine).get_table_names())
    engine.dispose()


# No attributes of objects, but what Optuna writes: the names of its system attributes, and of its journal's operations.
KEYS = (_optuna.METRIC_NAMES, _optuna.FIXED_PARAMS, "artifacts:", "op_code")


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The private names of Optuna's objects, and the public ones that its reference leaves out."""
    folder = tmp_path_factory.mktemp("private")
    rdb, journal = database(folder / "studies.db"), JournalFileBackend(str(folder / "studies.log"))
    things: list[Any] = [journal]
    for storage in (rdb, JournalStorage(journal), InMemoryStorage()):
        study = optuna.create_study(storage=storage)
        trial = study.ask()
        things += [storage, study, _optuna.storage_of(study), trial, study.trials[0]]
        things += optuna.get_all_study_summaries(storage)
    rdb.engine.dispose()
    hidden = {name for thing in things for name in dir(thing) if name.startswith("_") and not name.startswith("__")}
    return hidden | {name for name in (*dir(BaseStorage), *vars(rdb)) if not name.startswith("_")}


def private_uses(source: str, private: set[str]) -> list[str]:
    """Where a module touches what is private to Optuna, on anything but an object of its own."""
    nodes = list(ast.walk(ast.parse(source)))
    of_optuna = {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if (node.module or "" if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0] == "optuna"
    }
    return [
        f"{node.lineno}: {ast.unparse(node)}"  # type: ignore[attr-defined]
        for node in nodes
        if _imports_private(node) or _reaches_private(node, private, of_optuna) or _names_private(node, private)
    ]


def _imports_private(node: ast.AST) -> bool:
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return False
    start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    return any(_is_private_path(start + alias.name) for alias in node.names)


def _is_private_path(path: str) -> bool:
    return path.startswith("optuna.") and "._" in path


def _reaches_private(node: ast.AST, private: set[str], of_optuna: set[str]) -> bool:
    owner = ast.unparse(node.value) if isinstance(node, ast.Attribute) else ""
    if not isinstance(node, ast.Attribute) or owner in ("self", "cls", "tensor"):  # torch has a Tensor._values() too
        return False
    hidden = node.attr.startswith("_") and not node.attr.startswith("__")
    of_a_trial = node.attr == "storage" and owner.endswith("trial")  # a name that others have too
    return node.attr in private or of_a_trial or (hidden and owner.partition(".")[0] in of_optuna)


def _names_private(node: ast.AST, private: set[str]) -> bool:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    return node.value in private or node.value.startswith(KEYS) or _is_private_path(node.value)


@pytest.mark.parametrize(
    "line",
    [
        "study._storage",
        "self._study._study_id",
        "view.trials[0]._trial_id",
        "study.sampler.after_trial(study, study._storage.get_trial(0))",
        'getattr(storage, "_backend", storage)',
        'getattr(inner, "url", None)',
        'operator.attrgetter("_file_path")(backend)',
        "self._storage.set_trial_state_values(0, state)",
        "there.get_study_system_attrs(0)",
        "storage.engine",
        "inner.url",
        "trial.storage",
        "import optuna.storages._rdb",
        "from optuna import _typing",
        "from optuna.storages._rdb.storage import RDBStorage",
        "from optuna.storages import BaseStorage, _CachedStorage",
        "import optuna\noptuna.storages._CachedStorage",
        "import optuna.storages as kinds\nkinds._CachedStorage",
        "from optuna import storages\nstorages._CachedStorage",
        'importlib.import_module("optuna.storages._cached_storage")',
        'attributes["study:metric_names"]',
        'trial.system_attrs.get("fixed_params", {})',
        'f"artifacts:{name}"',
        '"op_code" in entry',
    ],
)
def test_a_private_name_of_optuna_is_seen(line: str, private: set[str]) -> None:
    assert private_uses(line, private)


@pytest.mark.parametrize(
    "line",
    [
        "self._storage",
        "cls._backend",
        "tensor._values()",
        "options.storage",
        "study.user_attrs",
        "import optuna\noptuna.trial.create_trial().__class__",
        "from optuna.storages import RDBStorage",
        "from bstuner.study._optuna import get_trial\nget_trial(study, trial)",
        '"an url of an engine"',
    ],
)
def test_what_is_public_or_our_own_is_not(line: str, private: set[str]) -> None:
    assert private_uses(line, private) == []


def test_no_other_module_touches_private_names_of_optuna(private: set[str]) -> None:
    own = Path(_optuna.__file__)
    found = {
        path: [f"{path.relative_to(own.parents[1])}:{use}" for use in private_uses(path.read_text(), private)]
        for path in sorted(own.parents[1].rglob("*.py"))
    }
    there = "\n".join(found.pop(own))
    seen = ("_storage", "_study_id", "_trial_id", ".storage", ".engine", "'_backend'", "'_file_path'", *KEYS)
    assert [name for name in seen if name not in there] == []
    assert [use for uses in found.values() for use in uses] == []
