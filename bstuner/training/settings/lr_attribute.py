"""Find the attribute that the optimizers of a run get their learning rate from, if there is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from bstuner.errors import InvalidSetting, LearningRateNotSettable
from bstuner.optim import GivenRate, GivenRates, attached_to, bases_of, like, number_in, source_of
from bstuner.training._lightning import lightning_getattr, lightning_hasattr, lightning_setattr, make_optimizers

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["CLOSE", "Attribute", "Made", "find_attribute", "make"]

DEFAULT_NAMES = ("lr", "learning_rate")  # what a user who names no attribute may have, and need not
CLOSE = 1e-6  # relative; a learning rate in a float32 tensor is rounded to this


class Made(NamedTuple):
    """What the user's code has made, and at which learning rates.

    Args:
        kinds: The classes of the optimizers.
        source: What the first one has its learning rate from, in words.
        given: The learning rates that were handed to constructors.
        bases: For each optimizer and group, what its schedule is built on.
        reference: The first of these that is above 0: a group may be frozen.
    """

    kinds: list[Any]
    source: str
    given: list[GivenRate]
    bases: list[list[float | None]]
    reference: float


def make(trainer: Trainer) -> Made:
    """Have the user's code make optimizers and schedulers, and look at them.

    Raises:
        LearningRateNotSettable: There is no optimizer, or its learning rate is no positive number.
    """
    rates = GivenRates(lambda _, given: given.lr)
    with rates.intercepted():
        make_optimizers(trainer)
    pairs = [(optimizer, attached_to(optimizer, trainer.lr_scheduler_configs)) for optimizer in trainer.optimizers]
    bases = [bases_of(*pair) for pair in pairs]
    first = next((basis for basis in _flat(bases) if basis), None)
    if first is None or first < 0 or not math.isfinite(first):
        found = "no optimizer" if not any(bases) else next(_flat(bases)) if first is None else first
        raise LearningRateNotSettable(
            "Expected configure_optimizers() to return an optimizer whose parameter groups have learning rates "
            f"above 0, found {found}. Give it one: it is what is tuned."
        )
    return Made([type(optimizer) for optimizer in trainer.optimizers], source_of(*pairs[0]), rates.seen, bases, first)


class Attribute:
    """An attribute of the user's that may hold the learning rate.

    Args:
        trainer: The Trainer of the run.
        name: The attribute, looked for on the module, the datamodule and their hparams; all holders are written.

    Attributes:
        reference: Its value; NaN where that is no number, or 0.
        holder: The place, in words.
    """

    def __init__(self, trainer: Trainer, name: str) -> None:
        self._module = module = trainer.lightning_module
        self.name = name
        self._original = lightning_getattr(module, name)
        self.reference = number_in(self._original) or math.nan
        if hasattr(module, name) or name in module.hparams:
            self.holder = f"{type(module).__name__}.{'' if hasattr(module, name) else 'hparams.'}{name}"
        else:
            self.holder = f"{type(trainer.datamodule).__name__}.{name}"

    def write(self, lr: float) -> None:
        """Write the attribute."""
        lightning_setattr(self._module, self.name, like(self._original, lr))

    def test(self, trainer: Trainer, made: Made) -> tuple[int, int]:
        """How many of the learning rates of all groups follow the attribute, and how many do not."""
        try:
            self.write(self.reference / 2)
        except (AttributeError, TypeError):  # a property, a parameter
            return 0, 1
        bases = zip(_flat(made.bases), _flat(make(trainer).bases), strict=False)
        follows = [math.isclose(now, before / 2, rel_tol=CLOSE) for before, now in bases if before and now is not None]
        return sum(follows), len(follows) - sum(follows)


def find_attribute(
    trainer: Trainer, restore: Callable[[], None], name: str | None, made: Made
) -> tuple[Attribute | None, list[str]]:
    """Find the attribute that optimizers get their learning rate from; and warnings about what is none, or not alone.

    Args:
        trainer: The Trainer of the run.
        restore: Puts the run back to the state before its optimizers were made.
        name: The one the user has named; None for the usual ones.
        made: What was made at the reference.

    Raises:
        InvalidSetting: An attribute was named that is not there, or is no number.
    """
    module = trainer.lightning_module
    warnings = []
    for candidate in DEFAULT_NAMES if name is None else (name,):
        restore()
        there = lightning_hasattr(module, candidate)
        attribute = Attribute(trainer, candidate) if there else None
        if attribute is None or math.isnan(attribute.reference):
            if name is not None:
                raise _no_such_attribute(module, name, there)
            continue
        following, others = attribute.test(trainer, made)
        if following and others:
            warnings.append(
                f"{attribute.holder} is the learning rate of {following} of {following + others} parameter groups. "
                "The others, which do not follow it, are changed in the same ratio."
            )
        if following:
            return attribute, warnings
        warnings.append(
            f"{attribute.holder} is not what the optimizers get their learning rate from, and stays as it is. "
            "If they should follow it, make them with that."
        )
    return None, warnings


def _no_such_attribute(module: Any, name: str, there: bool) -> InvalidSetting:
    found = f"found {lightning_getattr(module, name)!r}" if there else "found none"
    return InvalidSetting(
        f"lr_arg_name: expected {name!r} to be a number on {type(module).__name__}, its datamodule or their hparams, "
        f"which configure_optimizers() reads; {found}. Set self.{name} in __init__ and make the optimizer with "
        f"lr=self.{name}, or leave lr_arg_name out: then the learning rate of the optimizers themselves is changed."
    )


def _flat(bases: list[list[float | None]]) -> Iterator[float | None]:
    for each in bases:
        yield from each
