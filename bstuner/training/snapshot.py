"""Remember the state of live objects and put it back, in place, without knowing their classes.

A search runs the user's own code, and that code changes what it likes: counters, lists of losses, caches,
generators, tensors. Asking each class for a `state_dict` would miss most of these. So a snapshot walks the
objects themselves and notes, for each mutable thing it meets, how to undo what happens to it.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["RandomState", "Snapshot"]

# A container with more items than this is data, not state: it is put back itself, but its items are not walked.
_DATA_SIZE = 10_000

# Objects of these packages are machinery (clients, loops, handles): never walked, unless they keep state the
# way a training run does (`state_dict`) or belong to the data pipeline.
_MACHINERY = frozenset(sys.stdlib_module_names) | {
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "pytorch_lightning",
    "torch",
    "numpy",
    "tensorboard",
    "wandb",
    "mlflow",
    "neptune",
    "comet_ml",
    "clearml",
    "aim",
    "optuna",
    "ray",
}
_PIPELINE = (DataLoader, Dataset, Sampler)


class Snapshot:
    """The state of some objects and of everything mutable below them.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> model.losses = []
        >>> snapshot = Snapshot([model])
        >>> _ = model.weight.data.zero_(), model.losses.append(1.0)
        >>> snapshot.restore()
        >>> bool(model.weight.any()), model.losses
        (True, [])

    Args:
        roots: objects to remember. A root is always walked, whatever its class.
        contents: also remember what tensors and arrays hold (in host memory, so that a device measures the same
            with and without a snapshot). Below data sets, loaders and samplers contents are never copied: they
            are the user's data, which training reads and does not write.

    """

    def __init__(self, roots: Iterable[Any], contents: bool = True) -> None:
        self._undo: list[Callable[[], Any]] = []
        self._kept: dict[int, Any] = {}  # keeps what was seen alive, so that an id means one object
        pending: list[tuple[Any, bool]] = []
        for root in roots:
            if _has_attributes(root) and not isinstance(root, Tensor):
                self._remember_attributes(root, pending, contents)
            else:
                pending.append((root, contents))
        while pending:
            self._visit(*pending.pop(), pending)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that was met."""
        return [obj for obj in self._kept.values() if isinstance(obj, Tensor)]

    def restore(self) -> None:
        """Put everything back as it was; may be called any number of times."""
        with torch.no_grad():
            for undo in self._undo:
                undo()

    def _visit(self, obj: Any, contents: bool, pending: list[tuple[Any, bool]]) -> None:
        if obj is None or isinstance(obj, (str, bytes, int, float, complex, type)) or id(obj) in self._kept:
            return
        if isinstance(obj, Tensor):
            self._kept[id(obj)] = obj
            if contents:
                self._undo.append(_undo_tensor(obj))
                if obj.is_leaf and obj.grad is not None:
                    pending.append((obj.grad, contents))
        elif isinstance(obj, (Mapping, list, deque, set, tuple, frozenset)):
            self._kept[id(obj)] = obj
            if isinstance(obj, (dict, list, deque, set)):
                self._undo.append(_undo_container(obj))
            if len(obj) <= _DATA_SIZE:
                items = obj.values() if isinstance(obj, Mapping) else obj
                pending.extend((item, contents) for item in items)
        elif isinstance(obj, np.ndarray):
            self._kept[id(obj)] = obj
            if contents and obj.flags.writeable:
                self._undo.append(functools.partial(np.copyto, obj, obj.copy()))
        elif (undo := _undo_generator(obj)) is not None:
            self._kept[id(obj)] = obj
            self._undo.append(undo)
        elif isinstance(obj, MethodType):
            pending.append((obj.__self__, contents))
        elif isinstance(obj, functools.partial):
            pending.extend((item, contents) for item in (obj.func, obj.args, obj.keywords))
        elif _has_attributes(obj) and _keeps_state(obj):
            self._remember_attributes(obj, pending, contents and not isinstance(obj, _PIPELINE))

    def _remember_attributes(self, obj: Any, pending: list[tuple[Any, bool]], contents: bool) -> None:
        if id(obj) in self._kept:
            return
        self._kept[id(obj)] = obj
        attributes = vars(obj)
        self._undo.append(_undo_container(attributes))
        pending.extend((value, contents) for value in list(attributes.values()))


class RandomState:
    """The state of every global random generator: Python, NumPy, torch on the CPU and on each device in use.

    Example:
        >>> state = RandomState()
        >>> first = torch.rand(3)
        >>> state.restore()
        >>> bool((torch.rand(3) == first).all())
        True

    """

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def restore(self) -> None:
        """Put all generators back; may be called any number of times."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)


def _has_attributes(obj: Any) -> bool:
    return isinstance(getattr(obj, "__dict__", None), dict)


def _keeps_state(obj: Any) -> bool:
    package = type(obj).__module__.partition(".")[0]
    if package == "bstuner":
        return False  # the search does not rewind itself
    return isinstance(obj, _PIPELINE) or hasattr(type(obj), "state_dict") or package not in _MACHINERY


def _undo_tensor(tensor: Tensor) -> Callable[[], None]:
    # Sparse, quantized, meta and inference tensors have no plain contents that could be written back.
    plain = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_inference())
    saved = tensor.detach().to("cpu", copy=True) if plain else None
    storage, grad, requires_grad = tensor.data, tensor.grad if tensor.is_leaf else None, tensor.requires_grad

    def undo() -> None:
        if tensor.is_leaf and plain:
            if tensor.data_ptr() != storage.data_ptr() or tensor.shape != storage.shape:
                tensor.data = storage  # the memory itself was exchanged, as `module.to()` does
            tensor.grad = grad
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
        if saved is not None:
            tensor.detach().copy_(saved)

    return undo


def _undo_container(container: Any) -> Callable[[], None]:
    items = list(container.items()) if isinstance(container, dict) else list(container)

    def undo() -> None:
        now = list(container.items()) if isinstance(container, dict) else list(container)
        if _same(now, items):
            return  # nothing happened: no need to touch a container that may be watched or shared
        container.clear()
        if isinstance(container, (dict, set)):
            container.update(items)
        else:
            container.extend(items)

    return undo


def _same(now: list[Any], then: list[Any]) -> bool:
    if len(now) != len(then):
        return False
    for a, b in zip(now, then, strict=True):
        if a is b:
            continue
        if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) == 2):
            return False
        if a[0] is not b[0] or a[1] is not b[1]:
            return False
    return True


def _undo_generator(obj: Any) -> Callable[[], Any] | None:
    if isinstance(obj, torch.Generator):
        return functools.partial(obj.set_state, obj.get_state())
    if isinstance(obj, random.Random):
        return functools.partial(obj.setstate, obj.getstate())
    if isinstance(obj, np.random.RandomState):
        return functools.partial(obj.set_state, obj.get_state())
    if isinstance(obj, np.random.Generator):
        state = obj.bit_generator.state
        return functools.partial(setattr, obj.bit_generator, "state", state)
    return None
