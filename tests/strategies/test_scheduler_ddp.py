"""Two processes grow their batches together: each has its own half of every epoch, and they resume as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from growing import Grower, Noisy, fit, halves, scheduler
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import launch

from bstuner import LearningRateWarmup

LENGTH = 160


class Random(Grower):
    """Dropout, and noise from the global generator, of which each process has another one."""

    dataset = Noisy

    def on_fit_start(self) -> None:
        torch.manual_seed(100 + self.global_rank)


def train(
    model: Grower, plan: str | None, *callbacks: L.Callback, fits: int = 10**6, seed: int = 1, **settings: Any
) -> dict[str, Any]:
    callback = scheduler(plan, fits=fits)
    settings = {"devices": 2, "strategy": "ddp", **settings}
    trainer = fit(model, callback, *callbacks, seed=seed, **settings)
    return {
        "batches": model.batches,
        "lrs": model.lrs,
        "validated": model.validated,
        "steps": trainer.global_step,
        "planned": [step.batch_size for step in callback.plan.steps()],
        "nominal": callback.plan.nominal_steps,
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "generators": torch.get_rng_state(),
    }


def grow(loader: dict[str, Any], fits: int, settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    micro = 4 // settings.get("accumulate_grad_batches", 1)
    model = Grower(halves(30, 50), length=LENGTH, batch_size=micro, **loader)
    return train(model, None, fits=fits, epochs=4, **settings)


@pytest.mark.parametrize(
    ("loader", "fits", "settings"),
    [
        ({}, 10**6, {}),
        ({}, 4, {}),
        ({"num_workers": 1, "persistent_workers": True}, 8, {}),
        ({"drop_last": True, "shuffle": False}, 10**6, {"accumulate_grad_batches": 2}),
    ],
)
def test_each_sample_comes_once_over_both_processes(
    loader: dict[str, Any], fits: int, settings: dict[str, Any]
) -> None:
    found = [rank.value for rank in launch(grow, loader, fits, settings)]
    for epoch in range(4):
        seen = [one for each in found for number, _, ids in each["batches"] if number == epoch for one in ids]
        assert sorted(seen) == list(range(LENGTH))
    assert found[0]["planned"] == found[1]["planned"]
    assert max(found[0]["planned"]) == 16
    assert found[0]["steps"] == found[1]["steps"] == len(found[0]["planned"]) < found[0]["nominal"]
    assert max(len(ids) for _, _, ids in found[0]["batches"]) == min(fits, 8)
    assert found[0]["lrs"] == found[1]["lrs"]
    assert all(torch.equal(value, found[1]["weights"][name]) for name, value in found[0]["weights"].items())
    first, second = ([ids for number, _, ids in each["batches"] if number < 2] for each in found)
    assert first != second


def interrupted(folder: str, ckpt_path: str | None, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    checkpoint = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=9)
    warm_up = LearningRateWarmup(100, 0.25)
    model = Random(halves(20, 30), length=50, batch_size=4)
    settings = {"enable_checkpointing": True, "ckpt_path": ckpt_path, "epochs": 5}
    return train(model, "0:8 61:16 120:32", checkpoint, warm_up, fits=8, seed=seed, **settings)


def test_a_resumed_fit_ends_as_the_unbroken_one_on_both_processes(tmp_path: Path) -> None:
    unbroken = [rank.value for rank in launch(interrupted, str(tmp_path / "one"), None, 1)]
    assert not torch.equal(*(each["generators"] for each in unbroken))
    paths = sorted((tmp_path / "one").glob("*.ckpt"))
    assert len(paths) >= 2
    for path in paths[:2]:
        resumed = [rank.value for rank in launch(interrupted, str(tmp_path / "two"), str(path), 7)]
        for was, now in zip(unbroken, resumed, strict=True):
            assert 0 < len(now["batches"]) < len(was["batches"])
            assert was["batches"][-len(now["batches"]) :] == now["batches"]
            assert was["lrs"][-len(now["lrs"]) :] == now["lrs"]
            assert torch.equal(was["generators"], now["generators"])
            assert all(torch.equal(value, now["weights"][name]) for name, value in was["weights"].items())
