"""What `torch.compile` has compiled of a run, and how that runs during a search."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch
import torch._dynamo.utils  # Lightning has imported it already
from torch import nn

from bstuner.training._lightning import is_compiled_by_lightning

__all__ = ["Compilation", "compiled_parts"]


def compiled_parts(module: nn.Module) -> list[str]:
    """Names of the parts that are compiled; the name of the class where the whole module is.

    >>> net = nn.Sequential(nn.Linear(1, 1), torch.compile(nn.Linear(1, 1), backend="eager"))
    >>> net[0].compile(backend="eager")
    >>> compiled_parts(net)
    ['0', '1']

    Functions that are compiled but are no attributes of the module or of its classes are not seen.
    """
    found: list[str] = []
    for name, part in module.named_modules():
        # _compiled_call_impl: all that module.compile() leaves.
        whole = is_compiled_by_lightning(part) or part._compiled_call_impl is not None
        if whole or isinstance(part, torch._dynamo.OptimizedModule):
            found.append(name or type(part).__name__)
            continue
        attributes: dict[str, Any] = {}
        for kind in reversed(type(part).__mro__):
            attributes.update(vars(kind))
        attributes.update(vars(part))
        functions = [attribute for attribute, value in attributes.items() if _is_compiled(value)]
        found += [f"{name}.{function}" if name else function for function in functions]
    return found


def _is_compiled(value: Any) -> bool:
    if not isinstance(value, FunctionType):
        return False
    marks = vars(value)
    return "_torchdynamo_orig_callable" in marks and not marks.get("_torchdynamo_disable", False)


class Compilation:
    """How what is compiled runs during a search, and what the user should know of it.

    >>> net = nn.Sequential(torch.compile(nn.Linear(1, 1), backend="eager"))
    >>> with Compilation(net, allowed=False) as compilation:
    ...     [warning[:41] for warning in compilation.warnings()]
    ['torch.compile: 0 ran as if not compiled i']

    Args:
        module: the module that is trained.
        allowed: compile as training does, and forget it afterwards, so that training compiles for its own batch size;
            otherwise run everything as if it were not compiled, and leave alone what was compiled before.

    """

    def __init__(self, module: nn.Module, allowed: bool) -> None:
        self._allowed = allowed
        self._parts = compiled_parts(module)
        self._before = _compiled_graphs()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Compilation:
        if not self._allowed:
            self._stack.enter_context(_eager())
        elif self._parts:
            self._stack.callback(torch.compiler.reset)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def warnings(self) -> Iterator[str]:
        """What the user should know, while the search is open."""
        if not self._parts:
            return
        parts = ", ".join(self._parts)
        if not self._allowed:
            yield (
                f"torch.compile: {parts} ran as if not compiled in the search, because memory on the CPU is counted "
                "op by op: compiled, its time and its memory differ."
            )
            return
        count = _compiled_graphs() - self._before
        yield (
            f"torch.compile: {parts} took {count} compilation{'' if count == 1 else 's'} in the search, and will be "
            "compiled anew in training, for its own batch size."
        )


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is not None:
        with set_stance("force_eager"):
            yield
        return
    try:  # torch 2.5
        with torch._dynamo.config.patch(disable=True):
            yield
    finally:
        torch.compiler.reset()  # what ran meanwhile is remembered as not to be compiled


def _compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
