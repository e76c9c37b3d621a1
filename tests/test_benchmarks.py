"""The benchmarks run, and what they count holds: no timings here."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run_benchmark(script: str, *arguments: str) -> dict[str, Any]:
    return json.loads(printed_by(script, *arguments, "--json"))


def printed_by(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_growth_vs_decay_starts_both_alike_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the benchmark trains on scikit-learn's digits")
    records = tmp_path / "build" / "records.jsonl"
    which = ["--models", "digits", "--optimizers", "sgd", "--schedules", "multi-step", "--seeds", "2", "--epochs", "2"]
    output = run_benchmark("growth_vs_decay.py", *which, "--records", str(records))

    (compared,) = output["comparisons"]
    assert set(compared["growths"]) == {"growth"}  # SGD's rule is linear as it is
    beside = compared["growths"]["growth"]
    assert beside["same_start"]
    # The second epoch has a tenth of the learning rate: 1,438 samples in steps of 8, then of 64 or more.
    assert (beside["nominal_steps"], beside["planned_steps"], beside["as_planned"]) == (2 * 180, 180 + 12, True)
    assert beside["largest_batch"] == 128
    grid = {float(lr): loss for lr, loss in compared["grid"].items()}
    assert grid[compared["lr"]] == min(grid.values())
    decay, growth = compared["losses"]["decay"], compared["losses"]["growth"]
    differences = [grown - decayed for decayed, grown in zip(decay, growth, strict=True)]
    half = 12.7062 * stdev(differences) / math.sqrt(2)  # Student's t of one degree of freedom
    assert beside["difference"] == pytest.approx(mean(differences))
    assert beside["interval"] == pytest.approx([mean(differences) - half, mean(differences) + half], rel=1e-4)
    assert beside["holds"] == (beside["interval"][1] < 2 * stdev(decay))

    lines = records.read_text().splitlines(keepends=True)
    assert len(lines) == len(grid) + 4
    records.write_text("".join(lines[:-1]))
    assert run_benchmark("growth_vs_decay.py", *which, "--records", str(records)) == output
    assert records.read_text().splitlines(keepends=True)[:-1] == lines[:-1]


def test_growth_vs_decay_prints_what_its_readme_shows_from_the_records_alone(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the benchmark trains on scikit-learn's digits")
    kept = BENCHMARKS / "data" / "growth_vs_decay.jsonl"
    copied = shutil.copy(kept, tmp_path)
    printed = printed_by("growth_vs_decay.py", "--records", copied)

    assert Path(copied).read_text() == kept.read_text()  # nothing was trained
    assert printed.strip() in (BENCHMARKS / "README.md").read_text()
    rows = printed.split("\n\n")[0].splitlines()[2:]
    assert len(rows) == 3 * (1 + 2) * 3  # three trainings; one way to grow with SGD and two with AdamW; three schedules
    assert all(row.split("|")[-2].strip() == "yes" for row in rows)  # as many steps as planned


def test_whole_fit_compares_the_users_fit_with_the_tuned_one_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the benchmark trains on scikit-learn's digits")
    records = tmp_path / "build" / "records.jsonl"
    which = ["--tasks", "digits", "--starts", "good", "--seeds", "1", "--own-fits", "2", "--epochs", "1"]
    output = run_benchmark("whole_fit.py", *which, "--records", str(records))

    (training,) = output["trainings"]
    (row,) = training["rows"]
    own, other, tuned = (
        next(
            record
            for record in map(json.loads, records.read_text().splitlines())
            if (record["arm"], record["seed"]) == key
        )
        for key in (("own", 1), ("own", 2), ("tuned", 1))
    )
    for record in (own, other, tuned):
        samples, seconds, _ = zip(*record["curve"], strict=True)
        assert (samples[0], seconds[0], samples[-1]) == (0, 0, 1438)
        assert list(samples) == sorted(set(samples))
        assert list(seconds) == sorted(seconds)
    assert tuned["curve"][0] == own["curve"][0] != other["curve"][0]  # the same weights
    assert (row["own_end"], row["tuned_end"]) == (own["curve"][-1][2], tuned["curve"][-1][2])
    assert training["own_ends"] == [row["own_end"], other["curve"][-1][2]]
    assert training["sd"] == pytest.approx(stdev(training["own_ends"]))
    assert training["allowed"] == max(2 * training["sd"], 0.01 * (own["curve"][0][2] - row["own_end"]))
    assert training["worse"] == (row["tuned_end"] - row["own_end"] > training["allowed"])
    if row["stays"]:
        assert row["realised"] == 1
        assert row["own_end"] == row["tuned_end"]
    else:
        assert (row["realised"] > 0) == (min(loss for _, _, loss in tuned["curve"]) <= row["own_end"])

    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[:-1]))
    assert (
        run_benchmark("whole_fit.py", *which, "--records", str(records))["trainings"][0]["own_ends"]
        == training["own_ends"]
    )
    assert records.read_text().splitlines(keepends=True)[:-1] == lines[:-1]


def test_whole_fit_tables_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the tables are of scikit-learn's digits")
    kept = BENCHMARKS / "data" / "whole_fit_digits-mlp_0.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    copied = tmp_path / kept.name
    copied.write_text("".join(lines[:-1]))  # the last is of the largest batch, the cheapest
    printed_by("whole_fit_tables.py", "--records", str(tmp_path), "--tasks", "digits-mlp")

    trained, expected = json.loads(copied.read_text().splitlines()[-1]), json.loads(lines[-1])
    assert copied.read_text().splitlines(keepends=True)[:-1] == lines[:-1]
    for curve in ("trial", "fit"):
        assert [samples for samples, _, _ in trained[curve]] == [samples for samples, _, _ in expected[curve]]
    assert list(trained) == list(expected)
