"""`LearningRateWarmup`: raise the learning rate gradually over the first samples of a training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from bstuner.core import warmup_lr
from bstuner.errors import InvalidSetting
from bstuner.optim import LRAtStep
from bstuner.training._lightning import LightningCallback, batch_size_or_none, current_fit_loop, replicas
from bstuner.training.run import flat_loaders, refuse_unsupported

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["LearningRateWarmup"]


@dataclass
class _Count:
    """Samples of a training, over all processes.

    Args:
        before: those up to the last batch after which an optimizer stepped.
        since: those of the batches since then, whose gradients wait for a step.
        stepped: whether an optimizer has stepped in the last of these batches.

    """

    before: int = 0
    since: int = 0
    stepped: bool = False

    def settle(self) -> None:
        """Count the batches that went into a step as done."""
        if self.stepped:
            self.before, self.since, self.stepped = self.before + self.since, 0, False


# Not an OwnCallback: it belongs to the training, and so to probes and trials.
class LearningRateWarmup(LightningCallback):
    """Raises the learning rate in a straight line over the first samples, up to what the user's schedule says.

    Example:
        >>> import lightning as L
        >>> from bstuner.callbacks.warmup import LearningRateWarmup
        >>> warmup = LearningRateWarmup(samples=50_000, start_factor=0.125)
        >>> trainer = L.Trainer(callbacks=[warmup], logger=False)

    Gradual warm-up of Goyal et al. 2017 (arXiv 1706.02677, section 2.2), counted in samples over all processes, so that
    it means the same at any batch size. A step uses the learning rate for the samples seen before it; batches that are
    accumulated for one step count with that step, as one large batch would.

    The lower learning rate is in place only while an optimizer steps. The user's scheduler never sees it, whatever its
    kind, and neither does a checkpoint or a LearningRateMonitor; after the warm-up training is as without it. The
    count is in the checkpoint: a resumed warm-up goes on where it was.

    Args:
        samples: samples that the warm-up takes, over all processes.
        start_factor: the first step's share of the scheduled learning rate, above 0 and at most 1. Where a learning
            rate was raised k times for a larger batch, 1 / k starts from the one before.

    Raises:
        InvalidSetting: an argument is out of range, a parameter group has no learning rate, or a batch holds no tensor
            whose samples could be counted.

    """

    def __init__(self, samples: int, start_factor: float) -> None:
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
            raise InvalidSetting(f"Expected samples to be a whole number of at least 1, found {samples!r}.")
        if not isinstance(start_factor, (int, float)) or not 0 < start_factor <= 1:
            raise InvalidSetting(
                f"Expected start_factor to be a share of the learning rate, above 0 and at most 1, "
                f"found {start_factor!r}."
            )
        self.samples = samples
        self.start_factor = start_factor
        self._start = _Count()  # where the run starts: in the middle of a warm-up, if it is resumed there
        self._now = self._start
        # By the fit loop, because a search has loops of its own: what it trains does not count for the run.
        self._counts: WeakKeyDictionary[Any, _Count] | None = None
        self._at_step = LRAtStep(self._lowered, self._stepped)
        self._shares_differ = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to count, at 0 until a checkpoint says otherwise."""
        refuse_unsupported(trainer)
        if stage == "fit":
            self._begin(_Count())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the optimizers of the training that starts: the run, a probe or a trial."""
        self._now = self._count_in(trainer)
        self._shares_differ = replicas(trainer) > 1 and not _equal_shares(trainer)
        training = [optimizer for optimizer in trainer.optimizers if _trains(optimizer)]
        for optimizer in training:
            _check_lr(optimizer)
        self._at_step.watch(training)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the batch. At its start, so that checkpoints at its end hold it, whichever callback comes first."""
        self._now = self._count_in(trainer)
        self._now.settle()
        if self._now.before < self.samples:
            self._now.since += self._global_size(trainer, batch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the optimizers as the user's code has them, also in the middle of a step."""
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the optimizers as the user's code has them."""
        self._at_step.let_go()
        self._counts = None  # which could not be sent to another process

    def state_dict(self) -> dict[str, Any]:
        """The samples seen, for the checkpoint."""
        count = replace(self._now)
        count.settle()
        return asdict(count)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The samples seen, from the checkpoint."""
        self._begin(_Count(**state_dict))

    def _begin(self, start: _Count) -> None:
        self._start = self._now = start
        self._counts = WeakKeyDictionary()

    def _count_in(self, trainer: Trainer) -> _Count:
        if self._counts is None:
            self._counts = WeakKeyDictionary()
        return self._counts.setdefault(current_fit_loop(trainer), replace(self._start))

    def _lowered(self, lr: Any) -> Any:
        return warmup_lr(lr, lr * self.start_factor, self._now.before, self.samples)

    def _stepped(self) -> None:
        self._now.stepped = True

    def _global_size(self, trainer: Trainer, batch: Any) -> int:
        size = batch_size_or_none(trainer, batch)
        if size is None:
            raise InvalidSetting(
                f"LearningRateWarmup counts samples by the first tensor of a batch: expected one, found none in "
                f"{type(batch).__qualname__}. Return tensors from your collate_fn."
            )
        if not self._shares_differ:
            return size * replicas(trainer)
        # Every process must use the same learning rate, or their weights drift apart.
        total = trainer.strategy.reduce(torch.tensor(size, device=trainer.strategy.root_device), reduce_op="sum")
        return int(total) * replicas(trainer) // trainer.world_size


def _equal_shares(trainer: Trainer) -> bool:
    """Whether every process is known to get batches of the same sizes; asking the others at each costs time."""
    return all(
        isinstance(loader, DataLoader)
        and isinstance(loader.sampler, DistributedSampler)
        and type(loader.batch_sampler) is BatchSampler
        for loader in flat_loaders(trainer.train_dataloader)
    )


def _trains(optimizer: Optimizer) -> bool:
    return any(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"])


def _check_lr(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        lr = group.get("lr")
        if lr is None or not math.isfinite(lr):
            raise InvalidSetting(
                f"LearningRateWarmup: expected every parameter group to have a learning rate, found lr={lr} in "
                f"{type(optimizer).__name__}. Give it one, or leave the warm-up to the optimizer."
            )
