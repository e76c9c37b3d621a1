"""Two processes that share their weights tune as one, and train as if by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from processes import launch
from sameness import assert_same, everything
from test_fsdp import Sharded, Split
from test_tuner_ddp import Failing, Tuned, told, tuner
from torch import nn
from torch.distributed.tensor import DTensor

from bstuner import LearningRateWarmup


class OwnSamples(Tuned, Sharded):
    """FSDP2: each process has half of every weight."""

    replicas = 2

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        if self.net is None:
            self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
            for layer in (self.net[0], self.net[-1], self.net):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loader = self.trainer.train_dataloader  # none yet at the sanity check
        size = 0 if loader is None else self.replicas * loader.batch_size * self.trainer.accumulate_grad_batches
        self.log("wish", float(size), sync_dist=True)


class SameSamples(OwnSamples, Split):
    """Tensor parallelism: each process has half of every weight, and the same samples."""

    replicas = 1
    configure_model = Split.configure_model


class SameFailing(Failing, SameSamples):
    """Runs out of memory on rank 1 alone, in a trial with a larger batch than the user's own."""


def trainer(kind: Any, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    strategy = ModelParallelStrategy(kind.replicas, 2 // kind.replicas)
    return zoo.trainer(*callbacks, devices=2, strategy=strategy, **settings)


def the_same_run_as_by_hand(kind: type[OwnSamples], folder: Path) -> dict[str, Any]:
    this = tuner(folder / f"{kind.__name__}.log", (1, 0.06), trial_budget=128 * kind.replicas)
    checkpoint = ModelCheckpoint(folder / kind.__name__, every_n_train_steps=6)
    L.seed_everything(3, verbose=False)
    module = kind(length=256)
    run = trainer(kind, this, checkpoint, max_steps=20, max_epochs=-1, enable_checkpointing=True)
    run.fit(module)
    answer, found = told(this, steps=run.global_step, sizes=module.sizes), everything(module, run)

    L.seed_everything(3, verbose=False)
    module = kind(answer["batch_size"], answer["lr"], length=256)
    warmup = LearningRateWarmup(**answer["warmup"])
    run = trainer(kind, warmup, max_steps=10, max_epochs=-1)
    run.fit(module)
    assert_same(found, everything(module, run))
    assert any(isinstance(weight, DTensor) for weight in found["weights"].values()), "sharded"

    this = tuner(folder / "none.log")
    module = kind(length=256)
    run = trainer(kind, this, max_steps=20, max_epochs=-1)
    run.fit(module, ckpt_path=checkpoint.best_model_path)
    answer["resumed"] = run.global_step, module.sizes, this.result is not None or (folder / "none.log").exists()
    return answer


def one_rank_runs_out_of_memory(folder: Path) -> dict[str, Any]:
    this = tuner(folder / "memory.log", (1, 0.06), trial_budget=128)
    run = trainer(SameFailing, this, max_epochs=1)
    run.fit(SameFailing(length=256))
    return told(this, steps=run.global_step)


def run_all(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    answers = {kind.__name__: the_same_run_as_by_hand(kind, folder) for kind in (OwnSamples, SameSamples)}
    return answers | {"memory": one_rank_runs_out_of_memory(folder)}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    first, second = (rank.value for rank in launch(run_all, tmp_path_factory.mktemp("studies")))
    assert first == second, "every rank has the same answer"
    return first


@pytest.mark.parametrize(("name", "world"), [("OwnSamples", 2), ("SameSamples", 1)])
def test_both_processes_tune_as_one_and_train_as_if_by_hand(answers: Any, name: str, world: int) -> None:
    answer = answers[name]
    tried = [(8 * world, 8, 0.05, "baseline"), (16 * world, 16, 0.12, "best")]
    assert (answer["tried"][:2], answer["world_size"]) == (tried, world)
    neighbour = (16 * world, 16, pytest.approx(0.12 * 10**0.5), "reached")
    assert answer["tried"][2:] == [neighbour], "a neighbour of the first choice"
    assert (answer["batch_size"], answer["lr"], answer["steps"]) == (16, 0.12, 10)
    assert set(answer["sizes"]) == {16}, "batches of each process in the final training"


@pytest.mark.parametrize("name", ["OwnSamples", "SameSamples"])
def test_a_resumed_fit_takes_the_answer_from_its_checkpoint_and_does_not_search(answers: Any, name: str) -> None:
    steps, sizes, searched = answers[name]["resumed"]
    assert (steps, sizes, searched) == (10, [16], False)


def test_one_rank_without_memory_ends_the_trial_for_those_that_share_its_layers(answers: Any) -> None:
    answer = answers["memory"]
    assert [trial[3] for trial in answer["tried"]] == ["baseline", "out of memory"]
    assert answer["trials"][1]["reason"] == "out of memory on process 1"
    assert (answer["batch_size"], answer["steps"]) == (8, 32)
