"""The examples, as a user runs them: by themselves, and as their docstrings say how bstuner is run on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from postgres import Server

EXAMPLES = Path(__file__).parents[1] / "examples"
HANG = 240.0  # seconds, far more than any of them needs
pytest.importorskip("sklearn", reason="the examples use scikit-learn's digits")


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **more}


def run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def answer(folder: str = ".") -> dict[str, object]:
    return json.loads(Path(folder, "bstuner-result.json").read_text())


@pytest.mark.parametrize(
    ("script", "arguments", "ended"),
    [
        ("digits.py", ["--epochs", 1], "`max_epochs=1` reached"),
        ("gpt.py", ["--steps", 3, "--batch-size", 4, "--lr", 1e-3], "`max_steps=3` reached"),
        ("gan.py", ["--epochs", 1, "--batch-size", 128], "`max_epochs=1` reached"),
        ("ddp.py", ["--epochs", 1, "--batch-size", 128], "`max_epochs=1` reached"),
    ],
)
def test_an_example_trains_and_knows_nothing_of_bstuner(script: str, arguments: list[object], ended: str) -> None:
    assert ended in run(EXAMPLES / script, *arguments)
    code = (EXAMPLES / script).read_text().split('"""', 2)[2]
    assert "bstuner" not in code


@pytest.mark.parametrize(
    ("script", "monitor", "holders", "reference", "rule", "steps"),
    [
        ("digits.py", "val_loss", ("Digits.batch_size", "Classifier.lr"), (32, 0.05), "linear", 22),
        ("gpt.py", "val_loss", ("StandardLibrary.batch_size", "GPT.lr"), (16, 3e-4), "sqrt", 22),
        ("gan.py", "val_distance", ("RealAndFake.batch_size", "GAN.lr"), (32, 5e-4), "sqrt", 2 * 22),
    ],
)
def test_an_example_is_tuned_as_it_is(
    script: str, monitor: str, holders: tuple[str, str], reference: tuple[int, float], rule: str, steps: int
) -> None:
    limits = ["--n_trials", 1, "--trial_budget", 22 * reference[0], "--max_val", reference[0]]
    earlier = Path("bstuner-snippet.py")
    earlier.write_text("batch_size = 64\n")
    shown = run("-m", "bstuner", "tune", "--monitor", monitor, *limits, EXAMPLES / script, "--epochs", 8)

    told = answer()
    assert (told["holder"], told["lr_holder"]) == holders
    assert (told["batch_size"], told["lr"]) == reference
    assert told["scaling_rule"] == rule
    assert told["baseline"]["steps"] == steps
    assert told["warnings"] == []
    assert "your own settings" in shown
    assert "Old        bstuner-snippet.py is of an earlier answer" in shown
    assert earlier.read_text() == "batch_size = 64\n"


def test_the_command_line_program_trains_with_what_was_found_in_its_configuration() -> None:
    program = [EXAMPLES / "digits_cli.py", "fit", "-c", EXAMPLES / "digits.yaml", "--trainer.max_epochs=1"]
    run("-m", "bstuner", "find", "--max_val", 64, *program)

    assert yaml.safe_load(Path("bstuner-overlay.yaml").read_text()) == {"data": {"batch_size": 64}}
    shown = run(*program, "-c", "bstuner-overlay.yaml")
    assert "23/23" in shown  # batches of an epoch: 1,438 samples by 64
    assert "`max_epochs=1` reached" in shown


def test_two_processes_find_their_batch_together() -> None:
    run("-m", "bstuner", "find", "--max_val", 16, EXAMPLES / "ddp.py")

    told = answer()
    assert (told["world_size"], told["batch_size"], told["global_batch_size"]) == (2, 16, 32)


def test_growth_is_planned_and_trained_by() -> None:
    # Of four epochs of 1,438 samples, two at batch 16, one at 64, and one at 128, as a tenth of an epoch is the cap.
    fit = [EXAMPLES / "growth.py", "--epochs", 4]
    planned = run(*fit, "--plan")
    assert "from epoch 2: batch 64, learning rate 4 times the schedule's" in planned
    assert f"{2 * 90 + 23 + 12} optimizer steps instead of {4 * 90}" in planned
    trained = run(*fit)
    assert "12/12" in trained
    assert "`max_epochs=4` reached" in trained


def test_the_tasks_of_a_slurm_array_search_in_one_study(server: Server) -> None:
    # There is no cluster here: its variables are set by hand, and `srun` runs what it is given.
    Path("srun").write_text('#!/bin/sh\nexec "$@"\n')
    Path("bstuner").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bstuner "$@"\n')
    for program in ("srun", "bstuner"):
        Path(program).chmod(0o755)
    cluster = {
        "PATH": os.pathsep.join([os.getcwd(), os.environ["PATH"]]),
        "STUDY": server.new_database(),
        "SLURM_JOB_NAME": "bstuner",
        "SLURM_ARRAY_JOB_ID": "4711",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    search = ["--n_trials", 4, "--trial_budget", 640, "--max_val", 32, EXAMPLES / "digits.py", "--epochs", 1]
    tasks = [
        subprocess.Popen(
            ["bash", str(EXAMPLES / "slurm.sh"), *map(str, search)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(**cluster, SLURM_JOB_ID=f"471{task}", SLURM_ARRAY_TASK_ID=str(task)),
        )
        for task in range(2)
    ]
    ended = [(task.communicate(timeout=HANG)[0], task.returncode) for task in tasks]

    assert [code for _, code in ended] == [0, 0], ended
    one, other = answer("answers/0"), answer("answers/1")
    assert one["study_name"] == other["study_name"] == "job-4711"
    for shared in ("baseline", "best", "trials", "confirmation", "batch_size", "lr"):
        assert one[shared] == other[shared]
    assert one["n_trials"] in (4, 5)  # both may ask for the last one in the same moment
