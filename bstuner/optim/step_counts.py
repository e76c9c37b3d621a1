"""What torch's own schedulers count in steps: where each keeps it, and how to put another number there.

A scheduler that was just made is, with another number, the one that its constructor makes of that number.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.swa_utils import SWALR

from bstuner.optim.in_place import is_of_torch, shortest_decimal

__all__ = ["read_constants", "write_constants"]


def read_constants(scheduler: Any) -> dict[str, Any]:
    """What a scheduler counts in steps, by the names of the constructor's arguments.

    >>> from torch.optim import SGD
    >>> optimizer = SGD([torch_schedulers.Tensor([1.0])], lr=0.1)
    >>> read_constants(torch_schedulers.StepLR(optimizer, step_size=30))
    {'step_size': 30}

    Empty for one that only holds others, or is not of torch's own classes.
    """
    kind = _kind_of(scheduler)
    return {} if kind is None else dict(kind.read(scheduler))


def write_constants(scheduler: Any, constants: dict[str, Any], alone: bool) -> None:
    """Put all its constants into a scheduler that was just made.

    Args:
        scheduler: One that has constants.
        constants: As `read_constants` names them.
        alone: Whether it is not inside another scheduler.
    """
    _kind_of(scheduler).write(scheduler, constants)
    if alone and isinstance(scheduler, torch_schedulers.OneCycleLR):
        torch_schedulers.LRScheduler.__init__(scheduler, scheduler.optimizer)  # one of few steps starts elsewhere


def _kind_of(scheduler: Any) -> Any:
    if not is_of_torch(scheduler):
        return None
    return next((constants for kind, constants in _CONSTANTS.items() if isinstance(scheduler, kind)), None)


class _Attributes:
    """Constants that are plain attributes."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def read(self, scheduler: Any) -> dict[str, Any]:
        return {name: getattr(scheduler, name) for name in self._names}

    def write(self, scheduler: Any, values: dict[str, Any]) -> None:
        vars(scheduler).update(values)


class _Milestones:
    def read(self, scheduler: Any) -> dict[str, Any]:
        if isinstance(scheduler, torch_schedulers.SequentialLR):
            return {"milestones": list(scheduler._milestones)}
        return {"milestones": sorted(scheduler.milestones.elements())}

    def write(self, scheduler: Any, values: dict[str, Any]) -> None:
        if isinstance(scheduler, torch_schedulers.SequentialLR):
            scheduler._milestones = values["milestones"]  # not in place: the list is the user's
        else:
            scheduler.milestones = Counter(values["milestones"])


class _WarmRestarts(_Attributes):
    def write(self, scheduler: Any, values: dict[str, Any]) -> None:
        scheduler.T_0 = scheduler.T_i = values["T_0"]


class _Cycles:
    def read(self, scheduler: Any) -> dict[str, Any]:
        up = round(scheduler.total_size * scheduler.step_ratio, 6)
        sizes = {"step_size_up": up, "step_size_down": round(scheduler.total_size - up, 6)}
        values: dict[str, Any] = {name: int(size) if size.is_integer() else size for name, size in sizes.items()}
        return {**values, "gamma": scheduler.gamma} if scheduler.scale_mode == "iterations" else values

    def write(self, scheduler: Any, values: dict[str, Any]) -> None:
        up = float(values["step_size_up"])
        scheduler.total_size = up + float(values["step_size_down"])
        scheduler.step_ratio = up / scheduler.total_size
        scheduler.gamma = values.get("gamma", scheduler.gamma)
        scheduler._init_scale_fn()  # which holds gamma


class _OneCycle(_Attributes):
    def write(self, scheduler: Any, values: dict[str, Any]) -> None:
        total, phases = values["total_steps"], scheduler._schedule_phases
        # The share that rises is kept nowhere: recovered from the end of its phase, as it was computed.
        end, before = phases[0]["end_step"], scheduler.total_steps
        share = shortest_decimal((end + 1) / before, lambda share: float(share * before) - 1 == end)
        share = (end + 1) / before if share is None else share
        rising = [float(share * total) - 1, float(2 * share * total) - 2]
        ends = [*rising[: len(phases) - 1], total - 1]
        scheduler.total_steps = total
        scheduler._schedule_phases = [{**phase, "end_step": at} for phase, at in zip(phases, ends, strict=True)]


# How the constants of torch's schedulers are read and written; a user's subclass is not taken for one of them.
_CONSTANTS: dict[Any, Any] = {
    torch_schedulers.StepLR: _Attributes("step_size"),
    torch_schedulers.MultiStepLR: _Milestones(),
    torch_schedulers.SequentialLR: _Milestones(),
    torch_schedulers.ConstantLR: _Attributes("total_iters"),
    torch_schedulers.LinearLR: _Attributes("total_iters"),
    torch_schedulers.PolynomialLR: _Attributes("total_iters"),
    torch_schedulers.ExponentialLR: _Attributes("gamma"),
    torch_schedulers.CosineAnnealingLR: _Attributes("T_max"),
    torch_schedulers.CosineAnnealingWarmRestarts: _WarmRestarts("T_0"),
    torch_schedulers.OneCycleLR: _OneCycle("total_steps"),
    torch_schedulers.CyclicLR: _Cycles(),
    torch_schedulers.ReduceLROnPlateau: _Attributes("patience", "cooldown"),
    SWALR: _Attributes("anneal_epochs"),
}
