"""Run a few real steps of the user's fit or evaluation in Lightning's own loops, on batches of ours."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from bstuner.errors import NoStepTaken
from bstuner.ranks import Peers
from bstuner.training._lightning import (
    install_evaluation_loop,
    install_fit_loop,
    run_evaluation_loop,
    run_fit_loop,
    shadow_scheduler_step,
    show_loaders,
)
from bstuner.training.probing.timing import Timing
from bstuner.training.run import OwnCallback, bystanders_inert, call_fit_start, with_loaders

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities import CombinedLoader

__all__ = ["BatchSource", "Batches", "probe_evaluation", "probe_fit"]


class BatchSource(NamedTuple):
    """Where the batches of a probe come from: made by us, in the place of a loader of the user's."""

    make: Callable[[], Any]
    loader: Any


class Batches(NamedTuple):
    """The batches of all loaders of a role, and how the user combines those."""

    like: CombinedLoader
    sources: list[BatchSource]

    def repeated(self, count: int) -> CombinedLoader:
        """Loaders of `count` batches each, combined in the same way."""
        return with_loaders(self.like, [_Repeated(source, count) for source in self.sources])


# Enough for manual accumulation over eight batches, or for a critic that steps eight times as often as its generator.
MAX_BATCHES = 16


class _Repeated:
    """A loader of fresh copies of one batch; it holds none of them.

    To user code that looks at the Trainer's loaders it shows the attributes of the loader in whose place it is.
    """

    def __init__(self, source: BatchSource, count: int) -> None:
        self._make = source.make
        self._loader = source.loader
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_loader"], name)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._count):
            yield self._make()


class _Finished(Exception):
    """Not an error: the probe has seen enough."""


class _FitWatch(OwnCallback):
    """Stops a probe once every optimizer has really stepped often enough.

    Steps are counted at the optimizer: those that a loss scaler skips allocate no optimizer state, and neither do those
    that find no gradients because `training_step` returned None.
    """

    def __init__(
        self, trainer: Trainer, train: Batches, validation: Batches | None, timing: Timing, peers: Peers, steps: int
    ) -> None:
        # A run without optimizers has a mock of Lightning's in their place, which has nothing to train.
        optimizers = [optimizer for optimizer in trainer.optimizers if any(p.requires_grad for p in _params(optimizer))]
        self._train = train
        self._validation = validation
        self._timing = timing
        self._peers = peers
        self._steps = steps
        self.batches = 0
        self.taken = [0] * len(optimizers)
        self._hooks = [
            optimizer.register_step_post_hook(functools.partial(self._stepped, index))
            for index, optimizer in enumerate(optimizers)
        ]

    def _stepped(self, index: int, optimizer: Optimizer, *_: Any) -> None:
        if any(p.grad is not None for p in _params(optimizer)):
            self.taken[index] += 1

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        show_loaders(trainer, "train", self._train.like)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        if self._validation is not None:
            show_loaders(trainer, "val", self._validation.like)

    def on_train_batch_start(self, *_: Any) -> None:
        self._peers.meet()  # none goes on without one that failed in its last step
        self._timing.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._timing.stop()
        self.batches += 1
        enough = self.batches >= self._steps and all(taken >= self._steps for taken in self.taken)
        if self._peers.meet(enough) or self.batches >= MAX_BATCHES:
            trainer.should_stop = True  # validation, if there is one, runs once more before the epoch ends

    def on_train_epoch_end(self, *_: Any) -> None:
        raise _Finished

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


class _EvaluationWatch(OwnCallback):
    def __init__(self, stage: str, batches: Batches, timing: Timing) -> None:
        prefix = "validation" if stage == "validate" else stage
        setattr(self, f"on_{prefix}_start", lambda trainer, *_: show_loaders(trainer, stage, batches.like))
        setattr(self, f"on_{prefix}_batch_start", lambda *_: timing.start())
        setattr(self, f"on_{prefix}_batch_end", lambda *_: timing.stop())
        setattr(self, f"on_{prefix}_epoch_end", self._finish)

    def _finish(self, *_: Any) -> None:
        raise _Finished


def _params(optimizer: Optimizer) -> Iterator[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])


def probe_fit(
    trainer: Trainer,
    train: Batches,
    validation: Batches | None,
    timing: Timing,
    peers: Peers,
    *,
    steps: int,
    accumulate: int,
    epoch: int,
    length: float,
    fresh: bool,
) -> None:
    """Train for a few optimizer steps, then validate; the caller restores the Trainer.

    Args:
        trainer: a Trainer inside `fit`.
        train: the training batches.
        validation: the validation batches, of which one of each loader runs; None for no validation.
        timing: receives the times.
        peers: the processes that train together; all stop after the same batch.
        steps: optimizer steps to take, each of them really taken.
        accumulate: batches per optimizer step.
        epoch: the epoch that user code should see.
        length: batches of an epoch that user code should see; infinity where that is not known.
        fresh: call the `on_fit_start` hooks first, because the fit has not called them yet.

    Raises:
        NoStepTaken: there are optimizers, and none of them stepped.

    """
    _set_limits(trainer)
    trainer.accumulate_grad_batches = accumulate
    trainer.limit_val_batches = 1.0 if validation else 0
    install_fit_loop(
        trainer, train.repeated(MAX_BATCHES), validation.repeated(1) if validation else None, epoch, length
    )
    shadow_scheduler_step(trainer.lightning_module)
    watch = _FitWatch(trainer, train, validation, timing, peers, steps)
    try:
        with bystanders_inert(trainer), contextlib.suppress(_Finished):
            if fresh:
                call_fit_start(trainer)
            # First in line: it stops an epoch before the user's own end-of-epoch code runs on half an epoch.
            trainer.callbacks = [watch, *trainer.callbacks]
            run_fit_loop(trainer)
    finally:
        watch.remove()
    if watch.taken and not any(watch.taken):
        raise NoStepTaken(
            f"Expected an optimizer step within {watch.batches} training batches, found none: training_step() "
            "returned None, a hook skipped the batches, or the loss scaler refused every gradient. "
            "Check that one batch of your training data trains by hand."
        )


def probe_evaluation(trainer: Trainer, stage: str, batches: Batches, timing: Timing, *, steps: int) -> None:
    """Run a few batches of every loader of "validate", "test" or "predict"; the caller restores the Trainer."""
    _set_limits(trainer)
    trainer.limit_val_batches = trainer.limit_test_batches = trainer.limit_predict_batches = 1.0
    install_evaluation_loop(trainer, stage, batches.repeated(steps))
    with bystanders_inert(trainer), contextlib.suppress(_Finished):
        trainer.callbacks = [_EvaluationWatch(stage, batches, timing), *trainer.callbacks]
        run_evaluation_loop(trainer, stage)


def _set_limits(trainer: Trainer) -> None:
    trainer.limit_train_batches = 1.0
    trainer.overfit_batches = 0
    trainer.reload_dataloaders_every_n_epochs = 0
    trainer.check_val_every_n_epoch = 1
    trainer.val_check_interval = 1.0
    trainer.log_every_n_steps = 1
    trainer.should_stop = False
