"""What Lightning documents of its BatchSizeFinder works with the import changed, and on more than it does."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, ModelCheckpoint
from sameness import assert_same, everything
from torch import nn
from torch.utils.data import DataLoader

from bstuner import BatchSizeFinder
from bstuner.errors import InvalidSetting


class Sized(zoo.Wide):
    """Notes the epoch and the size of every batch that is trained on."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen["sizes"].append((self.current_epoch, len(batch[0])))
        return super().training_step(batch, batch_idx)


class AtEpochs(BatchSizeFinder):
    """A search at epochs of choice, by overriding the hooks."""

    def __init__(self, epochs: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epochs = epochs

    def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch in self.epochs or trainer.current_epoch == 0:
            zoo.NOTES.append(trainer.current_epoch)
            self.scale_batch_size(trainer, pl_module)


class AtTests(BatchSizeFinder):
    """A search for tests alone, by overriding the hooks."""

    def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
        return

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)


def test_a_subclass_that_searches_at_epochs_of_its_choice() -> None:
    model = Sized(batch_size=8, length=256)
    finder = AtEpochs((2,), max_val=64)
    zoo.trainer(finder, max_epochs=4).fit(model)
    assert zoo.NOTES == [0, 2]
    assert model.seen["sizes"] == [(epoch, 64) for epoch in range(4) for _ in range(4)]


def test_a_subclass_that_searches_for_tests() -> None:
    model = zoo.Mlp(batch_size=8)
    trainer = zoo.trainer(AtTests(max_val=32), max_epochs=1)
    trainer.fit(model)
    assert model.batch_size == 8
    trainer.test(model, verbose=False)
    assert model.batch_size == 32


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_one_callback_serves_every_entry_point(method: str) -> None:
    finder = BatchSizeFinder(mode="binsearch", steps_per_trial=3, init_val=4, max_val=20, margin=0.05)
    model = zoo.Mlp(batch_size=8)
    getattr(zoo.trainer(finder, max_epochs=1), method)(model)
    assert (model.batch_size, finder.optimal_batch_size) == (20, 20)


class Backbone(Sized):
    """Its backbone is frozen at first; once it trains, gradients and activations of it take memory too."""

    def build(self) -> nn.Module:
        self.backbone = super().build()
        return self.backbone

    def loss(self, batch: Any) -> torch.Tensor:
        head = getattr(self, "head", None)
        features = self.net(batch[0])
        return nn.functional.cross_entropy(features if head is None else head(features), batch[1])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = nn.Linear(10, 10)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)


class Unfreeze(BaseFinetuning):
    """Trains the backbone from the second epoch on."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)


LIMIT = 3 * zoo.MIB


def fine_tuned(*callbacks: L.Callback) -> Backbone:
    L.seed_everything(2, verbose=False)
    model = Backbone(batch_size=8, length=2048)
    zoo.trainer(*callbacks, max_epochs=3).fit(model)
    return model


def test_a_milestone_searches_again_with_the_backbone_unfrozen() -> None:
    model = fine_tuned(Unfreeze(), BatchSizeFinder(memory_limit=LIMIT, milestones=[1]))
    sizes = [{size for epoch, size in model.seen["sizes"] if epoch == each} for each in range(3)]
    assert sizes[1] == sizes[2]
    (frozen,), (unfrozen,) = sizes[0], sizes[1]
    assert frozen >= 4 * unfrozen, "activations are kept for the backward pass only once the backbone trains"
    for epoch in range(3):
        assert sum(size for each, size in model.seen["sizes"] if each == epoch) == 2048, "every sample, each epoch"


def test_a_milestone_leaves_no_other_trace() -> None:
    """Against a run that changes the batch size by hand at the same epoch and requests its loaders anew."""

    class ByHand(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.batch_size = 32
                trainer.fit_loop._combined_loader = None
                trainer.fit_loop.epoch_loop.val_loop._combined_loader = None
                trainer.fit_loop.setup_data()

    class Later(BatchSizeFinder):
        def on_fit_start(self, *_: Any) -> None:
            return

    runs = []
    for callback in (ByHand(), Later(max_val=32, milestones=[1])):
        L.seed_everything(2, verbose=False)
        model = zoo.Regularised(batch_size=8)
        trainer = zoo.trainer(callback, max_epochs=3)
        trainer.fit(model)
        runs.append(everything(model, trainer))
    assert_same(runs[1], runs[0])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_fit_searches_at_the_milestones_that_are_still_to_come(tmp_path: Any) -> None:
    searched: list[tuple[str, int]] = []

    class Told(BatchSizeFinder):
        def _search(self, trainer: L.Trainer, *args: Any) -> None:
            super()._search(trainer, *args)
            searched.append(("from the checkpoint" if self.result is None else "searched", trainer.current_epoch))

    def run(epochs: int, **fit: Any) -> None:
        checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
        finder = Told(max_val=32, milestones=[1, 3])
        trainer = zoo.trainer(finder, checkpoint, max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(zoo.Mlp(batch_size=8, length=128), **fit)

    run(2)
    assert searched == [("searched", 0), ("searched", 1)]
    searched.clear()
    run(4, ckpt_path=tmp_path / "last.ckpt")
    assert [what for what, _ in searched] == ["from the checkpoint", "searched"]
    assert searched[-1][1] == 3


def test_the_finetuning_callback_of_lightning_goes_along() -> None:
    model = fine_tuned(BackboneFinetuning(1, verbose=False), BatchSizeFinder(max_val=64, milestones=(1,)))
    assert {size for _, size in model.seen["sizes"]} == {64}


@pytest.mark.parametrize("bad", [[-1], ["3"], [1.5], "1", [True]])
def test_milestones_that_are_no_epochs_are_refused(bad: Any) -> None:
    with pytest.raises(InvalidSetting, match="Expected milestones to be epochs, whole numbers counted from 0, found"):
        BatchSizeFinder(milestones=bad)


def test_loaders_that_are_passed_change_at_milestones_too() -> None:
    class Epochs(zoo.Bare):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen["sizes"].append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    model, loader = Epochs(), DataLoader(zoo.Vectors(128), batch_size=8, num_workers=1, persistent_workers=True)
    finder = BatchSizeFinder(max_val=32, milestones=[1])
    trainer = zoo.trainer(finder, max_epochs=3)
    trainer.fit(model, loader, DataLoader(zoo.Vectors(16), batch_size=8))
    assert model.seen["sizes"] == 12 * [32]
