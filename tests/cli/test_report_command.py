"""`bstuner report`: any storage, at any time, and nothing in it is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from formula_runner import FormulaRunner
from postgres import Server
from studies import FACTS, searched

from bstuner.cli.main import main
from bstuner.core.trial import TrialRequest
from bstuner.errors import BaselineFailed
from bstuner.study.store import open_study


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main(["report", *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    told = capsys.readouterr()
    return code, " ".join(told.out.split()), told.err


def test_without_options_it_tells_of_the_newest_study_in_this_folder(capsys: pytest.CaptureFixture[str]) -> None:
    searched(name="older", n_trials=1)
    searched(name="digits", n_trials=4)
    code, told, _ = run(capsys=capsys)
    assert code == 0
    assert "reaches what your own settings end with" in told
    assert "Ended all 4 trials were run" in told
    assert "Fits 256 per device (1.2 GiB measured; 512 would need 1.5 GiB)" in told
    assert "digits in " in told
    assert "Ran on NVIDIA H200, precision bf16-mixed on " in told
    page = Path("bstuner-report.html").read_text()
    assert "<title>digits: bstuner report</title>" in page
    assert [file.name for file in Path().iterdir() if "report" in file.name] == ["bstuner-report.html"]


def test_during_the_search_it_says_how_far_that_is(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def look(request: TrialRequest) -> None:
        code, told, _ = run("--output", f"{len(seen)}.html", capsys=capsys)
        seen.append(told if code == 0 else "")

    searched(n_trials=3, before=look)
    assert "There is no answer yet: no trial has ended." in seen[0]
    assert "Fits 256 per device" in seen[0]
    assert "So far: your own settings have set the bar" in seen[1]
    assert "Still searching: 1 of 3 trials have ended, 1 running" in seen[1]
    assert "Still searching: 2 of 3" in Path("2.html").read_text()


def test_a_study_on_a_server_needs_its_name_alone(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    url = server.new_database()
    for name in ("digits", "other"):
        searched(url, name, n_trials=1)
    secret = url.replace("bstuner@", "bstuner:secret@")
    code, told, _ = run("--storage", secret, "--study_name", "digits", capsys=capsys)
    assert (code, "digits in postgresql" in told) == (0, True)
    page = Path("bstuner-report.html").read_text()
    assert "digits in postgresql" in page.replace("Study ", "")
    assert "secret" not in told + page.partition("<script>")[0]


def test_what_is_not_there_is_said_and_nothing_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    for storage in ("none.log", "sqlite:///none.db"):
        code, _, error = run("--storage", storage, capsys=capsys)
        assert code == 1
        assert "expected a file with studies, found none at" in error
    assert list(Path().iterdir()) == []
    open_study(None, "digits", FACTS)
    code, _, error = run("--study_name", "digit", capsys=capsys)
    assert code == 1
    assert "found 'digit', none of that name. There are: digits." in error
    assert not Path("bstuner-report.html").exists()


def test_a_study_without_trials_makes_a_report_too(capsys: pytest.CaptureFixture[str]) -> None:
    open_study(None, "digits", FACTS)
    code, told, _ = run(capsys=capsys)
    assert (code, "There is no answer yet: no trial has ended." in told) == (0, True)


def test_a_search_that_failed_is_told_with_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BaselineFailed) as failed:
        searched(runner=FormulaRunner(ends=lambda request: "out of memory"))
    code, told, _ = run(capsys=capsys)
    assert code == 0
    assert "There is no answer: the search was ended by an error. Ended by an error after 0 of 12 trials" in told
    assert " ".join(str(failed.value).split()) in told


@pytest.mark.parametrize(
    ("output", "found"), [("nowhere/report.html", "one in a folder that does not exist"), (".", "a folder")]
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(
    output: str, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run("--output", output, capsys=capsys)
    assert (code, f"found {found}: {output}." in error) == (2, True)
