"""What Lightning does by optimizer steps: it steps schedulers, and saves checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bstuner.training._lightning.roots import lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

__all__ = ["checkpoint_steps", "hide_scheduler_step", "set_checkpoint_steps", "shadow_scheduler_step"]


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
    kind = lightning_of(trainer, "callbacks").ModelCheckpoint
    checkpoints = (callback for callback in trainer.callbacks if isinstance(callback, kind))
    return [callback for callback in checkpoints if callback._every_n_train_steps]
