"""FSDP2 (ModelParallelStrategy with fully_shard) on two processes: parameters are gathered and freed in every step.

Lightning's FSDPStrategy, which wraps the older FSDP of torch, refuses to run without a GPU.
"""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from processes import launch
from sameness import assert_same
from torch import distributed as dist, nn
from torch.distributed.tensor import DTensor

from bstuner import BatchSizeFinder


class Sharded(zoo.Regularised):
    """Its layers are made, and sharded, in configure_model."""

    where = ""

    def build(self) -> Any:
        return None

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        if self.net is not None:
            return
        self.net = nn.Sequential(*zoo.Wide.build(self), nn.Dropout(0.1))
        for layer in [*self.net, self.net]:
            if isinstance(layer, (nn.Linear, nn.Sequential)):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def loss(self, batch: Any) -> torch.Tensor:
        loss = super().loss(batch)
        if self.where == "forward":
            self.fail(len(batch[0]))
        if self.where == "backward" and loss.requires_grad:
            loss.register_hook(lambda _: self.fail(len(batch[0])))
        return loss

    def fail(self, samples: int) -> None:
        if dist.get_rank() == 1 and samples >= 64:
            raise torch.OutOfMemoryError("made up")


class Split(Sharded):
    """Both processes work on the same samples, each with half of every weight."""

    def configure_model(self) -> None:
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        if self.net is None:
            self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)


def fit(model: Sharded, *callbacks: L.Callback, ckpt_path: Any = None, **options: Any) -> dict[str, Any]:
    L.seed_everything(5, verbose=False)
    replicas = 1 if isinstance(model, Split) else 2
    strategy = ModelParallelStrategy(data_parallel_size=replicas, tensor_parallel_size=2 // replicas)
    trainer = zoo.trainer(*callbacks, devices=2, strategy=strategy, max_epochs=1, **options)
    trainer.fit(model, ckpt_path=ckpt_path)
    weights = {
        name: value.to_local() if isinstance(value, DTensor) else value for name, value in model.named_parameters()
    }
    return {"weights": weights, "losses": model.losses, "generator": torch.get_rng_state()}


def the_same_run() -> str:
    by_hand = fit(Sharded(batch_size=64, length=512))
    assert_same(fit(Sharded(batch_size=8, length=512), BatchSizeFinder(max_val=64)), by_hand)
    return "same"


def resumed() -> tuple[int, bool, int]:
    """The batches of a fit that goes on from a checkpoint of a searched one."""
    with tempfile.TemporaryDirectory() as own:
        folder = [own]
        dist.broadcast_object_list(folder)
        checkpoint = ModelCheckpoint(folder[0], every_n_train_steps=3)
        fit(Sharded(batch_size=8, length=512), BatchSizeFinder(max_val=64), checkpoint, enable_checkpointing=True)
        finder, model = BatchSizeFinder(max_val=16), Sharded(batch_size=8, length=512)
        fit(model, finder, ckpt_path=checkpoint.best_model_path)
        dist.barrier()
    return model.batch_size, finder.result is None, len(model.losses)


def the_same_run_split() -> Any:
    by_hand = fit(Split(batch_size=64, length=512))
    finder = BatchSizeFinder(max_val=64)
    assert_same(fit(Split(batch_size=8, length=512), finder), by_hand)
    assert finder.result is not None
    return finder.result.as_dict()


def one_rank_runs_out_of_memory(where: str, kind: type[Sharded] = Sharded) -> Any:
    model = kind(batch_size=8, length=512)
    model.where = where
    finder = BatchSizeFinder()
    trained = fit(model, finder)
    assert finder.result is not None
    assert all(loss == loss for loss in trained["losses"])
    return finder.result.as_dict()


def under_a_limit() -> Any:
    finder = BatchSizeFinder(memory_limit="3MiB")
    fit(Sharded(batch_size=8, length=8192), finder, limit_train_batches=2)
    assert finder.result is not None
    return finder.result.as_dict()


SCENARIOS = {
    "the same run": the_same_run,
    "the same run, split": the_same_run_split,
    "forward": functools.partial(one_rank_runs_out_of_memory, "forward"),
    "backward": functools.partial(one_rank_runs_out_of_memory, "backward"),
    "backward, split": functools.partial(one_rank_runs_out_of_memory, "backward", Split),
    "limit": under_a_limit,
    "resumed": resumed,
}


def run_all() -> dict[str, Any]:
    torch.set_num_threads(1)
    return {name: run() for name, run in SCENARIOS.items()}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    first, second = (rank.value for rank in launch(run_all, ranks=2))
    assert first == second, "every rank has the same answer"
    return first


def test_training_is_the_run_started_by_hand(answers: dict[str, Any]) -> None:
    assert answers["the same run"] == "same"


def test_processes_that_share_samples_count_once(answers: dict[str, Any]) -> None:
    answer = answers["the same run, split"]
    assert (answer["batch_size"], answer["world_size"], answer["global_batch_size"]) == (64, 1, 64)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_memory_that_runs_out_while_parameters_are_gathered_leaves_nothing_behind(answers: Any, where: str) -> None:
    answer = answers[where]
    assert (answer["batch_size"], answer["limited_by"], answer["world_size"]) == (32, "memory", 2)
    failed = {probe["batch_size"] for probe in answer["probes"] if not probe["fits"]}
    assert failed == {256, 128, 64}


def test_memory_that_runs_out_before_the_parts_of_a_layer_are_summed_ends_the_probe_on_both(answers: Any) -> None:
    answer = answers["backward, split"]
    assert (answer["batch_size"], answer["limited_by"], answer["world_size"]) == (32, "memory", 1)


def test_a_resumed_fit_takes_the_answer_from_its_checkpoint_and_does_not_search(answers: Any) -> None:
    # Lightning restores what is sharded after `on_fit_start`.
    assert answers["resumed"] == (64, True, 1)


def test_a_limit_counts_what_is_gathered(answers: Any) -> None:
    answer = answers["limit"]
    assert answer["limited_by"] == "memory"
    line = answer["memory_line"]
    assert line["intercept_bytes"] + 2 * answer["batch_size"] * line["bytes_per_sample"] > answer["usable_bytes"]
