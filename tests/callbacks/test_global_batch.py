"""A wanted global batch size is met exactly, or an error names the nearest that are possible."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from sameness import assert_same, everything
from torch import nn

import bstuner
from bstuner import BatchSizeFinder, FindResult
from bstuner.core.layout import BatchLayout
from bstuner.errors import InvalidSetting, LayoutImpossible, NothingFits
from bstuner.training.probing.warnings import accumulation_warnings

layers_named = pytest.mark.filterwarnings("ignore:.*(takes its statistics over|sums its loss)")

LIMIT = 5 * zoo.MIB  # Wide trains at 256 under this limit, and not at 512


def found(model: L.LightningModule, global_batch_size: int, *callbacks: L.Callback, **settings: Any) -> FindResult:
    options = settings.pop("trainer", {})
    trainer = zoo.trainer(*callbacks, **options)
    result = bstuner.find(trainer, model, global_batch_size=global_batch_size, **settings)
    assert trainer.accumulate_grad_batches == result.accumulate_grad_batches
    return result


@pytest.mark.parametrize(
    ("wanted", "micro", "accumulate"), [(1024, 256, 4), (96, 96, 1), (768, 384, 2), (1000, 250, 4), (1, 1, 1)]
)
def test_the_largest_micro_batch_that_fits_and_divides_it_and_accumulation(
    wanted: int, micro: int, accumulate: int
) -> None:
    result = found(zoo.Wide(batch_size=8, length=4096), wanted, memory_limit=LIMIT)
    assert (result.batch_size, result.accumulate_grad_batches) == (micro, accumulate)
    assert result.global_batch_size == wanted
    assert next(probe for probe in result.probes if probe.batch_size == micro).fits, "it has run itself"
    assert result.limited_by == ("memory" if accumulate > 1 else "global_batch_size")


@layers_named
def test_training_is_the_run_started_by_hand_with_that_layout() -> None:
    runs = []
    for finders, size, accumulate in (((), 32, 3), ((BatchSizeFinder(global_batch_size=96, max_val=40),), 8, 1)):
        L.seed_everything(1, verbose=False)
        model = zoo.EpochSchedule(batch_size=size)
        trainer = zoo.trainer(*finders, accumulate_grad_batches=accumulate)
        trainer.fit(model)
        runs.append(everything(model, trainer))
    assert_same(runs[1], runs[0])


def test_the_probes_accumulate_as_training_will() -> None:
    class Counted(zoo.Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            zoo.NOTES.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    found(Counted(batch_size=8), 64, init_val=64, max_val=64)
    assert zoo.NOTES.count(64) == 3, "alone a step: two steps measured, one timed"
    zoo.NOTES.clear()
    found(Counted(batch_size=8), 128, init_val=64, max_val=64)
    assert zoo.NOTES.count(64) == 6, "two batches a step"


def test_a_size_that_only_one_divides_is_met_all_the_same_and_called_wasteful() -> None:
    result = found(zoo.Wide(batch_size=8, length=4096), 1021, memory_limit=LIMIT)
    assert (result.batch_size, result.accumulate_grad_batches) == (1, 1021)
    (waste, tail) = result.warnings
    assert waste.startswith("A global batch of 1021 divides only into micro-batches of 1, where up to 4")
    assert "1020 (" in waste
    assert tail.startswith("An epoch of 4096 batches ends with an optimizer step over 12 of 1021")


def test_where_one_sample_cannot_be_trained_on_the_nearest_sizes_are_named() -> None:
    with pytest.raises(LayoutImpossible) as error:
        found(zoo.Regularised(batch_size=8, length=4096), 1021, max_val=64)
    assert str(error.value).startswith(
        "Expected a global batch size that equal micro-batches can make, found 1021 on 1 process with micro-batches of "
        "up to 64 samples: 1021 samples per process have no divisor from 2 to 64. The nearest are 1020 (60 x 17 acc"
    )


def test_a_global_batch_that_an_epoch_cannot_fill_is_refused() -> None:
    with pytest.raises(LayoutImpossible, match=r"found 1024: an epoch has 512 samples .* largest possible is 512"):
        found(zoo.Mlp(), 1024)


def test_nothing_fits_is_said_as_ever() -> None:
    with pytest.raises(NothingFits, match="a batch of 1 does not: out of memory in training"):
        found(zoo.Wide(length=4096), 1024, memory_limit="700KiB", margin=0.0)


def test_manual_optimization_is_met_by_one_micro_batch_or_not_at_all() -> None:
    assert found(zoo.ManualAutoencoder(length=4096), 64).batch_size == 64
    with pytest.raises(
        LayoutImpossible,
        match=r"needs no accumulation, since ManualAutoencoder steps .* found 4096 .* The largest possible is 64\.",
    ):
        found(zoo.ManualAutoencoder(length=4096), 4096, max_val=64)


def test_manual_optimization_that_does_not_fit_is_told_what_does() -> None:
    class Wide(zoo.ManualAutoencoder):
        def loss(self, batch: Any) -> torch.Tensor:
            return super().loss(batch) + 0 * torch.ones(len(batch[0]), 4096).sum()

    with pytest.raises(LayoutImpossible, match=r"needs no accumulation, since Wide .* The largest possible is 1\d\d\."):
        found(Wide(length=4096), 1024, memory_limit="4MiB")


def test_a_callback_that_changes_the_accumulation_contradicts_it() -> None:
    with pytest.raises(LayoutImpossible, match="found GradientAccumulationScheduler, which changes it by epoch"):
        found(zoo.Mlp(), 64, GradientAccumulationScheduler({0: 2}))


class Norms(zoo.Mlp):
    def build(self) -> nn.Module:
        self.criterion = nn.CrossEntropyLoss(reduction="sum")
        return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 32), nn.BatchNorm1d(32))


@layers_named
def test_layers_to_which_accumulation_is_not_one_large_batch_are_named() -> None:
    result = found(Norms(batch_size=8, length=512), 256, max_val=64)
    assert result.accumulate_grad_batches == 4
    assert result.warnings == (
        "net.1 (BatchNorm1d) (and 1 more) takes its statistics over the 64 samples of a micro-batch, not over 256: "
        "accumulation does not change that, so training is not the same as with one batch of 256.",
        "criterion (CrossEntropyLoss) sums its loss, and Lightning divides it by the 4 accumulated batches: gradients "
        "are 4 times smaller than in one batch of 256.",
    )
    assert found(Norms(batch_size=8, length=512), 64).warnings == (), "nothing is accumulated"


def test_what_synchronised_layers_see_together_is_told() -> None:
    layout = BatchLayout(micro=32, accumulate=4, world=2)
    module = torch.nn.Sequential(nn.BatchNorm2d(3))
    (apart,) = accumulation_warnings(module, layout)
    assert "over the 32 samples of a micro-batch, not over 256" in apart
    assert apart.endswith("Trainer(sync_batchnorm=True) would take 64.")
    (together,) = accumulation_warnings(nn.SyncBatchNorm.convert_sync_batchnorm(module), layout)
    assert together.startswith(
        "0 (SyncBatchNorm) takes its statistics over the 64 samples that 2 processes have at a time (SyncBatchNorm), "
        "not over 256: "
    )
    assert together.endswith("one batch of 256.")


@pytest.mark.filterwarnings("ignore:.*sums its loss")
def test_a_user_is_warned_when_the_search_ends() -> None:
    finder = BatchSizeFinder(global_batch_size=256, max_val=64)
    with pytest.warns(UserWarning, match=r"net\.1 \(BatchNorm1d\) \(and 1 more\) takes its statistics over"):
        zoo.trainer(finder, max_epochs=1).fit(Norms(batch_size=8, length=512))


def test_what_now_counts_other_samples_is_named() -> None:
    options = {"max_steps": 4, "max_epochs": -1, "accumulate_grad_batches": 2, "limit_train_batches": 4}
    result = found(zoo.Mlp(batch_size=8, length=512), 64, trainer=options, max_val=16)
    assert result.changed_settings == (
        "accumulate_grad_batches=4 instead of 2",
        "max_steps=4 now spans 256 samples instead of 64",
        "limit_train_batches=4 now spans 64 samples instead of 32",
    )


def test_a_limit_on_the_batches_of_an_epoch_counts(recwarn: Any) -> None:
    with pytest.raises(
        LayoutImpossible,
        match=r"takes 256 batches of 4 .* with Trainer\(limit_train_batches=2\) it has 2\. Raise .* of at most 8\.",
    ):
        found(zoo.Mlp(length=4096), 1024, max_val=4, trainer={"limit_train_batches": 2})
    advised = found(zoo.Mlp(length=1000), 192, max_val=64, trainer={"limit_train_batches": 15})
    assert advised.warnings == (), "15 batches are five whole steps, as an earlier remark has advised"


def test_a_wasteful_layout_is_told_where_max_val_limits_too() -> None:
    (remark, _) = found(zoo.Mlp(length=4096), 509, max_val=64).warnings
    assert remark.startswith("A global batch of 509 divides only into micro-batches of 1, where up to 64 may fit.")


def test_it_is_about_training_alone() -> None:
    finder = BatchSizeFinder(global_batch_size=256, max_val=64)
    trainer, model = zoo.trainer(finder, max_epochs=1), zoo.Mlp()
    trainer.fit(model)
    assert trainer.accumulate_grad_batches == 4
    for stage in ("validate", "test", "predict"):
        getattr(trainer, stage)(model)
        assert finder.result is not None
        assert (finder.result.stage, finder.result.batch_size) == (stage, 64)
        assert trainer.accumulate_grad_batches == 4


@pytest.mark.parametrize("bad", [0, -4, 1.5, "many"])
def test_what_is_no_number_of_samples_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidSetting, match="global_batch_size"):
        BatchSizeFinder(global_batch_size=bad)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_has_the_same_layout(tmp_path: Any) -> None:
    def run(epochs: int, wanted: int, **fit: Any) -> tuple[L.Trainer, BatchSizeFinder, zoo.Mlp]:
        finder = BatchSizeFinder(global_batch_size=wanted, max_val=20)
        checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
        trainer = zoo.trainer(finder, checkpoint, max_epochs=epochs, enable_checkpointing=True)
        model = zoo.Mlp(batch_size=8)
        trainer.fit(model, **fit)
        return trainer, finder, model

    run(1, 48)
    trainer, finder, model = run(2, 48, ckpt_path=tmp_path / "last.ckpt")
    assert finder.result is None, "it did not search again"
    assert (model.batch_size, trainer.accumulate_grad_batches) == (16, 3)
    trainer, finder, model = run(3, 64, ckpt_path=tmp_path / "last.ckpt")
    assert finder.result is not None, "another question was asked"
    assert (model.batch_size, trainer.accumulate_grad_batches) == (16, 4)
    assert torch.isfinite(next(model.parameters())).all()
