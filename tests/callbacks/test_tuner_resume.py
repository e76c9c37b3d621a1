"""The answer is in the checkpoint: a resumed fit takes it, warm-up included, and goes on as the unbroken run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint
from sameness import assert_same, everything
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from tuning import REFERENCE, Noisy, Wish, by_step, one_cycle, rate_of, result_of, seeded, sgd, wishing

from bstuner import BatchSizeTuner, LearningRateWarmup
from bstuner.errors import SettingRefused

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # called by torchdata
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class Plain(Noisy):
    """No random numbers after the start, and a loader that knows where it is: what a resumed run can repeat."""

    dataset = zoo.Vectors

    def build(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    def train_dataloader(self) -> DataLoader:
        return StatefulDataLoader(self.dataset(self.length), batch_size=self.batch_size)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        zoo.NOTES.append(len(batch[0]))
        return super().training_step(batch, batch_idx)


def constants(module: Any) -> Any:
    optimizer = sgd(module)
    return by_step(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5))


MAKES = {
    "an attribute": ("lr", sgd),
    "written in the code": ("written", sgd),
    "a constant of a scheduler": ("lr", constants),
}
# Lightning itself does not go on in the middle of an epoch where the user's code asks for the length of the fit.
ONE_CYCLE = "OneCycleLR over the whole fit"


def fit(make: str, where: Path, ckpt: Path | None, every: int = 12, **settings: Any) -> tuple[Any, L.Trainer, Any]:
    name, configure = {**MAKES, ONE_CYCLE: ("written", one_cycle)}[make]
    # With a limit of its own: what is free on the host differs from run to run, and the answer is probed once more.
    tuner = wishing(base_lr=2 * REFERENCE, memory_limit="1GiB", **settings)
    saver = ModelCheckpoint(dirpath=where, every_n_train_steps=every, save_top_k=-1, filename="{step}")
    model = seeded(Plain, make=configure, **{name: REFERENCE})
    trainer = zoo.trainer(tuner, Wish(), saver, max_epochs=2, enable_checkpointing=True)
    zoo.NOTES.clear()
    trainer.fit(model, ckpt_path=ckpt, weights_only=False if ckpt else None)
    return model, trainer, tuner


def left_behind(model: Any, trainer: L.Trainer) -> dict[str, Any]:
    return {
        "weights": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "steps": (trainer.global_step, trainer.current_epoch, trainer.max_steps),
        "attributes": (model.batch_size, rate_of(model), sorted(vars(model))),
        "callbacks": [type(callback) for callback in trainer.callbacks],
    }


# 256 samples twice: 16 steps an epoch at twice the batch; the user's every 12 steps are then every 6.
@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize(("warmup", "steps"), [(None, 18), (400, 18), (400, 6)])
def test_a_resumed_fit_does_not_search_again_and_equals_the_unbroken_run(
    make: str, warmup: int | None, steps: int, tmp_path: Path
) -> None:
    model, trainer, tuner = fit(make, tmp_path / "a", None, warmup=warmup)
    assert result_of(tuner).batch_size == 16
    assert "ModelCheckpoint(every_n_train_steps): 12 -> 6" in result_of(tuner).set_values
    resumed, again, other = fit(make, tmp_path / "b", tmp_path / "a" / f"step={steps}.ckpt", warmup=warmup)
    assert [16] * (32 - steps) == zoo.NOTES
    assert other.result is None
    assert_same(left_behind(resumed, again), left_behind(model, trainer))
    assert resumed.losses == model.losses[steps:]


def test_the_answer_survives_a_second_resume(tmp_path: Path) -> None:
    model, trainer, _ = fit("a constant of a scheduler", tmp_path / "a", None, warmup=400)
    fit("a constant of a scheduler", tmp_path / "b", tmp_path / "a" / "step=6.ckpt", warmup=400)
    last, again, _ = fit("a constant of a scheduler", tmp_path / "c", tmp_path / "b" / "step=18.ckpt", warmup=400)
    assert_same(left_behind(last, again), left_behind(model, trainer))


def test_a_checkpoint_of_a_run_that_was_not_tuned_is_refused(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    zoo.trainer(saver, max_epochs=1, enable_checkpointing=True).fit(Plain(lr=REFERENCE))
    trainer = zoo.trainer(wishing(), Wish())
    with pytest.raises(SettingRefused, match=r"a checkpoint of one that was tuned, found .*last.ckpt"):
        trainer.fit(Plain(lr=REFERENCE), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert [type(callback) for callback in trainer.callbacks] == [BatchSizeTuner, Wish]


@pytest.mark.parametrize("make", ["written in the code", ONE_CYCLE])
def test_a_resumed_fit_equals_the_one_resumed_by_hand(make: str, tmp_path: Path) -> None:
    """Whoever takes the tuner out writes its values, and lists its warm-up."""
    _, _, tuner = fit(make, tmp_path / "a", None, warmup=400)
    lr, saved = result_of(tuner).lr, tmp_path / "a" / "step=18.ckpt"
    resumed, trainer, _ = fit(make, tmp_path / "b", saved, warmup=400)
    by_hand = seeded(Plain, 16, make=sgd if make in MAKES else one_cycle, written=lr)
    other = zoo.trainer(Wish(), LearningRateWarmup(400, REFERENCE / lr), max_epochs=2)
    other.fit(by_hand, ckpt_path=saved, weights_only=False)
    assert resumed.losses == by_hand.losses
    assert_same(everything(resumed, trainer)["weights"], everything(by_hand, other)["weights"])
    assert_same(everything(resumed, trainer)["schedulers"], everything(by_hand, other)["schedulers"])


def test_a_new_fit_searches_anew(tmp_path: Path) -> None:
    _, _, tuner = fit("an attribute", tmp_path / "a", None)
    _, trainer, tuner = fit("an attribute", tmp_path / "b", tmp_path / "a" / "step=18.ckpt")
    assert tuner.result is None
    trainer.fit_loop.max_epochs = 4
    fresh = seeded(Plain, lr=REFERENCE)
    trainer.fit(fresh)
    assert (result_of(tuner).batch_size, fresh.batch_size) == (16, 16)


def test_the_result_of_an_earlier_search_does_not_pass_for_that_of_a_resumed_fit(tmp_path: Path) -> None:
    _, _, tuner = fit("an attribute", tmp_path, None)
    model = seeded(Plain, lr=REFERENCE)
    zoo.trainer(tuner, Wish()).fit(model, ckpt_path=tmp_path / "step=18.ckpt", weights_only=False)
    assert (tuner.result, model.batch_size) == (None, 16)
