"""Ctrl-C, in each phase of a command: 130, no traceback, and how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from cli.commands import Command, python, result, write

from bstuner.report.terminal.tune_display import TuningDisplay
from bstuner.study.storage import open_storage
from bstuner.study.workers import Worker

# It presses Ctrl-C itself, in the phase that it is told: there it would stand for long.
SCRIPT = """
import os, signal, sys
import lightning as L
import torch
import zoo
from torch.utils.data import DataLoader

PHASE, BARS = sys.argv[1:]
TRIALS = []  # a search winds back what models hold themselves

def press_in(phase):
    if phase == PHASE:
        signal.raise_signal(signal.SIGINT)

class Model(zoo.Bare):
    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 0.01, 8

    def prepare_data(self):
        press_in("preparation")

    def train_dataloader(self):
        return DataLoader(zoo.Vectors(512), batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(zoo.Vectors(16), batch_size=8)

    def validation_step(self, batch, batch_idx):
        loader = self.trainer.train_dataloader  # none yet at the sanity check
        self.log("wish", float(loader.batch_size if loader is not None else 0))

    def training_step(self, batch, batch_idx):
        in_trial = any(type(each).__name__ == "TrialWatch" for each in self.trainer.callbacks)
        if in_trial and self.trainer.fit_loop not in TRIALS:
            TRIALS.append(self.trainer.fit_loop)
            press_in(f"trial {len(TRIALS)}")
        elif not TRIALS and len(batch[0]) > 2:
            press_in("probe")
        if os.path.exists("bstuner-result.json"):
            press_in("training")
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        # It falls, so that there is a growth to plan.
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.25)]

press_in("import")
try:
    zoo.trainer(enable_progress_bar=BARS == "bars").fit(Model())
except Exception:
    print("swallowed")
print("trained")
"""
SEARCH = ["--max_val", 32, "--n_trials", 3, "--seed", 3, "--study_name", "mine"]
TUNE = ["tune", "--monitor", "wish", "--mode", "max", "--objective", "metric", "--trial_budget", 256, *SEARCH]
KEPT = "The study is kept in {}; go on with study_name='mine' (as an option: --study_name mine)."


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Lightning, when it has been interrupted, does not let itself be interrupted again."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write(tmp_path / "train.py", SCRIPT)


def said(done: Any) -> str:
    """What an interrupted command says, on one line."""
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert not {"trained", "swallowed"} & set(done.stdout.split())
    return " ".join(f"{done.stdout} {done.stderr}".split())


@pytest.mark.parametrize("bars", ["bars", "no-bars"])
@pytest.mark.parametrize(
    ("command", "phase", "words"),
    [
        (["find"], "import", "bstuner: interrupted"),
        (["find"], "preparation", "bstuner: interrupted"),
        (["find"], "probe", "Run again with init_val=2 to go on from there."),
        (["schedule"], "probe", "bstuner: interrupted"),
        (TUNE, "probe", "larger sizes are unknown. Run again to search."),
        (TUNE, "trial 1", f"Interrupted before the first trial had ended. {KEPT}"),
        (TUNE, "trial 3", f"Interrupted after 2 trials. Best so far: {{}} {KEPT}"),
        (TUNE, "trial 4", f"Interrupted after 3 trials. Best so far: {{}} {KEPT}"),  # which confirms the best
    ],
    ids=lambda value: " ".join(map(str, value[:1])) if isinstance(value, list) else str(value)[:12],
)
def test_a_search_is_left_without_an_answer(
    script: Path, bstuner: Command, command: list[object], phase: str, words: str, bars: str
) -> None:
    text = said(bstuner(*command, script, phase, bars))
    for part in words.split("{}"):
        # However long the path is, and wherever its line breaks.
        assert part.replace(" ", "") in text.replace(" ", "")
    assert text.count("nterrupted") == 1, "once, whether by the display or by the command"
    assert list(script.parent.glob("bstuner-*.json")) == []


def test_the_same_command_goes_on_with_the_study(script: Path, bstuner: Command) -> None:
    said(bstuner(*TUNE, script, "trial 3", "bars"))
    done = bstuner(*TUNE, script, "never", "bars")
    assert done.returncode == 0, done.stderr
    answer = result(script.parent)
    asked_for = [trial for trial in answer["trials"] if trial["role"] != "edge"]
    assert "Trial 0:" not in done.stdout
    assert "Trial 1:" not in done.stdout
    assert done.stdout.count("Trial ") == 1 + answer["n_trials"] - len(asked_for)
    tried = [(trial["global_batch_size"], trial["lr"]) for trial in asked_for]
    assert len(set(tried)) == 3
    numbers = [trial["number"] for trial in asked_for]
    assert numbers == [0, 1, 3], "the one that was interrupted has been put back, and ran again"


def test_waiting_for_another_worker_can_be_left(
    script: Path, bstuner: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(bstuner(*TUNE, script, "trial 1", "bars"))
    study = optuna.load_study(study_name="mine", storage=open_storage("bstuner-study.log"))
    waiting = TuningDisplay.waiting

    def press(display: TuningDisplay, reason: str) -> None:
        waiting(display, reason)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TuningDisplay, "waiting", press)
    with Worker(study) as other:
        other.own(study.ask())  # the baseline, which has been put back
        text = said(bstuner(*TUNE, script, "never", "bars"))
    assert "Waiting for " in text
    assert "Interrupted before the first trial had ended. The study is kept in" in text


@pytest.mark.parametrize("command", [["find"], TUNE, ["schedule"]], ids=["find", "tune", "schedule"])
def test_the_answer_is_kept_when_the_training_behind_it_is_interrupted(
    script: Path, bstuner: Command, command: list[object]
) -> None:
    script.write_text(SCRIPT.replace("bstuner-result.json", "bstuner-snippet.py"))
    done = bstuner(*command, "--apply", script, "training", "no-bars")
    kept = "bstuner: interrupted behind the search, whose answer is kept: bstuner-{}, bstuner-snippet.py in"
    name = "schedule.json" if command == ["schedule"] else "result.json"
    assert kept.format(name) in said(done)
    assert (script.parent / "bstuner-snippet.py").is_file()
    assert len(list(script.parent.glob("bstuner-*.json"))) == 1


def test_so_it_is_while_lightning_is_imported(tmp_path: Path, script: Path) -> None:
    write(tmp_path / "torch.py", "import signal\nsignal.raise_signal(signal.SIGINT)\n")
    write(tmp_path / "lightning.py", "import torch\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from bstuner.cli.main import main; sys.exit(main())"
    done = python("-c", program, "find", script, "never", "bars", cwd=tmp_path)
    assert said(done) == "bstuner: interrupted"
