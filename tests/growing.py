"""What tests of the scheduler share: a model that tells which samples, sizes and learning rates it has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import zoo
from torch.utils.data import DataLoader, Dataset

from bstuner.callbacks.scheduler import BatchSizeScheduler


class Numbered(Dataset):
    """Labelled vectors that tell their number."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        x, y = zoo.Vectors(self.length, width=8)[index]
        return x, y, index


class Noisy(Numbered):
    """With noise from the global generator of the process."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        x, y, number = super().__getitem__(index)
        return x + 0.1 * torch.randn_like(x), y, number


def steps(scheduler: Callable[[torch.optim.Optimizer], Any], interval: str = "step", **config: Any) -> Any:
    """A scheduler's configuration, from the optimizer."""
    return lambda optimizer: {"scheduler": scheduler(optimizer), "interval": interval, **config}


def halves(*milestones: int, gamma: float = 0.5) -> Any:
    """The learning rate is halved after so many of the user's own steps."""
    return steps(lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones), gamma))


class Grower(L.LightningModule):
    """Dropout; two parameter groups; notes each batch and each optimizer step."""

    dataset: type[Numbered] = Numbered

    def __init__(
        self,
        schedule: Any = None,
        length: int = 240,
        batch_size: int = 8,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        **loader: Any,
    ) -> None:
        super().__init__()
        torch.manual_seed(7)  # each has the same weights
        self.schedule, self.length, self.batch_size, self.make = schedule, length, batch_size, optimizer
        self.loader = {"shuffle": True, **loader}
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 10)
        )
        self.batches: list[tuple[int, int, list[int]]] = []  # epoch, batch, numbers of the samples
        self.lrs: list[list[float]] = []  # of each optimizer step: those really used
        self.validated: list[int] = []  # optimizer steps before each validation
        self.ends: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y, numbers = batch
        self.batches.append((self.current_epoch, batch_idx, numbers.tolist()))
        loss = torch.nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append(self.trainer.global_step)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y, _ = batch
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(x), y))

    def on_train_epoch_end(self) -> None:
        self.ends.append(f"epoch {self.current_epoch}")

    def configure_optimizers(self) -> Any:
        first, second = self.net[0].parameters(), self.net[-1].parameters()
        optimizer = self.make([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.02}])
        optimizer.register_step_post_hook(self._note)
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.lrs.append([float(group["lr"]) for group in optimizer.param_groups])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset(self.length), batch_size=self.batch_size, **self.loader)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Numbered(8), batch_size=8)

    def sizes(self, epoch: int | None = None) -> list[int]:
        """The sizes of the batches of an epoch, or of all."""
        return [len(numbers) for number, _, numbers in self.batches if epoch in (None, number)]

    def samples(self, epoch: int) -> list[int]:
        """The numbers of the samples of an epoch."""
        return [one for number, _, numbers in self.batches if number == epoch for one in numbers]


def scheduler(plan: str | None = None, **settings: Any) -> BatchSizeScheduler:
    """One that does not search for what fits."""
    return BatchSizeScheduler(plan, **{"fits": 10**6, **settings})


def fit(
    model: Grower, *callbacks: L.Callback, epochs: int = 1, seed: int = 1, ckpt_path: Any = None, **settings: Any
) -> L.Trainer:
    """Train from a seed."""
    L.seed_everything(seed, verbose=False)
    torch.manual_seed(seed)
    trainer = zoo.trainer(*callbacks, max_epochs=epochs, **settings)
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer
