"""Two processes under DistributedDataParallel search in lock-step, and train as if started by hand."""

from __future__ import annotations

import functools
import os
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.strategies import DDPStrategy
from processes import launch
from sameness import assert_same, everything
from torch import distributed as dist
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

import bstuner
from bstuner import BatchSizeFinder
from bstuner.errors import BstunerError

LIMIT = 5 * zoo.MIB


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def trainer(*callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    return zoo.trainer(*callbacks, **{"max_epochs": 1, "devices": 2, "strategy": "ddp", **kwargs})


def described(finder: BatchSizeFinder, **more: Any) -> dict[str, Any]:
    result = finder.result
    assert result is not None
    return {**result.as_dict(), "seconds": result.seconds, **more}


def search(model: L.LightningModule, *fit: Any, trainer_options: Any = None, **settings: Any) -> dict[str, Any]:
    finder = BatchSizeFinder(**settings)
    run = trainer(finder, **(trainer_options or {}))
    run.fit(model, *fit)
    return described(finder, batches=run.num_training_batches, losses=len(getattr(model, "losses", [])))


# What each rank runs; a rank returns one answer, or the words of its error, for each.

SCENARIOS: dict[str, Any] = {}


def scenario(run: Any) -> Any:
    SCENARIOS[run.__name__] = run
    return run


def by_hand_and_found(model: type[L.LightningModule], **options: Any) -> str:
    runs = []
    for size, finders in ((64, ()), (8, (BatchSizeFinder(max_val=64),))):
        L.seed_everything(3, verbose=False)
        module = model(batch_size=size, length=500)
        run = trainer(*finders, max_epochs=2, **options)
        run.fit(module)
        runs.append(everything(module, run))
    assert_same(runs[1], runs[0])
    return "same"


@scenario
def the_same_run_with_dropout_batchnorm_and_a_schedule() -> str:
    return by_hand_and_found(zoo.Regularised)


@scenario
def the_same_run_with_accumulation() -> str:
    return by_hand_and_found(zoo.Mlp, accumulate_grad_batches=2)


@scenario
def the_same_run_with_manual_optimization() -> str:
    return by_hand_and_found(zoo.ManualAutoencoder, strategy="ddp_find_unused_parameters_true")


@scenario
def the_same_run_with_workers() -> str:
    return by_hand_and_found(zoo.RegularisedWithWorkers)


@scenario
def the_lower_limit_decides() -> Any:
    limit = LIMIT if int(os.environ["RANK"]) == 1 else 4 * LIMIT
    return search(zoo.Wide(batch_size=8, length=8192), memory_limit=limit)


@scenario
def the_lower_limit_alone() -> Any:
    return search(zoo.Wide(batch_size=8, length=8192), memory_limit=LIMIT)


class Failing(zoo.Wide):
    """Runs out of memory on one rank: in forward, in backward, in the optimizer's step or in validation."""

    where = "forward"
    too_many = 64  # samples
    error: Any = torch.OutOfMemoryError

    def fail(self, *_: Any) -> None:
        if rank() == 1 and self.samples >= self.too_many:
            raise self.error("made up")

    def loss(self, batch: Any) -> torch.Tensor:
        self.samples = len(batch[0])
        loss = super().loss(batch)
        if self.training and self.where == "forward":
            self.fail()
        if self.training and self.where == "backward":
            self.net[0].weight.register_hook(self.fail)  # the last gradient there is: others are reduced already
        if not self.training and self.where == "validation":
            self.fail()
        return loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        if self.where == "step":
            closure()
            self.fail()
        super().optimizer_step(epoch, batch_idx, optimizer, closure)


def one_rank_runs_out_of_memory(where: str) -> Any:
    model = Failing(batch_size=8, length=4096)
    model.where = where
    if where == "validation":
        model.too_many = 32  # all that each rank has for validation
    return search(model, max_val=256)


for _where in ("forward", "backward", "step", "validation"):
    SCENARIOS[f"one_rank_runs_out_of_memory in {_where}"] = functools.partial(one_rank_runs_out_of_memory, _where)


class Talking(zoo.Regularised):
    """Calls collectives itself, in training and in validation."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        everyone = self.all_gather(batch[0])
        assert everyone.shape[0] == 2
        if rank() == 1 and len(batch[0]) >= 64:
            raise torch.OutOfMemoryError("made up")
        dist.barrier()
        self.log("mean", batch[0].mean(), sync_dist=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), sync_dist=True)


@scenario
def user_code_that_calls_collectives() -> Any:
    return search(Talking(batch_size=8, length=512), max_val=256)


@scenario
def an_error_on_one_rank() -> Any:
    model = Failing(batch_size=8, length=4096)
    model.error = KeyError
    return search(model, max_val=256)


@scenario
def ctrl_c_on_one_rank() -> Any:
    model = Failing(batch_size=8, length=4096)
    model.error = KeyboardInterrupt
    return search(model, max_val=256)


@scenario
def the_dataset_limit_is_per_rank() -> Any:
    return search(zoo.Mlp(batch_size=8, length=500))


@scenario
def passed_loaders() -> Any:
    loader = DataLoader(zoo.Vectors(500), batch_size=8, shuffle=True)
    answer = search(zoo.Bare(), loader, DataLoader(zoo.Vectors(40), batch_size=4), max_val=64)
    return {**answer, "loader": loader.batch_size}


class Loaders(zoo.Bare):
    """Loaders from a hook, without any attribute that holds their size."""

    def train_dataloader(self) -> Any:
        return DataLoader(zoo.Vectors(500), batch_size=8, shuffle=True)

    def predict_dataloader(self) -> Any:
        return DataLoader(zoo.Vectors(100), batch_size=8)

    test_dataloader = predict_dataloader

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen["sizes"].append(len(batch[0]))
        return super().training_step(batch, batch_idx)


@scenario
def a_hook_without_an_attribute() -> Any:
    model = Loaders()
    return {**search(model, max_val=64), "sizes": model.seen["sizes"]}


class OwnSampler(BatchSampler):
    """A batch sampler with an argument of its own, which Lightning builds again around a DistributedSampler."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool, skip: int = 0) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.skip = skip


class OwnSamplerLoaders(Loaders):
    def train_dataloader(self) -> Any:
        data = zoo.Vectors(500)
        return DataLoader(data, batch_sampler=OwnSampler(SequentialSampler(data), 8, drop_last=True, skip=3))


@scenario
def a_batch_sampler_that_lightning_builds_again() -> Any:
    model = OwnSamplerLoaders()
    return {**search(model, max_val=64), "sizes": model.seen["sizes"]}


@scenario
def a_sampler_of_the_users_own() -> Any:
    data = zoo.Vectors(500)
    sampler = DistributedSampler(data, num_replicas=2, rank=int(os.environ["RANK"]))
    loader = DataLoader(data, batch_size=8, sampler=sampler)
    return search(zoo.Bare(), loader, trainer_options={"use_distributed_sampler": False})


def evaluate(method: str) -> Any:
    finder = BatchSizeFinder(max_val=32)
    run = trainer(finder)
    getattr(run, method)(Loaders())
    return described(finder)


for _method in ("test", "predict"):
    SCENARIOS[_method] = functools.partial(evaluate, _method)


@scenario
def a_global_batch() -> Any:
    return search(zoo.Wide(batch_size=8, length=8192), memory_limit=LIMIT, global_batch_size=1536)


@scenario
def a_global_batch_that_cannot_be_shared() -> Any:
    return search(zoo.Wide(batch_size=8), global_batch_size=1021)


@scenario
def a_milestone() -> Any:
    model = Loaders()
    finder = BatchSizeFinder(max_val=64, milestones=[1])
    run = trainer(finder, max_epochs=3)
    run.fit(model)
    return described(finder, sizes=model.seen["sizes"])


@scenario
def find_without_training_then_fit() -> Any:
    model = zoo.Mlp(batch_size=8, length=512)
    run = trainer()
    result = bstuner.find(run, model, max_val=64)
    run.fit(model)
    return {**result.as_dict(), "steps": run.global_step}


@scenario
def gradients_as_bucket_views() -> Any:
    strategy = DDPStrategy(gradient_as_bucket_view=True, static_graph=True)
    return search(zoo.Wide(batch_size=8, length=512), max_val=64, trainer_options={"strategy": strategy})


def run_all() -> dict[str, Any]:
    torch.set_num_threads(1)
    answers: dict[str, Any] = {}
    for name, run in SCENARIOS.items():
        zoo.NOTES.clear()
        try:
            answers[name] = run()
        except (BstunerError, KeyError, SystemExit) as error:
            answers[name] = f"{type(error).__name__}: {error}"
    return answers


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    return [rank.value for rank in launch(run_all, ranks=2, timeout=240)]


def of(answers: list[dict[str, Any]], name: str) -> Any:
    """The answer that both ranks gave."""
    first, second = (answer[name] for answer in answers)
    assert first == second, "every rank has the same answer"
    return first


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("the_same_run")])
def test_training_is_the_run_started_by_hand_on_every_rank(answers: Any, name: str) -> None:
    assert of(answers, name) == "same"


def test_the_rank_with_the_least_memory_decides(answers: Any) -> None:
    found, alone = of(answers, "the_lower_limit_decides"), of(answers, "the_lower_limit_alone")
    for answer in (found, alone):
        assert (answer["batch_size"], answer["limited_by"], answer["world_size"]) == (256, "memory", 2)
        assert answer["capacity_bytes"] == LIMIT
        assert answer["global_batch_size"] == 512
    assert [p["batch_size"] for p in found["probes"]] == [p["batch_size"] for p in alone["probes"]]
    for one, other in zip(found["probes"], alone["probes"], strict=True):
        assert one["peak_bytes"] == pytest.approx(other["peak_bytes"], rel=1e-3)


@pytest.mark.parametrize("where", ["forward", "backward", "step"])
def test_memory_that_runs_out_on_one_rank_ends_the_probe_on_all(answers: Any, where: str) -> None:
    answer = of(answers, f"one_rank_runs_out_of_memory in {where}")
    assert (answer["batch_size"], answer["limited_by"], answer["batches"]) == (32, "memory", 64)
    failed = {p["batch_size"]: p["reason"] for p in answer["probes"] if not p["fits"]}
    assert failed == dict.fromkeys((256, 128, 64), "out of memory in training on process 1")


def test_memory_that_runs_out_in_validation_on_one_rank_does_too(answers: Any) -> None:
    answer = of(answers, "one_rank_runs_out_of_memory in validation")
    assert (answer["batch_size"], answer["limited_by"]) == (16, "memory")
    assert "out of memory in validation on process 1" in {p["reason"] for p in answer["probes"]}


def test_collectives_of_user_code_do_not_hang(answers: Any) -> None:
    answer = of(answers, "user_code_that_calls_collectives")
    assert (answer["batch_size"], answer["limited_by"]) == (32, "memory")


def test_an_error_on_one_rank_is_its_own_there_and_named_on_the_others(answers: Any) -> None:
    first, second = (answer["an_error_on_one_rank"] for answer in answers)
    assert first == (
        "PeerError: Expected the search to run on all 2 processes, but process 1 failed with KeyError: 'made up'. "
        "Its own output tells more."
    )
    assert second == "KeyError: 'made up'"


def test_ctrl_c_on_one_rank_ends_all(answers: Any) -> None:
    first, second = (answer["ctrl_c_on_one_rank"] for answer in answers)
    assert first.startswith("PeerError: Expected the search to run on all 2 processes, but process 1 failed with Keyb")
    assert second == "SystemExit: 130"


def test_the_dataset_that_limits_is_that_of_one_rank(answers: Any) -> None:
    for name in ("the_dataset_limit_is_per_rank", "a_sampler_of_the_users_own"):
        answer = of(answers, name)
        assert (answer["batch_size"], answer["limited_by"], answer["batches"]) == (128, "dataset", 2)


def test_loaders_that_lightning_builds_again_around_a_sampler_keep_the_size(answers: Any) -> None:
    assert of(answers, "passed_loaders")["loader"] == 64
    assert of(answers, "passed_loaders")["batches"] == 4
    # 250 samples on each rank
    assert of(answers, "a_hook_without_an_attribute")["sizes"] == [64, 64, 64, 58]
    assert of(answers, "a_batch_sampler_that_lightning_builds_again")["sizes"] == [64, 64, 64]


@pytest.mark.parametrize("method", ["test", "predict"])
def test_evaluations_are_searched_too(answers: Any, method: str) -> None:
    answer = of(answers, method)
    assert (answer["batch_size"], answer["stage"], answer["world_size"]) == (32, method, 2)


def test_a_global_batch_is_met_exactly(answers: Any) -> None:
    answer = of(answers, "a_global_batch")
    layout = (answer["batch_size"], answer["accumulate_grad_batches"], answer["world_size"])
    assert layout == (256, 3, 2)
    assert answer["global_batch_size"] == 1536
    assert of(answers, "a_global_batch_that_cannot_be_shared") == (
        "LayoutImpossible: Expected a global batch size that 2 processes can share equally, found 1021. "
        "The nearest are 1020 and 1022."
    )


def test_a_search_in_the_middle_of_a_fit_loses_no_samples(answers: Any) -> None:
    assert of(answers, "a_milestone")["sizes"] == 3 * [64, 64, 64, 58]


def test_find_puts_the_answer_in_place_for_the_fit_to_come(answers: Any) -> None:
    answer = of(answers, "find_without_training_then_fit")
    assert (answer["batch_size"], answer["steps"]) == (64, 4)


def test_options_of_the_wrapper_are_kept(answers: Any) -> None:
    assert of(answers, "gradients_as_bucket_views")["batch_size"] == 64


class FailsEarly(zoo.Mlp):
    def configure_optimizers(self) -> Any:
        if rank() == 1:
            raise RuntimeError("my own mistake")
        return super().configure_optimizers()


def fail_early() -> None:
    search(FailsEarly(batch_size=8), max_val=64)


def test_a_rank_that_fails_before_the_search_does_not_leave_the_others_waiting_for_it() -> None:
    first, second = launch(fail_early, ranks=2, succeed=False, timeout=60)
    assert first.returncode != 0
    assert "PeerLost: All 2 processes must come to the search, but one of them ended" in first.output
    assert second.returncode != 0
    assert "my own mistake" in second.output
