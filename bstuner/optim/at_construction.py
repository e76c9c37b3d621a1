"""Have optimizers, and the schedulers with learning rates of their own, be constructed with another learning rate.

What is built on a learning rate cannot be changed afterwards without a trace: a scheduler has noted it, multiplied it,
rounded it. So the constructors of torch are replaced while the user's `configure_optimizers` runs, and hand on another
learning rate than the one written there. All that follows is then torch's own arithmetic, as in a run in which the user
has written that number.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR
from torch.optim.swa_utils import SWALR

from bstuner.optim.numbers import like, number_in, scaled_adam, scaled_momentum

__all__ = ["GivenRate", "GivenRates"]

# The schedulers that have learning rates of their own.
_OWN_RATES: dict[Any, tuple[str, ...]] = {OneCycleLR: ("max_lr",), CyclicLR: ("base_lr", "max_lr"), SWALR: ("swa_lr",)}
_MOMENTA = ("base_momentum", "max_momentum")


class GivenRate(NamedTuple):
    """A learning rate that user code has handed to a constructor.

    Args:
        where: What it was handed to, in words.
        lr: The learning rate.
    """

    where: str
    lr: float


class GivenRates:
    """The learning rates that user code hands to constructors, in order, and what they become.

    Args:
        choose: Tells the learning rate to construct with, from the number of a given rate, from 0, and that rate.
        adam: Batch size and reference batch size by which Adam's other constants are scaled; None for not at all.

    Attributes:
        seen: The given rates, as the user code has them.
        scaled: Whether there was an Adam whose constants could be scaled.
    """

    def __init__(self, choose: Callable[[int, GivenRate], float], adam: tuple[int, int] | None = None) -> None:
        self.seen: list[GivenRate] = []
        self.scaled = False
        self._choose = choose
        self._adam = adam
        # By id; what is kept here stays alive, so that an id means one object.
        self._constructed: dict[int, Optimizer] = {}
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        self._betas: dict[int, Any] = {}

    @contextlib.contextmanager
    def intercepted(self) -> Iterator[None]:
        """Replace the constructors; other threads get the original ones."""
        rates, thread = self, threading.get_ident()
        original_init, original_add = Optimizer.__init__, Optimizer.add_param_group

        @functools.wraps(original_init)
        def init(self: Optimizer, params: Any, defaults: dict[str, Any]) -> None:
            if threading.get_ident() != thread or isinstance(params, Tensor):  # which torch refuses, in its words
                original_init(self, params, defaults)
                return
            params, defaults = list(params), copy.copy(defaults)
            for settings in (defaults, *(group for group in params if isinstance(group, dict))):
                rates._exchange_settings(self, settings, defaults)
            original_init(self, params, defaults)
            rates._constructed[id(self)] = self

        @functools.wraps(original_add)
        def add_param_group(self: Optimizer, param_group: dict[str, Any]) -> None:
            # While it is under construction, an optimizer adds the groups that are dealt with already.
            if threading.get_ident() == thread and id(self) in rates._constructed:
                rates._exchange_settings(self, param_group, self.defaults)
            original_add(self, param_group)

        with contextlib.ExitStack() as stack:
            stack.enter_context(_replaced(Optimizer, "__init__", init))
            stack.enter_context(_replaced(Optimizer, "add_param_group", add_param_group))
            for kind, names in _OWN_RATES.items():
                stack.enter_context(_replaced(kind, "__init__", self._scheduler_init(kind, names, thread)))
            yield

    def has_constructed(self, optimizer: Any) -> bool:
        """Whether an optimizer, or one that it is wrapped around, was constructed here, not before."""
        groups = [group for each in self._constructed.values() for group in each.param_groups]
        return any(group is own for group in groups for own in optimizer.param_groups)

    def _exchange_settings(self, optimizer: Optimizer, settings: dict[str, Any], defaults: dict[str, Any]) -> None:
        """Change the settings of a group, or the defaults, to those to construct with."""
        # An optimizer around another one may hand on settings that it has from there.
        handed_on = "betas" in settings and id(settings["betas"]) in self._betas
        if self._adam is not None and not handed_on and scaled_adam(settings, defaults, *self._adam):
            self.scaled = True
            if "betas" in settings:
                self._betas[id(settings["betas"])] = settings["betas"]
        if number_in(settings.get("lr")) is not None:
            settings["lr"] = self._exchange(f"the parameter groups of {type(optimizer).__name__}", settings["lr"])

    def _exchange(self, where: str, value: Any) -> Any:
        """Return the learning rate to construct with; the very same object where it stays."""
        given_rate = GivenRate(where, float(value))
        self.seen.append(given_rate)
        chosen = self._choose(len(self.seen) - 1, given_rate)
        if chosen == given_rate.lr:
            return value
        if not isinstance(value, Tensor):
            return chosen
        # Groups that share a tensor share the new one.
        return self._tensors.setdefault(id(value), (value, like(value, chosen)))[1]

    def _scheduler_init(self, kind: Any, names: tuple[str, ...], thread: int) -> Any:
        original = kind.__init__
        signature = inspect.signature(original)

        @functools.wraps(original)
        def init(*args: Any, **kwargs: Any) -> None:
            if threading.get_ident() != thread:
                original(*args, **kwargs)
                return
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            if isinstance(given["optimizer"], Optimizer):  # or else the original has something to say about it
                for name in names:
                    several = isinstance(given[name], (list, tuple))
                    where = f"{name} of {kind.__name__}"
                    rates = [self._exchange(where, rate) for rate in (given[name] if several else [given[name]])]
                    given[name] = rates if several else rates[0]
                if self._adam is not None and "betas" in given["optimizer"].defaults:
                    given.update(
                        (name, scaled_momentum(given[name], *self._adam)) for name in _MOMENTA if name in given
                    )
            original(*bound.args, **bound.kwargs)

        return init


@contextlib.contextmanager
def _replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, original)
