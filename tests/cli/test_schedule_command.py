"""`bstuner schedule` on real scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli.commands import Command, plan, write

from bstuner.cli.main import parser_of
from bstuner.cli.schedule import COMMAND, _chosen, _in_code


def sizes(folder: Path) -> list[tuple[int, int]]:
    return [(phase["start_sample"], phase["batch_size"]) for phase in plan(folder)["phases"]]


# 64 steps of 8 samples an epoch; the learning rate is halved after the second and the fourth epoch.
MODEL = """
import lightning as L
import torch
import zoo
from torch.utils.data import DataLoader

class Model(zoo.Bare):
    def training_step(self, batch, batch_idx):
        if self.trainer.datamodule.tells:
            print("trained on a batch of", len(batch[0]))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.4)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], gamma=0.5)]

class Data(L.LightningDataModule):
    def __init__(self, batch_size: int = 8, tells: bool = True):
        super().__init__()
        self.batch_size, self.tells = batch_size, tells

    def train_dataloader(self):
        return DataLoader(zoo.Vectors(512), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(zoo.Vectors(16), batch_size=8)
"""
SCRIPT = f"""{MODEL}
if __name__ == "__main__":
    zoo.trainer(max_epochs=6).fit(Model(), Data())
    print("trained")
"""
# As planned for it, with micro-batches of up to 16.
GROWN = [(0, 8), (1024, 16), (2048, 32)]


def test_an_unmodified_script(tmp_path: Path, bstuner: Command) -> None:
    done = bstuner("schedule", "--fits", 16, write(tmp_path / "train.py", SCRIPT))
    assert done.returncode == 0, done.stderr
    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "Yours    batch 8, lr 0.4 at its peak: 384 optimizer steps on 3,072 samples (6",
        "         epochs)",
        "Planned  batch 8 to 32: 224 optimizer steps, 42% fewer",
        "Rule     linear: LR / batch size stays that of your own schedule",
        "Capped   by nothing: the batch grows by all that your learning rate falls",
        "  from                   per device       your          your",
        "sample  epoch  batch  x accumulated   lr    lr  steps  steps",
        "     0      0      8          8 x 1  0.4   0.4    128    128",
        " 1,024      2     16         16 x 1  0.4   0.2     64    128",
        " 2,048      4     32         16 x 2  0.4   0.1     32    128",
        " 3,072      6    end                              224    384",
        f"Saved    bstuner-schedule.json, bstuner-snippet.py in {tmp_path}",
        "Next     put BatchSizeScheduler(fits=16) into the callbacks of your Trainer and train",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bstuner-schedule.json",
        "bstuner-snippet.py",
        "train.py",
    ]
    answer = plan(tmp_path)
    assert answer["phases"].pop() == {
        "start_sample": 2048,
        "start_epoch": 4.0,
        "batch_size": 32,
        "micro": 16,
        "accumulate": 2,
        "world": 1,
        "lr": 0.4,
        "own_lr": 0.1,
        "steps": 32,
        "own_steps": 128,
        "steps_while_aligning": 0,
    }
    del answer["phases"]
    assert answer == {
        "own": {"batch_size": 8, "micro": 8, "accumulate": 1, "world": 1, "steps": 384},
        "steps": 224,
        "samples": 3072,
        "samples_per_epoch": 512,
        "rule": "linear",
        "max_batch_size": 51,
        "capped_by": "",
        "remarks": [],
    }


def test_the_largest_micro_batch_is_found_and_the_plan_is_drawn(tmp_path: Path, bstuner: Command) -> None:
    pytest.importorskip("matplotlib", reason="an extra")
    script = write(tmp_path / "train.py", SCRIPT.replace("self.trainer.datamodule.tells", "False"))
    options = ["--output", "made/for/it", "--plot", "pictures/plan.png"]
    done = bstuner("schedule", *options, script)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "made" / "for" / "it"
    assert sizes(folder) == GROWN
    assert plan(folder)["phases"][-1]["micro"] == 32, "all of it fits"
    picture = tmp_path / "pictures" / "plan.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"Saved    bstuner-schedule.json, bstuner-snippet.py, {picture} in {folder}" in done.stdout
    assert "trained" not in done.stdout


def test_what_capped_the_growth_is_told(tmp_path: Path, bstuner: Command) -> None:
    script = write(tmp_path / "train.py", SCRIPT)
    done = bstuner("schedule", "--fits", 8, "--max_accumulate", 2, script)
    assert done.returncode == 0, done.stderr
    assert "Capped   at 16 by memory: 8 samples fit at a time, 2 times per step" in done.stdout
    assert sizes(tmp_path) == [(0, 8), (1024, 16)]
    done = bstuner("schedule", "--fits", 16, "--max_batch_size", 17, script)
    assert "Capped   at 17 by max_batch_size=17" in done.stdout
    assert "Next     put BatchSizeScheduler(max_batch_size=17, fits=16) into the callbacks" in done.stdout


def test_a_plan_in_the_users_own_words(tmp_path: Path, bstuner: Command) -> None:
    script = write(tmp_path / "train.py", SCRIPT)
    done = bstuner("schedule", "--plan", "0:8 1.5ep:24 2K:128", "--fits", 64, "--output", "out", script)
    assert done.returncode == 0, done.stderr
    assert sizes(tmp_path / "out") == [(0, 8), (768, 24), (2016, 128)]
    assert "Next     put BatchSizeScheduler('0:8 1.5ep:24 2K:128', fits=64) into the callbacks" in done.stdout
    done = bstuner("schedule", "--plan", "0:8 600:24 1ep:32", script)
    assert done.returncode == 1, "how long an epoch is only the script tells"
    assert "    0:8 600:24 1ep:32\n               ^^^\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "bstuner-schedule.json").exists()


OWN = SCRIPT.replace(
    "zoo.trainer(",
    "from bstuner import BatchSizeTuner\n"
    "    from bstuner.callbacks.scheduler import BatchSizeScheduler\n"
    "    zoo.trainer(BatchSizeTuner(), BatchSizeScheduler('0:8 1ep:64', fits=64), ",
)


def test_a_scheduler_in_the_script_is_asked_for_its_plan_unless_options_are_given(
    tmp_path: Path, bstuner: Command
) -> None:
    script = write(tmp_path / "train.py", OWN)
    done = bstuner("schedule", script)
    assert done.returncode == 0, done.stderr
    assert sizes(tmp_path) == [(0, 8), (512, 64)]
    assert "Next     train: this is the plan of the BatchSizeScheduler among your callbacks" in done.stdout
    (remark,) = plan(tmp_path)["remarks"]
    assert remark.startswith("BatchSizeTuner among your callbacks is left out: the plan starts from")
    done = bstuner("schedule", "--fits", 16, script)
    assert done.returncode == 0, done.stderr
    assert sizes(tmp_path) == GROWN
    assert "Next     put BatchSizeScheduler(fits=16) in the place of the one among your callbacks" in done.stdout
    assert len(plan(tmp_path)["remarks"]) == 2


CLI = f"""{MODEL}
from lightning.pytorch.cli import LightningCLI

class Tells(L.Callback):
    def on_fit_end(self, trainer, module):
        (added,) = [each for each in trainer.callbacks if type(each).__name__ == "BatchSizeScheduler"]
        print("took", trainer.global_step, [phase.batch_size for phase in added.plan.phases])

if __name__ == "__main__":
    LightningCLI(Model, Data, save_config_callback=None)
"""


def test_a_lightning_cli_gets_an_overlay(tmp_path: Path, bstuner: Command, by_hand: Command) -> None:
    write(tmp_path / "main.py", CLI)
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    config = {"trainer": {**quiet, "max_epochs": 6}, "data": {"tells": False}}
    write(tmp_path / "config.yaml", yaml.safe_dump(config))
    done = bstuner("schedule", "--fits", 16, "main.py", "fit", "-c", "config.yaml")
    assert done.returncode == 0, done.stderr
    overlay = yaml.safe_load((tmp_path / "bstuner-overlay.yaml").read_text())
    assert overlay == {
        "trainer": {"callbacks+": [{"class_path": "bstuner.BatchSizeScheduler", "init_args": {"fits": 16}}]}
    }
    command = done.stdout.partition("Next     ")[2].strip()
    assert command == f"python main.py fit -c config.yaml -c {tmp_path / 'bstuner-overlay.yaml'}"
    trained = by_hand(command, "--trainer.callbacks+", "main.Tells")
    assert trained.returncode == 0, trained.stderr
    assert "took 224 [8, 16, 32]" in trained.stdout, "what was planned is what is trained"


@pytest.mark.parametrize(
    ("options", "script", "message"),
    [
        ([], None, "bstuner: Expected a Python script, found no file at"),
        ([], "print('hello')", "bstuner: train.py ended without training. Expected it to call trainer.fit()."),
        (["--output", "train.py"], "print('ran')", "bstuner: Expected --output to be a folder that can be written to"),
        (["--plot", "plan.html"], "print('ran')", "bstuner: Expected --plot to be a file that ends in .png, .svg"),
        ([], SCRIPT.replace("max_epochs=6", "max_epochs=-1"), "bstuner: Expected a fit with an end"),
        (
            [],
            SCRIPT.replace("max_epochs=6", "fast_dev_run=True"),
            "whose batches can be planned, found fast_dev_run=True",
        ),
        (
            [],
            SCRIPT.replace("max_epochs=6", "overfit_batches=2"),
            "whose batches can be planned, found overfit_batches=2",
        ),
        (
            [],
            SCRIPT.replace("max_epochs=6", "limit_train_batches=0"),
            "whose batches can be planned, found no training batches",
        ),
    ],
    ids=["no script", "no fit", "output", "plot", "no end", "fast_dev_run", "overfit_batches", "no batches"],
)
def test_a_failure_exits_with_1_and_its_reason(
    tmp_path: Path, bstuner: Command, options: list[str], script: str | None, message: str
) -> None:
    if script is not None:
        write(tmp_path / "train.py", script)
    done = bstuner("schedule", "--fits", 16, *options, "train.py")
    assert done.returncode == 1
    assert message in done.stderr
    assert not {"ran", "trained"} & set(done.stdout.split())
    assert not (tmp_path / "bstuner-schedule.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope", "1"], "--nope"),
        (["--rounding", "down"], "rounding"),
        (["--max_accumulate", "0"], "max_accumulate: expected a whole number of at least 1, found 0"),
        (["--plan", "0:8 3e:64"], "    0:8 3e:64\n         ^\nExpected K, M or B for samples, ep for epochs"),
        (["--plan", "0:8", "--max_batch_size", "64"], "max_batch_size: expected None beside a written plan"),
    ],
)
def test_wrong_usage_exits_with_2(bstuner: Command, arguments: list[str], message: str) -> None:
    done = bstuner("schedule", *arguments, "train.py")
    assert done.returncode == 2
    assert message in done.stderr


def test_the_help_says_what_happens_and_explains_every_option(bstuner: Command) -> None:
    done = bstuner("schedule", "--help")
    assert done.returncode == 0
    text = done.stdout
    assert "no step of training is taken" in " ".join(text.split())
    for option in ("plan", "rule", "rounding", "max_batch_size", "max_accumulate", "fits", "memory_limit", "plot"):
        assert f"--{option} " in text
    assert "None" not in text
    assert max(map(len, text.splitlines())) <= 84, "the last example but one"


def test_options_at_their_defaults_are_not_repeated() -> None:
    words = ["--plan", "0:8", "--fits", "null", "--rule", "sqrt", "train.py"]
    found = parser_of(COMMAND).parse_args(COMMAND.arrange(words))
    settings = {name: found[name] for name in ("plan", "rule", "rounding", "fits", "margin", "memory_limit")}
    assert _chosen(settings) == {"plan": "0:8", "rule": "sqrt"}
    assert _in_code({"plan": "0:8", "rule": "sqrt"}) == "BatchSizeScheduler('0:8', rule='sqrt')"
    assert _in_code({}) == "BatchSizeScheduler()"
