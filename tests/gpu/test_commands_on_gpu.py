"""The commands on a script that leaves it to Lightning where it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli.commands import plan, python, result, write

pytestmark = pytest.mark.gpu

SCRIPT = """
import torch
import zoo

class Model(zoo.Cnn):
    def training_step(self, batch, batch_idx):
        assert batch[0].is_cuda
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.25)]

if __name__ == "__main__":
    zoo.trainer(accelerator="auto", max_epochs=3).fit(Model(batch_size=8, length=2048))
    print("trained")
"""


def test_find(tmp_path: Path) -> None:
    script = write(tmp_path / "train.py", SCRIPT)
    done = python("-m", "bstuner", "find", "--memory_limit", "1GiB", "--max_val", 64, script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Device  {torch.cuda.get_device_name()}, 1.0 GiB" in done.stdout
    assert "trained" not in done.stdout
    answer = result(tmp_path)
    assert (answer["batch_size"], answer["limited_by"]) == (64, "max_val")
    assert all(probe["peak_bytes"] for probe in answer["probes"] if probe["peak_bytes"] is not None)


def test_schedule(tmp_path: Path) -> None:
    script = write(tmp_path / "train.py", SCRIPT)
    done = python("-m", "bstuner", "schedule", "--memory_limit", "1GiB", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained" not in done.stdout
    phases = [(phase["start_epoch"], phase["batch_size"], phase["accumulate"]) for phase in plan(tmp_path)["phases"]]
    assert phases == [(0, 8, 1), (1, 32, 1), (2, 128, 1)]


def test_tune_and_train(tmp_path: Path) -> None:
    script = write(tmp_path / "train.py", SCRIPT)
    search = ["--max_val", 32, "--n_trials", 2, "--trial_budget", 512, "--objective", "metric", "--seed", 1]
    done = python("-m", "bstuner", "tune", "--apply", "--monitor", "val_loss", *search, script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout
    assert result(tmp_path)["n_trials"] == 2
