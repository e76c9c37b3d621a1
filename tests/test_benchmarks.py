"""The benchmarks run, and what they count holds: no timings here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def test_tune_real_compares_the_users_settings_with_the_tuned_ones() -> None:
    pytest.importorskip("sklearn", reason="the benchmark trains on scikit-learn's digits")
    output = run_benchmark("tune_real.py", "--cases", "digits", "--repeats", "1", "--trials", "1")

    (measured,) = output["cases"]["digits"]
    assert measured["search"]["stopped"] == "the one trial was run"
    assert (measured["search"]["batch_size"], measured["search"]["lr"]) == (32, 0.01)
    for length, samples in (("trial", measured["budget"]), ("fit", 5 * 1438)):
        compared = measured[length]
        curve = compared["curves"]["own"]["curve"]
        # What a fit by steps sees in the short batch that ends each epoch is less than whole batches.
        assert samples - 32 < curve[-1][0] <= samples
        assert compared["target"] == curve[-1][1]
        # The tuner kept the user's settings: they are not trained with twice, and nothing is sooner.
        assert compared["curves"]["tuned"] == compared["curves"]["own"]
        assert compared["sooner"] == {"samples": 1, "wall": 1, "cpu": 1}
        assert 0 < compared["reached"]["own"]["samples"] <= curve[-1][0]
