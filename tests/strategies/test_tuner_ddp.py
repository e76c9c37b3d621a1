"""Two processes tune as one: one study, the same trials and the same answer on both, and training as if by hand."""

from __future__ import annotations

import datetime
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
import zoo
from optuna.samplers import BaseSampler
from processes import launch
from sameness import assert_same, everything
from torch import distributed as dist

from bstuner import BatchSizeTuner, LearningRateWarmup
from bstuner.errors import BstunerError
from bstuner.study.storage import open_storage
from bstuner.study.workers import Worker

HANG = 120  # seconds, far more than any run here needs
REFERENCE_LR = 0.05


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


class Script(BaseSampler):
    """An Optuna sampler that chooses given pairs, one for each trial after the baseline."""

    def __init__(self, *pairs: tuple[int, float]) -> None:
        self.pairs = pairs

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        log2_batch_ratio, base_lr = self.pairs[trial.number - 1]
        return {"log2_batch_ratio": log2_batch_ratio, "base_lr": base_lr}[param_name]


class Tuned(zoo.Regularised):
    """Dropout, BatchNorm, augmentation, a schedule of the fit's length; its metric is the global batch size."""

    def __init__(self, batch_size: int = 8, lr: float = REFERENCE_LR, length: int = 512) -> None:
        super().__init__(batch_size=batch_size, length=length)
        self.lr = lr
        self.sizes: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.sizes.append(len(batch[0]))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loader = self.trainer.train_dataloader  # none yet at the sanity check
        size = 0 if loader is None else 2 * loader.batch_size * self.trainer.accumulate_grad_batches
        self.log("wish", float(size), sync_dist=True)

    def configure_optimizers(self) -> Any:
        self.configured = getattr(self, "configured", 0) + 1
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def trainer(*callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    return zoo.trainer(*callbacks, **{"devices": 2, "strategy": "ddp", **kwargs})


def tuner(storage: Path, *pairs: tuple[int, float], **settings: Any) -> BatchSizeTuner:
    settings = {
        "monitor": "wish",
        "mode": "max",
        "objective": "metric",
        "n_trials": 1 + len(pairs),
        "trial_budget": 256,
        "max_val": 16,
        "sampler": Script(*pairs),
        "storage": str(storage),
        "study_name": "one",
        **settings,
    }
    return BatchSizeTuner(**settings)


def told(tuner: BatchSizeTuner, **more: Any) -> dict[str, Any]:
    result = tuner.result
    assert result is not None
    trials = [(trial.global_batch_size, trial.batch_size, trial.lr, trial.verdict) for trial in result.trials]
    return {**result.as_dict(), "tried": trials, **more}


# What each rank runs.

SCENARIOS: dict[str, Any] = {}


def scenario(run: Any) -> Any:
    SCENARIOS[run.__name__] = run
    return run


@scenario
def the_same_run_as_by_hand(folder: Path) -> dict[str, Any]:
    this = tuner(folder / "same.log", (1, 0.06), (-1, 0.01), (0, 0.2))
    L.seed_everything(3, verbose=False)
    module = Tuned()
    run = trainer(this, accumulate_grad_batches=2, max_steps=40, max_epochs=-1)
    run.fit(module)
    answer, found = told(this, steps=run.global_step, sizes=module.sizes), everything(module, run)

    L.seed_everything(3, verbose=False)
    module = Tuned(answer["batch_size"], answer["lr"])
    run = trainer(
        LearningRateWarmup(**answer["warmup"]),
        accumulate_grad_batches=answer["accumulate_grad_batches"],
        max_steps=20,
        max_epochs=-1,
    )
    run.fit(module)
    assert_same(found, everything(module, run))
    return answer


class Failing(Tuned):
    """Fails on rank 1 in a trial with a larger batch than the user's own, never in a probe."""

    error: Any = torch.OutOfMemoryError

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        in_trial = any(type(each).__name__ == "TrialWatch" for each in self.trainer.callbacks)
        if in_trial and rank() == 1 and batch_idx == 1 and len(batch[0]) == 16:
            raise self.error("made up")
        return super().training_step(batch, batch_idx)


@scenario
def one_rank_runs_out_of_memory(folder: Path) -> dict[str, Any]:
    this = tuner(folder / "memory.log", (1, 0.06), (0, 0.1))
    run = trainer(this, max_epochs=1)
    run.fit(Failing())
    return told(this, steps=run.global_step)


@scenario
def an_error_on_rank_1(folder: Path) -> None:
    module = Failing()
    module.error = KeyError
    trainer(tuner(folder / "error.log", (1, 0.06)), max_epochs=1).fit(module)


@scenario
def ctrl_c_on_rank_1(folder: Path) -> None:
    module = Failing()
    module.error = KeyboardInterrupt
    trainer(tuner(folder / "interrupt.log", (1, 0.06)), max_epochs=1).fit(module)


@scenario
def a_metric_that_is_not_logged(folder: Path) -> None:
    trainer(tuner(folder / "monitor.log", monitor="wis"), max_epochs=1).fit(Tuned())


@scenario
def a_study_that_cannot_be_kept(folder: Path) -> None:
    trainer(tuner(folder / "no folder" / "study.log"), max_epochs=1).fit(Tuned())


class Apart(Tuned):
    """Each process has a metric of its own: that of rank 1 is not defined at first, that of rank 0 gets bad at last."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loader = self.trainer.train_dataloader
        size = 0.0 if loader is None else float(loader.batch_size)
        if rank() == 1 and self.trainer.global_step < 3:
            size = float("nan")
        if rank() == 0 and self.trainer.current_epoch > 0:  # no trial is as long
            size = -1e6
        self.log("wish", size)


@scenario
def each_process_has_a_metric_of_its_own(folder: Path) -> dict[str, Any]:
    this = tuner(folder / "apart.log", (1, 0.06), max_cost=None, on_regret="stop")
    run = trainer(this, min_epochs=5, max_epochs=8)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        run.fit(Apart())
    assert [rank()] * sum("falls behind" in str(each.message) for each in heard) == [0] * (rank() == 0)
    return told(this, epochs=run.current_epoch)


@scenario
def another_worker_takes_longer_than_the_timeout(folder: Path) -> dict[str, Any]:
    """A trial of the study runs elsewhere for longer than this run's processes wait for each other."""
    storage, seconds = folder / "wait.log", 5
    trainer(tuner(storage, n_trials=1), max_epochs=1).fit(Tuned())
    if rank() == 0:
        study = optuna.load_study(study_name="one", storage=open_storage(storage))
        worker = Worker(study)
        worker.__enter__()
        trial = study.ask()
        worker.own(trial)
        end = threading.Timer(1.6 * seconds, lambda: study.tell(trial, state=optuna.trial.TrialState.FAIL))
        end.start()
    make = dist.new_group
    dist.new_group = functools.partial(make, timeout=datetime.timedelta(seconds=seconds))
    try:
        this = tuner(storage, (0, 0.01), (1, 0.06), n_trials=2)
        trainer(this, max_epochs=1).fit(Tuned())
    finally:
        dist.new_group = make
    if rank() == 0:
        worker.__exit__(None, None, None)
    return told(this)


def run_all(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    answers: dict[str, Any] = {}
    for name, run in SCENARIOS.items():
        zoo.NOTES.clear()
        try:
            answers[name] = run(folder)
        except (BstunerError, KeyError, SystemExit) as error:
            answers[name] = f"{type(error).__name__}: {error}"
    return answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[dict[str, Any]]:
    return [rank.value for rank in launch(run_all, folder, ranks=2, timeout=240)]


def of(answers: list[dict[str, Any]], name: str) -> Any:
    """The answer that both ranks gave."""
    first, second = (answer[name] for answer in answers)
    assert first == second, "every rank has the same answer"
    return first


def trials_of(folder: Path, name: str) -> list[Any]:
    """The trials in the study, but for those that confirm its winner."""
    study = optuna.load_study(study_name="one", storage=open_storage(folder / name))
    return [trial for trial in study.get_trials() if trial.user_attrs.get("role") != "confirm"]


def test_both_processes_tell_one_study_and_train_as_if_by_hand(answers: Any, folder: Path) -> None:
    answer = of(answers, "the_same_run_as_by_hand")
    assert (answer["batch_size"], answer["accumulate_grad_batches"], answer["world_size"]) == (16, 2, 2)
    assert (answer["global_batch_size"], answer["lr"]) == (64, 0.12), "the linear rule, over both processes"
    assert (answer["n_trials"], answer["steps"]) == (5, 20)
    assert set(answer["sizes"]) == {16}, "batches of each process in the final training"
    tried = [trial[:3] for trial in answer["tried"]]
    assert tried[:4] == [(32, 8, 0.05), (64, 16, 0.12), (16, 8, 0.005), (32, 8, 0.2)]
    assert tried[4:] == [(64, 16, pytest.approx(0.12 * 10**0.5))], "the neighbour of the first choice"
    trials = trials_of(folder, "same.log")
    roles = [trial.user_attrs["role"] for trial in trials]
    assert len(trials) == len(tried) + roles.count("confirm"), "and not twice as many"


def test_one_rank_without_memory_prunes_the_trial_and_the_search_goes_on(answers: Any, folder: Path) -> None:
    answer = of(answers, "one_rank_runs_out_of_memory")
    assert [trial[3] for trial in answer["tried"]] == ["baseline", "out of memory", "reached"]
    assert answer["trials"][1]["reason"] == "out of memory on process 1"
    assert [trial.state.name for trial in trials_of(folder, "memory.log")] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert answer["steps"] == 32


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("an_error_on_rank_1", "PeerError: Expected the search to run on all 2 processes, but process 1 failed with "
         "KeyError: 'made up'", "KeyError: 'made up'"),
        ("ctrl_c_on_rank_1", "PeerError: Expected the search to run on all 2 processes, but process 1 failed with "
         "KeyboardInterrupt", "SystemExit: 130"),
        ("a_metric_that_is_not_logged", "MonitorMissing: Expected validation to log monitor='wis', found only",
         "MonitorMissing: Expected validation to log monitor='wis', found only"),
        ("a_study_that_cannot_be_kept", "StorageUnusable: storage: expected a file that can be written",
         "PeerError: Expected the search to run on all 2 processes, but process 0 failed with StorageUnusable"),
    ],
)  # fmt: skip
def test_what_ends_one_process_ends_both(answers: Any, name: str, first: str, second: str) -> None:
    for answer, words in zip(answers, (first, second), strict=True):
        assert answer[name].startswith(words)


def test_metrics_that_are_not_the_same_on_all_processes_end_in_one_decision(answers: Any) -> None:
    answer = of(answers, "each_process_has_a_metric_of_its_own")
    assert answer["baseline"]["curve"][0]["samples"] == 48, "from where it is defined on both"
    assert (answer["batch_size"], answer["confirmed"]) == (16, True)
    assert answer["epochs"] == 5, "as soon as min_epochs lets it"


def test_waiting_for_another_worker_does_not_let_the_others_time_out(answers: Any, folder: Path) -> None:
    answer = of(answers, "another_worker_takes_longer_than_the_timeout")
    assert answer["n_trials"] == 3, "with the neighbour of the first choice"
    assert [trial.state.name for trial in trials_of(folder, "wait.log")[:3]] == ["COMPLETE", "FAIL", "COMPLETE"]


# The command, around a script whose processes Lightning starts, or spawns.

SCRIPT = """
import os, sys, time
import lightning as L
import zoo
from pathlib import Path
from test_tuner_ddp import Tuned

TRIALS = []  # a search winds back what models hold themselves

class Model(Tuned):
    def training_step(self, batch, batch_idx):
        loop = self.trainer.fit_loop
        if any(type(each).__name__ == "TrialWatch" for each in self.trainer.callbacks) and loop not in TRIALS:
            TRIALS.append(loop)
        if os.environ.get("SLEEP") == str(len(TRIALS)):
            os.write(1, b"stands still\\n")
            time.sleep(1000)
        return super().training_step(batch, batch_idx)

if __name__ == "__main__":
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    zoo.trainer(devices=2, strategy=sys.argv[1], max_epochs=2, enable_progress_bar=True).fit(Model())
    os.write(1, b"trained")
"""


def command(folder: Path, strategy: str, sleep: str = "") -> tuple[int, str]:
    """Run `bstuner tune` on the script; with `sleep`, press Ctrl-C when both processes stand still in that trial."""
    (folder / "train.py").write_text(SCRIPT)
    options = ["--monitor", "wish", "--mode", "max", "--objective", "metric", "--trial_budget", 256, "--max_val", 16]
    options += ["--n_trials", 3, "--seed", 1, "--study_name", "one", "--storage", folder / "study.log"]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests / "strategies"), os.environ.get("PYTHONPATH", "")])
    printed = folder / "printed.txt"
    with printed.open("wb") as stream:
        process = subprocess.Popen(
            list(map(str, [sys.executable, "-m", "bstuner", "tune", *options, "train.py", strategy])),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "SLEEP": sleep},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end, interrupted = time.monotonic() + HANG, not sleep
    while process.poll() is None and time.monotonic() < end:
        if not interrupted and printed.read_text().count("stands still") == 2:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            interrupted = True
        time.sleep(0.2)
    hangs = process.poll() is None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    assert not hangs, f"still running after {HANG} s\n{printed.read_text()}"
    return code, printed.read_text()


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_the_command_tunes_in_processes_that_lightning_makes(tmp_path: Path, strategy: str) -> None:
    code, said = command(tmp_path, strategy)
    assert code == 0, said
    answer = json.loads((tmp_path / "bstuner-result.json").read_text())
    assert (answer["n_trials"], answer["world_size"]) == (3, 2)
    for trial in answer["trials"]:
        assert trial["global_batch_size"] == 2 * trial["batch_size"] * trial["accumulate_grad_batches"]
    for words in ("Trial 0: batch 16 = 8 x 2 processes", "Fits ", "Study  ", "Saved  ", "Next  "):
        assert said.count(words) == 1, "only rank 0 speaks"
    assert "trained" not in said
    assert len(trials_of(tmp_path, "study.log")) == 3
    written = [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert written == [], "nothing is written by other ranks, nor into the folder that the script has changed to"


def test_ctrl_c_ends_all_with_130_and_the_command_goes_on_with_the_study(tmp_path: Path) -> None:
    code, said = command(tmp_path, "ddp", sleep="2")
    assert code == 130, said
    assert "Traceback" not in said
    assert "Interrupted after 1 trial: nothing better than your own settings so far." in said
    assert "go on with study_name='one' (as an option: --study_name one)." in " ".join(said.split())
    assert not (tmp_path / "bstuner-result.json").exists()
    code, said = command(tmp_path, "ddp")
    assert code == 0, said
    trials = trials_of(tmp_path, "study.log")
    beside = sum(trial.user_attrs["role"] == "edge" for trial in trials)
    assert said.count("Trial ") == 2 + beside, "the first one has run already"
    assert [trial.state.name for trial in trials[:4]] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
