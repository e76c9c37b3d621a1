"""A Trainer from the package pytorch_lightning is refused in one line that says what to change."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import bstuner
from bstuner import BatchSizeFinder
from bstuner.errors import UnsupportedStrategy

CHANGE = (
    "Expected a Trainer of lightning.pytorch, found one of pytorch_lightning: write `import lightning.pytorch as pl` "
    "instead of `import pytorch_lightning as pl`, everywhere in your code."
)


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.ones(16, 4)), batch_size=4)


def trainer(*callbacks: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return pl.Trainer(callbacks=list(callbacks), max_epochs=1, enable_model_summary=False, **quiet)


def test_as_a_callback() -> None:
    with pytest.raises(UnsupportedStrategy) as error:
        trainer(BatchSizeFinder()).fit(Model())
    assert str(error.value) == CHANGE


def test_as_a_function() -> None:
    model, run = Model(), trainer()
    with pytest.raises(UnsupportedStrategy) as error:
        bstuner.find(run, model)
    assert str(error.value) == CHANGE
    run.fit(model)
    assert run.global_step == 4, "the Trainer is unharmed"
