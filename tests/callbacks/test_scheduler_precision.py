"""A growing batch at any precision, with steps that a loss scaler skips, and resumed; on the CPU and on a GPU."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from devices import OVERFLOWS, generator, on
from growing import Grower, Noisy, fit, halves, scheduler
from lightning.pytorch.callbacks import ModelCheckpoint
from sameness import assert_same
from torch.optim import SGD, AdamW

pytestmark = [
    # Where a loss scaler skips the first step, the schedule is stepped before the optimizer, callback or not.
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

LENGTH, EPOCHS = 160, 4
# Of the user's own steps of 4 samples: after each of the first two the batch doubles, up to a tenth of the samples.
MILESTONES = (60, 100, 140)
FUSED = functools.partial(AdamW, fused=True)


class Watched(Grower):
    """Notes which of the planned steps each step that was really taken is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(halves(*MILESTONES), length=LENGTH, batch_size=4, **kwargs)
        self.taken: list[int] = []
        self.between: list[float] = []

    def _note(self, *args: Any) -> None:
        super()._note(*args)
        self.taken.append(self.trainer.global_step)


class Noisier(Watched):
    """With noise from the global generator of the process on every sample, beside the dropout on the device."""

    dataset = Noisy


class Between(L.Callback):
    """Notes the learning rate that is in place once a batch is over."""

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        module.between.append(float(trainer.optimizers[0].param_groups[0]["lr"]))


def own_lr(sample: int) -> float:
    """What the user's own schedule says of the first group at a sample."""
    return 0.1 * 0.5 ** sum(sample // 4 >= milestone for milestone in MILESTONES)


PINNED = {"num_workers": 2, "pin_memory": True, "persistent_workers": True}


def on_gpu(*case: Any) -> Any:
    return pytest.param("cuda", *case, marks=pytest.mark.gpu)


@pytest.mark.parametrize(
    ("device", "precision", "optimizer", "fits", "loader"),
    [
        ("cpu", "bf16-mixed", AdamW, 8, {}),
        ("cpu", OVERFLOWS, SGD, 8, {}),
        ("cpu", OVERFLOWS, AdamW, 10**6, {}),
        on_gpu("32-true", SGD, 10**6, {}),
        on_gpu("32-true", SGD, 8, PINNED),
        on_gpu("bf16-mixed", AdamW, 8, {}),
        on_gpu("16-mixed", SGD, 8, {}),
        on_gpu(OVERFLOWS, SGD, 8, {}),
        on_gpu(OVERFLOWS, FUSED, 10**6, PINNED),
    ],
)
def test_the_batch_grows_as_planned(
    device: str, precision: str, optimizer: Callable[..., Any], fits: int, loader: dict[str, Any]
) -> None:
    model = Watched(optimizer=optimizer, **loader)
    callback = scheduler(fits=fits)
    trainer = fit(model, callback, Between(), epochs=EPOCHS, **on(device, precision))
    plan = callback.plan
    assert plan is not None
    planned = list(plan.steps())
    assert trainer.global_step == plan.planned_steps == len(planned)
    assert [step.batch_size for step in planned] == 60 * [4] + 20 * [8] + 15 * [16]
    assert model.sizes() == [micro for step in planned for micro in step.micros]
    for epoch in range(EPOCHS):
        assert sorted(model.samples(epoch)) == list(range(LENGTH))
    # A fused optimizer is always called, and skips within; the others are not called at all.
    skips = precision == OVERFLOWS and optimizer is not FUSED
    assert (len(model.taken) < len(planned)) == skips or precision == "16-mixed"
    for index, lrs in zip(model.taken, model.lrs, strict=True):
        step = planned[index]
        growth = step.batch_size / 4
        expected = own_lr(step.start_sample) * (growth if optimizer is SGD else growth**0.5)
        assert lrs == pytest.approx([expected, expected / 5]), f"step {index}"
    assert model.lrs[-1][0] == pytest.approx(0.05 if optimizer is SGD else 0.025), "at the cap it falls again"
    last_batches = itertools.accumulate(len(step.micros) for step in planned)
    between = [model.between[batch - 1] for batch in last_batches]
    ends = [step.start_sample + step.batch_size for step in planned]
    assert between == pytest.approx([own_lr(end) for end in ends]), "between steps it is the user's own"
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def everything(trainer: L.Trainer, model: Watched, device: str) -> dict[str, Any]:
    return {
        "weights": dict(model.state_dict()),
        "optimizer": trainer.optimizers[0].state_dict(),
        "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "scaler": trainer.precision_plugin.state_dict(),
        "steps": trainer.global_step,
        "generators": [torch.get_rng_state(), generator(device)],
    }


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize(
    ("device", "kind", "precision", "loader"),
    [
        ("cpu", Noisier, OVERFLOWS, {}),
        on_gpu(Noisier, "32-true", {}),
        on_gpu(Noisier, OVERFLOWS, {}),
        on_gpu(Watched, "bf16-mixed", PINNED),
    ],
)
def test_a_resumed_fit_ends_as_the_unbroken_one(
    device: str, kind: type[Watched], precision: str, loader: dict[str, Any]
) -> None:
    def run(folder: str, seed: int, **resumed: Any) -> tuple[L.Trainer, Watched]:
        model = kind(**loader)
        saves = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=31)
        settings = on(device, precision, enable_checkpointing=True)
        return fit(model, scheduler(fits=8), saves, epochs=EPOCHS, seed=seed, **settings, **resumed), model

    trainer, model = run("unbroken", 1)
    unbroken = everything(trainer, model, device)
    paths = sorted(Path("unbroken").glob("*.ckpt"))
    assert len(paths) == 3, "within the second, the third and the last epoch"
    for path in paths:
        trainer, again = run("again", 99, ckpt_path=str(path))
        assert again.batches == model.batches[-len(again.batches) :]
        assert again.lrs == model.lrs[-len(again.lrs) :]
        assert_same(everything(trainer, again, device), unbroken)
