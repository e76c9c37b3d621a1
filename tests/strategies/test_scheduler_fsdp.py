"""Two processes that share their weights grow their batches together, and resume as one.

Under FSDP2 each has its own half of every epoch; under tensor parallelism both have the same samples, which count once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from growing import Grower, Noisy, fit, halves, scheduler
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from processes import launch
from torch.distributed.tensor import DTensor

from bstuner import LearningRateWarmup
from bstuner.errors import SettingRefused

LENGTH = 160


class Sharded(Grower):
    """Each process has half of every weight, and noise of its own on its own samples."""

    dataset = Noisy
    replicas = 2

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, optimizer=torch.optim.AdamW, **settings)

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        for layer in (self.net[0], self.net[-1], self.net):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        torch.manual_seed(100 + self.global_rank)

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # To load a sharded state, torch has a new optimizer step once at a learning rate of 0.
        if optimizer.param_groups[0]["lr"]:
            super()._note(optimizer)


class Split(Sharded):
    """Both processes work on the same samples, each with half of every weight."""

    replicas = 1

    def configure_model(self) -> None:
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        plan = {"0": ColwiseParallel(), "3": RowwiseParallel()}
        parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)

    def on_fit_start(self) -> None:
        torch.manual_seed(100)


def train(
    model: Sharded, callback: Any, *callbacks: L.Callback, folders: bool = True, **settings: Any
) -> dict[str, Any]:
    strategy = ModelParallelStrategy(model.replicas, 2 // model.replicas, save_distributed_checkpoint=folders)
    trainer = fit(model, *([callback] if callback else []), *callbacks, devices=2, strategy=strategy, **settings)
    local = {name: value for name, value in model.named_parameters() if isinstance(value, DTensor)}
    return {
        "batches": model.batches,
        "lrs": model.lrs,
        "steps": trainer.global_step,
        "planned": [step.batch_size for step in callback.plan.steps()] if callback else [],
        "weights": {name: value.to_local().clone() for name, value in local.items()},
        "generators": torch.get_rng_state(),
    }


def grow(kind: type[Sharded], fits: int) -> dict[str, Any]:
    model = kind(halves(20, 32), length=LENGTH, batch_size=4 // kind.replicas)
    return train(model, scheduler(fits=fits), epochs=3)


def interrupted(kind: type[Sharded], folder: Path, folders: bool, ckpt_path: str | None, seed: int) -> dict[str, Any]:
    checkpoint = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=9)
    model = kind(halves(20, 30), length=50, batch_size=8 // kind.replicas)
    callback = scheduler("0:8 61:16 120:32", fits=8)
    settings = {"enable_checkpointing": True, "ckpt_path": ckpt_path, "epochs": 5}
    return train(model, callback, checkpoint, LearningRateWarmup(100, 0.25), folders=folders, seed=seed, **settings)


def of_another_kind(folder: Path) -> str:
    """Go on from a checkpoint that no growing batch has made."""
    checkpoint = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=9)
    train(Sharded(length=50, batch_size=4), None, checkpoint, epochs=2, enable_checkpointing=True)
    try:
        train(Sharded(length=50, batch_size=4), scheduler("0:8"), epochs=2, ckpt_path=str(folder / "step=9.ckpt"))
    except SettingRefused as error:
        return str(error).replace(str(folder), "folder")
    return "trained"


GROWN = {"own samples": (Sharded, 10**6), "accumulated": (Sharded, 4), "the same samples": (Split, 8)}
RESUMED = {"folders": (Sharded, True), "files": (Sharded, False), "the same samples": (Split, True)}


def run_all(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    answers: dict[str, Any] = {f"grown, {name}": grow(*case) for name, case in GROWN.items()}
    for name, (kind, folders) in RESUMED.items():
        one, two = folder / name / "one", folder / name / "two"
        answers[f"unbroken, {name}"] = interrupted(kind, one, folders, None, 1)
        path = one / "step=9.ckpt"
        assert path.is_dir() == folders
        answers[f"resumed, {name}"] = interrupted(kind, two, folders, str(path), 7)
    answers["of another kind"] = of_another_kind(folder)
    return answers


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return [rank.value for rank in launch(run_all, tmp_path_factory.mktemp("checkpoints"))]


@pytest.mark.parametrize("name", GROWN)
def test_each_sample_comes_once_and_steps_are_as_planned(answers: Any, name: str) -> None:
    kind, fits = GROWN[name]
    first, second = (answer[f"grown, {name}"] for answer in answers)
    for epoch in range(3):
        here, there = (
            [one for number, _, ids in each["batches"] if number == epoch for one in ids] for each in (first, second)
        )
        if kind is Split:
            assert here == there
        assert sorted(here if kind is Split else here + there) == list(range(LENGTH))
    assert first["planned"] == second["planned"]
    assert first["steps"] == second["steps"] == len(first["planned"]) == len(first["lrs"])
    assert max(len(ids) for _, _, ids in first["batches"]) == min(fits, 16 // kind.replicas)


@pytest.mark.parametrize("name", GROWN)
def test_the_learning_rate_follows_the_batch(answers: Any, name: str) -> None:
    first, second = (answer[f"grown, {name}"] for answer in answers)
    assert first["lrs"] == second["lrs"]
    assert set(first["planned"]) == {4, 8, 16}
    for size, (lr, _) in zip(first["planned"], first["lrs"], strict=True):
        # Where the schedule halves the learning rate the batch doubles: AdamW keeps lr / sqrt(batch).
        assert lr == pytest.approx(0.1 * (4 / size) ** 0.5)


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_fit_ends_as_the_unbroken_one_on_both_processes(answers: Any, name: str) -> None:
    for answer in answers:
        was, now = answer[f"unbroken, {name}"], answer[f"resumed, {name}"]
        assert 0 < len(now["batches"]) < len(was["batches"])
        for kept in ("batches", "lrs"):
            assert was[kept][-len(now[kept]) :] == now[kept]
        assert was["steps"] == now["steps"]
        assert torch.equal(was["generators"], now["generators"])
        assert len(was["weights"]) >= 3, "sharded"
        assert all(torch.equal(value, now["weights"][name]) for name, value in was["weights"].items())


def test_a_checkpoint_without_growth_is_refused_before_the_first_step(answers: Any) -> None:
    for answer in answers:
        assert answer["of another kind"].startswith(
            "Expected a checkpoint of a fit with BatchSizeScheduler, found folder/step=9.ckpt without: its steps"
        )
