"""Loops: fresh ones for a probe or a trial, how long the user's are, and how a run ends early.

A probe never borrows the user's loops. It gets loops of its own, made fresh, and the user's stay aside untouched, so
there is no progress, no metric and no loader state to put back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bstuner.training._lightning.processes import spawns_processes
from bstuner.training._lightning.roots import lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities import CombinedLoader

__all__ = [
    "EVALUATION_LOOPS",
    "current_fit_loop",
    "end_run_early",
    "install_evaluation_loop",
    "install_fit_loop",
    "install_trial_loop",
    "is_tried_by_tuner",
    "log_step",
    "run_evaluation_loop",
    "run_fit_loop",
    "set_epoch_length",
    "set_step_limits",
    "show_loaders",
]

EVALUATION_LOOPS = {"validate": "validate_loop", "test": "test_loop", "predict": "predict_loop"}


def install_fit_loop(
    trainer: Trainer, train_batches: CombinedLoader, val_batches: CombinedLoader | None, epoch: int, length: float
) -> None:
    """Give the Trainer a fresh fit loop that reads these batches; the caller puts the user's loop back.

    Args:
        trainer: a Trainer inside `fit`.
        train_batches: the training batches.
        val_batches: those of validation; None for none.
        epoch: the epoch that user code should see.
        length: batches of an epoch that user code should see; infinity where that is not known.

    """
    unlimited = trainer.max_epochs in (None, -1)
    loop = _fit_loop(trainer, max_epochs=-1 if unlimited else max(trainer.max_epochs or 0, epoch + 1))
    # In the middle of a fit, callbacks that unfreeze layers at an epoch must see that epoch.
    loop.epoch_progress.current.processed = loop.epoch_progress.current.completed = epoch
    loop._data_source.instance = train_batches
    loop.epoch_loop.val_loop._data_source.instance = [] if val_batches is None else val_batches
    trainer.fit_loop = _seen_by_hooks(loop, length)
    _quieten(trainer)


def show_loaders(trainer: Trainer, role: str, loaders: CombinedLoader) -> None:
    """Have user code that asks the Trainer for the loaders of a role, whose loop has begun, see these."""
    loop: Any
    if role in EVALUATION_LOOPS:
        loop = getattr(trainer, EVALUATION_LOOPS[role])
    else:
        loop = trainer.fit_loop if role == "train" else trainer.fit_loop.epoch_loop.val_loop
    # _iterables: what the Trainer's `train_dataloader` and its like return; the loop itself reads `flattened`.
    loop._combined_loader._iterables = loaders.iterables


def _seen_by_hooks(loop: Any, batches: float) -> Any:
    """A fit loop that tells the user's hooks how many batches an epoch of the fit has, and itself those of a probe."""

    # The hook that this search runs in.
    outer = loop.trainer.lightning_module._current_fx_name

    class Loop(type(loop)):  # type: ignore[misc]  # of either package
        # max_batches: the Trainer's `num_training_batches` reads it, for hooks and loops alike. _current_fx_name tells
        # which hook of the user's is running.
        @property
        def max_batches(self) -> Any:
            return self._own_batches if self.trainer.lightning_module._current_fx_name == outer else batches

        @max_batches.setter
        def max_batches(self, value: Any) -> None:
            self._own_batches = value

    Loop.__name__ = type(loop).__name__  # its errors name their class
    loop.__dict__["_own_batches"] = loop.__dict__.pop("max_batches")
    loop.__class__ = Loop
    return loop


def install_trial_loop(trainer: Trainer) -> None:
    """Give the Trainer a fresh fit loop that reads the user's own loaders; the caller puts the user's loop back."""
    users = trainer.fit_loop
    loop = _fit_loop(trainer, min_epochs=users.min_epochs, max_epochs=users.max_epochs)
    _limit_steps(loop, users.max_steps, users.min_steps)
    loop._data_source = users._data_source
    loop.epoch_loop.val_loop._data_source = users.epoch_loop.val_loop._data_source
    trainer.fit_loop = loop
    _quieten(trainer)


def install_evaluation_loop(trainer: Trainer, stage: str, batches: CombinedLoader) -> Any:
    """Give the Trainer a fresh loop for "validate", "test" or "predict" that reads these batches."""
    users = getattr(trainer, EVALUATION_LOOPS[stage])
    loop: Any
    if stage == "predict":
        loop = lightning_of(trainer, "loops.prediction_loop")._PredictionLoop(
            trainer, inference_mode=users.inference_mode
        )
    else:
        # _trainer_fn, _stage: what makes an evaluation loop one of validation or of testing.
        loop = lightning_of(trainer, "loops.evaluation_loop")._EvaluationLoop(
            trainer, users._trainer_fn, users._stage, verbose=False, inference_mode=users.inference_mode
        )
    loop._data_source.instance = batches
    setattr(trainer, EVALUATION_LOOPS[stage], loop)
    _quieten(trainer)
    return loop


def _quieten(trainer: Trainer) -> None:
    # _logger_connector holds the metrics logged so far: a probe logs into one of its own.
    connectors = lightning_of(trainer, "trainer.connectors.logger_connector.logger_connector")
    trainer._logger_connector = connectors._LoggerConnector(trainer)
    # _val_check_time_interval: a validation by wall clock would fire in the middle of a probe.
    trainer._val_check_time_interval = None
    trainer.profiler = lightning_of(trainer, "profilers").PassThroughProfiler()


def _fit_loop(trainer: Trainer, **limits: Any) -> Any:
    return lightning_of(trainer, "loops.fit_loop")._FitLoop(trainer, **limits)


def run_fit_loop(trainer: Trainer) -> None:
    """Train in the fit loop that the Trainer has now."""
    trainer.training = True  # nothing public sets the stage without starting a run
    trainer.fit_loop.run()


def run_evaluation_loop(trainer: Trainer, stage: str) -> None:
    """Run the loop that the Trainer has now for "validate", "test" or "predict"."""
    getattr(trainer, EVALUATION_LOOPS[stage]).run()


def current_fit_loop(trainer: Trainer) -> Any:
    """Return the fit loop that the Trainer has now, by which a probe is told from the user's fit."""
    return trainer.fit_loop  # a probe replaces it, and nothing public names a run


def set_step_limits(trainer: Trainer, max_steps: int, min_steps: int | None) -> None:
    """Set after how many optimizer steps a fit ends, and before how many it does not."""
    _limit_steps(trainer.fit_loop, max_steps, min_steps)


def _limit_steps(loop: Any, max_steps: int, min_steps: int | None) -> None:
    # The Trainer's own max_steps and min_steps only read these.
    loop.epoch_loop.max_steps, loop.epoch_loop.min_steps = max_steps, min_steps


def set_epoch_length(trainer: Trainer, batches: int) -> None:
    """Tell the fit how many batches the epoch has that is about to start."""
    loop = trainer.fit_loop
    # limits: those of the epoch before would end this one. max_batches: by it Lightning knows the last batch, and the
    # progress bar its total.
    assert loop._combined_loader is not None
    loop._combined_loader.limits = [batches]
    loop.max_batches = batches


def log_step(trainer: Trainer) -> int:
    """The step by which Lightning's own loggers and monitors count."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # kept nowhere public


def is_tried_by_tuner(trainer: Trainer) -> bool:
    """Whether a run is one in which Lightning's own Tuner tries something out, and does not train."""
    # _early_exit: only the Tuner sets it, on a callback that it has put first for the time of the run.
    return any(getattr(callback, "_early_exit", False) is True for callback in trainer.callbacks)


def end_run_early(trainer: Trainer) -> None:
    """End the running fit, validate, test or predict cleanly, as Lightning's own Tuner does."""
    if not spawns_processes(trainer):
        # The only exception that Trainer's entry points take as a normal end.
        raise lightning_of(trainer, "utilities.exceptions")._TunerExitException
    # A spawned process cannot hand that on; there the run goes on, with nothing to do.
    trainer.limit_train_batches = trainer.num_sanity_val_steps = 0
    if trainer.state.fn != "fit":
        loop = getattr(trainer, EVALUATION_LOOPS[str(trainer.state.fn.value)])  # type: ignore[union-attr]  # it is on
        loop.max_batches[:] = [0] * len(loop.max_batches)
        loop.reset()
