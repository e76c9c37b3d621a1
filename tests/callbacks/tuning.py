"""What tests of the tuner share: searches that are over in a second and find what the test wants."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import zoo
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from sameness import everything

from bstuner import BatchSizeTuner, LearningRateWarmup, TuneResult

REFERENCE = 0.05


class Picks(BaseSampler):
    """An Optuna sampler that chooses, of every trial after the baseline, the one pair it was made with."""

    def __init__(self, log2_batch_ratio: int, base_lr: float) -> None:
        self.params = {"log2_batch_ratio": log2_batch_ratio, "base_lr": base_lr}

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self.params[param_name]


class Wish(L.Callback):
    """Logs the batch size as a metric: with this as the monitor, what wins is known beforehand."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loader = trainer.train_dataloader  # none yet at the sanity check
        loader = loader[0] if isinstance(loader, (list, tuple)) else loader
        size = 0 if loader is None else loader.batch_size * trainer.accumulate_grad_batches
        pl_module.log("wish", float(size))


def wishing(log2_batch_ratio: int = 1, base_lr: float = 1.5 * REFERENCE, **settings: Any) -> BatchSizeTuner:
    """A tuner that runs the user's settings and one pair, and finds that the latter is better."""
    settings = {
        "monitor": "wish",
        "mode": "max" if log2_batch_ratio >= 0 else "min",
        "objective": "metric",
        "n_trials": 2,
        "trial_budget": 128,
        "max_val": 16,
        "sampler": Picks(log2_batch_ratio, base_lr),
        "storage": InMemoryStorage(),
        "max_cost": None,
        **settings,
    }
    return BatchSizeTuner(**settings)


class Noisy(zoo.Regularised):
    """Dropout, BatchNorm, augmentation; the learning rate lives where a test has put it."""

    def __init__(self, batch_size: int = 8, length: int = 256, make: Callable[..., Any] | None = None, **rates: Any):
        super().__init__(batch_size, length)
        vars(self).update(rates)
        self.make = make or sgd

    def configure_optimizers(self) -> Any:
        self.configured = getattr(self, "configured", 0) + 1
        return self.make(self)


def rate_of(module: Any) -> float:
    """Wherever it lives."""
    names = [name for name in ("lr", "learning_rate", "written") if hasattr(module, name)]
    return float(getattr(module, names[0]) if names else module.hparams.lr)


def sgd(module: Any) -> Any:
    return torch.optim.SGD(module.parameters(), lr=rate_of(module), momentum=0.9)


def by_step(optimizer: Any, scheduler: Any) -> Any:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def one_cycle(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=rate_of(module) / 2, momentum=0.9)
    steps = module.trainer.estimated_stepping_batches
    return by_step(optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate_of(module), total_steps=steps))


def warmups(result: TuneResult) -> list[L.Callback]:
    """The callback to list in the run by hand, where the tuner has added one."""
    pattern = r"LearningRateWarmup\(samples=(.*), start_factor=(.*)\) in the callbacks"
    told = [found for value in result.set_values if (found := re.fullmatch(pattern, value))]
    return [LearningRateWarmup(int(found[1]), float(found[2])) for found in told]


def result_of(tuner: BatchSizeTuner) -> TuneResult:
    assert tuner.result is not None
    return tuner.result


def train(module: L.LightningModule, fit: dict[str, Any], *callbacks: L.Callback, **kwargs: Any) -> dict[str, Any]:
    """Train, and tell everything that training has left behind, the generators among it."""
    trainer = zoo.trainer(*callbacks, **kwargs)
    trainer.fit(module, **fit)
    return everything(module, trainer)


def seeded(build: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    L.seed_everything(7, verbose=False)
    return build(*args, **kwargs)
