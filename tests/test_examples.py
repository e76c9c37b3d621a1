"""The examples, as a user runs them: by themselves, and with their batch size and learning rate tuned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("sklearn", reason="the examples use scikit-learn's digits")


def run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "ended"),
    [
        ("digits.py", ["--epochs", 1], "`max_epochs=1` reached"),
        ("gpt.py", ["--steps", 3, "--batch-size", 4, "--lr", 1e-3], "`max_steps=3` reached"),
    ],
)
def test_an_example_trains_and_knows_nothing_of_bstuner(script: str, arguments: list[object], ended: str) -> None:
    assert ended in run(EXAMPLES / script, *arguments)
    code = (EXAMPLES / script).read_text().split('"""', 2)[2]
    assert "bstuner" not in code


@pytest.mark.parametrize(
    ("script", "holders", "reference", "rule"),
    [
        ("digits.py", ("Digits.batch_size", "Classifier.lr"), (32, 0.05), "linear"),
        ("gpt.py", ("StandardLibrary.batch_size", "GPT.lr"), (16, 3e-4), "sqrt"),
    ],
)
def test_an_example_is_tuned_as_it_is(
    script: str, holders: tuple[str, str], reference: tuple[int, float], rule: str
) -> None:
    limits = ["--n_trials", 1, "--trial_budget", 22 * reference[0], "--max_val", reference[0]]
    shown = run("-m", "bstuner", "tune", *limits, EXAMPLES / script, "--epochs", 1)

    answer = json.loads(Path("bstuner-result.json").read_text())
    assert (answer["holder"], answer["lr_holder"]) == holders
    assert (answer["batch_size"], answer["lr"]) == reference
    assert answer["scaling_rule"] == rule
    assert answer["baseline"]["steps"] == 22
    assert answer["warnings"] == []
    assert "your own settings" in shown
