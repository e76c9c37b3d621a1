"""The benchmarks run, and what they count holds: no timings here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run_benchmark(script: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_find_vs_lightning_measures_both_finders() -> None:
    output = run_benchmark("find_vs_lightning.py", "--cases", "tiny", "--repeats", "1", "--device", "cpu")

    tiny = output["cases"]["tiny"]
    assert set(tiny) == {"bstuner", "lightning"}
    ours, theirs = tiny["bstuner"], tiny["lightning"]
    assert (ours["answer"], ours["verdict"], ours["error"]) == ([512], ["safe"], [""])
    assert (theirs["answer"], theirs["verdict"]) == ([512], ["safe"])
    assert ours["samples"] <= theirs["samples"]
    assert ours["steps"] <= theirs["steps"]
    assert ours["held"] == 0
