"""What Lightning leaves out when it resumes a fit, done all the same."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bstuner.training._lightning.roots import lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

__all__ = [
    "begin_epoch_again",
    "begin_epoch_in_full",
    "checkpoint_to_resume",
    "end_epoch_in_full",
    "go_on_after_batch",
    "restore_metrics",
    "state_to_come",
    "step_plateaus_after_batch",
]


def begin_epoch_in_full(trainer: Trainer) -> None:
    """Have a fit that was resumed at the end of an epoch begin the next one as if it had not been interrupted.

    Otherwise Lightning goes on with the iterator that it made before the random generators were put back; a scheduler
    that waits for a metric misses that of the epoch before; and with max_steps, the epoch is taken for one that is in
    progress, and ends without a batch.

    Args:
        trainer: a Trainer in `on_train_start`, with the metrics of the epoch before.

    """
    loop, inner = trainer.fit_loop, trainer.fit_loop.epoch_loop
    _forget_restart(trainer)
    # Lightning does this last of all in an epoch, while it still counts as the current one.
    loop.epoch_progress.current.completed = loop.epoch_progress.current.processed - 1
    inner.update_lr_schedulers("epoch", update_plateau_schedulers=True)
    for progress in (loop.epoch_progress.current, loop.epoch_progress.total):
        progress.completed = progress.processed


def begin_epoch_again(trainer: Trainer) -> None:
    """Have a fit that was saved in `on_train_epoch_start` begin that epoch, and not count it as over.

    Lightning still has the batches of the epoch before among its counters then, and takes them for those of this one.
    """
    _forget_restart(trainer)
    for progress in (trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_progress.total):
        progress.ready = progress.started = progress.processed = progress.completed


def _forget_restart(trainer: Trainer) -> None:
    loop = trainer.fit_loop
    for each in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
        each._restarting = False  # past the setter, which sets it again where there are max_steps
        each.reset_restart_stage()
    loop._resuming_from_checkpoint = False


def go_on_after_batch(trainer: Trainer) -> None:
    """Have a fit that was resumed in an epoch step the schedulers that wait for a metric at its end.

    Lightning leaves that out, since its checkpoints hold no metrics.
    """
    trainer.fit_loop._restarting = False  # of this loop alone: those inside it go on as resumed


def step_plateaus_after_batch(trainer: Trainer) -> None:
    """Have a fit that was resumed after a batch step the schedulers that were to hear of a metric after that batch.

    Lightning goes on with the next batch. A checkpoint that was saved later than the batch's hooks has them stepped.
    """
    inner = trainer.fit_loop.epoch_loop
    if inner.restarted_on_train_batch_end:
        inner.update_lr_schedulers("step", update_plateau_schedulers=True)


def end_epoch_in_full(trainer: Trainer, epoch: int, *, validate: bool) -> None:
    """Have a fit that was resumed after a batch do all that was to follow that batch.

    Otherwise Lightning leaves out the validation that was due, and after the last batch of an epoch its hooks too.

    Args:
        trainer: a Trainer in `on_train_start`.
        epoch: the epoch of the batch.
        validate: whether the validation is still to come.

    """
    loop, inner = trainer.fit_loop, trainer.fit_loop.epoch_loop
    for batches in (inner.batch_progress.current, inner.batch_progress.total):
        batches.completed = batches.ready
    loop.epoch_progress.current.processed = loop.epoch_progress.current.completed = epoch
    total = loop.epoch_progress.total
    total.processed = total.completed = total.ready - 1
    inner.reset_restart_stage()
    inner._restarting = True
    inner.val_loop._restarting = False
    if validate:
        stages = lightning_of(trainer, "loops.evaluation_loop").RestartStage
        inner.val_loop._restart_stage = stages.RESTARTED_MID_EVALUATION
        inner._batches_that_stepped -= 1  # counted after the validation


def restore_metrics(trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
    """Put back the metrics that callbacks and schedulers read, as `trainer.callback_metrics` had them."""
    # _callback_metrics: what is logged adds to it; the public dict is this one.
    trainer._logger_connector._callback_metrics.update(metrics)


def checkpoint_to_resume(trainer: Trainer) -> Any:
    """The checkpoint that a fit goes on from; None for a fit from its beginning.

    A strategy that shards the model has Lightning restore later than `on_fit_start`. Until then `trainer.ckpt_path` is
    that of an earlier fit, and the one to come is nowhere but among the arguments of the method that runs the fit.

    Args:
        trainer: a Trainer in `on_fit_start`.

    """
    if not trainer.strategy.restore_checkpoint_after_setup:
        return trainer.ckpt_path
    return _arguments_of_run(trainer)["ckpt_path"]


def state_to_come(trainer: Trainer, callback: Callback) -> dict[str, Any]:
    """What the checkpoint that a fit goes on from holds of a callback, where Lightning restores it later; else nothing.

    Args:
        trainer: a Trainer in `on_fit_start`; to be called on all processes.
        callback: one of its callbacks.

    """
    path = checkpoint_to_resume(trainer) if trainer.strategy.restore_checkpoint_after_setup else None
    if path is None:
        return {}
    place = Path(trainer.strategy.broadcast(path))  # as Lightning does: all read the same
    # A folder has the weights in files of their own, and a single file is mapped, not read.
    folder_file = lightning_of(trainer, "strategies.model_parallel")._METADATA_FILENAME
    file = place / folder_file if place.is_dir() else place
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an older torch's defaults, when Lightning reads it too
        weights_only = _arguments_of_run(trainer)["weights_only"]  # as the user has said to Lightning
        saved = torch.load(file, mmap=True, map_location="cpu", weights_only=weights_only)
    return dict(copy.deepcopy(saved.get("callbacks", {}).get(callback.state_key, {})))


def _arguments_of_run(trainer: Trainer) -> dict[str, Any]:
    # _run: it keeps what `fit` was given nowhere else before the strategy has set up the model.
    run = lightning_of(trainer).Trainer._run.__code__
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is run and frame.f_locals["self"] is trainer:
            return frame.f_locals
        frame = frame.f_back
    # Rather than to train on by another plan than the checkpoint's.
    raise RuntimeError("Expected to be called by a Trainer that runs a fit, found none that does.")
