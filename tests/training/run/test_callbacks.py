"""Which callbacks take part in probes and trials."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import pytorch_lightning
import zoo
from lightning.pytorch.callbacks import EarlyStopping

from bstuner import BatchSizeFinder, LearningRateWarmup
from bstuner.training.run.callbacks import takes_part


class LooksLikeOne:
    """No callback by its class, which a Trainer does not ask for: only by its attributes."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.callback = L.Callback()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(len(batch[0]))

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["callback"], name)


@pytest.mark.parametrize("package", [L.pytorch, pytorch_lightning], ids=lambda package: package.__name__)
def test_what_only_watches_stops_or_saves_takes_no_part(package: Any) -> None:
    assert takes_part(package.Callback())
    assert takes_part(package.callbacks.StochasticWeightAveraging(swa_lrs=0.1))
    assert not takes_part(package.callbacks.EarlyStopping(monitor="val_loss"))
    assert not takes_part(package.callbacks.ModelCheckpoint())


def test_of_bstuners_own_only_the_warm_up_takes_part() -> None:
    assert takes_part(LearningRateWarmup(100, 0.5))
    assert not takes_part(BatchSizeFinder())


def test_a_subclass_of_both_packages_is_what_either_says_it_is() -> None:
    class Both(pytorch_lightning.Callback, EarlyStopping):  # type: ignore[misc]
        pass

    assert not takes_part(Both(monitor="val_loss"))


def test_what_only_looks_like_a_callback_takes_part() -> None:
    watch: Any = LooksLikeOne()
    assert takes_part(watch)
    finder = BatchSizeFinder(max_val=32)
    zoo.trainer(finder, watch, max_epochs=1).fit(zoo.Mlp(batch_size=8, length=64))
    assert set(watch.batches) == {32}, "its own list is put back after each probe"
    assert watch.batches
