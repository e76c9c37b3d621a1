"""After a search, training equals, bit for bit, the run that was started by hand with the batch size found."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, StochasticWeightAveraging
from sameness import assert_same, everything
from torch.utils.data import DataLoader

import bstuner
from bstuner import BatchSizeFinder


class Trained(NamedTuple):
    """A training, and all it had left behind when it ended: generators are the process's, so that cannot wait."""

    module: L.LightningModule
    trainer: L.Trainer
    left: dict[str, Any]


def train(finder: BatchSizeFinder | None, build: Any, **kwargs: Any) -> Trained:
    L.seed_everything(7, verbose=False)
    module, fit, callbacks = build()
    trainer = zoo.trainer(*([finder] if finder else []), *callbacks, **kwargs)
    trainer.fit(module, **fit)
    return Trained(module, trainer, everything(module, trainer))


CASES = {
    "scheduler over the whole fit, dropout, BatchNorm, augmentation": (zoo.Regularised, {}),
    "two workers": (zoo.RegularisedWithWorkers, {}),
    "gradient clipping": (zoo.Regularised, {"gradient_clip_val": 0.1}),
    "accumulation": (zoo.Mlp, {"accumulate_grad_batches": 3}),
    "accumulation with BatchNorm": (zoo.EpochSchedule, {"accumulate_grad_batches": 2}),
    "parameter groups and epoch schedule": (zoo.EpochSchedule, {}),
    "manual optimization, two optimizers": (zoo.ManualAutoencoder, {}),
    "steps as the limit": (zoo.Regularised, {"max_steps": 5, "max_epochs": -1}),
    "validation four times an epoch": (zoo.Regularised, {"val_check_interval": 0.25}),
    "bfloat16": (zoo.Regularised, {"precision": "bf16-mixed"}),
    "ragged text": (zoo.Transformer, {}),
    "LSTM": (zoo.Lstm, {}),
    "CNN": (zoo.Cnn, {"max_epochs": 1}),
    "no validation": (zoo.Mlp, {"limit_val_batches": 0}),
}


@pytest.mark.parametrize("case", CASES)
def test_training_equals_the_run_started_by_hand(case: str) -> None:
    model, kwargs = CASES[case]
    finder = BatchSizeFinder(max_val=64)
    found = train(finder, lambda: (model(batch_size=7), {}, []), **kwargs)
    assert finder.result is not None
    assert finder.result.batch_size == 64
    by_hand = train(None, lambda: (model(batch_size=64), {}, []), **kwargs)
    assert_same(found.left, by_hand.left)


def test_a_datamodule_and_its_own_generator_are_left_alone() -> None:
    finder = BatchSizeFinder(max_val=64)

    def build(size: int) -> Any:
        data = zoo.Data(batch_size=size)
        return zoo.Bare(), {"datamodule": data}, []

    found = train(finder, lambda: build(7))
    by_hand = train(None, lambda: build(64))
    assert found.trainer.datamodule.hparams.batch_size == 64
    assert found.trainer.datamodule.dataset.served == by_hand.trainer.datamodule.dataset.served
    assert_same(found.left, by_hand.left)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_loaders_passed_to_fit_are_left_as_if_built_with_that_size(workers: int, persistent: bool) -> None:
    if persistent and not workers:
        pytest.skip("torch has no persistent workers without workers")

    def build(size: int) -> Any:
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(
            zoo.Augmented(256), batch_size=size, shuffle=True, num_workers=workers, generator=generator,
            persistent_workers=persistent,
        )  # fmt: skip
        return (
            zoo.Bare(),
            {"train_dataloaders": loader, "val_dataloaders": DataLoader(zoo.Vectors(64), 8)},
            [],
        )

    found = train(BatchSizeFinder(max_val=32), lambda: build(4))
    by_hand = train(None, lambda: build(32))
    assert found.trainer.train_dataloader.batch_size == 32
    assert found.trainer.val_dataloaders.batch_size == 8
    assert_same(found.left, by_hand.left)


@pytest.mark.parametrize(
    "callback",
    [
        lambda: EMAWeightAveraging(decay=0.9),
        lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1),
        lambda: EarlyStopping("val_loss", patience=1),
    ],
    ids=["EMA", "SWA", "early stopping"],
)
def test_the_users_callbacks_end_up_as_if_there_had_been_no_search(callback: Any) -> None:
    found = train(BatchSizeFinder(max_val=64), lambda: (zoo.Mlp(batch_size=7), {}, [callback()]), max_epochs=3)
    by_hand = train(None, lambda: (zoo.Mlp(batch_size=64), {}, [callback()]), max_epochs=3)
    assert_same(found.trainer.callbacks[1].state_dict(), by_hand.trainer.callbacks[0].state_dict())
    assert_same(found.left, by_hand.left)


def test_find_alone_leaves_a_trainer_that_trains_as_if_nothing_had_been_searched() -> None:
    def run(search: bool) -> dict[str, Any]:
        L.seed_everything(7, verbose=False)
        module = zoo.Regularised(batch_size=7 if search else 64)
        trainer = zoo.trainer()
        if search:
            assert bstuner.find(trainer, module, max_val=64).batch_size == 64
            assert trainer.callbacks == []
        trainer.fit(module)
        return everything(module, trainer)

    assert_same(run(True), run(False))


def test_lazy_layers_are_made_by_training_itself() -> None:
    class Lazy(zoo.Mlp):
        def build(self) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.LazyLinear(32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    found = train(BatchSizeFinder(max_val=64), lambda: (Lazy(batch_size=7), {}, []))
    by_hand = train(None, lambda: (Lazy(batch_size=64), {}, []))
    assert_same(found.left, by_hand.left)


def test_compiled_layers_are_compiled_in_training_as_if_nothing_had_run_before() -> None:
    compiled: list[int] = []

    def count(graph: Any, _: Any) -> Any:
        compiled.append(1)
        return graph.forward

    class Compiled(zoo.Mlp):
        def build(self) -> torch.nn.Module:
            return torch.compile(super().build(), backend=count)

    def frames(finder: BatchSizeFinder | None, size: int) -> int:
        torch.compiler.reset()
        train(finder, lambda: (Compiled(batch_size=size), {}, []), limit_val_batches=0)
        return len(compiled)

    by_hand = frames(None, 64)
    compiled.clear()
    assert by_hand > 0
    assert frames(BatchSizeFinder(max_val=64), 7) == by_hand


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_an_evaluation_equals_the_one_started_by_hand(stage: str) -> None:
    def run(finder: BatchSizeFinder | None, size: int) -> tuple[Any, L.LightningModule]:
        L.seed_everything(7, verbose=False)
        module = zoo.Regularised(batch_size=size)
        trainer = zoo.trainer(*([finder] if finder else []))
        kwargs = {} if stage == "predict" else {"verbose": False}
        return getattr(trainer, stage)(module, **kwargs), module

    finder = BatchSizeFinder(max_val=16)
    found, module = run(finder, 3)
    by_hand, other = run(None, 16)
    assert finder.result is not None
    assert (finder.result.batch_size, finder.result.stage) == (16, stage)
    assert_same(found, by_hand)
    assert_same(module.state_dict(), other.state_dict())
    assert module.batch_size == 16
    assert [part.training for part in module.modules()] == [part.training for part in other.modules()]
