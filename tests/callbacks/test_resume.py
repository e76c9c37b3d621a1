"""The answer is in the checkpoint: a resumed fit takes it, and loses nothing of the resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import ModelCheckpoint

from bstuner import BatchSizeFinder
from bstuner.errors import StoredSizeTooLarge

LIMIT = 5 * zoo.MIB

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Counting(zoo.Wide):
    """Notes the size of every batch, those of probes included."""

    def loss(self, batch: Any) -> torch.Tensor:
        zoo.NOTES.append(len(batch[0]))
        return super().loss(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One epoch at the answer, 256, saved."""
    L.seed_everything(1, verbose=False)
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    finder = BatchSizeFinder(memory_limit=LIMIT)
    zoo.trainer(finder, saver, max_epochs=1, enable_checkpointing=True).fit(Counting(batch_size=4, length=1024))
    assert finder.optimal_batch_size == 256
    zoo.NOTES.clear()
    return tmp_path / "last.ckpt"


def resume(checkpoint: Path, finder: BatchSizeFinder | None, size: int) -> tuple[Counting, L.Trainer]:
    L.seed_everything(2, verbose=False)
    model = Counting(batch_size=size, length=1024)
    trainer = zoo.trainer(*([finder] if finder else []), max_epochs=3)
    trainer.fit(model, ckpt_path=checkpoint, weights_only=False)
    return model, trainer


def test_a_resumed_fit_does_not_search_again_and_equals_the_one_resumed_by_hand(checkpoint: Path) -> None:
    finder = BatchSizeFinder(memory_limit=LIMIT)
    found, trainer = resume(checkpoint, finder, size=4)
    sanity_check, epoch = [64], [256] * 4 + [64]
    assert sanity_check + 2 * epoch == zoo.NOTES
    assert finder.result is None
    assert finder.optimal_batch_size == found.batch_size == 256
    by_hand, other = resume(checkpoint, None, size=256)
    assert found.losses == by_hand.losses
    assert trainer.global_step == other.global_step == 12
    for name, value in by_hand.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    for one, two in zip(trainer.optimizers[0].state.values(), other.optimizers[0].state.values(), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in two)
    assert trainer.optimizers[0].param_groups[0]["lr"] == other.optimizers[0].param_groups[0]["lr"] == 1e-3 / 8


def test_a_smaller_device_probes_the_stored_answer_once_and_goes_on_if_it_fits(checkpoint: Path) -> None:
    finder = BatchSizeFinder(memory_limit=LIMIT - 1)
    model, trainer = resume(checkpoint, finder, size=4)
    by_hand, _ = resume(checkpoint, None, size=256)
    assert model.losses == by_hand.losses
    assert trainer.current_epoch == 3


def test_a_device_that_is_too_small_for_the_stored_answer_says_what_to_do(checkpoint: Path) -> None:
    finder = BatchSizeFinder(memory_limit=LIMIT // 2)
    with pytest.raises(
        StoredSizeTooLarge,
        match=r"batch size, 256 \(found on CPU .* with 5.0 MiB\), to fit CPU .* with 2.5 MiB: "
        r"out of memory in training. Resume on a device .* batch size of 128 and accumulate_grad_batches doubled",
    ):
        resume(checkpoint, finder, size=4)
    assert set(zoo.NOTES) == {256}


def test_the_answer_survives_a_second_resume(checkpoint: Path, tmp_path: Path) -> None:
    for epochs in (2, 3):
        saver = ModelCheckpoint(dirpath=tmp_path / str(epochs), save_last=True)
        finder = BatchSizeFinder(memory_limit=LIMIT)
        model = Counting(batch_size=4, length=1024)
        trainer = zoo.trainer(finder, saver, max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(model, ckpt_path=checkpoint, weights_only=False)
        checkpoint = tmp_path / str(epochs) / "last.ckpt"
        assert (finder.result, model.batch_size, trainer.current_epoch) == (None, 256, epochs)


def test_a_checkpoint_written_without_a_finder_is_searched_for_and_resumed(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    zoo.trainer(saver, max_epochs=1, enable_checkpointing=True).fit(Counting(batch_size=256, length=1024))
    finder = BatchSizeFinder(memory_limit=LIMIT)
    found, trainer = resume(tmp_path / "last.ckpt", finder, size=4)
    by_hand, other = resume(tmp_path / "last.ckpt", None, size=256)
    assert finder.result is not None
    assert found.losses == by_hand.losses
    assert trainer.global_step == other.global_step


def test_a_new_fit_of_the_same_trainer_searches_anew(checkpoint: Path) -> None:
    finder = BatchSizeFinder(memory_limit=LIMIT)
    _, trainer = resume(checkpoint, finder, size=4)
    assert finder.result is None
    trainer.fit_loop.max_epochs = 4
    trainer.fit(Counting(batch_size=4, length=1024))
    assert finder.result is not None
    assert finder.result.batch_size == 256
