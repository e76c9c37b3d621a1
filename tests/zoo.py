"""Small real models on data made from seeds: one for each kind of training that users have."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

MIB = 2**20

# What models and callbacks note for a test to read. A global, because a search winds back whatever they hold
# themselves; emptied before each test.
NOTES: list[Any] = []


class Vectors(Dataset):
    """Labelled vectors, each made from its index alone."""

    def __init__(self, length: int = 512, width: int = 64, classes: int = 10) -> None:
        self.length, self.width, self.classes = length, width, classes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(self.width, generator=generator)
        return x, torch.randint(0, self.classes, (), generator=generator)


class Augmented(Vectors):
    """Vectors with noise from three sources: torch's generator, NumPy's, and one of the dataset's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own = np.random.default_rng(3)
        self.served = 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        self.served += 1
        noise = torch.randn_like(x) + float(np.random.rand()) + float(self.own.random())
        return x + 0.1 * noise, y


class Images(Vectors):
    """Labelled images."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(3, 16, 16, generator=generator)
        return x, torch.randint(0, self.classes, (), generator=generator)


class RaggedText(Dataset):
    """Token sequences of 4 to 32 tokens; one in the middle is the longest."""

    def __init__(self, length: int = 256) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        tokens = 32 if index == self.length // 2 else 4 + index % 24
        return torch.arange(tokens) % 50


def pad(samples: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(samples, batch_first=True)


class Base(L.LightningModule):
    """What all models here share: a batch size, loaders that read it, and a record of every loss."""

    dataset: type[Dataset] = Vectors
    workers = 0

    def __init__(self, batch_size: int = 16, length: int = 512, **loader: Any) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.length = length
        self.loader = {"shuffle": True, **loader}
        self.losses: list[float] = []
        self.seen = {"batches": 0, "sizes": []}
        self.net = self.build()

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        self.seen["batches"] += 1
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.dataset(self.length), batch_size=self.batch_size, num_workers=self.workers, **self.loader
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset(64), batch_size=self.batch_size)

    test_dataloader = predict_dataloader = val_dataloader

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0])


class Mlp(Base):
    pass


class Wide(Base):
    """Activations outweigh weights from small batches on: memory limits bind early and in a straight line."""

    def build(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(64, 128)]
        for _ in range(8):
            layers += [nn.Linear(128, 128), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(128, 10))


class Regularised(Base):
    """Dropout, BatchNorm, augmentation in the dataset, a schedule that counts the steps of the whole fit."""

    dataset = Augmented

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))

    def configure_optimizers(self) -> Any:
        self.configured = getattr(self, "configured", 0) + 1
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class RegularisedWithWorkers(Regularised):
    workers = 2


class EpochSchedule(Regularised):
    """Two parameter groups with learning rates of their own, and a schedule that counts epochs."""

    def configure_optimizers(self) -> Any:
        head, body = list(self.net[-1].parameters()), list(self.net[0].parameters())
        groups = [{"params": head, "lr": 0.1}, {"params": body, "lr": 0.01}]
        optimizer = torch.optim.SGD(groups, lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]


class Cnn(Base):
    dataset = Images

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10),
        )  # fmt: skip


class Transformer(Base):
    """A language model on text of varying length."""

    dataset = RaggedText

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, collate_fn=pad, **kwargs)

    def build(self) -> nn.Module:
        self.embedding = nn.Embedding(50, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True)
        return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(64, 50))

    def loss(self, batch: Tensor) -> Tensor:
        logits = self.net(self.embedding(batch[:, :-1]))
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset(64), batch_size=self.batch_size, collate_fn=pad)


class Lstm(Base):
    def build(self) -> nn.Module:
        self.lstm = nn.LSTM(8, 64, num_layers=2, batch_first=True)
        return nn.Linear(64, 10)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(self.lstm(x.view(-1, 8, 8))[0][:, -1]), y)


class ManualAutoencoder(Base):
    """Manual optimization with two optimizers and a scheduler each; the critic steps twice as often."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def build(self) -> nn.Module:
        self.critic = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 64))

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self.net(batch[0]), batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        autoencoder, critic = self.optimizers()
        self.toggle_optimizer(critic)
        critic.zero_grad()
        self.manual_backward(self.critic(self.net(batch[0]).detach()).square().mean())
        critic.step()
        self.untoggle_optimizer(critic)
        if batch_idx % 2 == 0:
            loss = self.loss(batch)
            autoencoder.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(autoencoder, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            autoencoder.step()
            self.losses.append(loss.item())
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self) -> Any:
        first = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        second = torch.optim.SGD(self.critic.parameters(), lr=1e-2, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR
        return [first, second], [schedule(first, 0.99), schedule(second, 0.9)]


class Data(L.LightningDataModule):
    """A datamodule that holds the batch size; the model knows nothing of it."""

    def __init__(self, batch_size: int = 16, length: int = 512) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.dataset = Augmented(length)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, batch_size=self.hparams.batch_size)


class Bare(Base):
    """A model without loaders and without a batch size."""

    def __init__(self) -> None:
        super().__init__()
        del self.batch_size

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.Dropout(0.1), nn.Linear(128, 10))

    train_dataloader = L.LightningModule.train_dataloader
    val_dataloader = L.LightningModule.val_dataloader
    test_dataloader = L.LightningModule.test_dataloader
    predict_dataloader = L.LightningModule.predict_dataloader


def trainer(*callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    """A silent Trainer that writes nothing."""
    quiet = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(callbacks=list(callbacks), **{**quiet, **kwargs})
