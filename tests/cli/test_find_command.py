"""`bstuner find` on real scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli.commands import EXAMPLES, Command, python, write

pytest.importorskip("sklearn", reason="the examples use scikit-learn's digits")


def test_an_unmodified_script(tmp_path: Path) -> None:
    done = python(
        "-m",
        "bstuner",
        "find",
        "--memory_limit",
        "1GiB",
        "--max_val",
        64,
        EXAMPLES / "digits.py",
        "--epochs",
        99,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Fits    64 per device" in done.stdout
    assert "Was     32, as Digits.batch_size" in done.stdout
    assert "Next    set Digits.batch_size to 64 and train" in done.stdout
    assert "Epoch" not in done.stdout + done.stderr, "nothing is trained"
    answer = json.loads((tmp_path / "bstuner-result.json").read_text())
    assert {name: answer[name] for name in ("batch_size", "global_batch_size", "accumulate_grad_batches", "lr")} == {
        "batch_size": 64,
        "global_batch_size": 64,
        "accumulate_grad_batches": 1,
        "lr": 0.05,
    }
    assert answer["limited_by"] == "max_val"
    assert {"batch_size", "peak_bytes", "seconds", "fits", "reason"} == set(answer["probes"][0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bstuner-result.json", "bstuner-snippet.py"]
    assert (tmp_path / "bstuner-snippet.py").read_text().startswith("batch_size = 64  # Digits.batch_size\n")


def test_a_lightning_cli_gets_an_overlay_that_works_as_a_second_config(
    tmp_path: Path, bstuner: Command, by_hand: Command
) -> None:
    fit = ["fit", "-c", str(EXAMPLES / "digits.yaml"), "--trainer.accumulate_grad_batches", "2"]
    done = bstuner("find", "--max_val", 16, "--output", tmp_path, EXAMPLES / "digits_cli.py", *fit)
    assert done.returncode == 0, done.stderr
    overlay = tmp_path / "bstuner-overlay.yaml"
    assert yaml.safe_load(overlay.read_text()) == {"data": {"batch_size": 16}}
    answer = json.loads((tmp_path / "bstuner-result.json").read_text())
    assert (answer["accumulate_grad_batches"], answer["global_batch_size"]) == (2, 32)
    next_command = done.stdout.partition("Next    ")[2].strip()
    assert next_command.endswith(f"-c {overlay}")
    config = yaml.safe_load(by_hand(next_command, "--print_config").stdout)
    assert (config["data"]["batch_size"], config["model"]["lr"]) == (16, 0.05)


def test_an_answer_of_several_parts_is_told_in_full(tmp_path: Path, bstuner: Command) -> None:
    options = ["find", "--max_val", 16, "--global_batch_size", 48, "--output", tmp_path]
    done = bstuner(*options, EXAMPLES / "digits_cli.py", "fit", "-c", EXAMPLES / "digits.yaml")
    assert done.returncode == 0, done.stderr
    overlay = yaml.safe_load((tmp_path / "bstuner-overlay.yaml").read_text())
    assert overlay == {"data": {"batch_size": 16}, "trainer": {"accumulate_grad_batches": 3}}
    done = bstuner(*options, "--validation", "true", EXAMPLES / "digits.py")
    assert (
        "Next    set Digits.batch_size to 16, accumulate_grad_batches to 3, the batch size of the validation loaders "
        "to 16 and train"
    ) in done.stdout


def test_a_lightning_cli_that_names_its_classes_in_the_config(tmp_path: Path, bstuner: Command) -> None:
    script = write(
        tmp_path / "main.py",
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "from lightning.pytorch.cli import LightningCLI\n"
        "if __name__ == '__main__':\n    LightningCLI(save_config_callback=None)\n",
    )
    config = {
        "trainer": {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
        "model": {"class_path": "digits.Classifier"},
        "data": {"class_path": "digits.Digits", "init_args": {"batch_size": 4}},
        "ckpt_path": None,
        "weights_only": None,
    }
    saved = write(tmp_path / "config.yaml", yaml.safe_dump(config))
    done = bstuner("find", "--max_val", 8, script, "fit", "-c", saved)
    assert done.returncode == 0, done.stderr
    assert "Fits    8 per device" in done.stdout, "who types a command sees its answer, bars or not"
    assert yaml.safe_load((tmp_path / "bstuner-overlay.yaml").read_text()) == {"data": {"init_args": {"batch_size": 8}}}


def test_a_script_elsewhere_with_modules_and_files_beside_it(tmp_path: Path, bstuner: Command) -> None:
    home = tmp_path / "project"
    home.mkdir()
    write(home / "helper.py", "SIZE = 4\n")
    script = write(
        home / "train.py",
        f"import sys; sys.path.insert(1, {str(EXAMPLES)!r})\n"
        "import lightning as L\nfrom digits import Classifier, Digits\nfrom helper import SIZE\n"
        "assert __name__ == '__main__' and sys.argv[1:] == ['--x', '1'], sys.argv\n"
        "trainer = L.Trainer(logger=False, enable_checkpointing=False)\n"
        "try:\n    trainer.fit(Classifier(), Digits(SIZE))\n"
        "finally:\n    print('cleaned up')\n"
        "print('never reached')\n",
    )
    done = bstuner("find", "--max_val", 8, script, "--x", 1)
    assert done.returncode == 0, done.stderr
    assert "cleaned up" in done.stdout
    assert "never reached" not in done.stdout


def test_a_script_that_catches_everything_and_goes_on_still_trains_nothing(tmp_path: Path, bstuner: Command) -> None:
    script = write(
        tmp_path / "train.py",
        f"import sys; sys.path.insert(1, {str(EXAMPLES)!r})\n"
        "import lightning as L\nfrom digits import Classifier, Digits\n"
        "model, data = Classifier(), Digits(4)\ntrainer = L.Trainer(logger=False, enable_checkpointing=False)\n"
        "try:\n    trainer.fit(model, data)\nexcept BaseException:\n    print('caught')\n"
        "trainer.fit(model, data)\nprint('trained', trainer.global_step)\n",
    )
    done = bstuner("find", "--max_val", 8, "--output", "made/for/it", script)
    assert done.returncode == 0, done.stderr
    assert "caught" in done.stdout
    assert "trained" not in done.stdout
    assert json.loads((tmp_path / "made/for/it/bstuner-result.json").read_text())["batch_size"] == 8


def test_an_output_that_cannot_be_written_is_refused_before_the_script_runs(tmp_path: Path, bstuner: Command) -> None:
    script = write(tmp_path / "train.py", "print('ran')")
    done = bstuner("find", "--output", script, script)
    assert done.returncode == 1
    assert "bstuner: Expected --output to be a folder that can be written to, found" in done.stderr
    assert "ran" not in done.stdout


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        (None, 1, "bstuner: Expected a Python script, found no file at"),
        ("print('hello')", 1, "ended without calling a Trainer. Expected it to call trainer.fit()"),
        ("import sys; sys.exit()", 1, "ended without calling a Trainer"),
        ("import pytorch_lightning as pl; pl.Trainer(logger=False).fit(None)", 1, "found that of pytorch_lightning"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--nope'])", 2, "unrecognized arguments: --nope"),
        ("import sys; sys.exit(3)", 3, ""),
    ],
    ids=["no script", "no Trainer", "exits early", "other package", "refuses its arguments", "exits with its own"],
)
def test_a_script_that_does_not_get_to_a_trainer(
    tmp_path: Path, bstuner: Command, script: str | None, code: int, message: str
) -> None:
    path = tmp_path / "train.py" if script is None else write(tmp_path / "train.py", script)
    done = bstuner("find", path)
    assert done.returncode == code
    assert message in done.stderr
    assert not (tmp_path / "bstuner-result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["find"], "Expected a SCRIPT, -m MODULE or -c CONFIG, found none"),
        (["find", "--nope", "1", "x.py"], "--nope"),
        (["find", "--margin", "2", "x.py"], "Expected margin to be a share of the memory from 0 up to 1, found 2.0"),
        (["find", "--memory_limit", "lots", "x.py"], "memory_limit"),
        (["find", "--init_val", "64", "--max_val", "8", "x.py"], "Expected max_val to be at least init_val=64"),
        (["finds"], "finds"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_exits_with_2_before_anything_runs(
    tmp_path: Path, bstuner: Command, arguments: list[str], message: str
) -> None:
    done = bstuner(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_nothing_fits_exits_with_1_and_the_reason(tmp_path: Path, bstuner: Command) -> None:
    done = bstuner("find", "--memory_limit", "64KiB", EXAMPLES / "digits.py")
    assert done.returncode == 1
    assert "bstuner: Expected the model to leave room for a batch; its weights and state alone take" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failed_search_is_the_reason_given_whatever_the_script_makes_of_it(tmp_path: Path, bstuner: Command) -> None:
    script = write(
        tmp_path / "train.py",
        f"import sys; sys.path.insert(1, {str(EXAMPLES)!r})\n"
        "import lightning as L\nfrom digits import Classifier, Digits\n"
        "try:\n    L.Trainer(logger=False, enable_checkpointing=False).fit(Classifier(), Digits())\n"
        "except Exception:\n    sys.exit(3)\n",
    )
    done = bstuner("find", "--memory_limit", "64KiB", script)
    assert done.returncode == 1
    assert "bstuner: Expected the model to leave room for a batch" in done.stderr


@pytest.mark.parametrize(("scan", "looked_at"), [("3", 3), ("3.0", 1438), ("all", 1438)])
def test_a_whole_number_to_scan_is_samples_and_another_is_seconds(
    tmp_path: Path, bstuner: Command, scan: str, looked_at: int
) -> None:
    done = bstuner("find", "--max_val", 4, "--output", tmp_path, "--scan", scan, EXAMPLES / "digits.py")
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "bstuner-result.json").read_text())
    assert (answer["scanned_samples"], answer["dataset_size"]) == (looked_at, 1438)


def test_the_help_says_what_happens_and_explains_every_option(tmp_path: Path, bstuner: Command) -> None:
    done = bstuner("find", "--help")
    assert done.returncode == 0
    assert "and nothing is trained" in done.stdout
    assert "bstuner find --memory_limit 24GiB main.py fit -c config.yaml" in done.stdout
    for option in ("--mode", "--init_val", "--max_val", "--margin", "--memory_limit", "--probe_with", "--output"):
        assert option in done.stdout
