"""What the user counts in steps or batches means the same samples at another batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint

from bstuner.core.epoch_data import EpochData, LoaderData
from bstuner.core.layout import BatchLayout
from bstuner.training.settings.trainer_steps import StepSettings

OWN = BatchLayout(8, 4, 1)
DATA = EpochData((LoaderData(10_000, drop_last=False),))
NAMES = ("max_steps", "min_steps", "val_check_interval", "limit_train_batches")


def values(trainer: L.Trainer) -> dict[str, Any]:
    return {name: getattr(trainer, name) for name in NAMES}


@pytest.mark.parametrize(
    ("layout", "expected", "told"),
    [
        (
            BatchLayout(16, 4, 1),
            (500, 50, 20, 40),
            ("limit_train_batches: 80 -> 40", "max_steps: 1,000 -> 500", "min_steps: 100 -> 50",
             "val_check_interval: 40 -> 20"),
        ),
        (  # the same samples a step, in larger batches
            BatchLayout(32, 1, 1), (1000, 100, 10, 20),
            ("limit_train_batches: 80 -> 20", "val_check_interval: 40 -> 10"),
        ),
        (  # the same batches, fewer to a step
            BatchLayout(8, 1, 1), (4000, 400, 40, 80), ("max_steps: 1,000 -> 4,000", "min_steps: 100 -> 400"),
        ),
        (OWN, (1000, 100, 40, 80), ()),
    ],
    ids=str,
)  # fmt: skip
def test_counts_become_those_of_equal_samples(layout: BatchLayout, expected: Any, told: Any) -> None:
    trainer = zoo.trainer(max_steps=1000, min_steps=100, val_check_interval=40, limit_train_batches=80)
    settings = StepSettings.of(trainer, OWN, DATA)
    assert settings.apply(trainer, layout) == told
    assert values(trainer) == dict(zip(NAMES, expected, strict=True))
    assert settings.apply(trainer, layout) == told, "from what the user wrote, however often"
    settings.apply(trainer, OWN)
    assert values(trainer) == dict(zip(NAMES, (1000, 100, 40, 80), strict=True))


def test_shares_and_what_is_not_set_stay() -> None:
    trainer = zoo.trainer(max_epochs=3, val_check_interval=0.25, limit_train_batches=0.5)
    before = values(trainer)
    assert StepSettings.of(trainer, OWN, DATA).apply(trainer, BatchLayout(64, 1, 1)) == ()
    assert values(trainer) == before


def test_nothing_is_converted_to_nothing() -> None:
    trainer = zoo.trainer(max_steps=3, limit_train_batches=2, limit_val_batches=0)
    StepSettings.of(trainer, OWN, DATA).apply(trainer, BatchLayout(512, 4, 1))
    assert (trainer.max_steps, trainer.limit_train_batches) == (3, 1), "three epochs of one step each, before and after"
    none = zoo.trainer(limit_train_batches=0)
    assert StepSettings.of(none, OWN, DATA).apply(none, BatchLayout(512, 4, 1)) == ()
    assert none.limit_train_batches == 0


@pytest.mark.parametrize(
    ("samples", "size", "steps", "expected"), [(70, 64, 200, 44), (100, 16, 37, 20), (64, 16, 11, 6)]
)
def test_steps_of_epochs_that_end_with_a_short_one(samples: int, size: int, steps: int, expected: int) -> None:
    """70 samples are 9 steps of 8 or 2 of 64: 200 steps are 22 epochs and 16 samples, and so 44 steps."""
    trainer = zoo.trainer(max_steps=steps, max_epochs=-1)
    data = EpochData((LoaderData(samples),))
    StepSettings.of(trainer, BatchLayout(8, 1, 1), data).apply(trainer, BatchLayout(size, 1, 1))
    assert trainer.max_steps == expected


def test_a_validation_by_the_clock_stays(tmp_path: Path) -> None:
    trainer = zoo.trainer(val_check_interval="00:00:10:00")
    assert StepSettings.of(trainer, OWN, DATA).apply(trainer, BatchLayout(64, 1, 1)) == ()


def test_checkpoints_by_steps_follow(tmp_path: Path) -> None:
    savers = [ModelCheckpoint(tmp_path, every_n_train_steps=every, monitor=str(every)) for every in (10, 30)]
    trainer = zoo.trainer(savers[0], ModelCheckpoint(tmp_path), savers[1], enable_checkpointing=True)
    settings = StepSettings.of(trainer, OWN, DATA)
    half = BatchLayout(16, 4, 1)
    told = tuple(f"ModelCheckpoint(every_n_train_steps): {each}" for each in ("10 -> 5", "30 -> 15"))
    assert settings.apply(trainer, half) == told
    assert settings.apply(trainer, half) == told
    trainer.callbacks, users = [], trainer.callbacks
    settings.apply(trainer, OWN)  # as in a trial: they are set aside
    trainer.callbacks = users
    again = settings.with_checkpoints_of(trainer)
    assert settings.checkpoints == (10, 30)
    assert again.checkpoints == (5, 15)


def test_a_fit_ends_after_the_converted_steps() -> None:
    trainer = zoo.trainer(max_steps=12, max_epochs=-1)
    StepSettings.of(trainer, BatchLayout(8, 1, 1), DATA).apply(trainer, BatchLayout(16, 1, 1))
    trainer.fit(zoo.Mlp(16, 64))
    assert trainer.global_step == 6


@pytest.mark.parametrize(
    ("drop_last", "limit", "over_epochs", "expected"),
    [(False, 1.0, False, 2), (True, 1.0, False, 1), (True, 1.0, True, 2), (False, 0.5, False, 1), (True, 3, False, 1)],
)
def test_a_validation_stays_within_its_epoch(
    drop_last: bool, limit: int | float, over_epochs: bool, expected: int
) -> None:
    """3 batches of 8 are rounded up to 2 of 16, which 24 samples may not be."""
    epochs = {"check_val_every_n_epoch": None} if over_epochs else {}
    trainer = zoo.trainer(limit_train_batches=limit, val_check_interval=3, **epochs)
    data = EpochData((LoaderData(24, drop_last=drop_last),))
    StepSettings.of(trainer, BatchLayout(8, 1, 1), data).apply(trainer, BatchLayout(16, 1, 1))
    assert trainer.val_check_interval == expected
