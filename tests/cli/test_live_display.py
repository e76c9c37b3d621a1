"""What a search shows, in a terminal and elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from cli.commands import Command, result, write
from cli.terminal import Terminal

SCRIPT = """
import sys, time
import torch
import zoo
from torch.utils.data import DataLoader

class Model(zoo.Bare):
    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 0.01, 8

    def train_dataloader(self):
        return DataLoader(zoo.Vectors(512), batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(zoo.Vectors(16), batch_size=8)

    def validation_step(self, batch, batch_idx):
        loader = self.trainer.train_dataloader  # none yet at the sanity check
        self.log("wish", float(loader.batch_size if loader is not None else 0))

    def training_step(self, batch, batch_idx):
        if len(batch[0]) > 2 and not any(type(each).__name__ == "TrialWatch" for each in self.trainer.callbacks):
            time.sleep(0.3)  # a probe: the line that tells of it is drawn ten times a second
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

zoo.trainer(max_epochs=3, enable_progress_bar=sys.argv[1] == "bars").fit(Model())
"""
SEARCH = ["--max_val", 32, "--n_trials", 6, "--patience", "null", "--seed", 3, "--study_name", "mine"]
TUNE = ["tune", "--monitor", "wish", "--mode", "max", "--objective", "metric", "--trial_budget", 512, *SEARCH]


@pytest.fixture
def command(tmp_path: Path) -> list[object]:
    script = write(tmp_path / "train.py", SCRIPT)
    return [sys.executable, "-m", "bstuner", *TUNE, script, "bars"]


def test_in_a_terminal_a_table_of_trials_grows_above_one_line_of_progress(
    tmp_path: Path, command: list[object]
) -> None:
    with Terminal(command, tmp_path, width=100) as terminal:
        screen = terminal.go_on(until=lambda text: re.search("2 of 6 trials done, about .* left", text))
        assert not terminal.screen.cursor_shown
        assert terminal.screen.colours
        assert screen.count("trials done") == 1
        terminal.resize(60, 12)  # seen from the next trial on
        screen = terminal.go_on(until=lambda text: "4 of 6 trials done" in text)
        table = screen[screen.rindex(" lr") :]
        assert max(map(len, table.splitlines())) <= 60
        screen = terminal.go_on()
    assert terminal.process.returncode == 0, screen
    assert terminal.screen.cursor_shown
    assert "trials done" not in screen, "the line of progress has gone"
    assert "Probing" not in screen
    assert any("Probing batch size" in seen for seen in terminal.seen)
    assert "Trial 0:" not in screen, "which would say twice what the table holds"
    assert "Study      mine in" in screen
    assert len([trial for trial in result(tmp_path)["trials"] if trial["role"] != "edge"]) == 6


def test_ctrl_c_in_a_narrow_terminal_without_colours(tmp_path: Path, command: list[object]) -> None:
    *search, script, bars = command
    long = [*search, "--n_trials", 500, script, bars]
    with Terminal(long, tmp_path, width=40, height=12, NO_COLOR="1") as terminal:
        terminal.go_on(until=lambda text: "2 of 500" in text)
        terminal.press("\x03")
        screen = terminal.go_on()
    assert terminal.process.returncode == 130, screen
    assert terminal.screen.cursor_shown, "as it was"
    assert not terminal.screen.colours
    assert "Traceback" not in screen
    told = " ".join(screen[screen.index("Interrupted after") :].split()).replace("study_ name", "study_name")
    assert "go on with study_name='mine' (as an option: --study_name mine)." in told
    table = screen[screen.index("\ntrial") :]
    assert max(map(len, table.splitlines())) <= 40


def test_in_a_pipe_there_is_a_line_for_each_trial(tmp_path: Path, bstuner: Command, command: list[object]) -> None:
    done = bstuner(*command[3:])
    assert done.returncode == 0, done.stderr
    trials = [line for line in done.stdout.splitlines() if line.startswith("Trial ")]
    assert [line.partition(":")[0] for line in trials] == [f"Trial {number}" for number in range(len(trials))]
    assert len(trials) >= 6
    assert "\x1b" not in done.stdout
    assert "trials done" not in done.stdout


def test_without_bars_nothing_is_shown_but_the_answer(tmp_path: Path, bstuner: Command, command: list[object]) -> None:
    done = bstuner(*command[3:-1], "none")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Device "), "the findings, which are the answer"
    assert "Trial 0:" not in done.stdout
