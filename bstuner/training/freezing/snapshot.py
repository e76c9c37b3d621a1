"""Remember the state of live objects and put it back, in place, without knowing their classes.

A search runs the user's own code, and that code changes what it likes: counters, lists of losses, caches, generators,
tensors, hooks. Asking each class for a `state_dict` would miss most of these. So a snapshot walks the objects
themselves (attributes, slots, containers, what closures hold, the attributes of the user's classes) and notes, for
each mutable thing it meets, how to undo what happens to it.

Out of reach, and left as user code leaves it: global variables and process-wide settings; iterators and whatever else
C code hides; threads, files, queues, memory shared between processes; a graph that an in-place operation extends.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import queue
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from multiprocessing.process import BaseProcess
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bstuner.training._lightning import each_lightning
from bstuner.training.freezing.fingerprint import bytes_of, fingerprint
from bstuner.training.freezing.undo import (
    CONTAINERS,
    Undo,
    attributes_of,
    items_of,
    slots_of,
    undo_class,
    undo_container,
    undo_object,
    undo_tensor,
)

__all__ = ["Snapshot"]

# A container with more items than this is data, not state: it is put back itself, but its items are not walked.
_DATA_SIZE = 10_000
# In the data pipeline, tensors and arrays are copied up to so many bytes in all, which takes some milliseconds.
_COPIED_BYTES = 64 << 20
# And so many bytes of what is larger are read, to see whether it changes.
_READ_BYTES = 32 << 20
# What is as small as this may well be a counter, whatever else is left as it is.
_COUNTER_BYTES = 4096

# Objects and functions of these packages are machinery (clients, loops, handles): never walked, unless they keep
# state the way a training run does (`state_dict`) or belong to the data pipeline. The search does not rewind itself.
_MACHINERY = (sys.stdlib_module_names - {"argparse", "collections", "types"}) | {
    *("bstuner", "lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "torch", "numpy"),
    *("tensorboard", "wandb", "mlflow", "neptune", "comet_ml", "clearml", "aim", "optuna", "ray", "rich", "tqdm"),
}
# FSDP keeps which parameters are gathered at the moment in objects of its own, which hooks of the module refer to.
_KEPT_BY_TORCH = "torch.distributed.fsdp"
# Nothing to remember, or alive outside the search: winding a running thread back would break it.
_CLOSED = (
    *(type(None), str, bytes, int, float, complex, ModuleType, random.SystemRandom),
    *(threading.Thread, BaseProcess, io.IOBase, queue.Queue),
)
# Immutable, but what they hold may not be.
_SEE_THROUGH = (tuple, frozenset, MethodType, BuiltinMethodType, functools.partial)


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
            with and without a snapshot). Below datamodules, datasets, loaders and samplers that is bounded: what is
            larger is the user's data, which training reads and hardly ever writes. `changed` tells where it did.
        data: without `contents`, whether there is data to remember. If not, only counters are copied.

    Attributes:
        tensors: the tensors that were met, without those of the data.

    """

    def __init__(self, roots: Iterable[Any], contents: bool = True, data: bool = True) -> None:
        self.tensors: list[Tensor] = []
        self._data = data
        self._room = _COPIED_BYTES
        self._to_read = _READ_BYTES
        self._large: list[tuple[Any, Callable[[], Any], Any]] = []
        self._undo: list[Undo] = []
        self._kept: dict[int, Any] = {}  # keeps what was seen alive, so that an id means one object
        self._pending: deque[tuple[Any, bool]] = deque()
        with _plain_torch(), _uncollected():
            for root in roots:
                self._visit(root, contents, root=True)
            while self._pending:
                self._visit(*self._pending.pop())

    def restore(self) -> None:
        """Put everything back as it was; may be called any number of times.

        An error, or Ctrl-C, does not stop it half-way: it is raised once all else is back.
        """
        failed: list[tuple[Undo, BaseException]] = []
        with _plain_torch():
            for undo in self._undo:
                try:
                    undo()
                except BaseException as error:
                    failed.append((undo, error))
            for undo, _ in failed:
                with contextlib.suppress(Exception):
                    undo()  # once more: a container whose refilling was interrupted would stay empty
        if failed:
            raise failed[0][1]

    def changed(self) -> list[str]:
        """Names of what was too large to copy and has changed since; `restore` cannot put it back."""
        with _plain_torch():
            large = [obj for obj, look, before in self._large if look() != before]
        return [self._name(obj) for obj in large]

    def _name(self, obj: Any) -> str:
        for owner in self._kept.values():
            for name, value in (attributes_of(owner) or {}).items() if not isinstance(owner, type) else ():
                if value is obj:
                    return f"{type(owner).__qualname__}.{name}"
        return f"a {type(obj).__qualname__}"

    def _visit(self, obj: Any, contents: bool, root: bool = False) -> None:
        kind: Any = type(obj)  # not obj.__class__, which a proxy forges
        if issubclass(kind, _CLOSED) or id(obj) in self._kept:
            return
        contents = contents and not issubclass(kind, _pipeline())
        if issubclass(kind, type):
            if not _is_machinery(obj):
                self._remember(obj, [undo_class(obj)], [*vars(obj).values(), *obj.__bases__], contents)
            return
        found = _look_inside(obj, kind, contents or self._affords(obj, kind))
        if found is None and not (root or _keeps_state(kind)):
            return
        if contents and issubclass(kind, Tensor):
            self.tensors.append(obj)
        if self._data and issubclass(kind, CONTAINERS) and _hides_state(_values(obj)):
            self._watch(obj, lambda: fingerprint(_values(obj)))
        undo, below = found or ([], [])
        attributes, slots = attributes_of(obj), slots_of(obj, kind)
        if attributes is not None or slots:
            undo.append(undo_object(obj, kind, attributes, slots))
        self._remember(obj, undo, [kind, attributes, *(value for _, value in slots), *below], contents)

    def _affords(self, obj: Any, kind: Any) -> bool:
        """Whether data may be copied; what is too large is watched."""
        if not issubclass(kind, (Tensor, np.ndarray)):
            return True
        size = bytes_of(obj)
        if not self._data or issubclass(kind, np.memmap):  # to look at one would read its file
            return size <= _COUNTER_BYTES
        if size <= self._room:
            self._room -= size
            return True
        if issubclass(kind, Tensor) or (obj.flags.writeable and not obj.dtype.hasobject):
            self._watch(obj, functools.partial(fingerprint, obj, self._to_read))
            self._to_read = max(0, self._to_read - size)
        return False

    def _watch(self, obj: Any, look: Callable[[], Any]) -> None:
        self._large.append((obj, look, look()))

    def _remember(self, obj: Any, undo: list[Undo], below: list[Any], contents: bool) -> None:
        self._kept[id(obj)] = obj
        self._undo.extend(undo)
        # What hangs on both the model and the data is the model's: the data comes last.
        (self._pending.extend if contents else self._pending.extendleft)((item, contents) for item in below)


@contextlib.contextmanager
def _plain_torch() -> Iterator[None]:
    """No autograd, no inference mode (an evaluation's), and no say for subclasses of tensors."""
    with torch.inference_mode(False), torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        yield


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: making very many objects would set off one after another, over all that is alive."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@functools.cache
def _pipeline() -> tuple[Any, ...]:
    """Return the classes of the data pipeline."""
    modules = [package.LightningDataModule for package in each_lightning()]
    loaders = [utilities.CombinedLoader for utilities in each_lightning("utilities")]
    return (DataLoader, Dataset, Sampler, *modules, *loaders)


def _is_machinery(definition: Any) -> bool:
    module = str(definition.__module__)
    return module.partition(".")[0] in _MACHINERY and not module.startswith(_KEPT_BY_TORCH)


def _keeps_state(kind: Any) -> bool:
    if str(kind.__module__).startswith("bstuner."):
        return False  # the search does not rewind itself
    return issubclass(kind, _pipeline()) or hasattr(kind, "state_dict") or not _is_machinery(kind)


def _values(container: Any) -> list[Any]:
    base = next(base for base in CONTAINERS if isinstance(container, base))
    items = items_of(container, base)
    return [value for _, value in items] if issubclass(base, dict) else items


def _hides_state(values: list[Any]) -> bool:
    """Whether items that are too many to be walked hold what can change."""
    return len(values) > _DATA_SIZE and not all(issubclass(kind, _CLOSED) for kind in set(map(type, values)))


def _look_inside(obj: Any, kind: Any, contents: bool) -> tuple[list[Undo], list[Any]] | None:
    """How to undo a change of what an object holds outside its attributes, and what that is; None for nothing."""
    if issubclass(kind, Tensor):
        if contents:
            return [undo_tensor(obj)], [obj.grad if obj.is_leaf else None]
        return [], []
    if issubclass(kind, np.ndarray):
        below = list(obj.flat) if obj.dtype.hasobject and obj.size <= _DATA_SIZE else []
        copied = contents and obj.flags.writeable and (not issubclass(kind, np.memmap) or obj.nbytes <= _COUNTER_BYTES)
        return [functools.partial(np.copyto, obj, np.array(obj))] if copied else [], below
    if issubclass(kind, CONTAINERS):
        base = next(base for base in CONTAINERS if issubclass(kind, base))
        items = items_of(obj, base)
        below = items if len(items) <= _DATA_SIZE else []
        return [undo_container(obj, base, items)], list(chain(*below)) if issubclass(base, dict) else below
    if issubclass(kind, _SEE_THROUGH):
        below = gc.get_referents(obj)
        return [], below if len(below) <= _DATA_SIZE else []
    if issubclass(kind, FunctionType) and not _is_machinery(obj):
        return [], [*(obj.__closure__ or ()), obj.__defaults__, obj.__kwdefaults__]
    if issubclass(kind, CellType):
        return [], []  # its one slot is looked at as those of objects are
    if issubclass(kind, np.random.Generator):
        return [], [obj.bit_generator]
    if issubclass(kind, np.random.BitGenerator):
        return [functools.partial(setattr, obj, "state", obj.state)], []
    if issubclass(kind, (torch.Generator, np.random.RandomState)):
        return [functools.partial(obj.set_state, obj.get_state())], []
    if issubclass(kind, random.Random):
        return [functools.partial(obj.setstate, obj.getstate())], []
    return None
