"""`bstuner tune` on real scripts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli.commands import EXAMPLES, Command, result, write

from bstuner.cli.main import parser_of
from bstuner.cli.tune import COMMAND


def next_steps(output: str) -> list[str]:
    """What the command says that is to be done now."""
    lines = output.partition("\nNext")[2].splitlines()
    return [line.strip() for line in lines if line.strip()]


# A model whose metric is the batch size, so that it is known beforehand which trial wins.
MODEL = """
import lightning as L
import torch
import zoo
from torch.utils.data import DataLoader

class Model(zoo.Bare):
    def __init__(self, lr: float = 0.01):
        super().__init__()
        self.lr = lr

    def validation_step(self, batch, batch_idx):
        loader = self.trainer.train_dataloader  # none yet at the sanity check
        self.log("wish", float(loader.batch_size if loader is not None else 0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

class Data(L.LightningDataModule):
    def __init__(self, batch_size: int = 8):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(zoo.Vectors(512), batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(zoo.Vectors(16), batch_size=8)
"""
LARGEST = ["--monitor", "wish", "--mode", "max", "--objective", "metric", "--max_val", 32, "--trial_budget", 256]
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}

# One that writes down what it trains with, and trains not at all.
CLI = f"""{MODEL}
import sys
from lightning.pytorch.cli import LightningCLI

class Tells(L.Callback):
    def on_train_start(self, trainer, module):
        told = {{
            "batch_size": trainer.train_dataloader.batch_size,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "max_steps": trainer.max_steps,
            "val_check_interval": trainer.val_check_interval,
            "warmup": [[each.samples, each.start_factor] for each in trainer.callbacks if hasattr(each, "samples")],
            "bars": trainer.progress_bar_callback is not None,
        }}
        print("told", told)
        sys.exit()

class FromOutside(Model):
    configure_optimizers = L.LightningModule.configure_optimizers

    def __init__(self):
        super().__init__()
        del self.lr

if __name__ == "__main__":
    model = FromOutside if "--optimizer" in sys.argv else Model
    LightningCLI(model, Data, save_config_callback=None)
"""


def told(output: str) -> dict[str, Any]:
    """What a script trains with, which prints it itself."""
    return dict(eval(output.partition("told ")[2].splitlines()[0]))


@pytest.mark.parametrize("optimizer", [False, True], ids=["attribute", "optimizer of the command line"])
def test_the_overlay_gives_exactly_these_values(
    tmp_path: Path, bstuner: Command, by_hand: Command, optimizer: bool
) -> None:
    write(tmp_path / "main.py", CLI)
    settings = {**QUIET, "max_steps": 320, "val_check_interval": 16, "enable_progress_bar": False}
    config: dict[str, Any] = {"trainer": settings}
    config |= {"data": {"batch_size": 4}} if optimizer else {"model": {"lr": 0.001}}
    write(tmp_path / "config.yaml", yaml.safe_dump(config))
    more = ["--optimizer", "SGD", "--optimizer.lr", "0.001"] if optimizer else []
    done = bstuner("tune", *LARGEST, "--n_trials", 3, "--seed", 3, "main.py", "fit", "-c", "config.yaml", *more)
    assert done.returncode == 0, done.stderr
    assert "told" not in done.stdout
    assert "See        bstuner report\n" in done.stdout
    answer, (command,) = result(tmp_path), next_steps(done.stdout)
    reference = answer["reference_batch_size"]
    assert answer["batch_size"] > reference, "or there is nothing to see here"
    assert answer["accumulate_grad_batches"] == 1
    warmup = answer["warmup"]
    assert warmup is not None, "the learning rate was raised more than twofold, or there is nothing to see here"
    ratio = answer["batch_size"] // reference
    assert told(by_hand(command, "--trainer.callbacks+", "main.Tells").stdout) == {
        "batch_size": answer["batch_size"],
        "lr": answer["lr"],
        "max_steps": 320 // ratio,
        "val_check_interval": 16 // ratio,
        "warmup": [[warmup["samples"], warmup["start_factor"]]],
        "bars": False,
    }
    overlay = yaml.safe_load((tmp_path / "bstuner-overlay.yaml").read_text())
    assert overlay["data"] == {"batch_size": answer["batch_size"]}
    lr = overlay["optimizer"]["init_args"]["lr"] if optimizer else overlay["model"]["lr"]
    assert lr == answer["lr"]


def test_an_unmodified_script(tmp_path: Path, bstuner: Command) -> None:
    pytest.importorskip("sklearn", reason="the examples use scikit-learn's digits")
    options = ["--max_val", 64, "--n_trials", 3, "--trial_budget", "0.5ep", "--patience", "null", "--warmup", "null"]
    script = [EXAMPLES / "digits.py", "--epochs", 4]
    done = bstuner("tune", *options, "--storage", "sqlite:///trials.db", "--output", "made/for/it", *script)
    assert done.returncode == 0, done.stderr
    answer = result(tmp_path / "made" / "for" / "it")
    assert (answer["n_trials"], len(answer["trials"]), answer["storage"]) == (3, 3, "sqlite:///trials.db")
    assert answer["study_name"].startswith("Classifier-")
    assert answer["trial_budget_samples"] == 704, "22 steps: half of an epoch of 1438"
    for trial in ("baseline", "best"):
        assert {"global_batch_size", "lr", "metric", "samples", "seconds"} <= set(answer[trial])
    assert answer["global_batch_size"] == answer["batch_size"] * answer["accumulate_grad_batches"]
    assert (answer["baseline"]["global_batch_size"], answer["baseline"]["lr"]) == (32, 0.05)
    assert answer["speedup"] >= 1
    assert {"limited_by", "probes"} <= set(answer)
    assert f"Fits       {64} per device" in done.stdout
    assert f"Study      {answer['study_name']} in sqlite:///trials.db" in done.stdout
    changes = not next_steps(done.stdout)[0].startswith("train as you did")
    saved = "bstuner-result.json, bstuner-snippet.py" if changes else "bstuner-result.json"
    assert f"Saved      {saved} in {tmp_path / 'made' / 'for' / 'it'}" in done.stdout
    assert "See        bstuner report --storage sqlite:///trials.db" in done.stdout
    shown = bstuner("report", "--storage", "sqlite:///trials.db")
    assert shown.returncode == 0, shown.stderr
    assert answer["study_name"] in (tmp_path / "bstuner-report.html").read_text()
    assert "Epoch" not in done.stdout + done.stderr, "nothing is trained"
    if changes:
        assert f"set Classifier.lr to {answer['lr']!r}" in next_steps(done.stdout)
        assert f"set Digits.batch_size to {answer['batch_size']}" in next_steps(done.stdout)


BY_HAND = f"""{MODEL}
from lightning.pytorch.callbacks import ModelCheckpoint

class Constant(Model):
    def __init__(self):
        super().__init__()
        del self.lr

    def train_dataloader(self):
        return DataLoader(zoo.Vectors(512), batch_size=8)

    val_dataloader = Data.val_dataloader

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.001)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 128)
        return [optimizer], [{{"scheduler": scheduler, "interval": "step"}}]

trainer = zoo.trainer(ModelCheckpoint("made", every_n_train_steps=64), max_steps=320, enable_checkpointing=True)
trainer.validate(Constant(), verbose=False)
print("validated")
trainer.fit(Constant())
print("trained")
"""


def test_what_no_file_can_set_is_told_after_a_script_that_validates_first(tmp_path: Path, bstuner: Command) -> None:
    script = write(tmp_path / "train.py", BY_HAND)
    done = bstuner("tune", *LARGEST, "--n_trials", 3, "--seed", 3, script)
    assert done.returncode == 0, done.stderr
    assert "validated" in done.stdout
    assert "trained" not in done.stdout
    answer = result(tmp_path)
    ratio, warmup = answer["batch_size"] // 8, answer["warmup"]
    assert ratio > 1
    assert next_steps(done.stdout) == [
        f"set the batch_size of the loader that Constant.train_dataloader() returns to {answer['batch_size']}",
        f"set max_steps of the Trainer to {320 // ratio}",
        f"change ModelCheckpoint(every_n_train_steps): 64 -> {64 // ratio}",
        f"change the parameter groups of SGD: 0.001 -> {answer['lr']!r}",
        f"change StepLR.step_size 128 -> {128 // ratio}",
        f"put LearningRateWarmup(samples={warmup['samples']}, start_factor={warmup['start_factor']!r}) in the "
        "callbacks of the Trainer",
        "and train",
    ]
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "bstuner-overlay.yaml").exists()


@pytest.mark.parametrize(
    ("options", "script", "message"),
    [
        ([], None, "bstuner: Expected a Python script, found no file at"),
        (
            [],
            f"{MODEL}\nzoo.trainer().validate(Model(), Data(), verbose=False)",
            "bstuner: train.py ended without training. Expected it to call trainer.fit().",
        ),
        (
            ["--monitor", "val_los"],
            f"{MODEL}\nzoo.trainer().fit(Model(), Data())",
            "bstuner: Expected validation to log monitor='val_los', found only 'train_loss', 'wish'.",
        ),
        (
            ["--storage", "postgresql://nobody@localhost:1/none"],
            "print('ran')",
            "bstuner: storage: expected a database that can be reached and written",
        ),
        (["--output", "train.py"], "print('ran')", "bstuner: Expected --output to be a folder that can be written to"),
    ],
    ids=["no script", "no fit", "monitor", "storage", "output"],
)
def test_a_failure_exits_with_1_and_its_reason(
    tmp_path: Path, bstuner: Command, options: list[str], script: str | None, message: str
) -> None:
    if script is not None:
        write(tmp_path / "train.py", script)
    done = bstuner("tune", "--max_val", 16, *options, "train.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "ran" not in done.stdout
    assert not (tmp_path / "bstuner-result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope", "1"], "--nope"),
        (["--margin", "2"], "margin: expected a share of the memory from 0 up to 1, found 2.0"),
        (["--n_trials", "0"], "n_trials: expected a whole number of at least 1, found 0"),
        (["--trial_budget", "often"], "trial_budget"),
        (["--objective", "speed"], "objective"),
        (["--take", "speed"], "take: expected 'metric' or 'speed' with objective='both', else None"),
        (["--memory_limit", "lots"], "memory_limit"),
        (["--sampler", "TPESampler"], "Expected an option, found --sampler."),
        (["--max-val", "8"], "Expected an option, found --max-val. Did you mean --max_val?"),
        (["--max_val", "abc"], "--max_val: expected a whole number or null, found abc."),
        (["--margin", "much"], "--margin: expected a number, found much."),
        (["--mode", "maximum"], "--mode: expected 'min' or 'max', found maximum."),
        (["--storage", "study.txt"], "storage: expected a file name that ends in .log, or a URL such as"),
    ],
)
def test_wrong_usage_exits_with_2(bstuner: Command, arguments: list[str], message: str) -> None:
    done = bstuner("tune", *arguments, "train.py")
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ({"trial_budget": "5000"}, 5000),
        ({"trial_budget": "0.2"}, 0.2),
        ({"trial_budget": "0.5ep"}, "0.5ep"),
        ({"patience": "null"}, None),
        ({"warmup": "null"}, None),
        ({"warmup": "4096"}, 4096),
        ({"timeout": "90"}, 90.0),
        ({"storage": "postgresql://me@example.org/studies"}, "postgresql://me@example.org/studies"),
        ({"study_name": "2026"}, "2026"),
    ],
)
def test_options_mean_what_the_callback_takes(typed: Mapping[str, str], meant: object) -> None:
    ((name, text),) = typed.items()
    found = parser_of(COMMAND).parse_args(COMMAND.arrange([f"--{name}", text, "train.py", "--lr", "1"]))
    assert found[name] == meant
    assert type(found[name]) is type(meant)
    COMMAND.check(found)
    assert found.target == ["train.py", "--lr", "1"]


def test_the_help_says_what_happens_and_explains_every_option(bstuner: Command) -> None:
    done = bstuner("tune", "--help")
    assert done.returncode == 0
    text = done.stdout
    words = " ".join(text.split())
    assert "in its place the largest batch that fits is found, short trainings are run" in words
    for option in ("monitor", "n_trials", "trial_budget", "storage", "study_name", "warmup", "output", "max_val"):
        assert f"--{option} " in text
    for left_out in ("--study ", "--sampler", "--pruner", "None", "Union[", "BaseStorage"):
        assert left_out not in text
    assert "null to run all of `n_trials`. (default: 10)" in words
    assert max(map(len, text.splitlines())) <= 84, "the last example"
