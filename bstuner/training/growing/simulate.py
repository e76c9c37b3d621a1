"""Run the user's learning-rate schedule ahead of the training, on copies."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from bstuner.core import is_due

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities.types import LRSchedulerConfig

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
    optimizer, configs = _copies(trainer)
    unforeseen = [config for config in configs if config.reduce_on_plateau or not _steps_by_itself(config.scheduler)]
    by_step = [config for config in configs if config.interval == "step" and config not in unforeseen]
    by_epoch = [config for config in configs if config.interval == "epoch" and config not in unforeseen]
    group, accumulate = optimizer.param_groups[0], trainer.accumulate_grad_batches
    per_epoch = math.ceil(batches / accumulate)
    lrs: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer did not step, which here is the point
        for epoch in range(1, math.ceil(steps / per_epoch) + 1):
            here = min(per_epoch, steps - len(lrs))
            if by_step:
                for step in range(1, here + 1):
                    lrs.append(float(group["lr"]))
                    _step_all(by_step, [is_due(step, batches, accumulate, each.frequency) for each in by_step])
            else:
                lrs += [float(group["lr"])] * here
            # As Lightning does, after those that count steps.
            _step_all(by_epoch, [epoch % each.frequency == 0 for each in by_epoch])
    return Schedule(tuple(lrs), tuple(type(config.scheduler).__name__ for config in unforeseen))


def _step_all(configs: Sequence[LRSchedulerConfig], due: Sequence[bool]) -> None:
    for config, now in zip(configs, due, strict=True):
        if now:
            config.scheduler.step()  # type: ignore[call-arg]  # none that waits for a metric is here


def _steps_by_itself(scheduler: Any) -> bool:
    """Whether it can be stepped without being told anything; the module's `lr_scheduler_step` tells some the epoch."""
    try:
        inspect.signature(scheduler.step).bind()
    except (AttributeError, TypeError):
        return False
    return True


def _copies(trainer: Trainer) -> tuple[Optimizer, list[LRSchedulerConfig]]:
    """Copies of the first optimizer and of the schedulers on it, in which parameters and modules are not copied."""
    first = trainer.optimizers[0]
    # What a scheduler's functions refer to stays the user's own: to copy a module would double its memory.
    memo: dict[int, Any] = {id(each): each for each in (trainer, *trainer.lightning_module.modules())}
    for optimizer in trainer.optimizers:
        memo |= {
            id(parameter): torch.nn.Parameter(torch.zeros(()), requires_grad=parameter.requires_grad)
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        memo |= {id(tensor): tensor for state in optimizer.state.values() for tensor in state.values()}
    own = [config for config in trainer.lr_scheduler_configs if _optimizer_of(config.scheduler) in (first, None)]
    copied: tuple[Optimizer, list[LRSchedulerConfig]] = copy.deepcopy((first, own), memo)
    return copied


def _optimizer_of(scheduler: Any) -> Any:
    return getattr(scheduler, "optimizer", None)
