"""`--apply`: the script goes on with the answer, as if it had been started with it by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli.commands import Command, plan, result, write

# It tells what it trained to, and with what; the batch size is the metric, so that the largest wins.
MODEL = """
import hashlib, sys
import lightning as L
import torch
import zoo
from torch.utils.data import DataLoader

class Model(zoo.Bare):
    def __init__(self, lr: float = 0.01, batch_size: int = 8):
        super().__init__()
        self.lr, self.batch_size = lr, batch_size

    def train_dataloader(self):
        return DataLoader(zoo.Augmented(256), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(zoo.Vectors(16), batch_size=8)

    test_dataloader = val_dataloader

    def validation_step(self, batch, batch_idx):
        loader = self.trainer.train_dataloader  # none yet at the sanity check
        self.log("wish", float(loader.batch_size if loader is not None else 0))

    def test_step(self, batch, batch_idx):
        self.log("tested", 1.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

def digest(module):
    weights = b"".join(value.numpy().tobytes() for value in module.state_dict().values())
    return hashlib.sha256(weights + torch.get_rng_state().numpy().tobytes()).hexdigest()
"""
SCRIPT = f"""{MODEL}
if __name__ == "__main__":
    L.seed_everything(5, verbose=False)
    model = Model(*(kind(word) for kind, word in zip((float, int), sys.argv[1:])))
    trainer = zoo.trainer(max_epochs=2)
    print("returned", trainer.fit(model))
    print("trained", trainer.global_step, digest(model))
    print("callbacks", [type(callback).__name__ for callback in trainer.callbacks])
    print("tested", trainer.test(model, verbose=False))
    zoo.trainer(max_steps=1).fit(model)
    print("trained again", digest(model))
    sys.exit(7)
"""
LARGEST = ["--monitor", "wish", "--mode", "max", "--objective", "metric", "--trial_budget", 256, "--warmup", "null"]


def lines(output: str) -> list[str]:
    """What the script itself said."""
    own = ("returned", "trained", "tested")
    return [line for line in output.splitlines() if line.startswith(own)]


def said_of_callbacks(output: str) -> str:
    return output.partition("\ncallbacks")[2].splitlines()[0]


@pytest.mark.parametrize("command", [["find"], ["tune", "--n_trials", 3, "--seed", 3, *LARGEST]], ids=["find", "tune"])
def test_the_script_ends_as_if_started_by_hand_with_the_answer(
    tmp_path: Path, bstuner: Command, by_hand: Command, command: list[object]
) -> None:
    script = write(tmp_path / "train.py", SCRIPT)
    done = bstuner(*command, "--apply", "--max_val", 32, script)
    assert done.returncode == 7, done.stderr
    answer = result(tmp_path)
    batch_size = answer["batch_size"]
    assert batch_size > 8, "or there is nothing to see here"
    lr = answer["lr"] if command[0] == "tune" else 0.01
    assert (lr == 0.01) == (command[0] == "find"), "or there is nothing to see here"
    wanted = by_hand(f"python {script} {lr!r} {batch_size}")
    assert wanted.returncode == 7
    assert lines(done.stdout) == lines(wanted.stdout)
    assert len(lines(done.stdout)) == 4
    assert "BatchSize" not in said_of_callbacks(done.stdout)
    saved = done.stdout.index("Saved ")
    assert saved < done.stdout.index("the script goes on with it") < done.stdout.index("returned None")
    snippet = (tmp_path / "bstuner-snippet.py").read_text()
    assert f"batch_size = {batch_size}  # Model.batch_size\n" in snippet


@pytest.mark.parametrize(
    "call", ["lr_find(model, num_training=4)", "scale_batch_size(model, max_trials=1, init_val=8, steps_per_trial=1)"]
)
def test_what_lightnings_tuner_tries_before_the_fit_runs_as_it_is(tmp_path: Path, bstuner: Command, call: str) -> None:
    tunes = f"    from lightning.pytorch.tuner import Tuner\n    Tuner(trainer).{call}\n"
    script = write(tmp_path / "train.py", SCRIPT.replace('    print("returned"', f'{tunes}    print("returned"', 1))
    done = bstuner("find", "--apply", "--max_val", 32, script)
    assert done.returncode == 7, done.stderr
    assert result(tmp_path)["batch_size"] == 32
    assert f"trained {2 * 256 // 32} " in done.stdout


def test_a_schedule_is_trained_by(tmp_path: Path, bstuner: Command) -> None:
    script = write(tmp_path / "train.py", SCRIPT)
    done = bstuner("schedule", "--apply", "--plan", "0:8 1ep:32", "--fits", 32, script)
    assert done.returncode == 7, done.stderr
    assert [phase["batch_size"] for phase in plan(tmp_path)["phases"]] == [8, 32]
    assert f"trained {256 // 8 + 256 // 32} " in done.stdout
    assert "BatchSizeScheduler" in said_of_callbacks(done.stdout)
    assert (tmp_path / "bstuner-snippet.py").read_text() == (
        "from bstuner import BatchSizeScheduler\n\n"
        "trainer = L.Trainer(callbacks=[BatchSizeScheduler('0:8 1ep:32', fits=32)])  # beside your own arguments\n"
    )


def test_an_evaluation_before_the_fit_runs_as_it_is(tmp_path: Path, bstuner: Command) -> None:
    first = SCRIPT.replace(
        '    print("returned"', '    print("tested", trainer.test(model, verbose=False))\n    print("returned"'
    )
    done = bstuner("find", "--apply", "--max_val", 16, write(tmp_path / "train.py", first))
    assert done.returncode == 7, done.stderr
    assert done.stdout.count("\ntested") + done.stdout.startswith("tested") == 2
    assert done.stdout.index("tested") < done.stdout.index("Fits ")
    assert result(tmp_path)["stage"] == "fit"


def test_what_a_checkpoint_answers_is_not_searched_for_again(tmp_path: Path, bstuner: Command) -> None:
    saving = "zoo.trainer(ModelCheckpoint('saved', save_last=True), enable_checkpointing=True, "
    resuming = (
        SCRIPT.replace("import hashlib", "from lightning.pytorch.callbacks import ModelCheckpoint\nimport hashlib")
        .replace("zoo.trainer(", saving, 1)
        .replace("trainer.fit(model)", "trainer.fit(model, ckpt_path='last')")
    )
    script = write(tmp_path / "train.py", resuming)
    assert bstuner("find", "--apply", "--max_val", 32, script).returncode == 7
    (tmp_path / "bstuner-result.json").unlink()
    script.write_text(resuming.replace("max_epochs=2", "max_epochs=3"))
    done = bstuner("find", "--apply", "--max_val", 32, script)
    assert done.returncode == 7, done.stderr
    assert f"trained {3 * 256 // 32} " in done.stdout
    assert "bstuner: there was nothing to search for" in done.stderr
    assert not (tmp_path / "bstuner-result.json").exists()


FIRST, SECOND = "zoo.trainer(BatchSizeTuner(), BatchSizeFinder(), ", "zoo.trainer("


def test_searches_among_the_callbacks_are_left_out_and_the_rest_is_kept(tmp_path: Path, bstuner: Command) -> None:
    own = "from bstuner import BatchSizeFinder, BatchSizeTuner\n" + SCRIPT.replace(SECOND, FIRST, 1)
    done = bstuner("find", "--apply", "--max_val", 16, write(tmp_path / "train.py", own))
    assert done.returncode == 7, done.stderr
    assert "bstuner: left out of the script's callbacks: BatchSizeTuner, BatchSizeFinder\n" in done.stderr
    assert "trained 32 " in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("max_epochs=2", "fast_dev_run=True"), "under fast_dev_run there is nothing to search for"),
        (("max_epochs=2", "strategy='ddp_fork', devices=2"), "Set strategy='ddp', or leave --apply out"),
        (("batch_size=self.batch_size", "batch_size=1000 // 0"), None),
    ],
    ids=["fast_dev_run", "spawned", "an error of its own"],
)
def test_what_cannot_be_gone_on_with_is_told_before_it_trains(
    tmp_path: Path, bstuner: Command, change: tuple[str, str], message: str | None
) -> None:
    script = write(tmp_path / "train.py", SCRIPT.replace(*change))
    if message is None:
        with pytest.raises(ZeroDivisionError):
            bstuner("find", "--apply", script)
        return
    done = bstuner("find", "--apply", script)
    assert done.returncode == 1
    assert message in done.stderr
    assert "trained" not in done.stdout


def test_a_search_that_fails_ends_in_its_reason_whatever_the_script_makes_of_it(
    tmp_path: Path, bstuner: Command
) -> None:
    trying = SCRIPT.replace(
        'print("returned", trainer.fit(model))', "exec('try: trainer.fit(model)\\nexcept Exception: sys.exit(3)')"
    )
    done = bstuner("find", "--apply", "--memory_limit", "1KiB", write(tmp_path / "train.py", trying))
    assert done.returncode == 1
    assert "bstuner: Expected the model to leave room for a batch" in done.stderr


def test_both_ends_of_a_trade_off_cannot_be_gone_on_with(bstuner: Command) -> None:
    done = bstuner("tune", "--apply", "--objective", "both", "train.py")
    assert done.returncode == 2
    assert "take: expected 'metric' or 'speed' with --objective both and --apply" in done.stderr


# A LightningCLI saves the configuration that it trains with.

CLI = f"""{MODEL}
from lightning.pytorch.cli import LightningCLI

if __name__ == "__main__":
    cli = LightningCLI(Model, seed_everything_default=5)
    print("trained", cli.trainer.global_step, digest(cli.model))
"""
CONFIG = {
    "trainer": {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False,
                "enable_progress_bar": False, "max_steps": 64, "val_check_interval": 8},
    "model": {"lr": 0.01, "batch_size": 8},
    "ckpt_path": None,
    "weights_only": None,
}  # fmt: skip


def test_the_configuration_that_is_saved_starts_the_same_training(
    tmp_path: Path, bstuner: Command, by_hand: Command
) -> None:
    write(tmp_path / "main.py", CLI)
    write(tmp_path / "given.yaml", yaml.safe_dump(CONFIG))
    tune = [*LARGEST[:-1], 64]  # samples of warm-up
    command = ["tune", "--apply", "--n_trials", 3, "--seed", 3, "--max_val", 32, *tune]
    done = bstuner(*command, "main.py", "fit", "-c", "given.yaml")
    assert done.returncode == 0, done.stderr
    answer, saved = result(tmp_path), yaml.safe_load((tmp_path / "config.yaml").read_text())
    ratio = answer["batch_size"] // 8
    assert ratio > 1, "or there is nothing to see here"
    assert saved["model"] == {"lr": answer["lr"], "batch_size": answer["batch_size"]}
    assert (saved["trainer"]["max_steps"], saved["trainer"]["val_check_interval"]) == (64 // ratio, 8 // ratio)
    assert [callback["class_path"] for callback in saved["trainer"]["callbacks"]] == ["bstuner.LearningRateWarmup"]
    (tmp_path / "config.yaml").rename(tmp_path / "saved.yaml")
    assert lines(by_hand("python main.py fit -c saved.yaml").stdout) == lines(done.stdout)


def test_a_configuration_of_another_run_is_not_overwritten_and_no_search_is_in_vain(
    tmp_path: Path, bstuner: Command
) -> None:
    write(tmp_path / "main.py", CLI)
    write(tmp_path / "config.yaml", yaml.safe_dump(CONFIG))
    done = bstuner("find", "--apply", "main.py", "fit", "-c", "config.yaml")
    assert done.returncode == 1
    assert "bstuner: Expected no configuration of another run in the place of this one's, found" in done.stderr
    assert not (tmp_path / "bstuner-result.json").exists()
