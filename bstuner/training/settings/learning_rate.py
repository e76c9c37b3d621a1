"""Find where the learning rate of a run lives, and make its optimizers and schedulers at another one.

In this order: the user's attribute is written and `configure_optimizers` runs again; what does not follow it is
constructed at the tuned learning rate (`optim/at_construction.py`); what was not made anew is changed in place
(`optim/in_place.py`). After the first two a run is the same, bit for bit, as one in which the user has written that
number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bstuner.core import RuleFound, rule_for
from bstuner.optim import GivenRate, GivenRates, attached_to, bases_of, rescale, scale_constants
from bstuner.training._lightning import make_optimizers
from bstuner.training.settings.lr_attribute import CLOSE, Attribute, Made, find_attribute, make
from bstuner.training.settings.unscaled_rates import rates_in_place, unscaled_rates

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["LearningRate"]


class LearningRate:
    """Where the learning rate of a run lives, and how to make its optimizers at another one.

    Attributes:
        reference: The learning rate that the user's own code asks for.
        holder: The place where it lives, in words.
        rule: How it scales with the batch size, by the classes of the optimizers.
        warnings: What of the learning rate does not follow, in words.
    """

    def __init__(self, made: Made, attribute: Attribute | None) -> None:
        self._made = made
        self._attribute = attribute
        self.reference = made.reference if attribute is None else attribute.reference
        self.holder = made.source if attribute is None else attribute.holder
        self.rule, self.warnings = _rule_for(made.kinds)
        self._deviates = False

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
            made = make(trainer)
            before = rates_in_place(trainer)
            attribute, about_attribute = find_attribute(trainer, restore, name, made)
            found = cls(made, attribute)
            restore()
            # Half of it: the test is what moves along. A larger one might be refused, or be capped.
            warnings = found.warnings
            found.build(trainer, found.reference / 2)
            # Without its warning: at one batch size, what deviates is no matter of the batch size.
            found.warnings = (*warnings, *about_attribute, *unscaled_rates(before, rates_in_place(trainer), 0.5))
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

        def choose(number: int, found: GivenRate) -> float:
            before = self._made.given[number] if number < len(self._made.given) else None
            if before is not None and before.where == found.where:
                return self._expected(before.lr, found.lr, lr)
            # User code took another way than at the reference: there is nothing to compare with.
            return self._scaled(found.lr, lr) if self._attribute is None else found.lr

        given_rates = GivenRates(choose, adam)
        with given_rates.intercepted():
            make_optimizers(trainer)
        for optimizer, written in zip(trainer.optimizers, self._made.bases, strict=False):
            self._change_what_is_left(trainer, optimizer, written, lr)
            if given_rates.has_constructed(optimizer):
                continue
            default = optimizer.defaults.get("lr")  # for groups that are added later
            if isinstance(default, float):
                optimizer.defaults["lr"] = self._scaled(default, lr)
            if adam is not None:
                given_rates.scaled |= scale_constants(
                    optimizer, attached_to(optimizer, trainer.lr_scheduler_configs), adam
                )
        if adam is not None and not given_rates.scaled:
            self._warn("No optimizer has betas and an epsilon as Adam has them: there is nothing of these to scale.")

    def _expected(self, written: float, found: float, lr: float) -> float:
        """What a learning rate is to be, given what it is at the reference and what it is now."""
        expected = self._scaled(written, lr)
        if found == written:
            return expected
        if math.isclose(found, expected, rel_tol=CLOSE):
            return found  # computed from one that was changed: the user's own arithmetic stays
        if not self._deviates:
            self._warn(
                "Expected configure_optimizers() to ask for the same learning rate at every batch size, found "
                f"{found:.6g} where {expected:.6g} was due: it scales the learning rate with the batch size itself. "
                "That is undone, since bstuner does the same. Leave it out where you set the batch size by hand."
            )
        self._deviates = True
        return expected

    def _scaled(self, written: float, lr: float) -> float:
        return lr * (written / self.reference)  # so rounded, the reference becomes `lr` itself

    def _change_what_is_left(self, trainer: Trainer, optimizer: Any, written: list[float | None], lr: float) -> None:
        schedulers = attached_to(optimizer, trainer.lr_scheduler_configs)
        found = bases_of(optimizer, schedulers)
        expected = [
            now if now is None or before is None else self._expected(before, now, lr)
            for now, before in zip(found, written, strict=False)
        ]
        if len(found) == len(written) and expected != found:
            rescale(optimizer, schedulers, [_change(*pair) for pair in zip(found, expected, strict=True)])

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings += (warning,)


def _change(found: float | None, expected: float | None) -> Callable[[float], float]:
    if not found or expected is None or found == expected:
        return lambda rate: rate
    return lambda rate: expected * (rate / found)


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
