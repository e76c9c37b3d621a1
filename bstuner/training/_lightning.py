"""Every private Lightning attribute that bstuner touches, each with its reason; each has a canary test.

Lightning moves these between releases. Keeping them in one place means that an upgrade is one file to read and one
test file to run. The main idea: a probe never borrows the user's loops. It gets loops of its own, made fresh, and the
user's stay aside untouched, so there is no progress, no metric and no loader state to put back.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.evaluation_loop import RestartStage, _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.prediction_loop import _PredictionLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.trainer.connectors.data_connector import _request_dataloader
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import _TunerExitException
from torch import Tensor

from bstuner.device.loaders import set_batch_size

__all__ = [
    "EVALUATION_LOOPS",
    "begin_epoch_anew",
    "begin_epoch_in_full",
    "checkpoint_steps",
    "combination_mode",
    "end_epoch_in_full",
    "end_processes",
    "end_run_early",
    "forget_loaders",
    "go_on_after_batch",
    "has_communication_hook",
    "hide_scheduler_step",
    "hook_of",
    "install_evaluation_loop",
    "install_fit_loop",
    "install_trial_loop",
    "launch",
    "leave_launcher",
    "loaders_come_from_hooks",
    "log_step",
    "prepared_loader",
    "processes_started_with",
    "request_loaders",
    "resize_when_rebuilt",
    "restart_evaluation",
    "restore_metrics",
    "set_checkpoint_steps",
    "set_epoch_length",
    "set_step_limits",
    "shadow_scheduler_step",
    "spawns_processes",
    "substitute_train_loaders",
    "validates_by_time",
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


def hook_of(trainer: Trainer, role: str) -> tuple[Any, str]:
    """The module or datamodule whose hook returns the loaders of a role, and the hook's name."""
    source = _source(trainer, role)
    return source.instance, source.name


def request_loaders(trainer: Trainer, role: str) -> Any:
    """What the user passed, or what the user's hook returns now."""
    # _request_dataloader: within it, loaders remember how they were built, so that they can be rebuilt.
    answer = _Answer(_source(trainer, role))
    _request_dataloader(answer)  # type: ignore[arg-type]  # it only calls dataloader()
    if answer.error is not None:
        raise answer.error
    return answer.loaders


class _Answer:
    """A source that keeps the error of a hook back: _request_dataloader would leave torch's classes patched."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.loaders: Any = None
        self.error: BaseException | None = None

    def dataloader(self) -> Any:
        try:
            self.loaders = self._source.dataloader()
        except BaseException as error:
            self.error = error


def prepared_loader(trainer: Trainer, role: str, loader: Any) -> Any:
    """The loader that Lightning will use in the place of the user's: with a sampler for this process, for example."""
    stage = {"train": RunningStage.TRAINING, "test": RunningStage.TESTING, "predict": RunningStage.PREDICTING}
    # _data_connector: the only place that knows which loaders get a DistributedSampler.
    return trainer._data_connector._prepare_dataloader(
        loader, shuffle=role == "train", mode=stage.get(role, RunningStage.VALIDATING)
    )


def resize_when_rebuilt(loader: Any, size: int) -> None:
    """Have a loader keep a batch size that was set in place when Lightning builds it again around another sampler."""
    # __pl_attrs_record: functions, with their arguments, that Lightning calls with a loader it has built again.
    kept = [entry for entry in getattr(loader, "__pl_attrs_record", []) if entry[1] is not _resize_rebuilt]
    object.__setattr__(loader, "__pl_attrs_record", [*kept, ((size,), _resize_rebuilt)])


def _resize_rebuilt(loader: Any, size: int) -> None:
    set_batch_size(loader, size)
    # _IndexBatchSamplerWrapper, which prediction puts around the batch sampler, reads the size of the one inside.
    inside = getattr(loader.batch_sampler, "_batch_sampler", None)
    if inside is not None:
        inside.batch_size = size


class _SubstitutedSource:
    """A source of loaders that changes what the user's source gives."""

    def __init__(self, source: Any, change: Callable[[Any], Any]) -> None:
        self._source = source
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_source"], name)

    def dataloader(self) -> Any:
        return self._change(self._source.dataloader())


def substitute_train_loaders(trainer: Trainer, change: Callable[[Any], Any]) -> Callable[[], None]:
    """Have the fit train on other loaders than the user's; what is returned takes that back.

    Args:
        trainer: the Trainer of the run.
        change: makes the loaders to train on from what the user passed or what the user's hook returns.

    """
    loop = trainer.fit_loop
    # _data_source: behind it are both kinds, and neither the user's loaders nor the user's hook has to be touched.
    source = loop._data_source
    loop._data_source = _SubstitutedSource(source, change)  # type: ignore[assignment]  # of the same methods

    def take_back() -> None:
        loop._data_source = source

    return take_back


def set_epoch_length(trainer: Trainer, batches: int) -> None:
    """Tell the fit how many batches the epoch has that is about to start."""
    loop = trainer.fit_loop
    # limits: those of the epoch before would end this one. max_batches: by it Lightning knows the last batch, and the
    # progress bar its total.
    assert loop._combined_loader is not None
    loop._combined_loader.limits = [batches]
    loop.max_batches = batches


def validates_by_time(trainer: Trainer) -> bool:
    """Whether the fit validates by the clock, not by batches."""
    return trainer._val_check_time_interval is not None  # kept nowhere public


def log_step(trainer: Trainer) -> int:
    """The step by which Lightning's own loggers and monitors count."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # kept nowhere public


def begin_epoch_in_full(trainer: Trainer) -> None:
    """Have a fit that was resumed between two epochs begin the next one as if it had not been interrupted.

    Otherwise Lightning goes on with the iterator that it made before the random generators were put back; a scheduler
    that waits for a metric misses that of the epoch before; and with max_steps, the epoch is taken for one that is in
    progress, and ends without a batch.

    Args:
        trainer: a Trainer in `on_train_start`, with the metrics of the epoch before.

    """
    loop, inner = trainer.fit_loop, trainer.fit_loop.epoch_loop
    for each in (loop, inner, inner.val_loop):
        each._restarting = False  # past the setter, which sets it again where there are max_steps
        each.reset_restart_stage()
    loop._resuming_from_checkpoint = False
    # Lightning does this last of all in an epoch, while it still counts as the current one.
    loop.epoch_progress.current.completed = loop.epoch_progress.current.processed - 1
    inner.update_lr_schedulers("epoch", update_plateau_schedulers=True)
    for progress in (loop.epoch_progress.current, loop.epoch_progress.total):
        progress.completed = progress.processed


def go_on_after_batch(trainer: Trainer) -> None:
    """Have a fit that was resumed in an epoch step the schedulers that wait for a metric at its end.

    Lightning leaves that out, since its checkpoints hold no metrics.
    """
    trainer.fit_loop._restarting = False  # of this loop alone: those inside it go on as resumed


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
        inner.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
        inner._batches_that_stepped -= 1  # counted after the validation


def restore_metrics(trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
    """Put back the metrics that callbacks and schedulers read, as `trainer.callback_metrics` had them."""
    # _callback_metrics: what is logged adds to it; the public dict is this one.
    trainer._logger_connector._callback_metrics.update(metrics)


def combination_mode(loaders: CombinedLoader) -> str:
    """How a CombinedLoader combines its loaders: "min_size", "max_size", "max_size_cycle" or "sequential"."""
    return str(loaders._mode)  # kept nowhere public


def install_fit_loop(
    trainer: Trainer, train_batches: CombinedLoader, val_batches: CombinedLoader | None, epoch: int
) -> None:
    """Give the Trainer a fresh fit loop that reads these batches; the caller puts the user's loop back."""
    unlimited = trainer.max_epochs in (None, -1)
    loop = _FitLoop(trainer, max_epochs=-1 if unlimited else max(trainer.max_epochs or 0, epoch + 1))
    # In the middle of a fit, callbacks that unfreeze layers at an epoch must see that epoch.
    loop.epoch_progress.current.processed = loop.epoch_progress.current.completed = epoch
    loop._data_source.instance = train_batches
    loop.epoch_loop.val_loop._data_source.instance = [] if val_batches is None else val_batches
    trainer.fit_loop = loop
    _quieten(trainer)


def install_trial_loop(trainer: Trainer) -> None:
    """Give the Trainer a fresh fit loop that reads the user's own loaders; the caller puts the user's loop back."""
    users = trainer.fit_loop
    loop = _FitLoop(trainer, min_epochs=users.min_epochs, max_epochs=users.max_epochs)
    set_step_limits(loop, users.max_steps, users.min_steps)
    loop._data_source = users._data_source
    loop.epoch_loop.val_loop._data_source = users.epoch_loop.val_loop._data_source
    trainer.fit_loop = loop
    _quieten(trainer)


def set_step_limits(loop: _FitLoop, max_steps: int, min_steps: int | None) -> None:
    """Set after how many optimizer steps a fit ends, and before how many it does not."""
    # The Trainer's own max_steps and min_steps only read these.
    loop.epoch_loop.max_steps, loop.epoch_loop.min_steps = max_steps, min_steps


def install_evaluation_loop(trainer: Trainer, stage: str, batches: CombinedLoader) -> Any:
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
    loop._data_source.instance = batches
    setattr(trainer, EVALUATION_LOOPS[stage], loop)
    _quieten(trainer)
    return loop


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


def begin_epoch_anew(trainer: Trainer) -> None:
    """Give an epoch that has not had its first batch yet loaders made anew."""
    forget_loaders(trainer)
    trainer.fit_loop.setup_data()
    loaders = trainer.fit_loop._combined_loader
    for loader in loaders.flattened if loaders is not None else ():
        # The fit loop has told the epoch to the old samplers already.
        _set_sampler_epoch(loader, trainer.current_epoch)


def spawns_processes(trainer: Trainer) -> bool:
    """Whether the run is in processes that Lightning has spawned or forked from the one that called it."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def end_run_early(trainer: Trainer) -> None:
    """End the running fit, validate, test or predict cleanly, as Lightning's own Tuner does."""
    if not spawns_processes(trainer):
        # The only exception that Trainer's entry points take as a normal end.
        raise _TunerExitException
    # A spawned process cannot hand that on; there the run goes on, with nothing to do.
    trainer.limit_train_batches = trainer.num_sanity_val_steps = 0
    if trainer.state.fn != "fit":
        loop = getattr(trainer, EVALUATION_LOOPS[str(trainer.state.fn.value)])  # type: ignore[union-attr]  # it is on
        loop.max_batches[:] = [0] * len(loop.max_batches)
        loop.reset()


def launch(trainer: Trainer, function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in the processes that the Trainer's strategy spawns or forks, and return rank 0's result."""
    # Without trainer=, the launcher returns the result as it is, and does not count this as the one fit it allows.
    return trainer.strategy.launcher.launch(function, *args)  # type: ignore[union-attr]  # there is one where asked


def leave_launcher(trainer: Trainer) -> None:
    """Have a Trainer, in a process that a launcher has made, run in this process."""
    # _launcher: with one, the Trainer's methods would make more processes.
    trainer.strategy._launcher = None


def end_processes(trainer: Trainer, patience: float = 10.0) -> None:
    """See that none of the processes that Lightning has made for a Trainer is left, after some seconds.

    Its observer, which kills this process once it sees that another one has failed, is not to interfere.
    """
    # procs: of the launchers that make processes, each by another class; kept nowhere public. The observer of the
    # subprocess launcher reads the same list: it is emptied, and the observer takes that for the end of the run.
    launched = getattr(trainer.strategy.launcher, "procs", [])
    processes, launched[:] = list(launched), []
    end = time.monotonic() + patience
    for process in processes:
        _wait(process, max(0.0, end - time.monotonic()))


def _wait(process: BaseProcess | subprocess.Popen[bytes], seconds: float) -> None:
    if isinstance(process, subprocess.Popen):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
        process.kill()
        process.wait()
    else:
        process.join(seconds)
        process.kill()
        process.join()


@contextlib.contextmanager
def processes_started_with(command: Sequence[str]) -> Iterator[None]:
    """Have Lightning start the processes of further ranks by a command, followed by the script's own arguments.

    Otherwise they would run the script as it is.
    """
    # _basic_subprocess_cmd, _hydra_subprocess_cmd: nothing public says how these processes are started. Replaced in
    # the module of the launcher, which has imported them by name.
    basic, hydra = subprocess_script._basic_subprocess_cmd, subprocess_script._hydra_subprocess_cmd

    def own(original: Sequence[str]) -> list[str]:
        return [*command, *original[2:]]  # without the interpreter and the script

    def own_hydra(local_rank: int) -> tuple[list[str], str]:
        original, folder = hydra(local_rank)
        return own(original), folder

    subprocess_script._basic_subprocess_cmd = lambda: own(basic())
    subprocess_script._hydra_subprocess_cmd = own_hydra
    try:
        yield
    finally:
        subprocess_script._basic_subprocess_cmd, subprocess_script._hydra_subprocess_cmd = basic, hydra


def shadow_scheduler_step(module: LightningModule) -> None:
    """Keep schedulers still: a probe may take more steps than a short schedule has."""
    # An instance attribute hides the (public) hook; putting the module's attributes back uncovers it.
    vars(module)["lr_scheduler_step"] = lambda *_args, **_kwargs: None


class _HiddenStep:
    """What hides a module's `lr_scheduler_step`, in such a way that the module can still be copied and pickled."""

    def __init__(self, step: Callable[[Any, Any], None]) -> None:
        self._step = step

    def __call__(self, scheduler: Any, metric: Any) -> None:
        self._step(scheduler, metric)

    def __deepcopy__(self, memo: dict[int, Any]) -> _HiddenStep:
        return self  # a copy of what it calls would be one of the Trainer

    def __reduce__(self) -> tuple[Any, ...]:
        return _HiddenStep, (_step_as_lightning,)


def _step_as_lightning(scheduler: Any, metric: Any) -> None:
    scheduler.step() if metric is None else scheduler.step(metric)


def hide_scheduler_step(module: LightningModule, step: Callable[[Any, Any], None]) -> Callable[[], None]:
    """Have Lightning step schedulers by another function; what is returned takes that back.

    Args:
        module: the user's.
        step: called in the place of its `lr_scheduler_step`.

    """
    # An instance attribute hides the (public) hook.
    attributes = vars(module)
    before = {name: attributes[name] for name in ("lr_scheduler_step",) if name in attributes}
    attributes["lr_scheduler_step"] = _HiddenStep(step)

    def take_back() -> None:
        attributes.pop("lr_scheduler_step", None)
        attributes.update(before)

    return take_back


def has_communication_hook(strategy: DDPStrategy) -> bool:
    """Whether DistributedDataParallel has a communication hook of the user's, and so takes no other."""
    # _ddp_comm_hook: kept nowhere public; _register_ddp_hooks() passes it over where the device is no GPU.
    return strategy._ddp_comm_hook is not None and strategy.root_device.type == "cuda"


def checkpoint_steps(trainer: Trainer) -> list[int]:
    """The `every_n_train_steps` of each ModelCheckpoint that has one."""
    return [callback._every_n_train_steps for callback in _by_steps(trainer)]


def set_checkpoint_steps(trainer: Trainer, steps: Sequence[int]) -> None:
    """Set the `every_n_train_steps` of each ModelCheckpoint that has one, in the order of `checkpoint_steps`.

    Where the callbacks that save are set aside, there is none to set.
    """
    for callback, every in zip(_by_steps(trainer), steps, strict=False):
        callback._every_n_train_steps = every


def _by_steps(trainer: Trainer) -> list[ModelCheckpoint]:
    # _every_n_train_steps: kept nowhere public.
    checkpoints = (callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint))
    return [callback for callback in checkpoints if callback._every_n_train_steps]
