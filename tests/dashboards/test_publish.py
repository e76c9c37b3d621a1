"""What studies show in dashboards: through the interface of the real optuna-dashboard, and in a real browser."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna_dashboard
import pytest
from browser import Browser
from formula_runner import FormulaRunner
from optuna import Study
from optuna.artifacts import get_all_artifact_meta
from optuna.storages import InMemoryStorage
from optuna.storages.journal._storage import JournalOperation
from optuna_dashboard._custom_plot_data import is_valid_graph_object_id
from plotly.graph_objects import Figure, Scatter
from serving import serving
from studies import FACTS, FIND, searched

from bstuner.cli.dashboard import _app
from bstuner.cli.studies import existing_storage, our_studies, pick_study
from bstuner.dashboards.publish import FOLDER_ATTRIBUTE, artifacts_folder, changes, is_published, publish_study
from bstuner.study.system_attrs import write_system_attr

FIGURES = {"memory-vs-batch", "throughput-vs-batch", "trials", "curves"}
TRIALS = 10  # 8, a neighbour of the first choice, and the confirmation


class Served(NamedTuple):
    """A study that was searched and published, and where optuna-dashboard shows it."""

    url: str
    study: Study
    folder: Path

    @property
    def page(self) -> str:
        return f"{self.url}/dashboard/studies/{self.study._study_id}"

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return json.loads(answer.read())

    def detail(self) -> dict[str, Any]:
        return dict(self.ask(f"/api/studies/{self.study._study_id}"))


@pytest.fixture(scope="module", params=["journal", "sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    storage = {"journal": f"{folder}/bstuner-study.log", "sqlite": f"sqlite:///{folder}/study.db"}.get(request.param)
    storage = storage or request.getfixturevalue("server").new_database()
    study = searched(storage, n_trials=8)
    publish_study(study, artifacts_folder(study, folder))
    there = existing_storage(storage)  # as another process opens it
    with serving(_app(there, our_studies(there))) as port:
        yield Served(f"http://127.0.0.1:{port}", study, folder)
    for each in (study._storage, there):
        if engine := getattr(getattr(each, "_backend", each), "engine", None):
            engine.dispose()


def test_trials_have_names_and_numbers_that_are_axes(served: Served) -> None:
    told = served.detail()
    assert told["objective_names"] == ["seconds to the baseline's val_loss"]
    assert len(told["trials"]) == TRIALS
    axes = {each["key"] for each in told["union_user_attrs"] if each["sortable"]}
    assert axes >= {
        *("batch_size", "accumulate_grad_batches", "effective_batch_size", "lr", "samples_per_second", "steps"),
        *("samples_seen", "peak_memory_gib", "memory_headroom_gib", "oom", "feasible", "metric", "seconds_trained"),
    }
    baseline = told["trials"][0]
    assert [value["step"] for value in baseline["intermediate_values"]] == list(FormulaRunner().marks)


def test_no_attribute_is_cut_off_or_widens_the_page(served: Served) -> None:
    told = served.detail()
    trials = [attribute["value"] for trial in told["trials"] for attribute in trial["user_attrs"]]
    study = [attribute["value"] for attribute in told["user_attrs"]]
    assert max(map(len, trials)) < 120
    assert max(map(len, study)) < 200


def test_the_note_has_the_verdict_and_the_settings_to_copy(served: Served) -> None:
    best = served.study.best_trial
    body = served.detail()["note"]["body"]
    assert body.startswith(f"### Batch {best.user_attrs['batch_size']} with learning rate ")
    assert "x sooner (in a trial, " in body.partition("\n")[0]
    assert f"batch_size = {best.user_attrs['batch_size']}  # Digits.batch_size\n" in body
    assert f"\nlr = {best.user_attrs['lr']!r}  # Digits.lr\n" in body
    assert optuna_dashboard.get_note(served.study) == body


def test_our_figures_are_there_with_their_data(served: Served) -> None:
    figures = {each["id"]: json.loads(each["graph_object"]) for each in served.detail()["plotly_graph_objects"]}
    assert figures.keys() == FIGURES
    for figure in figures.values():
        assert figure["layout"]["title"]["text"]
        assert "height" not in figure["layout"]
        assert all(type(trace["x"]) is list and trace["x"] for trace in figure["data"])  # plain for older plotly.js too


def test_the_probes_are_a_file_of_the_study(served: Served) -> None:
    (meta,) = served.detail()["artifacts"]
    assert (meta["filename"], meta["mimetype"]) == ("bstuner-probes.json", "application/json")
    expected = json.loads(json.dumps(FIND.as_dict()))
    assert served.ask(f"/artifacts/{served.study._study_id}/{meta['artifact_id']}") == expected
    assert [path.name for path in (served.folder / "bstuner-artifacts").iterdir()] == [meta["artifact_id"]]


def test_a_browser_draws_our_figures(served: Served, browser: Browser) -> None:
    browser.open(served.page)
    plots = "[...document.querySelectorAll('[id^=\"user-defined-plot:\"].js-plotly-plot')]"
    browser.wait_for(f"{plots}.length === {len(FIGURES)}")
    drawn = browser.evaluate(f"{plots}.map(plot => [plot.id.split(':')[1], plot.data.length, plot.offsetHeight])")
    assert {name for name, _, _ in drawn} == FIGURES
    assert all(traces and height == 450 for _, traces, height in drawn)
    assert browser.evaluate(f"{plots}.every(plot => plot.querySelector('.scatterlayer .trace path'))")
    outside = f"""{plots}.flatMap(plot => [...plot.querySelectorAll('text')].filter(text => {{
        const box = text.getBoundingClientRect(), place = plot.getBoundingClientRect()
        return box.top < place.top || box.bottom > place.bottom || box.left < place.left || box.right > place.right
    }}).map(text => text.textContent))"""
    assert browser.evaluate(outside) == []
    browser.wait_for("document.body.innerText.includes('bstuner-probes.json')")
    assert browser.errors() == []


@pytest.mark.parametrize("served", ["journal"], indirect=True)
def test_a_browser_shows_the_note_and_a_table_of_the_trials(served: Served, browser: Browser) -> None:
    browser.open(f"{served.page}/note")
    browser.wait_for("document.querySelector('h3')?.innerText.includes('sooner')")
    assert browser.evaluate("document.querySelector('pre').innerText").startswith("batch_size = ")
    assert "Confirmed" in browser.evaluate("document.querySelector('table').innerText")
    assert browser.errors() == []

    browser.open(f"{served.page}/smartSelection")
    browser.wait_for(f"document.querySelectorAll('tbody tr').length === {TRIALS}")
    header = browser.evaluate("document.querySelector('thead').innerText.replace(/\\s+/g, ' ')")
    assert "UserAttribute effective_batch_size" in header
    assert browser.errors() == []

    browser.open(f"{served.page}/trials")
    browser.wait_for(f"document.body.innerText.includes('{TRIALS} Trials')")
    browser.wait_for("document.body.innerText.includes('effective_batch_size')")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.errors() == []


@pytest.mark.parametrize(("objective", "names"), [("both", {*FIGURES, "front"}), ("metric", FIGURES)])
def test_other_objectives_have_their_figures(objective: Any, names: set[str]) -> None:
    study = searched(InMemoryStorage(), facts=replace(FACTS, objective=objective), n_trials=6)
    publish_study(study, None)
    kept = study._storage.get_study_system_attrs(study._study_id)
    prefix = "dashboard:plot_data:"
    assert {name[len(prefix) : -len(":0")] for name in kept if name.startswith(prefix)} == names


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    study = searched(tmp_path / "study.log", n_trials=3)
    folder = artifacts_folder(study, tmp_path)
    publish_study(study, folder)
    before = (tmp_path / "study.log").read_bytes()
    publish_study(study, folder)
    publish_study(pick_study(existing_storage(str(tmp_path / "study.log"))), folder)  # another worker
    assert (tmp_path / "study.log").read_bytes() == before


def test_workers_that_publish_at_once_leave_one_note_and_one_file(tmp_path: Path) -> None:
    searched(tmp_path / "study.log", n_trials=3)
    studies = [pick_study(existing_storage(str(tmp_path / "study.log"))) for _ in range(4)]
    together = threading.Barrier(len(studies), timeout=60)

    def work(study: Study) -> None:
        together.wait()
        publish_study(study, artifacts_folder(study, tmp_path))

    threads = [threading.Thread(target=work, args=[study]) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = pick_study(existing_storage(str(tmp_path / "study.log")))
    (meta,) = get_all_artifact_meta(study)
    (file,) = (tmp_path / "bstuner-artifacts").iterdir()
    assert (meta.filename, meta.artifact_id) == ("bstuner-probes.json", file.name)
    assert optuna_dashboard.get_note(study).startswith("### ")


def test_a_note_that_somebody_has_edited_stays_as_it_is() -> None:
    study = searched(InMemoryStorage(), n_trials=3)
    assert not is_published(study)
    publish_study(study, None)
    assert is_published(study)
    optuna_dashboard.save_note(study, "my own words")
    publish_study(study, None)
    assert optuna_dashboard.get_note(study) == "my own words"


def test_a_note_of_ours_is_replaced_also_after_an_interrupt_between_its_parts() -> None:
    figures = {"trials": Figure(Scatter(x=[1], y=[2]))}
    first = changes({}, "first", figures)
    wanted = changes(first, "second", figures)
    kept = {**first, **dict(list(wanted.items())[:1])}  # interrupted after the first of three
    assert changes({**kept, **changes(kept, "third", figures)}, "third", figures) == {}
    assert {**kept, **changes(kept, "third", figures)}["dashboard:note_str:0"] == "third"


def test_the_figures_are_named_as_dashboards_allow() -> None:
    assert all(is_valid_graph_object_id(name) for name in {*FIGURES, "front", "growth"})


def test_in_a_database_the_study_tells_where_its_files_lie(tmp_path: Path) -> None:
    study = searched("sqlite://", n_trials=3)  # in memory, with no file to lie beside
    publish_study(study, artifacts_folder(study, tmp_path / "root"))
    assert study.user_attrs[FOLDER_ATTRIBUTE] == str(tmp_path / "root" / "bstuner-artifacts")
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_a_study_in_memory_writes_no_file(tmp_path: Path) -> None:
    study = searched(InMemoryStorage(), n_trials=3)
    publish_study(study, artifacts_folder(study, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_viewers_without_optuna_can_read_the_journal(tmp_path: Path) -> None:
    """What the extension of an editor and the app in a browser need, which read the file line by line themselves."""
    study = searched(tmp_path / "bstuner-study.log", n_trials=8)
    publish_study(study, artifacts_folder(study, tmp_path))
    write_system_attr(study, "growth", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bstuner-artifacts", "bstuner-study.log"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / "bstuner-study.log").read_text().splitlines()
    entries = [json.loads(line, parse_constant=refuse) for line in lines]
    assert {entry["op_code"] for entry in entries} <= {int(operation) for operation in JournalOperation}
    assert len([entry for entry in entries if entry["op_code"] == JournalOperation.CREATE_TRIAL]) == TRIALS
    for entry in entries:
        if entry["op_code"] == JournalOperation.SET_TRIAL_USER_ATTR:
            assert all(value is not None for value in entry["user_attr"].values())  # each is shown as text
    # They take the names of the metrics from the last of these lines, whatever it is about.
    last = [entry for entry in entries if entry["op_code"] == JournalOperation.SET_STUDY_SYSTEM_ATTR][-1]
    assert last["system_attr"] == {"study:metric_names": ["seconds to the baseline's val_loss"]}
