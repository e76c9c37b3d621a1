"""Learning rates of optimizers and schedulers that exist already: read them, and change them in place.

Multiplying what a scheduler holds is not enough: most of torch's compute each learning rate from the one before, so
that another first one, rounded elsewhere, drifts. A scheduler that has not been stepped yet is therefore constructed
again, in place, by torch's own constructors, on groups that have the other learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.optim.swa_utils import SWALR

from bstuner.optim.numbers import number_in, scaled_adam, scaled_momentum

__all__ = [
    "attached_to",
    "bases_of",
    "is_of_torch",
    "leaves",
    "rescale",
    "scale_constants",
    "shortest_decimal",
    "source_of",
]

Change = Callable[[float], float]

# What schedulers keep in the groups, beside the learning rate and the initial one.
_KEYS: dict[Any, tuple[str, ...]] = {OneCycleLR: ("max_lr", "min_lr"), SWALR: ("swa_lr",)}


def attached_to(optimizer: Any, configs: Iterable[Any]) -> list[Any]:
    """The schedulers of a run that are attached to an optimizer.

    Args:
        optimizer: It.
        configs: The run's, `trainer.lr_scheduler_configs`.
    """
    schedulers = (config.scheduler for config in configs)
    return [scheduler for scheduler in schedulers if scheduler.optimizer is optimizer]


def leaves(scheduler: Any) -> Iterator[Any]:
    """The schedulers inside one that chains or follows up others, in order; itself where it does not."""
    inside = getattr(scheduler, "_schedulers", None)  # how both of torch's hold them, and by which others follow suit
    if not isinstance(inside, (list, tuple)):
        yield scheduler
        return
    for each in inside:
        yield from leaves(each)


def is_of_torch(thing: Any) -> bool:
    """Whether an optimizer or a scheduler is of torch's own classes: a subclass may keep, or do, what is not known."""
    # LightningCLI has a ReduceLROnPlateau of its own, which adds the name of the metric.
    return type(thing).__module__.startswith("torch.optim") or isinstance(thing, ReduceLROnPlateau)


def source_of(optimizer: Any, schedulers: Iterable[Any]) -> str:
    """What an optimizer has its learning rate from, in words."""
    setter = _with_own_rates(schedulers)
    kind = type(optimizer if setter is None else setter).__name__
    return f"the parameter groups of {kind}" if setter is None else f"max_lr of {kind}"


def bases_of(optimizer: Any, schedulers: Iterable[Any]) -> list[float | None]:
    """For each group of an optimizer, the learning rate that its schedule is built on; None where that is no number."""
    setter, groups = _with_own_rates(schedulers), optimizer.param_groups
    if isinstance(setter, CyclicLR):
        return [number_in(rate) for rate in setter.max_lrs]
    if setter is not None:
        return [number_in(group["max_lr"]) for group in groups]
    return [number_in(group.get("initial_lr", group.get("lr"))) for group in groups]


def _with_own_rates(schedulers: Iterable[Any]) -> Any:
    inside = (leaf for scheduler in schedulers for leaf in leaves(scheduler))
    return next((leaf for leaf in inside if isinstance(leaf, (CyclicLR, OneCycleLR))), None)


def rescale(optimizer: Any, schedulers: list[Any], changes: Sequence[Change]) -> None:
    """Change the learning rates of an optimizer and of its schedulers, in place.

    Schedulers of torch's that have not been stepped yet are afterwards as if they had been built on the changed ones.

    Args:
        optimizer: It, or what passes for one.
        schedulers: Those attached to it, in the order of their construction.
        changes: For each parameter group, what tells its new learning rate.
    """
    every = [leaf for scheduler in schedulers for leaf in leaves(scheduler)]
    kinds = {name for leaf in every for kind, names in _KEYS.items() if isinstance(leaf, kind) for name in names}
    # All are computed before the first is written: groups may share a tensor.
    rates = []
    for group, change in zip(optimizer.param_groups, changes, strict=True):
        old = {name: number_in(group.get(name)) for name in ("lr", "initial_lr", *sorted(kinds))}
        rates.append(_changed({name: rate for name, rate in old.items() if rate is not None}, change))
    fresh = all(getattr(leaf, "last_epoch", 1) <= 0 for leaf in every)
    again = bool(every) and fresh and all(map(is_of_torch, [*every, *schedulers]))
    if again and _with_own_rates(every) is None:
        # What the groups had before the first scheduler noted it.
        rates = [{**rate, "lr": rate.get("initial_lr", rate["lr"])} for rate in rates]
    for group, new in zip(optimizer.param_groups, rates, strict=True):
        group.update((name, _put(group[name], rate)) for name, rate in new.items())
    for leaf in every:
        for name in sorted({"base_lrs", "max_lrs", "_last_lr"} & vars(leaf).keys()):
            held = zip(vars(leaf)[name], changes, strict=False)
            setattr(leaf, name, [_put(rate, change(float(rate))) for rate, change in held])
    if again:
        for scheduler in schedulers:
            _construct_again(scheduler)


def _changed(old: dict[str, float], change: Change) -> dict[str, float]:
    new = {name: change(rate) for name, rate in old.items()}
    if "max_lr" in new:
        # OneCycleLR has divided, and keeps no divisor: the same division, from the new maximum.
        new["initial_lr"] = _divided(new["max_lr"], old["max_lr"], old["initial_lr"], new["initial_lr"])
        new["min_lr"] = _divided(new["initial_lr"], old["initial_lr"], old["min_lr"], new["min_lr"])
    return new


def _divided(new: float, old: float, result: float, otherwise: float) -> float:
    by = shortest_decimal(old / result, lambda by: old / by == result) if result else None
    return new / by if by else otherwise


def shortest_decimal(value: float, holds: Callable[[float], bool]) -> float | None:
    """The shortest decimal number close to a value for which something holds: what a user has written, then.

    >>> shortest_decimal(0.3 / (0.3 / 25), lambda by: 0.3 / by == 0.3 / 25)
    25.0
    """
    return next((number for digits in range(1, 18) if holds(number := float(f"{value:.{digits}g}"))), None)


def _put(old: Any, new: float) -> Any:
    """A number to stand where `old` stood: in the same tensor, where that is one, as schedulers do it too."""
    return old.fill_(new) if isinstance(old, Tensor) else new


def _construct_again(scheduler: Any) -> None:
    """Have torch build a scheduler again, on the groups as they are now."""
    if isinstance(scheduler, SequentialLR):
        _construct_inside_again(scheduler)
        SequentialLR.__init__(scheduler, scheduler.optimizer, scheduler._schedulers, scheduler._milestones)
    elif isinstance(scheduler, ChainedScheduler):
        _construct_inside_again(scheduler)
        ChainedScheduler.__init__(scheduler, scheduler._schedulers, scheduler.optimizer)
    elif not isinstance(scheduler, ReduceLROnPlateau):
        base_lrs = scheduler.base_lrs
        LRScheduler.__init__(scheduler, scheduler.optimizer)
        if isinstance(scheduler, CyclicLR):
            scheduler.base_lrs = base_lrs  # which are not those of the groups where another scheduler came first


def _construct_inside_again(scheduler: Any) -> None:
    for each in scheduler._schedulers:
        _construct_again(each)


def scale_constants(optimizer: Any, schedulers: list[Any], adam: tuple[int, int]) -> bool:
    """Scale Adam's constants of an existing optimizer, and what schedulers put in the place of its first beta.

    Returns:
        Whether it has such constants.

    """
    scaled = False
    defaults = dict(optimizer.defaults)
    for settings in (optimizer.defaults, *optimizer.param_groups):
        if scaled_adam(settings, defaults, *adam):
            scaled = True
            cycled = {name: settings[name] for name in ("base_momentum", "max_momentum") if name in settings}
            settings.update((name, scaled_momentum(value, *adam)) for name, value in cycled.items())
    for leaf in (leaf for scheduler in schedulers for leaf in leaves(scheduler)):
        if isinstance(leaf, CyclicLR) and leaf.cycle_momentum and leaf.use_beta1:
            leaf.base_momentums = scaled_momentum(leaf.base_momentums, *adam)
            leaf.max_momentums = scaled_momentum(leaf.max_momentums, *adam)
    return scaled
