"""Lightning's two packages: the one module that imports their classes, and knows which package a thing belongs to.

`lightning.pytorch` and `pytorch_lightning` hold the same code twice, in classes that do not know each other. A class of
the wrong one is no class at all to a Trainer, so every class comes from the package that the Trainer at hand is of.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

__all__ = ["LightningCallback", "each_lightning", "is_served", "lightning_of"]

ROOTS = ("lightning.pytorch", "pytorch_lightning")


def lightning_of(thing: object, module: str = "") -> Any:
    """Return the package whose class a thing of Lightning's is, or one of its modules.

    Example:
        >>> import lightning as L
        >>> lightning_of(L.Trainer(logger=False, enable_checkpointing=False), "callbacks").__name__
        'lightning.pytorch.callbacks'

    Args:
        thing: a Trainer, a module, a strategy, a loop: anything whose class, or a base of it, is Lightning's.
        module: the module's name within the package; empty for the package itself.

    Raises:
        TypeError: no class of the thing is Lightning's.

    """
    for kind in type(thing).__mro__:
        for root in ROOTS:
            if kind.__module__ == root or kind.__module__.startswith(f"{root}."):
                return _module(root, module)
    raise TypeError(f"Expected an object of {' or '.join(ROOTS)}, found one of {type(thing).__qualname__}.")


def each_lightning(module: str = "") -> tuple[Any, ...]:
    """Return every installed package, or a module of each: for where no Trainer is at hand yet.

    Args:
        module: the module's name within the package; empty for the package itself.

    """
    return tuple(_module(root, module) for root in _installed())


def is_served(trainer: object) -> bool:
    """Whether bstuner works with a Trainer: that of `pytorch_lightning` is refused, in words."""
    served = _module(ROOTS[0]).Trainer
    return isinstance(trainer, served)


def _module(root: str, name: str = "") -> Any:
    return importlib.import_module(f"{root}.{name}" if name else root)


@functools.cache
def _installed() -> tuple[str, ...]:
    return tuple(root for root in ROOTS if importlib.util.find_spec(root.partition(".")[0]) is not None)


if TYPE_CHECKING:
    # To the type checker, two classes of the same hooks for different Trainers contradict each other.
    from lightning.pytorch import Callback as LightningCallback
else:

    class LightningCallback(*(package.Callback for package in each_lightning())):
        """The base of callbacks that the Trainer of either package accepts.

        A Trainer checks the class of a callback before it calls the first hook, with an error that says nothing.
        """
