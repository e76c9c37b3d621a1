"""A small GPT on the bytes of Python's own standard library, as a user would write it: nothing here knows of bstuner.

python examples/gpt.py                     # trains at batch size 16, for about a minute on one core
bstuner tune --max_val 512 examples/gpt.py # finds the batch size and learning rate that get there soonest

Without --max_val the search for what fits goes on until a CPU's memory is full.
"""

from __future__ import annotations

import argparse
import math
import sysconfig
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

CONTEXT, WIDTH, HEADS, LAYERS = 64, 64, 4, 2


class StandardLibrary(L.LightningDataModule):
    """The first 2 MiB of the modules, by name, in pieces of 64 bytes; every fiftieth is kept for validation."""

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        text = b"".join(module.read_bytes() for module in modules)[: 2**21]
        pieces = torch.frombuffer(bytearray(text), dtype=torch.uint8).unfold(0, CONTEXT + 1, CONTEXT)
        held_out = torch.arange(len(pieces)) % 50 == 0
        self.train, self.val = Pieces(pieces[~held_out]), Pieces(pieces[held_out])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=64)


class Pieces(Dataset):
    def __init__(self, pieces: Tensor) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Tensor:
        return self.pieces[index].long()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.before_attention(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(*qkv, is_causal=True).transpose(1, 2).flatten(-2))
        return x + self.mlp(self.before_mlp(x))


class GPT(L.LightningModule):
    def __init__(self, lr: float = 3e-4) -> None:
        super().__init__()
        self.lr = lr
        self.token, self.position = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256))

    def loss(self, pieces: Tensor) -> Tensor:
        x = self.token(pieces[:, :-1]) + self.position.weight
        return F.cross_entropy(self.head(self.blocks(x)).flatten(0, 1), pieces[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True)  # nats per byte

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = steps // 20

        def share(step: int) -> float:
            """Up in a straight line, then down along a cosine to a tenth."""
            if step < warmup:
                return (step + 1) / warmup
            return 0.55 + 0.45 * math.cos(math.pi * (step - warmup) / (steps - warmup))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=-1, help="optimizer steps at most, -1 for no limit")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-4)
    arguments = parser.parse_args()
    L.seed_everything(1)
    trainer = L.Trainer(
        max_epochs=arguments.epochs, max_steps=arguments.steps, logger=False, enable_checkpointing=False
    )
    trainer.fit(GPT(arguments.lr), datamodule=StandardLibrary(arguments.batch_size))


if __name__ == "__main__":
    main()
