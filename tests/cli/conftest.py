"""The command, run in the process of the tests: Lightning takes seconds to import."""

from __future__ import annotations

import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.commands import Command

from bstuner.cli.main import main


@pytest.fixture
def bstuner(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs a command line; what it prints, and the code it exits with."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return _captured(capfd, tmp_path, lambda: main([str(argument) for argument in arguments]))

    return run


@pytest.fixture
def by_hand(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs `python SCRIPT ...` as it was printed, and more arguments."""

    def run(command_line: str, *more: str) -> subprocess.CompletedProcess[str]:
        python, script, *arguments = shlex.split(command_line)
        assert python == "python"
        monkeypatch.setattr(sys, "argv", [script, *arguments, *more])
        monkeypatch.syspath_prepend(str(Path(script).parent.resolve()))
        return _captured(capfd, tmp_path, lambda: runpy.run_path(script, run_name="__main__") and 0)

    return run


def _captured(
    capfd: pytest.CaptureFixture[str], folder: Path, action: Callable[[], object]
) -> subprocess.CompletedProcess[str]:
    capfd.readouterr()
    known = set(sys.modules)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripts may warn, as in a process of their own
            code = action()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        for name in set(sys.modules) - known:  # another test has another module of that name
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]
    said = capfd.readouterr()
    return subprocess.CompletedProcess([], code if isinstance(code, int) else 1, said.out, said.err)
