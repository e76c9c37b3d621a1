"""Run the user's learning-rate schedule ahead of the training, on copies."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer

from bstuner.core.scheduler_calls import calls_by_epoch, calls_by_step

__all__ = ["Schedule", "simulate_schedule"]


@dataclass(frozen=True)
class Schedule:
    """The learning rates of a whole training, step by step.

    Args:
        lrs: the learning rate of the first parameter group at each optimizer step.
        unforeseen: schedulers whose steps cannot be told beforehand, by their classes.

    """

    lrs: tuple[float, ...]
    unforeseen: tuple[str, ...] = ()


def simulate_schedule(trainer: Trainer, steps: int, batches: int) -> Schedule:
    """Tell the learning rate of every optimizer step to come, as the user's schedulers would set it.

    Nothing of the user's is touched: optimizer and schedulers are copied, on stand-ins for the parameters. Functions
    that a scheduler calls run as often as they would in training.

    Args:
        trainer: a Trainer inside `fit`, with its optimizers and schedulers as they are before the first step.
        steps: optimizer steps of the whole training.
        batches: batches of an epoch.

    """
    optimizer, configs = _copies(trainer.lightning_module, trainer.optimizers, trainer.lr_scheduler_configs)
    unforeseen = [config for config in configs if config.reduce_on_plateau or not hasattr(config.scheduler, "step")]
    foreseen = [config for config in configs if config not in unforeseen]
    group, accumulate = optimizer.param_groups[0], trainer.accumulate_grad_batches
    lrs, done = [], [0] * len(foreseen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer did not step, which here is the point
        for step in range(1, steps + 1):
            lrs.append(float(group["lr"]))
            for index, config in enumerate(foreseen):
                calls = calls_by_step if config.interval == "step" else calls_by_epoch
                due = calls(step, batches, accumulate, config.frequency)
                if due > done[index]:
                    config.scheduler.step()  # type: ignore[call-arg]  # none that waits for a metric is here
                done[index] = due
    return Schedule(tuple(lrs), tuple(type(config.scheduler).__name__ for config in unforeseen))


def _copies(
    module: LightningModule, optimizers: Sequence[Optimizer], configs: Sequence[LRSchedulerConfig]
) -> tuple[Optimizer, list[LRSchedulerConfig]]:
    """Copies of the first optimizer and of the schedulers on it, in which parameters and the module are not copied."""
    first = optimizers[0]
    # What a scheduler's functions refer to stays the user's own: to copy a module would double its memory.
    memo: dict[int, Any] = {id(module): module}
    for optimizer in optimizers:
        memo |= {
            id(parameter): torch.nn.Parameter(torch.zeros(()), requires_grad=parameter.requires_grad)
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        memo |= {id(tensor): tensor for state in optimizer.state.values() for tensor in state.values()}
    own = [config for config in configs if _optimizer_of(config.scheduler) in (first, None)]
    copied: tuple[Optimizer, list[LRSchedulerConfig]] = copy.deepcopy((first, own), memo)
    return copied


def _optimizer_of(scheduler: Any) -> Any:
    return getattr(scheduler, "optimizer", None)
