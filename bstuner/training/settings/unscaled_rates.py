"""Which learning rates moved along when the one of a run was changed for a test, and which did not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.optim.lr_scheduler import LRScheduler

from bstuner.optim import attached_to, is_of_torch, leaves, number_in

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["RatesInPlace", "rates_in_place", "unscaled_rates"]

_CLOSE = 1e-6  # relative; a learning rate in a float32 tensor is rounded to this


class RatesInPlace(NamedTuple):
    """The learning rates that stand in an optimizer, and in the things that set them.

    Args:
        first: Of each group, that of the first step.
        setters: The optimizer and its schedulers, those inside others too, as far as they are not torch's own.
        own: For each of these, the learning rates it keeps beside those of the groups.
    """

    first: list[float | None]
    setters: list[Any]
    own: list[dict[str, float]]


def rates_in_place(trainer: Trainer) -> list[RatesInPlace]:
    """The learning rates that stand in each optimizer of a run now."""
    found = []
    for optimizer in trainer.optimizers:
        schedulers = attached_to(optimizer, trainer.lr_scheduler_configs)
        inside = [leaf for scheduler in schedulers for leaf in leaves(scheduler)]
        setters = [each for each in (optimizer, *inside) if not is_of_torch(each)]
        first = [number_in(group.get("lr")) for group in optimizer.param_groups]
        found.append(RatesInPlace(first, setters, [_own_rates(setter) for setter in setters]))
    return found


def unscaled_rates(before: list[RatesInPlace], after: list[RatesInPlace], factor: float) -> Iterator[str]:
    """Warnings about learning rates that did not change by the factor by which that of the run was changed."""
    for old, new in zip(before, after, strict=False):
        follows = all(_moved(one, other, factor) for one, other in zip(old.first, new.first, strict=False))
        schedulers = [_name(setter) for setter in old.setters if hasattr(setter, "optimizer")]
        if not follows:
            yield (
                f"{' and '.join(schedulers) or 'configure_optimizers()'} sets a learning rate that does not follow the "
                "one that is tuned: the first step is taken at it, whatever is tuned. Take it from the optimizer's "
                "parameter groups instead."
            )
            continue
        for setter, one, other in zip(old.setters, old.own, new.own, strict=False):
            stay = {name: rate for name, rate in one.items() if not _moved(rate, other.get(name), factor)}
            if stay:
                named = ", ".join(f"{name} = {rate:.6g}" for name, rate in stay.items())
                yield f"{_name(setter)} keeps learning rates of its own, which stay as they are: {named}."
            elif not one and hasattr(setter, "optimizer") and not isinstance(setter, LRScheduler):
                yield (
                    f"{_name(setter)} is not a subclass of torch's LRScheduler, and what it makes of the learning rate "
                    "cannot be seen. If it has one of its own, that stays as it is."
                )


def _own_rates(thing: Any) -> dict[str, float]:
    """The learning rates that a thing keeps as attributes, by their names; not lower bounds, which are absolute."""
    found = {}
    for name, value in vars(thing).items():
        words = set(name.lower().split("_"))
        rates = [number_in(each) for each in (value if isinstance(value, (list, tuple)) else [value])]
        largest = max((rate for rate in rates if rate is not None), default=0)
        if (words & {"lr", "lrs"} or "learning_rate" in name) and not words & {"min", "last"} and largest > 0:
            found[name] = largest
    return found


def _moved(before: float | None, after: float | None, factor: float) -> bool:
    if not before:
        return True
    return after is not None and math.isclose(after, factor * before, rel_tol=_CLOSE)


def _name(thing: Any) -> str:
    return type(thing).__name__
