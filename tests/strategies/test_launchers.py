"""Every way in which processes come to be: started by a script of the user's, by `bstuner`, by torchrun, spawned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml
import zoo
from processes import launch

from bstuner import BatchSizeFinder
from bstuner.errors import PeerLost

HANG = 200.0  # seconds, far more than any run here needs
TESTS = Path(__file__).parents[1]
BSTUNER = [sys.executable, "-m", "bstuner", "find"]


class Ended(NamedTuple):
    """How a run ended; what it printed, both streams together; what it left in the folder for temporary files."""

    returncode: int
    output: str
    left_behind: list[str]


def run(command: list[Any], folder: Path, interrupt_after: str = "", **env: str) -> Ended:
    """Run a command to its end and see that no process of it is left; a hang fails the test.

    Args:
        command: what to run.
        folder: the working directory, and the place of files.
        interrupt_after: press Ctrl-C when this has been printed by two processes.
        env: more environment variables.
    """
    temporary, printed = folder / "temporary", folder / "printed.txt"
    temporary.mkdir()
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    with printed.open("wb") as stream:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(temporary), **QUIET, **env},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end, interrupted = time.monotonic() + HANG, not interrupt_after
    # Other processes may outlive the first one by a moment.
    while time.monotonic() < end and (process.poll() is None or running(process.pid)):
        if not interrupted and printed.read_text().count(interrupt_after) == 2:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            interrupted = True
        time.sleep(0.2)
    left = running(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not left, f"still running after {HANG} s: {left}\n{printed.read_text()}"
    return Ended(process.returncode, printed.read_text(), sorted(path.name for path in temporary.iterdir()))


QUIET = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def running(session: int) -> list[str]:
    """The processes of a session that have not ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# A script as users write them. With ACT it does something on one rank, or on both, in the middle of a probe.
TRAIN = """
import os, signal, sys, time
import lightning as L
import zoo

class Model(zoo.Mlp):
    def training_step(self, batch, batch_idx):
        action, _, rank = os.environ.get("ACT", "").partition(" ")
        if rank and int(rank) != self.global_rank:
            action = ""
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "sleep":
            os.write(1, b"stepping\\n")
            time.sleep(1000)
        if action == "fail":
            raise KeyError("made up")
        return super().training_step(batch, batch_idx)

if __name__ == "__main__":
    zoo.trainer(devices=2, strategy=sys.argv[1]).fit(Model(batch_size=8))
    os.write(1, b"trained")
"""


# Lightning's own launcher: it starts the script again for each further rank.

BY_HAND = """
import json, os
import bstuner, zoo
from pathlib import Path

def trainer(*callbacks):
    return zoo.trainer(*callbacks, devices=2, strategy="ddp", max_epochs=1, enable_progress_bar=True)

finder = bstuner.BatchSizeFinder(max_val=64)
fit, model = trainer(finder), zoo.Mlp(batch_size=8)
fit.fit(model)
answer = {"fit": [finder.result.batch_size, finder.result.world_size, fit.global_step, model.batch_size]}
search, model = trainer(), zoo.Mlp(batch_size=8)
result = bstuner.find(search, model, max_val=32)
search.fit(model)
answer["find"] = [result.batch_size, search.global_step, model.batch_size]
Path(f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(answer))
"""


def test_a_script_that_lightning_starts_again_for_the_other_rank(tmp_path: Path) -> None:
    script = write(tmp_path / "train.py", BY_HAND)
    done = run([sys.executable, script], tmp_path)
    assert done.returncode == 0, done.output
    # 512 samples: 256 on each rank
    for rank in (0, 1):
        answer = json.loads((tmp_path / f"{rank}.json").read_text())
        assert answer == {"fit": [64, 2, 4, 64], "find": [32, 8, 32]}, f"rank {rank}"
    assert done.output.count("Fits ") == 2, "one process shows, once for each search"
    assert not [name for name in done.left_behind if "bstuner" in name]


# The command, around such a script.

CLI = """
import os
import lightning as L
import zoo
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

os.makedirs("elsewhere", exist_ok=True)
os.chdir("elsewhere")

class Data(L.LightningDataModule):
    def __init__(self, batch_size: int = 8, length: int = 10):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return DataLoader(zoo.Vectors(self.hparams.length), batch_size=self.hparams.batch_size)

if __name__ == "__main__":
    try:
        LightningCLI(zoo.Bare, Data, trainer_defaults={"logger": False, "enable_checkpointing": False})
    finally:
        os.write(1, b"cleaned up\\n")
    os.write(1, b"trained")
"""


def test_bstuner_starts_itself_for_the_other_rank(tmp_path: Path) -> None:
    write(tmp_path / "project" / "main.py", CLI)
    fit = ["fit", "--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.accelerator", "cpu"]
    command = [*BSTUNER, "--output", "made", "--max_val", 32, "project/main.py", *fit, "--data.length", 512]
    done = run(command, tmp_path)
    assert done.returncode == 0, done.output
    assert "Step    64 samples = 32 x 2 processes" in done.output
    assert (done.output.count("Fits "), done.output.count("Saved ")) == (1, 1), "only rank 0 speaks"
    assert done.output.count("cleaned up") == 2, "each process has run the script, with its arguments"
    assert "trained" not in done.output
    answer = json.loads((tmp_path / "made" / "bstuner-result.json").read_text())
    assert (answer["batch_size"], answer["world_size"], answer["global_batch_size"]) == (32, 2, 64)
    assert yaml.safe_load((tmp_path / "made" / "bstuner-overlay.yaml").read_text()) == {"data": {"batch_size": 32}}
    written = [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert written == [], "nothing is written by other ranks, nor into the folder that the script has changed to"


def test_bstuner_starts_itself_for_the_other_rank_where_there_is_no_script(tmp_path: Path) -> None:
    write(tmp_path / "project" / "parts.py", CLI.partition("if __name__")[0].replace("os.chdir", "str"))
    classes = ["--model", "zoo.Bare", "--data", "project.parts.Data", "--data.length", 512]
    quiet = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    devices = ["--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.accelerator", "cpu"]
    done = run([*BSTUNER, "--output", "made", "--max_val", 32, "fit", *classes, *quiet, *devices], tmp_path)
    assert done.returncode == 0, done.output
    assert (done.output.count("Fits "), done.output.count("Saved ")) == (1, 1), "only rank 0 speaks"
    answer = json.loads((tmp_path / "made" / "bstuner-result.json").read_text())
    assert (answer["batch_size"], answer["world_size"]) == (32, 2)


def test_both_processes_go_on_with_the_answer(tmp_path: Path) -> None:
    write(tmp_path / "project" / "main.py", CLI.replace("os.chdir", "str"))
    devices = ["--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.accelerator", "cpu"]
    fit = ["fit", "--trainer.max_epochs", 1, "--trainer.default_root_dir", "saved", *devices, "--data.length", 512]
    done = run([*BSTUNER, "--apply", "--max_val", 32, "project/main.py", *fit], tmp_path)
    assert done.returncode == 0, done.output
    assert (done.output.count("Fits "), done.output.count("Saved ")) == (1, 1), "only rank 0 speaks"
    assert done.output.count("trained") == done.output.count("cleaned up") == 2
    config = yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text())
    assert config["data"] == {"batch_size": 32, "length": 512}


def test_torchrun_starts_bstuner_on_each_rank(tmp_path: Path) -> None:
    script = write(tmp_path / "train.py", TRAIN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    done = run([*torchrun, "-m", "bstuner", "find", "--max_val", 32, script, "ddp"], tmp_path)
    assert done.returncode == 0, done.output
    assert (done.output.count("Fits "), done.output.count("Saved ")) == (1, 1), "only rank 0 speaks"
    assert "trained" not in done.output
    assert json.loads((tmp_path / "bstuner-result.json").read_text())["world_size"] == 2


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork"])
def test_a_search_that_fails_says_so_once(tmp_path: Path, strategy: str) -> None:
    write(tmp_path / "project" / "train.py", TRAIN)
    done = run([*BSTUNER, "--memory_limit", "1KiB", "-m", "project.train", strategy], tmp_path)
    assert done.returncode == 1, done.output
    assert done.output.count("bstuner: Expected the model to leave room for a batch; its weights and state") == 1
    assert "Traceback" not in done.output
    assert "trained" not in done.output
    assert not (tmp_path / "bstuner-result.json").exists()


def test_an_error_of_the_users_on_another_rank_is_told_by_both(tmp_path: Path) -> None:
    script = write(tmp_path / "train.py", TRAIN)
    done = run([*BSTUNER, script, "ddp"], tmp_path, ACT="fail 1")
    assert done.returncode == 1, done.output
    assert "bstuner: Expected the search to run on all 2 processes, but process 1 failed with KeyError: 'made up'" in (
        done.output
    )
    assert done.output.count("Traceback") == 1, "that of the error itself"


# Spawned and forked processes: what they find has to come back.

SPAWNED = """
import json, sys
import bstuner, zoo
import lightning as L
from pathlib import Path
from torch.utils.data import DataLoader

class Hook(zoo.Bare):
    def train_dataloader(self):
        return DataLoader(zoo.Vectors(512), batch_size=8)

class Data(L.LightningDataModule):
    batch_size = 8

    def setup(self, stage):
        self.dataset = zoo.Vectors(512)

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=self.batch_size)

class Steps(L.Callback):
    def on_fit_end(self, trainer, module):
        if trainer.is_global_zero:
            print("trained", trainer.global_step, "steps", flush=True)

def trainer(*callbacks, **kwargs):
    return zoo.trainer(*callbacks, **{"devices": 2, "strategy": sys.argv[1], "max_epochs": 1, **kwargs})

def error_of(action, *args, **kwargs):
    try:
        action(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def by_callback():
    model, finder = zoo.Mlp(batch_size=8), bstuner.BatchSizeFinder(max_val=64)
    trainer(finder).fit(model)
    return finder.result.batch_size, finder.result.world_size, finder.optimal_batch_size

def by_a_callback_that_is_used_again():
    finder = bstuner.BatchSizeFinder(max_val=64)
    trainer(finder, devices=1, strategy="auto").fit(zoo.Mlp(batch_size=8, length=16))
    trainer(finder).fit(zoo.Mlp(batch_size=8))
    return finder.result.batch_size, finder.result.world_size, finder.optimal_batch_size

def by_find_then_fit():
    run, model = trainer(Steps()), Hook()
    result = bstuner.find(run, model, max_val=32)
    run.fit(model)
    return result.batch_size, model.train_dataloader().batch_size, str(run.state.status.value)

def with_a_datamodule():
    run, data = trainer(), Data()
    result = bstuner.find(run, zoo.Bare(), datamodule=data, max_val=32, global_batch_size=128)
    return result.batch_size, data.batch_size, run.accumulate_grad_batches, "dataset" in vars(data)

def with_passed_loaders():
    run, loader = trainer(), DataLoader(zoo.Vectors(512), batch_size=8)
    result = bstuner.find(run, zoo.Bare(), loader, max_val=32)
    return result.batch_size, loader.batch_size

def of_an_evaluation():
    run, model = trainer(), zoo.Mlp(batch_size=8)
    result = bstuner.find(run, model, method="test", max_val=16)
    run.test(model, verbose=False)
    return result.batch_size, result.stage, model.batch_size, sorted(run.callback_metrics)

def of_an_evaluation_by_callback():
    finder = bstuner.BatchSizeFinder(max_val=16)
    finder.search_only = True
    run = trainer(finder)
    metrics = run.test(zoo.Mlp(batch_size=8), verbose=False)
    return finder.result.batch_size, finder.result.stage, metrics

def without_enough_memory():
    return error_of(bstuner.find, trainer(), zoo.Mlp(), memory_limit=1000)

class Killed(zoo.Mlp):
    def training_step(self, batch, batch_idx):
        import os, signal
        if self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)

def with_a_process_that_is_killed():
    return error_of(bstuner.find, trainer(), Killed())

if __name__ == "__main__":
    answers = {name: globals()[name]() for name in sys.argv[2:]}
    Path("answers.json").write_text(json.dumps(answers))
"""

EXPECTED: dict[str, Any] = {
    "by_callback": [64, 2, 64],
    "by_a_callback_that_is_used_again": [64, 2, 64],
    "by_find_then_fit": [32, 32, "finished"],
    "with_a_datamodule": [32, 32, 2, False],
    "with_passed_loaders": [32, 32],
    "of_an_evaluation": [16, "test", 16, ["val_loss"]],
    "of_an_evaluation_by_callback": [16, "test", [{}]],
}


@pytest.mark.parametrize(
    ("strategy", "names"),
    [
        ("ddp_spawn", ["by_callback", "by_find_then_fit"]),
        ("ddp_notebook", [*EXPECTED, "without_enough_memory", "with_a_process_that_is_killed"]),
    ],
    ids=["spawned", "forked"],
)
def test_what_other_processes_find_comes_back(tmp_path: Path, strategy: str, names: list[str]) -> None:
    script = write(tmp_path / "train.py", SPAWNED)
    done = run([sys.executable, script, strategy, *names], tmp_path)
    assert done.returncode == 0, done.output
    answers = json.loads((tmp_path / "answers.json").read_text())
    failed, killed = answers.pop("without_enough_memory", None), answers.pop("with_a_process_that_is_killed", None)
    assert answers == {name: answer for name, answer in EXPECTED.items() if name in names}
    assert done.output.count("trained") == done.output.count("trained 8 steps") == 1  # 256 samples each, by 32
    if failed is not None:
        assert failed.startswith("NothingFits: Expected the model to leave room for a batch; its weights and state")
    if killed is not None:
        assert killed == (
            "PeerLost: Expected all processes to run the search to its end, but process 1 terminated with signal "
            "SIGKILL. See in its output why (if there is nothing, the system may have killed it for using too much "
            "memory), then start again."
        )
    assert not [name for name in done.left_behind if "bstuner" in name]


def test_a_module_that_spawns_can_be_searched_by_the_command(tmp_path: Path) -> None:
    write(tmp_path / "project" / "train.py", TRAIN)
    done = run([*BSTUNER, "--max_val", 32, "-m", "project.train", "ddp_spawn"], tmp_path)
    assert done.returncode == 0, done.output
    assert (done.output.count("Fits "), done.output.count("Saved ")) == (1, 1)
    assert "Next    set Model.batch_size to 32 and train" in done.output
    assert "trained" not in done.output


# Processes that end before their time.


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other(tmp_path: Path, victim: int) -> None:
    script = write(tmp_path / "train.py", TRAIN)
    done = run([*BSTUNER, script, "ddp"], tmp_path, ACT=f"kill {victim}")
    # Rank 0 is the process that was started. Once it sees that rank 1 is gone, Lightning kills it too, maybe first.
    told = "Child process with PID" in done.output or (
        f"bstuner: All 2 processes must answer before training goes on, but rank {1 - victim} lost the connection"
        in done.output
    )
    assert told, done.output
    assert done.returncode in ({-signal.SIGKILL} if victim == 0 else {1, -signal.SIGKILL})
    assert not (tmp_path / "bstuner-result.json").exists()


class Killed(zoo.Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)


def search_and_be_killed() -> str:
    try:
        zoo.trainer(BatchSizeFinder(), devices=2, strategy="ddp").fit(Killed())
    except PeerLost as error:
        return str(error)
    return ""


def test_a_killed_rank_ends_the_other_where_something_else_starts_them(tmp_path: Path) -> None:
    other, killed = launch(search_and_be_killed, succeed=False)
    assert (other.returncode, killed.returncode) == (0, -signal.SIGKILL)
    assert other.value.startswith("All 2 processes must answer before training goes on, but rank 0 lost the connection")


def test_ctrl_c_ends_all_with_130(tmp_path: Path) -> None:
    script = write(tmp_path / "train.py", TRAIN)
    done = run([*BSTUNER, script, "ddp"], tmp_path, interrupt_after="stepping", ACT="sleep")
    assert done.returncode == 130, done.output
    assert "Traceback" not in done.output
    assert done.output.count("nterrupted") == 1
    assert not (tmp_path / "bstuner-result.json").exists()
