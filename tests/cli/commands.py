"""What the tests of commands share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["EXAMPLES", "Command", "environment", "plan", "python", "result", "write"]

TESTS = Path(__file__).parents[1]
EXAMPLES = TESTS.parent / "examples"
HANG = 240  # seconds, far more than any run here needs

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def python(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(COLUMNS="80"), capture_output=True, text=True, timeout=HANG, check=False
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "bstuner-result.json").read_text()))


def plan(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "bstuner-schedule.json").read_text()))
