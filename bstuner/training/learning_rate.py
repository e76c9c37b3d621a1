"""Find where the learning rate of a run lives, and make its optimizers and schedulers at another one.

In this order: the user's attribute is written and `configure_optimizers` runs again; what does not follow it is born
at the tuned learning rate (`births.py`); what was not made anew is changed in place (`schedulers.py`). After the first
two a run is the same, bit for bit, as one in which the user has written that number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lightning.pytorch import Trainer

# Undocumented but without an underscore: they read and write what Lightning's own finder does.
from lightning.pytorch.utilities.parsing import lightning_getattr, lightning_hasattr, lightning_setattr

from bstuner.core.scaling import RuleFound, rule_for
from bstuner.errors import InvalidSetting, LearningRateNotSettable
from bstuner.training.births import Birth, Births, like, number_in
from bstuner.training.reach import rates_out_of_reach, rates_set
from bstuner.training.schedulers import attached_to, bases_of, rescale, scale_constants, source_of

__all__ = ["LearningRate"]

DEFAULT_NAMES = ("lr", "learning_rate")  # what a user who names no attribute may have, and need not
_CLOSE = 1e-6  # relative; a learning rate in a float32 tensor is rounded to this


class LearningRate:
    """Where the learning rate of a run lives, and how to make its optimizers at another one.

    Attributes:
        reference: The learning rate that the user's own code asks for.
        holder: The place where it lives, in words.
        rule: How it scales with the batch size, by the classes of the optimizers.
        warnings: What of the learning rate does not follow, in words.
    """

    def __init__(self, made: _Made, attribute: _Attribute | None) -> None:
        self._made = made
        self._attribute = attribute
        self.reference = made.reference if attribute is None else attribute.reference
        self.holder = made.source if attribute is None else attribute.holder
        self.rule, self.warnings = _rule_for(made.kinds)

    @property
    def attribute(self) -> str | None:
        """The name of the attribute that holds it; None where there is none."""
        return None if self._attribute is None else self._attribute.name

    @classmethod
    def locate(cls, trainer: Trainer, restore: Callable[[], None], name: str | None = None) -> LearningRate:
        """Find where the learning rate lives.

        The optimizers are made a few times, to see what they get their learning rate from: user code runs.

        Args:
            trainer: The Trainer of the run.
            restore: Puts the run back to the state before its optimizers were made, at the reference batch size. It
                is called before they are made and at the end: then the Trainer's optimizers are those it puts there.
            name: Attribute that holds the learning rate, on the module, the datamodule or their hparams; None for
                `lr` or `learning_rate`, if there is one.

        Raises:
            InvalidSetting: An attribute was named that is not there, or is no number.
            LearningRateNotSettable: There is no optimizer, or its learning rate is no positive number.
        """
        try:
            restore()
            made = _make(trainer)
            before = rates_set(trainer)
            attribute, remarks = _find_attribute(trainer, restore, name, made)
            found = cls(made, attribute)
            restore()
            # Half of it: the test is what moves along. A larger one might be refused, or be capped.
            found.build(trainer, found.reference / 2)
            # What deviates already at one batch size is no matter of the batch size.
            deviates, found.warnings = bool(found._deviations), found.warnings
        finally:
            restore()
        return found

    def build(self, trainer: Trainer, lr: float, adam: tuple[int, int] | None = None) -> None:
        """Make optimizers and schedulers at a learning rate, in a run that has been put back to before they were made.

        Args:
            trainer: The Trainer of the run.
            lr: The learning rate to use, in the place of the reference; all others keep their ratio to it.
            adam: Batch size and reference batch size by which Adam's other constants are scaled; None for not at all.
        """
        if self._attribute is not None and lr != self.reference:
            self._attribute.write(lr)

        def choose(number: int, found: Birth) -> float:
            if number >= len(self._made.births):  # user code took another way than before
                return found.lr
            return self._expected(self._made.births[number].lr, found.lr, lr)

        births = Births(choose, adam)
        with births.intercepted():
            trainer.strategy.setup_optimizers(trainer)
        for optimizer, written in zip(trainer.optimizers, self._made.bases, strict=False):
            self._change_what_is_left(trainer, optimizer, written, lr)
            if births.was_born(optimizer):
                continue
            default = optimizer.defaults.get("lr")  # for groups that are added later
            if isinstance(default, float):
                optimizer.defaults["lr"] = self._scaled(default, lr)
            if adam is not None:
                births.scaled |= scale_constants(optimizer, attached_to(optimizer, trainer), adam)
        if adam is not None and not births.scaled:
            self._warn("No optimizer has betas and an epsilon as Adam has them: there is nothing of these to scale.")

    def _expected(self, written: float, found: float, lr: float) -> float:
        """What a learning rate is to be, given what it is at the reference and what it is now."""
        expected = self._scaled(written, lr)
        if found == written:
            return expected
        if math.isclose(found, expected, rel_tol=_CLOSE):
            return found  # computed from one that was changed: the user's own arithmetic stays
        self._warn(
            f"Expected configure_optimizers() to ask for the same learning rate at every batch size, found {found:.6g} "
            f"where {expected:.6g} was due: it scales the learning rate with the batch size itself. That is undone, "
            "since bstuner does the same. Leave it out of configure_optimizers() where you set the batch size by hand."
        )
        return expected

    def _scaled(self, written: float, lr: float) -> float:
        return lr if written == self.reference else written * (lr / self.reference)

    def _change_what_is_left(self, trainer: Trainer, optimizer: Any, written: list[float | None], lr: float) -> None:
        schedulers = attached_to(optimizer, trainer)
        found = bases_of(optimizer, schedulers)
        expected = [
            now if now is None or before is None else self._expected(before, now, lr)
            for now, before in zip(found, written, strict=False)
        ]
        if expected != found:
            rescale(optimizer, schedulers, [_change(*pair) for pair in zip(found, expected, strict=False)])

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings += (warning,)


def _change(found: float | None, expected: float | None) -> Callable[[float], float]:
    if not found or expected is None or found == expected:
        return lambda rate: rate
    return lambda rate: expected if rate == found else rate * (expected / found)


class _Made(NamedTuple):
    """What the user's code has made, and at which learning rates."""

    kinds: list[Any]  # the classes of the optimizers
    source: str
    births: list[Birth]
    bases: list[list[float | None]]  # for each optimizer and group, what its schedule is built on

    @property
    def reference(self) -> float:
        return next(basis for bases in self.bases for basis in bases)  # type: ignore[return-value]  # checked


def _make(trainer: Trainer) -> _Made:
    births = Births(lambda _, birth: birth.lr)
    with births.intercepted():
        trainer.strategy.setup_optimizers(trainer)
    pairs = [(optimizer, attached_to(optimizer, trainer)) for optimizer in trainer.optimizers]
    bases = [bases_of(*pair) for pair in pairs]
    first = next((basis for each in bases for basis in each), None)
    if not first or first < 0 or not math.isfinite(first):
        raise LearningRateNotSettable(
            "Expected configure_optimizers() to return an optimizer whose first parameter group has a learning rate "
            f"above 0, found {first if any(bases) else 'no optimizer'}. Give it one: it is what is tuned."
        )
    return _Made([type(optimizer) for optimizer in trainer.optimizers], source_of(*pairs[0]), births.seen, bases)


class _Attribute:
    """An attribute of the user's that may hold the learning rate."""

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
        lightning_setattr(self._module, self.name, like(self._original, lr))

    def test(self, trainer: Trainer, made: _Made) -> tuple[int, int]:
        """How many of the learning rates of all groups follow the attribute, and how many do not."""
        try:
            self.write(self.reference / 2)
        except (AttributeError, TypeError):  # a property, a parameter
            return 0, 1
        bases = zip(_flat(made.bases), _flat(_make(trainer).bases), strict=False)
        follows = [math.isclose(now, before / 2, rel_tol=_CLOSE) for before, now in bases if before and now is not None]
        return sum(follows), len(follows) - sum(follows)


def _find_attribute(
    trainer: Trainer, restore: Callable[[], None], name: str | None, made: _Made
) -> tuple[_Attribute | None, list[str]]:
    module = trainer.lightning_module
    remarks = []
    for candidate in DEFAULT_NAMES if name is None else (name,):
        restore()
        there = lightning_hasattr(module, candidate)
        attribute = _Attribute(trainer, candidate) if there else None
        if attribute is None or math.isnan(attribute.reference):
            if name is not None:
                raise _no_such_attribute(module, name, there)
            continue
        following, others = attribute.test(trainer, made)
        if following and others:
            remarks.append(
                f"{attribute.holder} is the learning rate of {following} of {following + others} parameter groups. "
                "The others, which do not follow it, are changed in the same ratio."
            )
        if following:
            return attribute, remarks
        remarks.append(
            f"{attribute.holder} is not what the optimizers get their learning rate from, and stays as it is. "
            "If they should follow it, make them with that."
        )
    return None, remarks


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


def _rule_for(kinds: list[Any]) -> tuple[RuleFound, tuple[str, ...]]:
    rules = {kind.__name__: rule_for(base.__name__ for base in kind.__mro__) for kind in kinds}
    first = next(iter(rules.values()))
    if all(found.rule == first.rule for found in rules.values()):
        return RuleFound(first.rule, all(found.known for found in rules.values())), ()
    words = ", ".join(f"{name} by the {found.rule} rule" for name, found in rules.items())
    return RuleFound("sqrt", known=True), (
        f"The optimizers scale differently ({words}). All are scaled by the sqrt rule, which raises the learning rate "
        "least. Set scaling_rule to choose another.",
    )
