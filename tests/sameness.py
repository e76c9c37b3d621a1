"""Whether two trainings are the same, bit for bit."""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.distributed.tensor import DTensor


def everything(module: L.LightningModule, trainer: L.Trainer) -> dict[str, Any]:
    """All that a training leaves behind, in comparable form."""
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "losses": module.losses,
        "seen": module.seen,
        "modes": [part.training for part in module.modules()],
        "attributes": sorted(vars(module)),
        "configured": getattr(module, "configured", None),
        "steps": trainer.global_step,
        "epoch": trainer.current_epoch,
        "metrics": dict(trainer.callback_metrics),
        "generators": (torch.get_rng_state(), np.random.get_state(), random.getstate()),
        "trainer": {
            name: getattr(trainer, name)
            for name in ("max_steps", "max_epochs", "limit_train_batches", "limit_val_batches", "should_stop",
                         "accumulate_grad_batches", "val_check_interval", "val_check_batch", "log_every_n_steps",
                         "check_val_every_n_epoch", "overfit_batches", "num_training_batches")
        },
        "loops": trainer.fit_loop.state_dict(),
    }  # fmt: skip


def assert_same(found: Any, by_hand: Any, path: str = "") -> None:
    if isinstance(found, dict):
        assert list(found) == list(by_hand), path
        for key in found:
            assert_same(found[key], by_hand[key], f"{path}/{key}")
    elif isinstance(found, (list, tuple)):
        assert len(found) == len(by_hand), path
        for index, (one, other) in enumerate(zip(found, by_hand, strict=True)):
            assert_same(one, other, f"{path}/{index}")
    elif isinstance(found, DTensor):
        assert torch.equal(found.to_local(), by_hand.to_local()), path
    elif isinstance(found, (torch.Tensor, np.ndarray)):
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(by_hand)), path
    else:
        assert found == by_hand, path
