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
import operator
import queue
import random
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from multiprocessing.process import BaseProcess
from types import BuiltinMethodType, CellType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["RandomState", "Snapshot"]

Undo = Callable[[], Any]

# A container with more items than this is data, not state: it is put back itself, but its items are not walked.
_DATA_SIZE = 10_000
# In the data pipeline, a tensor or an array of more bytes than this is data; a smaller one may well be a counter.
_COUNTER_BYTES = 4096

# Objects and functions of these packages are machinery (clients, loops, handles): never walked, unless they keep
# state the way a training run does (`state_dict`) or belong to the data pipeline. The search does not rewind itself.
_MACHINERY = (sys.stdlib_module_names - {"argparse", "collections", "types"}) | {
    *("bstuner", "lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "torch", "numpy"),
    *("tensorboard", "wandb", "mlflow", "neptune", "comet_ml", "clearml", "aim", "optuna", "ray", "rich", "tqdm"),
}
_PIPELINE = (DataLoader, Dataset, Sampler, LightningDataModule, CombinedLoader)
# Nothing to remember, or alive outside the search: winding a running thread back would break it.
_CLOSED = (
    *(type(None), str, bytes, int, float, complex, ModuleType, random.SystemRandom),
    *(threading.Thread, BaseProcess, io.IOBase, queue.Queue),
)
# Immutable, but what they hold may not be.
_SEE_THROUGH = (tuple, frozenset, MethodType, BuiltinMethodType, functools.partial)
# Most special first: a container is read and written by its base's own methods, which no subclass can bend.
_CONTAINERS: tuple[Any, ...] = (OrderedDict, dict, list, deque, set)
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_UNSET = object()


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
            with and without a snapshot). Below datamodules, datasets, loaders and samplers only small contents are
            copied: the large ones are the user's data, which training reads and does not write.

    """

    def __init__(self, roots: Iterable[Any], contents: bool = True) -> None:
        self._undo: list[Undo] = []
        self._kept: dict[int, Any] = {}  # keeps what was seen alive, so that an id means one object
        self._pending: deque[tuple[Any, bool]] = deque()
        with _plain_torch():
            for root in roots:
                self._visit(root, contents, root=True)
            while self._pending:
                self._visit(*self._pending.pop())

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that was met."""
        return [obj for obj in self._kept.values() if isinstance(obj, Tensor)]

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

    def _visit(self, obj: Any, contents: bool, root: bool = False) -> None:
        kind: Any = type(obj)  # not obj.__class__, which a proxy forges
        if issubclass(kind, _CLOSED) or id(obj) in self._kept:
            return
        contents = contents and not issubclass(kind, _PIPELINE)
        if issubclass(kind, type):
            if not _is_machinery(obj):
                self._remember(obj, [_undo_class(obj)], [*vars(obj).values(), *obj.__bases__], contents)
            return
        found = _look_inside(obj, kind, contents)
        if found is None and not (root or _keeps_state(kind)):
            return
        undo, below = found or ([], [])
        attributes, slots = _attributes(obj), _slots(obj, kind)
        if attributes is not None or slots:
            undo.append(_undo_object(obj, kind, attributes, slots))
        self._remember(obj, undo, [kind, attributes, *(value for _, value in slots), *below], contents)

    def _remember(self, obj: Any, undo: list[Undo], below: list[Any], contents: bool) -> None:
        self._kept[id(obj)] = obj
        self._undo.extend(undo)
        # What hangs on both the model and the data is the model's: the data comes last.
        (self._pending.extend if contents else self._pending.extendleft)((item, contents) for item in below)


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
        self._numpy = np.random.get_state(legacy=False)
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


@contextlib.contextmanager
def _plain_torch() -> Iterator[None]:
    """No autograd, no inference mode (an evaluation's), and no say for subclasses of tensors."""
    with torch.inference_mode(False), torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        yield


def _is_machinery(definition: Any) -> bool:
    return str(definition.__module__).partition(".")[0] in _MACHINERY


def _keeps_state(kind: Any) -> bool:
    if str(kind.__module__).startswith("bstuner."):
        return False  # the search does not rewind itself
    return issubclass(kind, _PIPELINE) or hasattr(kind, "state_dict") or not _is_machinery(kind)


def _look_inside(obj: Any, kind: Any, contents: bool) -> tuple[list[Undo], list[Any]] | None:
    """How to undo a change of what an object holds outside its attributes, and what that is; None for nothing."""
    if issubclass(kind, Tensor):
        if contents or obj.numel() * obj.element_size() <= _COUNTER_BYTES:
            return [_undo_tensor(obj)], [obj.grad if obj.is_leaf else None]
        return [], []
    if issubclass(kind, np.ndarray):
        below = list(obj.flat) if obj.dtype.hasobject and obj.size <= _DATA_SIZE else []
        copied = obj.nbytes <= _COUNTER_BYTES or (contents and not issubclass(kind, np.memmap))
        return [functools.partial(np.copyto, obj, np.array(obj))] if copied and obj.flags.writeable else [], below
    if issubclass(kind, _CONTAINERS):
        base = next(base for base in _CONTAINERS if issubclass(kind, base))
        items = _items(obj, base)
        below = items if len(items) <= _DATA_SIZE else []
        return [_undo_container(obj, base, items)], list(chain(*below)) if issubclass(base, dict) else below
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


def _undo_tensor(tensor: Tensor) -> Undo:
    leaf, requires_grad = tensor.is_leaf, tensor.requires_grad
    grad = tensor.grad if leaf else None
    hooks = [(name, list((getattr(tensor, name) or {}).items())) for name in _TENSOR_HOOKS]
    put_memory_back = _undo_memory(tensor)

    def undo() -> None:
        if leaf and not tensor.is_leaf:
            tensor.detach_()  # an in-place operation has hung a graph on it
        if leaf and tensor.requires_grad and not requires_grad:
            tensor.requires_grad_(False)  # first: its data may become integers again
        put_memory_back()
        if leaf and requires_grad and not tensor.requires_grad:
            tensor.requires_grad_(True)
        if leaf and tensor.grad is not grad:
            tensor.grad = grad
        for name, items in hooks:
            if (now := getattr(tensor, name)) is not None:
                now.clear()
                now.update(items)

    return undo


def _undo_memory(tensor: Tensor) -> Undo:
    """Bytes are what is saved: every dtype, stride and overlap is the same there, and autograd sees no write."""
    if hasattr(tensor, "__tensor_flatten__"):
        return lambda: None  # a wrapper: the tensors with the memory are among its attributes
    if tensor.layout != torch.strided or tensor.is_nested:
        copy = tensor.detach().to("cpu", copy=True)
        return lambda: setattr(tensor, "data", copy.to(tensor.device, copy=True))
    alias, storage, unit = tensor.data, tensor.untyped_storage(), tensor.element_size()
    size, start = storage.nbytes(), tensor.storage_offset() * unit
    span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    span = span * unit if tensor.numel() and not tensor.is_meta else 0
    memory = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    if start + span <= size:  # otherwise its memory was taken away, for a while, by its owner
        memory.set_(storage, start, (span,), (1,))
    saved = memory.to("cpu", copy=True)

    def undo() -> None:
        if storage.nbytes() != size:
            storage.resize_(size)
        if _place(tensor) != _place(alias):
            tensor.data = alias  # the memory itself was exchanged, as `module.to()` does
        if memory.device.type != "cpu" or not torch.equal(memory, saved):
            memory.copy_(saved)  # never without need: a file may be mapped there, for reading only

    return undo


def _place(tensor: Tensor) -> Any:
    return tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride()


def _items(container: Any, base: Any) -> list[Any]:
    if base is dict:
        return list(dict.items(container))
    items = list(base.__iter__(container))
    return [(key, dict.__getitem__(container, key)) for key in items] if base is OrderedDict else items


def _undo_container(container: Any, base: Any, items: list[Any]) -> Undo:
    flat = chain.from_iterable if issubclass(base, dict) else iter

    def undo() -> None:
        now = _items(container, base)
        if len(now) == len(items) and all(map(operator.is_, flat(now), flat(items))):
            return  # nothing happened: no need to touch a container that may be watched or shared
        base.clear(container)
        if issubclass(base, dict):
            for key, value in items:
                base.__setitem__(container, key, value)
        else:
            (base.update if base is set else base.extend)(container, items)

    return undo


def _attributes(obj: Any) -> Any:
    try:
        return object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return None


def _slots(obj: Any, kind: Any) -> list[tuple[Any, Any]]:
    """The places outside `__dict__` where an object keeps values, each with its value."""
    slotted = chain.from_iterable(vars(base).values() for base in kind.__mro__ if "__slots__" in vars(base))
    places = [place for place in slotted if isinstance(place, MemberDescriptorType)]
    if kind is CellType:
        places = [CellType.cell_contents]
    return [(place, _read(place, obj)) for place in places]


def _read(place: Any, obj: Any) -> Any:
    try:
        return place.__get__(obj)
    except (AttributeError, ValueError):  # an empty cell raises the latter
        return _UNSET


def _undo_object(obj: Any, kind: Any, attributes: Any, slots: list[tuple[Any, Any]]) -> Undo:
    def undo() -> None:
        if type(obj) is not kind:
            object.__setattr__(obj, "__class__", kind)  # a lazy module, or one that was parametrized
        if attributes is not None and _attributes(obj) is not attributes:
            object.__setattr__(obj, "__dict__", attributes)
        for place, value in slots:
            if _read(place, obj) is not value:
                place.__delete__(obj) if value is _UNSET else place.__set__(obj, value)

    return undo


def _undo_class(kind: Any) -> Undo:
    def own() -> dict[str, Any]:
        return {name: value for name, value in vars(kind).items() if not name.startswith("__")}

    saved = own()

    def undo() -> None:
        now = own()
        for name in now.keys() - saved.keys():
            type.__delattr__(kind, name)
        for name, value in saved.items():
            if now.get(name, _UNSET) is not value:
                type.__setattr__(kind, name, value)

    return undo
