"""Learning rates that are in place only while an optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["LRAtStep", "lr_at_last_step"]


class _Held:
    """What the groups of an optimizer had before its step, and who has changed it since."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._lrs = [(group, group["lr"]) for group in optimizer.param_groups]
        self.changed_by: set[int] = set()

    def put_back(self) -> None:
        self.put_into([group for group, _ in self._lrs])

    def put_into(self, groups: list[dict[str, Any]]) -> None:
        for group, (_, lr) in zip(groups, self._lrs, strict=False):
            group["lr"] = lr


# One place for all who change the same optimizer: the first to change it keeps what was there, and the first whose turn
# comes after the step puts that back. Each with a memory of its own, the second would put back what the first has made.
_HELD: WeakKeyDictionary[Optimizer, _Held] = WeakKeyDictionary()
_USED: WeakKeyDictionary[Optimizer, Any] = WeakKeyDictionary()


def lr_at_last_step(optimizer: Optimizer) -> float | None:
    """The learning rate of the first group that a watched optimizer has really used last; None before its first step.

    Args:
        optimizer: one that is watched.
    """
    used = _USED.get(optimizer)
    return None if used is None else float(used)


class LRAtStep:
    """Changes the learning rate of optimizers while they step; several do so one after the other.

    The user's scheduler never sees the change, whatever its kind, and neither does a checkpoint, even if it is saved in
    the middle of a step: Lightning runs `training_step` in the optimizer's closure. The closure does, and so
    `training_step`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    >>> change = LRAtStep(lambda lr: 2 * lr)
    >>> change.watch([optimizer])
    >>> def closure():
    ...     print(optimizer.param_groups[0]["lr"])
    >>> optimizer.step(closure), optimizer.param_groups[0]["lr"]
    0.2
    (None, 0.1)

    Args:
        change: Tells the learning rate to use from the one in place, for each parameter group.
        stepped: Called after each step.
    """

    def __init__(self, change: Callable[[Any], Any], stepped: Callable[[], None] | None = None) -> None:
        self._change = change
        self._stepped = stepped
        self._handles: list[RemovableHandle] = []
        self._watched: list[Optimizer] = []

    def watch(self, optimizers: Iterable[Optimizer]) -> None:
        """Change the steps of these optimizers, and of no others."""
        # The old handles are kept: where a search puts optimizers back, it puts back their hooks too.
        self._remove_hooks()
        self._watched = list(optimizers)
        for optimizer in self._watched:
            _HELD.pop(optimizer, None)  # of a trial that ended in the middle of a step, and was put back whole
            self._handles.append(optimizer.register_step_pre_hook(self._before))
            self._handles.append(optimizer.register_step_post_hook(self._after))
            self._handles.append(optimizer.register_state_dict_post_hook(_keep_out_of))

    def let_go(self) -> None:
        """Leave the optimizers as the user's code has them, also in the middle of a step."""
        for optimizer in self._watched:
            _put_back(optimizer)
        self._remove_hooks()
        self._handles.clear()
        self._watched.clear()

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        if optimizer in _HELD and id(self) in _HELD[optimizer].changed_by:
            _put_back(optimizer)  # after a step that failed, where the user's code has caught the error
        held = _HELD.setdefault(optimizer, _Held(optimizer))
        held.changed_by.add(id(self))
        for group in optimizer.param_groups:
            group["lr"] = self._change(group["lr"])

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        if optimizer in _HELD:
            _USED[optimizer] = optimizer.param_groups[0]["lr"]
        _put_back(optimizer)
        if self._stepped is not None:
            self._stepped()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()


def _keep_out_of(optimizer: Optimizer, state: dict[str, Any]) -> None:
    held = _HELD.get(optimizer)
    if held is not None:
        held.put_into(state["param_groups"])


def _put_back(optimizer: Optimizer) -> None:
    held = _HELD.pop(optimizer, None)
    if held is not None:
        held.put_back()
