"""A small GAN on scikit-learn's digits: two optimizers, stepped by hand. Nothing here knows of bstuner.

python examples/gan.py                                   # trains at batch size 32
bstuner find examples/gan.py                             # finds the largest batch that fits, trains nothing
bstuner tune --monitor val_distance examples/gan.py      # the batch size and learning rate that get there soonest

Both optimizers follow one learning rate. With manual optimization the Trainer cannot accumulate, so a batch that does
not fit at once is not tried; and as only this code knows which batches make a step, `bstuner schedule` refuses.
"""

from __future__ import annotations

import argparse

import lightning as L
import torch
from digits import Digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

NOISE = 16


class RealAndFake(Digits):
    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=len(self.val))  # distances are those of whole sets


class GAN(L.LightningModule):
    def __init__(self, lr: float = 5e-4) -> None:
        super().__init__()
        self.lr = lr
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(NOISE, 128), nn.BatchNorm1d(128), nn.ReLU(),
            nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid(),
        )  # fmt: skip
        self.critic = nn.Sequential(
            nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Dropout(0.4),
            nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Dropout(0.4), nn.Linear(64, 1),
        )  # fmt: skip
        self.register_buffer("noise", torch.randn(360, NOISE))  # the same at every validation

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        real = batch[0].flatten(1)
        fake = self.generator(torch.randn(len(real), NOISE, device=self.device))
        for optimizer, loss in zip(self.optimizers(), (self.fools, self.tells_apart), strict=True):
            self.toggle_optimizer(optimizer)
            value = loss(real, fake)
            optimizer.zero_grad()
            self.manual_backward(value)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            self.log(f"train_{loss.__name__}", value, prog_bar=True)

    def fools(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-self.critic(fake)).mean()

    def tells_apart(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake.detach())).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Energy distance between real and generated images: 0 where both have one distribution."""
        real, fake = batch[0].flatten(1), self.generator(self.noise)
        within = F.pdist(real).mean() + F.pdist(fake).mean()
        self.log("val_distance", 2 * torch.cdist(real, fake).mean() - within, prog_bar=True)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        betas = (0.5, 0.999)
        return [torch.optim.Adam(part.parameters(), self.lr, betas) for part in (self.generator, self.critic)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    L.seed_everything(1)
    trainer = L.Trainer(max_epochs=arguments.epochs, logger=False, enable_checkpointing=False)
    trainer.fit(GAN(), datamodule=RealAndFake(arguments.batch_size))


if __name__ == "__main__":
    main()
