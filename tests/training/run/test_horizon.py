"""How long a fit is, in samples and in steps, without making a loader."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import zoo

from bstuner.core.epoch_data import EpochData, LoaderData
from bstuner.core.layout import BatchLayout
from bstuner.training.run.horizon import Horizon, horizon_of, steps_of


def of(samples: int | None, micro: int, accumulate: int = 1, drop_last: bool = False, **options: Any) -> Any:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    layout = BatchLayout(micro, accumulate, 1)
    data = EpochData((LoaderData(samples, drop_last),))
    return horizon_of(trainer, layout, data), steps_of(trainer, layout, data)


@pytest.mark.parametrize(
    ("data", "options", "horizon", "steps"),
    [
        ((100, 8), {"max_epochs": 3}, Horizon(300, 100), 39),
        ((100, 8, 1, True), {"max_epochs": 3}, Horizon(288, 96), 36),
        ((100, 8, 4), {"max_epochs": 3}, Horizon(300, 100), 12),
        ((100, 8), {"max_epochs": 3, "limit_train_batches": 5}, Horizon(120, 40), 15),
        ((100, 8), {"max_epochs": 3, "limit_train_batches": 0.5}, Horizon(144, 48), 18),
        ((100, 8), {"max_steps": 20}, Horizon(156, 100), 20),
        ((100, 8), {"max_steps": 20, "max_epochs": 1}, Horizon(100, 100), 13),
        ((100, 8, 2), {"max_steps": 5, "max_epochs": 3}, Horizon(80, 100), 5),
        ((100, 8), {"max_epochs": -1}, Horizon(None, 100), None),
        ((None, 8), {"max_epochs": 3}, Horizon(None, None), None),
        ((None, 8), {"max_steps": 20}, Horizon(160, None), 20),
        ((100, 8), {"max_epochs": 3, "max_time": {"minutes": 2}}, Horizon(300, 100, 120.0), 39),
        ((None, 8), {"max_epochs": -1, "max_time": {"minutes": 2}}, Horizon(None, None, 120.0), None),
    ],
    ids=str,
)
def test_a_fit_ends_by_epochs_or_by_steps(data: Any, options: Any, horizon: Horizon, steps: int | None) -> None:
    assert of(*data, **options) == (horizon, steps)


@pytest.mark.parametrize("options", [{}, {"max_steps": 7}, {"accumulate_grad_batches": 3}, {"limit_train_batches": 5}])
def test_steps_are_those_that_the_fit_takes(options: dict[str, Any]) -> None:
    trainer = zoo.trainer(**options)
    trainer.fit(zoo.Mlp(8, 100))
    layout = BatchLayout(8, options.get("accumulate_grad_batches", 1), 1)
    data = EpochData((LoaderData(100, drop_last=False),))
    assert steps_of(trainer, layout, data) == trainer.global_step == trainer.estimated_stepping_batches
