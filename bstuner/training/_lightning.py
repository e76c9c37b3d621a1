"""Every private Lightning attribute that bstuner touches, each with its reason; each has a canary test.

Lightning moves these between releases. Keeping them in one place means that an upgrade is one file to read and one
test file to run. The main idea: a probe never borrows the user's loops. It gets loops of its own, made fresh, and the
user's stay aside untouched, so there is no progress, no metric and no loader state to put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.prediction_loop import _PredictionLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.utilities.exceptions import _TunerExitException

__all__ = [
    "EVALUATION_LOOPS",
    "checkpoint_steps",
    "end_run_early",
    "forget_loaders",
    "install_evaluation_loop",
    "install_fit_loop",
    "loaders_come_from_hooks",
    "request_loaders",
    "restart_evaluation",
    "shadow_scheduler_step",
]

EVALUATION_LOOPS = {"validate": "validate_loop", "test": "test_loop", "predict": "predict_loop"}


def _source(trainer: Trainer, role: str) -> Any:
    # _data_source: the only place that knows whether loaders were passed to fit() or come from a hook.
    if role == "train":
        return trainer.fit_loop._data_source
    if role == "val":
        return trainer.fit_loop.epoch_loop.val_loop._data_source
    return getattr(trainer, EVALUATION_LOOPS[role])._data_source


def loaders_come_from_hooks(trainer: Trainer, role: str) -> bool:
    """Whether the loaders of "train", "val", "validate", "test" or "predict" come from a `*_dataloader()` hook."""
    return bool(_source(trainer, role).is_module())


def request_loaders(trainer: Trainer, role: str) -> Any:
    """What the user passed, or what the user's hook returns now."""
    return _source(trainer, role).dataloader()


def install_fit_loop(
    trainer: Trainer, train_batches: Iterable[Any], val_batches: Sequence[Iterable[Any]], epoch: int
) -> None:
    """Give the Trainer a fresh fit loop that reads these batches; the caller puts the user's loop back."""
    unlimited = trainer.max_epochs in (None, -1)
    loop = _FitLoop(trainer, max_epochs=-1 if unlimited else max(trainer.max_epochs or 0, epoch + 1))
    # In the middle of a fit, callbacks that unfreeze layers at an epoch must see that epoch.
    loop.epoch_progress.current.processed = loop.epoch_progress.current.completed = epoch
    loop._data_source.instance = train_batches
    loop.epoch_loop.val_loop._data_source.instance = _as_passed(val_batches)
    trainer.fit_loop = loop
    _quieten(trainer)


def install_evaluation_loop(trainer: Trainer, stage: str, batches: Sequence[Iterable[Any]]) -> Any:
    """Give the Trainer a fresh loop for "validate", "test" or "predict" that reads these batches."""
    users = getattr(trainer, EVALUATION_LOOPS[stage])
    loop: Any
    if stage == "predict":
        loop = _PredictionLoop(trainer, inference_mode=users.inference_mode)
    else:
        # _trainer_fn, _stage: what makes an evaluation loop one of validation or of testing.
        loop = _EvaluationLoop(
            trainer, users._trainer_fn, users._stage, verbose=False, inference_mode=users.inference_mode
        )
    loop._data_source.instance = _as_passed(batches)
    setattr(trainer, EVALUATION_LOOPS[stage], loop)
    _quieten(trainer)
    return loop


def _as_passed(loaders: Sequence[Iterable[Any]]) -> Any:
    return loaders[0] if len(loaders) == 1 else list(loaders)


def _quieten(trainer: Trainer) -> None:
    # _logger_connector holds the metrics logged so far: a probe logs into one of its own.
    trainer._logger_connector = _LoggerConnector(trainer)
    # _val_check_time_interval: a validation by wall clock would fire in the middle of a probe.
    trainer._val_check_time_interval = None
    trainer.profiler = PassThroughProfiler()


def forget_loaders(trainer: Trainer) -> None:
    """Make the fit request its loaders again: those made at the old batch size are stale."""
    # _combined_loader: setup_data() returns at once while it is set.
    trainer.fit_loop._combined_loader = None
    trainer.fit_loop.epoch_loop.val_loop._combined_loader = None


def restart_evaluation(trainer: Trainer, stage: str) -> None:
    """Make a running evaluation loop, before its first batch, request its loaders again."""
    loop = getattr(trainer, EVALUATION_LOOPS[stage])
    loop._combined_loader = None
    loop.setup_data()
    loop.reset()


def end_run_early() -> None:
    """End the running fit, validate, test or predict cleanly, as Lightning's own Tuner does."""
    # The only exception that Trainer's entry points take as a normal end.
    raise _TunerExitException


def shadow_scheduler_step(module: LightningModule) -> None:
    """Keep schedulers still: a probe may take more steps than a short schedule has."""
    # An instance attribute hides the (public) hook; putting the module's attributes back uncovers it.
    vars(module)["lr_scheduler_step"] = lambda *_args, **_kwargs: None


def checkpoint_steps(trainer: Trainer) -> list[int]:
    """The `every_n_train_steps` of each ModelCheckpoint that has one."""
    # _every_n_train_steps: kept nowhere public.
    checkpoints = (callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint))
    return [callback._every_n_train_steps for callback in checkpoints if callback._every_n_train_steps]
