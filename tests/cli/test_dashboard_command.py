"""`bstuner dashboard`: the right studies, served until Ctrl-C, and each mistake told in a line."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli.commands import HANG, Command, environment
from formula_runner import FormulaRunner
from optuna import Study
from optuna.storages import InMemoryStorage
from postgres import Server
from serving import serving
from studies import FACTS, searched

from bstuner.cli.dashboard import _app, _bring_up_to_date
from bstuner.cli.dashboard_server import HOST
from bstuner.cli.studies import existing_storage, our_studies
from bstuner.dashboards.publish import is_published
from bstuner.study.store import open_study


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.loads(answer.read())


def test_it_serves_a_database_until_ctrl_c_and_never_tells_the_password(server: Server, tmp_path: Path) -> None:
    url = server.new_database()
    searched(url, "older", n_trials=1)
    searched(url, "newer", n_trials=2)
    secret = url.replace("bstuner@", "bstuner:s3cret@")
    command = [sys.executable, "-m", "bstuner", "dashboard", "--port", "0", "--storage", secret]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        told = re.fullmatch(r"Dashboard {2}(http://127\.0\.0\.1:\d+)/dashboard of (postgresql.*)\n", lines[0])
        assert told
        latest = re.fullmatch(rf"Latest {{5}}{told[1]}/dashboard/studies/(\d+) is newer\n", lines[1])
        assert latest
        assert lines[2] == "Stop       Ctrl-C\n"
        detail = get(f"{told[1]}/api/studies/{latest[1]}")
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=HANG)
    attributes = (attribute for trial in detail["trials"] for attribute in trial["user_attrs"])
    roles = Counter(attribute["value"] for attribute in attributes if attribute["key"] == "role")
    assert (detail["name"], roles) == ("newer", {"baseline": 1, "search": 1, "edge": 2, "confirm": 1})
    assert detail["note"]["body"].startswith("### ")
    assert (process.returncode, said.strip(), complaints) == (0, "", "")
    assert "s3cret" not in "".join(lines)
    assert list(tmp_path.iterdir()) == [tmp_path / "bstuner-artifacts"]


def test_where_there_is_no_study_it_says_what_to_do(bstuner: Command) -> None:
    done = bstuner("dashboard")
    assert done.returncode == 1
    assert re.fullmatch(r"bstuner: storage: expected a file .* found none at .*\. Tune first, or .*\n", done.stderr)
    assert list(Path().iterdir()) == []


def test_a_port_in_use_is_told_in_one_line(bstuner: Command) -> None:
    open_study(None, "digits", FACTS)
    with socket.create_server((HOST, 0)) as taken:
        done = bstuner("dashboard", "--port", taken.getsockname()[1])
    assert done.returncode == 1
    assert re.fullmatch(r"bstuner: port: expected one that is free, found \d+: .*--port.*\n", done.stderr)


@pytest.mark.parametrize("port", [-1, 65_536, "http"])
def test_what_is_no_port_is_wrong_usage(bstuner: Command, port: object) -> None:
    assert bstuner("dashboard", f"--port={port}").returncode == 2


def test_without_optuna_dashboard_it_says_what_to_install(bstuner: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    open_study(None, "digits", FACTS)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)  # as where it is not installed
    done = bstuner("dashboard")
    assert done.returncode == 1
    assert done.stderr.endswith("Install it: pip install 'bstuner[dashboard]'.\n")


def test_what_a_search_could_not_show_is_shown_when_its_dashboard_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("older", "newer"):
        searched(name=name, n_trials=1)
    storage = existing_storage(None)
    studies = our_studies(storage)
    assert not any(map(is_published, studies))
    _bring_up_to_date(studies)
    assert all(map(is_published, studies))
    assert len(list(Path("bstuner-artifacts").iterdir())) == 2
    assert capsys.readouterr().out == ""


def test_what_cannot_be_shown_keeps_nobody_from_looking_at_the_trials(capsys: pytest.CaptureFixture[str]) -> None:
    searched(n_trials=1)
    Path("bstuner-artifacts").write_text("a file in the place of the folder")
    _bring_up_to_date(our_studies(existing_storage(None)))
    assert re.fullmatch(
        r"Note {7}what digits shows beside its trials .*: .*bstuner-artifacts'\n", capsys.readouterr().out
    )


def test_files_that_lie_on_another_machine_are_missed_by_nothing_else() -> None:
    searched(n_trials=1)
    storage = existing_storage(None)
    (study,) = our_studies(storage)
    _bring_up_to_date([study])
    (file,) = Path("bstuner-artifacts").iterdir()
    file.unlink()
    with serving(_app(storage, [study])) as port:
        url = f"http://{HOST}:{port}"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/artifacts/{study._study_id}/{file.name}")
        assert len(get(f"{url}/api/studies/{study._study_id}")["artifacts"]) == 1
        delete = urllib.request.Request(f"{url}/api/studies/{study._study_id}", b"{}", method="DELETE")
        delete.add_header("Content-Type", "application/json")
        urllib.request.urlopen(delete, timeout=60).close()
        assert get(f"{url}/api/studies")["study_summaries"] == []


def test_a_file_that_is_dropped_on_the_page_lies_beside_the_study() -> None:
    searched(n_trials=1)
    storage = existing_storage(None)
    (study,) = our_studies(storage)
    with serving(_app(storage, [study])) as port:
        url = f"http://{HOST}:{port}"
        content = {"file": "data:text/plain;base64,aGVsbG8=", "filename": "hello.txt"}
        request = urllib.request.Request(f"{url}/api/artifacts/{study._study_id}", json.dumps(content).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            name = json.loads(answer.read())["artifact_id"]
        assert Path("bstuner-artifacts", name).read_text() == "hello"


def test_a_search_in_sqlite_is_not_disturbed_by_who_looks_at_it(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    first = open_study(storage, "digits", FACTS)
    there = existing_storage(storage)
    leave, looks = threading.Event(), []
    with serving(_app(there, [first])) as port:

        def look() -> None:
            while not leave.is_set():
                looks.append(get(f"http://{HOST}:{port}/api/studies/{first._study_id}")["name"])

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            study = searched(storage, runner=FormulaRunner(), n_trials=4)
        finally:
            leave.set()
            for thread in threads:
                thread.join()
    alone = searched(InMemoryStorage(), runner=FormulaRunner(), n_trials=4)
    assert _told(study) == _told(alone)
    assert len(looks) > 20
    assert set(looks) == {"digits"}
    for each in (first._storage, study._storage, there):
        getattr(each, "_backend", each).engine.dispose()


def _told(study: Study) -> list[Any]:
    return [(trial.state, trial.values, trial.params, trial.intermediate_values) for trial in study.trials]
