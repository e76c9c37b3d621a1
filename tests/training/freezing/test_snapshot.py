"""Whatever user code does to live objects, a snapshot undoes it in place."""

from __future__ import annotations

import argparse
import functools
import gc
import io
import queue
import random
import sys
import threading
import types
import weakref
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.utilities.parsing import AttributeDict
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from bstuner.device.random_state import RandomState
from bstuner.training.freezing.snapshot import Snapshot

snapshot_module = sys.modules[Snapshot.__module__]

Case = tuple[Any, Callable[[], Any], Callable[[], Any]]


def holder(**attributes: Any) -> Any:
    """An object of a user's class."""

    class Thing:
        pass

    thing = Thing()
    vars(thing).update(attributes)
    return thing


def bits(tensor: Tensor) -> tuple[Any, ...]:
    """All that can be told of a plain tensor's contents; NaN and -0.0 count too."""
    if not tensor.untyped_storage().nbytes():
        return ("no memory",)
    dense = tensor.detach().clone().contiguous().resolve_conj()
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), dense.view(-1).view(torch.uint8).tolist()


def assert_undone(case: Case) -> None:
    """The change is seen, and undone, and undone again when it is repeated."""
    root, change, look = case
    before = look()
    snapshot = Snapshot([root])
    for _ in range(2):
        change()
        assert look() != before, "the change must be one that the check would see"
        snapshot.restore()
        assert look() == before
        snapshot.restore()
        assert look() == before


# ------------------------------------------------------------------------------------------------- containers


class Rude(dict):
    """Every method a snapshot might be tempted to call is broken."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("an overridden method was called")

    clear = update = items = values = keys = copy = pop = __iter__ = __len__ = __getitem__ = __eq__ = _refuse
    __hash__ = None  # type: ignore[assignment]


class RudeList(list):
    clear = extend = append = __iter__ = __len__ = __getitem__ = __eq__ = copy = Rude._refuse
    __hash__ = None  # type: ignore[assignment]


class LeastRecentlyUsed(OrderedDict):
    """The recipe of Python's own documentation: reading an item moves it."""

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value


Pair = namedtuple("Pair", "a b")


def _list() -> Case:
    it = [1, [2], {"x": [3]}]
    inner, deep = it[1], it[2]["x"]

    def change() -> None:
        deep.append(4)
        inner.clear()
        it[:] = [0]

    return it, change, lambda: ([id(x) for x in it], list(inner), list(deep))


def _lru() -> Case:
    it = LeastRecentlyUsed(a=1, b=2, c=3)
    return it, lambda: it["a"], lambda: list(OrderedDict.__iter__(it))


def _rude() -> Case:
    it = Rude(a=1)
    return it, lambda: dict.__setitem__(it, "b", 2), lambda: list(dict.items(it))


def _rude_list() -> Case:
    it = RudeList([1, 2])
    return it, lambda: list.append(it, 3), lambda: list(list.__iter__(it))


def _attributes_of_a_list() -> Case:
    it = UserList([1])
    it.note = ["kept"]
    return it, lambda: (it.note.append(1), it.append(2)), lambda: (list(it.data), list(it.note))


def _order() -> Case:
    it = OrderedDict(a=1, b=2)
    return it, lambda: it.move_to_end("a"), lambda: list(it)


def _pair() -> Case:
    it = Pair([1], {"k": {2}})
    return it, lambda: (it.a.append(1), it.b["k"].add(3)), lambda: (list(it.a), sorted(it.b["k"]))


def _arrays() -> Case:
    it = [np.zeros(3), np.ones(3)]  # comparing such lists with == is an error
    return it, lambda: (it.reverse(), it[0].fill(7)), lambda: [(id(x), x.tolist()) for x in it]


def _hparams() -> Case:
    it = AttributeDict(lr=1.0, net={"width": [1]})

    def change() -> None:
        it.lr = 2.0
        it.net["width"].append(2)

    return it, change, lambda: (it.lr, list(it.net["width"]))


def _cycle() -> Case:
    it: list[Any] = [1]
    it.append(it)
    return it, lambda: it.append(2), lambda: (len(it), it[1] is it)


def _deep() -> Case:
    it: list[Any] = []
    bottom = it
    for _ in range(5000):
        bottom.append([])
        bottom = bottom[0]
    return it, lambda: bottom.append(1), lambda: len(bottom)


def _object_array() -> Case:
    it = np.array([[1], [2], None], dtype=object)
    return it, lambda: it[0].append(5), lambda: list(it[0])


CONTAINERS: dict[str, Callable[[], Case]] = {
    "nested list": _list,
    "dict": lambda: (d := {"a": 1, "b": [1]}, lambda: (d.pop("a"), d.update(c=1)), lambda: list(d.items())),
    "set": lambda: (s := {1, 2}, lambda: (s.add(3), s.discard(1)), lambda: sorted(s)),
    "bounded deque": lambda: (q := deque([1, 2], maxlen=2), lambda: q.append(3), lambda: (list(q), q.maxlen)),
    "defaultdict": lambda: (d := defaultdict(list, a=[1]), lambda: (d["a"].append(2), d["b"]), lambda: repr(d)),
    "Counter": lambda: (c := Counter(a=3, b=1), lambda: c.update("aab"), lambda: dict(c)),
    "OrderedDict that is reordered": _order,
    "least recently used cache": _lru,
    "UserDict": lambda: (d := UserDict(a=1), lambda: d.update(a=2, b=3), lambda: dict(d.data)),
    "UserList with attributes": _attributes_of_a_list,
    "dict whose methods are all overridden": _rude,
    "list whose methods are all overridden": _rude_list,
    "hparams": _hparams,
    "namedtuple of mutable things": _pair,
    "list of arrays": _arrays,
    "array of objects": _object_array,
    "frozenset and tuple": lambda: (
        t := (frozenset({(1, holder_ := holder(n=0))}),), lambda: setattr(holder_, "n", holder_.n + 1),
        lambda: (t[0] and holder_.n),
    ),
    "list that contains itself": _cycle,
    "list nested 5000 deep": _deep,
    "None and numbers": lambda: (d := {"a": None, "b": 1.5}, lambda: d.update(a=0, b=None), lambda: dict(d)),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_holds_what_it_held(name: str) -> None:
    assert_undone(CONTAINERS[name]())


# ---------------------------------------------------------------------------------------------------- objects


@dataclass(frozen=True)
class Frozen:
    seen: list[int] = field(default_factory=list)
    cache: Any = None


@dataclass(frozen=True)
class FrozenSlots:
    __slots__ = ("seen",)
    seen: list[int]


class Slots:
    __slots__ = ("__private", "__weakref__", "count", "items", "later")

    def __init__(self) -> None:
        self.count, self.items, self.__private = 0, [1], [1]

    def work(self) -> None:
        self.count += 1
        self.items.append(self.count)
        self.items = [*self.items]
        self.__private = self.count  # type: ignore[assignment]
        self.later = 1

    def look(self) -> Any:
        return self.count, id(self.items), list(self.items), self.__private, hasattr(self, "later")


class SlotsAndDict(Slots):
    def work(self) -> None:
        super().work()
        self.extra = 1

    def look(self) -> Any:
        return super().look(), sorted(vars(self))


class Hostile:
    """Attributes that cannot be asked for, set, compared, counted or walked."""

    def __init__(self) -> None:
        vars(self)["n"] = [0]

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("do not touch")

    __getattr__ = __setattr__ = __delattr__ = __eq__ = __len__ = __iter__ = __bool__ = __contains__ = _refuse
    __hash__ = object.__hash__


class Forger:
    """A proxy: claims to be of another class, and fails when it is asked which."""

    n = 0

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("not bound to anything")


class Prop:
    def __init__(self) -> None:
        self.__dict__["_n"] = 0

    @property
    def n(self) -> int:
        raise AssertionError("a property is code, not state")


def _slots(kind: type[Slots]) -> Case:
    it = kind()
    return it, it.work, it.look


def _frozen() -> Case:
    it = Frozen([1])
    return it, lambda: (it.seen.append(2), object.__setattr__(it, "cache", 1)), lambda: (list(it.seen), it.cache)


def _frozen_slots() -> Case:
    it = FrozenSlots([1])
    old = it.seen
    return it, lambda: (old.append(2), object.__setattr__(it, "seen", [])), lambda: (it.seen is old, list(old))


def _replaced_dict() -> Case:
    it = holder(a=1)
    return it, lambda: setattr(it, "__dict__", {"a": 2}), lambda: (it.a, sorted(vars(it)))


def _hostile() -> Case:
    it = Hostile()
    return it, lambda: vars(it)["n"].append(1), lambda: list(vars(it)["n"])


def _forger() -> Case:
    it = Forger()
    return [it], lambda: setattr(it, "n", it.n + 1), lambda: it.n


def _class_swap() -> Case:
    class Other:
        pass

    it = holder(a=1)
    return it, lambda: setattr(it, "__class__", Other), lambda: type(it)


def _class_attributes() -> Case:
    class Parent:
        total = 0

    class Child(Parent):
        losses: list[float] = []  # noqa: RUF012  (the accident this is about)

        def step(self) -> None:
            Parent.total += 1
            self.losses.append(1.0)
            type(self).added = 1  # type: ignore[attr-defined]

    it = Child()
    return it, it.step, lambda: (Parent.total, list(Child.losses), hasattr(Child, "added"))


def _closure() -> Case:
    n, seen = 0, []

    def count() -> None:
        nonlocal n
        n += 1
        seen.append(n)

    return holder(callback=count), count, lambda: (n, list(seen))


def _function_state() -> Case:
    def count(x: int = 1, *, cache: list[int] = []) -> None:  # noqa: B006  (the accident this is about)
        cache.append(x)
        count.calls = getattr(count, "calls", 0) + 1  # type: ignore[attr-defined]

    return [count], count, lambda: (list(count.__kwdefaults__["cache"]), getattr(count, "calls", None))


def _decorated() -> Case:
    def counting(function: Any) -> Any:
        seen: list[int] = []

        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            seen.append(1)
            return function(*args)

        wrapper.seen = seen  # type: ignore[attr-defined]
        return wrapper

    class Thing:
        @counting
        def step(self) -> None:
            pass

    it = Thing()
    return it, it.step, lambda: list(Thing.step.seen)


def _bound() -> Case:
    it, items = holder(n=0, bump=None), [1]

    class Collate:
        n = 0

        def __call__(self) -> None:
            self.n += 1

        def bump(self, by: Any) -> None:
            self.n += by["by"]

    collate, step = Collate(), {"by": 1}
    it.bump, it.push = functools.partial(collate.bump, by=step), items.append
    return it, lambda: (it.bump(), step.update(by=5), it.push(2)), lambda: (collate.n, dict(step), list(items))


OBJECTS: dict[str, Callable[[], Case]] = {
    "attributes added, changed and removed": lambda: (
        o := holder(a=1, b=2), lambda: (delattr(o, "a"), setattr(o, "c", 3)), lambda: dict(vars(o))
    ),
    "SimpleNamespace": lambda: (
        [o := types.SimpleNamespace(a=[1])], lambda: (o.a.append(1), setattr(o, "b", 1)), lambda: repr(o)
    ),
    "argparse Namespace": lambda: ([o := argparse.Namespace(a=1)], lambda: setattr(o, "a", 2), lambda: repr(o)),
    "slots": lambda: _slots(Slots),
    "slots and attributes": lambda: _slots(SlotsAndDict),
    "frozen dataclass": _frozen,
    "frozen dataclass with slots": _frozen_slots,
    "a __dict__ that is exchanged": _replaced_dict,
    "a class that is exchanged": _class_swap,
    "an object that refuses everything": _hostile,
    "a proxy that forges its class": _forger,
    "attributes of the user's classes": _class_attributes,
    "a closure's variables": _closure,
    "a function's attributes and defaults": _function_state,
    "a decorated method's closure": _decorated,
    "bound methods and partials": _bound,
    "a property, which is not run": lambda: ([o := Prop()], lambda: vars(o).update(_n=1), lambda: dict(vars(o))),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_what_it_was(name: str) -> None:
    assert_undone(OBJECTS[name]())


class Worker(threading.Thread):
    pass


class Stream(io.StringIO):
    pass


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock, threading.local, threading.Event, queue.Queue, io.StringIO, Stream, Worker, random.SystemRandom,
        lambda: iter([1]), lambda: (i for i in [1]), lambda: weakref.ref(Worker), lambda: memoryview(b"x"), object,
        lambda: functools.lru_cache(len), lambda: types.ModuleType("m"), lambda: range, lambda: nn.Linear, lambda: ...,
        lambda: torch.device("cpu"), lambda: torch.float16, lambda: np.float64(1), lambda: weakref.WeakKeyDictionary(),
    ],
)  # fmt: skip
def test_what_lives_outside_a_search_is_put_back_by_identity_and_never_rewound(make: Callable[[], Any]) -> None:
    value = make()
    it = holder(value=value)
    snapshot = Snapshot([it])
    if hasattr(value, "__dict__") and not isinstance(value, type):
        value.went_on = True
    it.value = None
    snapshot.restore()
    assert it.value is value
    if hasattr(value, "__dict__") and not isinstance(value, type):
        assert value.went_on


def test_a_class_is_not_touched_unless_it_is_the_users() -> None:
    nn.Linear.marked = 1  # type: ignore[attr-defined]
    snapshot = Snapshot([nn.Linear(1, 1)])
    nn.Linear.marked = 2  # type: ignore[attr-defined]
    snapshot.restore()
    try:
        assert nn.Linear.marked == 2  # type: ignore[attr-defined]
    finally:
        del nn.Linear.marked  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------- tensors


def _random(dtype: torch.dtype) -> Tensor:
    raw = torch.randint(0, 2, (2, 3)) if dtype == torch.bool else torch.randn(2, 3) * 9
    return raw.to(dtype)


DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip

TENSORS: dict[str, Callable[[], Tensor]] = {
    **{str(dtype): functools.partial(_random, dtype) for dtype in DTYPES},
    "a number": lambda: torch.tensor(3.0),
    "empty": lambda: torch.empty(0, 4),
    "NaN, infinity and both zeros": lambda: torch.tensor([float("nan"), float("inf"), -0.0, 0.0]),
    "transposed": lambda: torch.randn(3, 4).t(),
    "strided": lambda: torch.randn(10)[::3],
    "a column": lambda: torch.randn(4, 5)[:, 2],
    "expanded": lambda: torch.randn(1, 3).expand(4, 3),
    "overlapping windows": lambda: torch.randn(8).unfold(0, 4, 1),
    "channels last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "conjugated": lambda: torch.randn(3, dtype=torch.complex64).conj(),
    "parameter": lambda: nn.Parameter(torch.randn(3)),
    "not a leaf": lambda: nn.Parameter(torch.randn(3)) * 2,
    "from an array": lambda: torch.from_numpy(np.arange(3.0)),
    "shared between processes": lambda: torch.randn(3).share_memory_(),
    "an offset into something larger": lambda: torch.arange(100.0)[90:],
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_written_to_in_place_holds_what_it_held(name: str) -> None:
    tensor = TENSORS[name]()
    before, graph = bits(tensor), tensor.grad_fn
    snapshot = Snapshot([holder(t=tensor)])
    flip = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    for _ in range(2):
        flip.bitwise_not_()
        assert bits(tensor) != before or not tensor.numel()
        snapshot.restore()
        assert bits(tensor) == before
        assert tensor.grad_fn is graph


def test_a_minus_zero_keeps_its_sign() -> None:
    tensor = torch.tensor([-0.0])
    snapshot = Snapshot([tensor])
    tensor.fill_(0.0)
    snapshot.restore()
    assert torch.signbit(tensor)


EXCHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "half()": lambda m: m.half(),
    "double()": lambda m: m.double(),
    ".data =": lambda m: setattr(m.weight, "data", torch.zeros(7, 7)),
    "requires_grad_(False)": lambda m: m.requires_grad_(False),
    "frozen and quantised": lambda m: (
        m.requires_grad_(False),
        setattr(m.weight, "data", torch.zeros(2, dtype=torch.int8)),
    ),
    "a new Parameter": lambda m: setattr(m, "weight", nn.Parameter(torch.zeros(2))),
    "no Parameter": lambda m: m.register_parameter("bias", None),
    "resized": lambda m: m.weight.data.resize_(50, 50),
    "memory taken away": lambda m: m.weight.untyped_storage().resize_(0),
    "set_": torch.no_grad()(lambda m: m.weight.set_(torch.zeros(1))),
    "transposed in place": torch.no_grad()(lambda m: m.weight.t_()),
    "share_memory": lambda m: m.share_memory() and m.weight.data.zero_(),
    "grad": lambda m: m(torch.ones(1, 3)).sum().backward(),
    "buffer registered": lambda m: m.register_buffer("extra", torch.ones(1)),
    "buffer deleted": lambda m: delattr(m, "count"),
    "buffer replaced": lambda m: setattr(m, "count", m.count + 1),
    "submodule added": lambda m: m.add_module("more", nn.Linear(1, 1)),
    "forward hook": lambda m: m.register_forward_hook(print),
    "state dict hook": lambda m: m.register_state_dict_post_hook(lambda *_: None),
    "eval": lambda m: m.eval(),
    "parametrized": lambda m: nn.utils.parametrizations.weight_norm(m),
    "spectral norm": lambda m: nn.utils.parametrizations.spectral_norm(m),
    "pruned": lambda m: nn.utils.prune.l1_unstructured(m, "weight", 2),
    "attribute of a parameter": lambda m: setattr(m.weight, "note", 1),
    "forward replaced": lambda m: setattr(m, "forward", len),
}


def module_state(module: nn.Module) -> Any:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return (
        type(module),
        {name: (id(t), bits(t), t.requires_grad, t.grad is None, dict(vars(t)), t.untyped_storage().nbytes())
         for name, t in tensors},
        {name: len(value) if isinstance(value, dict) else value for name, value in vars(module).items()},
    )  # fmt: skip


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_module_is_what_it_was(name: str) -> None:
    module = nn.Linear(3, 4)
    module.register_buffer("count", torch.zeros(()))
    before, data = module_state(module), module.weight.data_ptr()
    # Restoring gives the very memory back, to which others (a flattened RNN, a tied weight) may hold on.
    snapshot = Snapshot([module])
    for _ in range(2):
        EXCHANGES[name](module)
        if name != "share_memory":
            assert module_state(module) != before or "hook" in name
        snapshot.restore()
        assert module_state(module) == before
        if name not in ("share_memory", "memory taken away", "resized"):
            assert module.weight.data_ptr() == data


def test_hooks_that_were_there_come_back_and_new_ones_go() -> None:
    module, called = nn.Linear(1, 1), []
    old = module.register_forward_hook(lambda *_: called.append("old"))
    snapshot = Snapshot([module])
    for _ in range(2):
        old.remove()
        module.register_forward_hook(lambda *_: called.append("new"))
        snapshot.restore()
    module(torch.ones(1, 1))
    assert called == ["old"]
    old.remove()
    module(torch.ones(1, 1))
    assert called == ["old"]


def test_hooks_on_tensors_come_back_and_new_ones_go() -> None:
    bare, hooked, called = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1)), []

    def note(word: str) -> Callable[..., None]:
        return lambda *_: called.append(word)

    def register(tensor: Tensor, word: str) -> Any:
        tensor.register_post_accumulate_grad_hook(note(f"{word} after"))
        return tensor.register_hook(note(word))

    old = register(hooked, "old")
    snapshot = Snapshot([bare, hooked])
    for _ in range(2):
        old.remove()
        register(bare, "new")
        register(hooked, "new")
        snapshot.restore()
    (bare + hooked).sum().backward()
    assert called == ["old", "old after"]


def test_a_lazy_layer_that_a_probe_gave_a_shape_is_lazy_again_and_takes_another() -> None:
    module = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())
    weight = module[0].weight
    snapshot = Snapshot([module])
    for width in (3, 5):
        module(torch.randn(4, width))
        assert module[0].in_features == width
        snapshot.restore()
        assert isinstance(module[0], nn.LazyLinear)
        assert nn.parameter.is_lazy(weight)
    module(torch.randn(4, 7))
    assert module[0].weight is weight
    assert weight.shape == (2, 7)


def test_tied_weights_stay_tied() -> None:
    module = nn.Module()
    module.a, module.b = nn.Linear(2, 2), nn.Linear(2, 2)
    module.b.weight = module.a.weight
    snapshot = Snapshot([module])
    module.b.weight = nn.Parameter(torch.zeros(2, 2))
    snapshot.restore()
    assert module.b.weight is module.a.weight


def test_a_view_still_shows_its_base() -> None:
    it = holder(base=torch.arange(6.0))
    it.view = it.base[2:4]
    snapshot = Snapshot([it])
    it.view.data = torch.zeros(2)
    it.base.zero_()
    snapshot.restore()
    it.base[2] = 99.0
    assert it.view.tolist() == [99.0, 3.0]


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_tensor_holds_what_it_held(layout: torch.layout) -> None:
    def make(dense: Tensor) -> Tensor:
        return dense.to_sparse(layout=layout)

    tensor = make(torch.eye(3))
    snapshot = Snapshot([tensor])
    for change in (lambda: tensor.values().mul_(2), lambda: setattr(tensor, "data", make(torch.ones(3, 3)))):
        if layout == torch.sparse_coo:
            tensor._coalesced_(True)
        change()
        snapshot.restore()
        assert torch.equal(tensor.to_dense(), torch.eye(3))


@pytest.mark.parametrize("outside", [True, False])
def test_a_tensor_made_in_inference_mode_is_restored_in_and_outside_of_it(outside: bool) -> None:
    with torch.inference_mode():
        tensor = torch.zeros(3)
        if not outside:
            snapshot = Snapshot([tensor])
    if outside:
        snapshot = Snapshot([tensor])
    with torch.inference_mode():
        tensor += 1
        if not outside:
            snapshot.restore()
    snapshot.restore()
    assert tensor.tolist() == [0, 0, 0]


def test_what_inference_mode_sees_can_be_trained_afterwards() -> None:
    module = nn.Linear(2, 2)
    with torch.inference_mode():
        snapshot = Snapshot([module])
        module.weight.zero_()
        snapshot.restore()
    module(torch.ones(1, 2)).sum().backward()
    assert module.weight.any()
    assert module.weight.grad is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(3, device="meta"),
        lambda: nn.Linear(2, 2, device="meta").weight,
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    ],
    ids=["meta", "meta parameter", "jagged"],
)
def test_a_tensor_without_memory_of_its_own_does_no_harm(make: Callable[[], Tensor]) -> None:
    it = holder(t=make())
    before = it.t
    snapshot = Snapshot([it])
    it.t = None
    snapshot.restore()
    assert it.t is before


def test_a_tensor_subclass_has_no_say_and_keeps_its_attributes() -> None:
    class Loud(Tensor):
        @classmethod
        def __torch_function__(cls, *_: Any, **__: Any) -> Any:
            raise AssertionError("the subclass was asked")

    tensor = torch.zeros(2).as_subclass(Loud)
    vars(tensor)["seen"] = [1]
    snapshot = Snapshot([[tensor]])
    with torch._C.DisableTorchFunctionSubclass():
        tensor.add_(1)
        vars(tensor)["seen"].append(2)
        snapshot.restore()
        assert tensor.tolist() == [0, 0]
    assert vars(tensor)["seen"] == [1]


def test_a_buffer_that_was_added_to_with_gradients_is_a_leaf_without_a_graph_again() -> None:
    module = nn.Linear(2, 1)
    module.register_buffer("total", torch.zeros(()))
    snapshot = Snapshot([module])
    module.total += module(torch.ones(1, 2)).sum()
    assert not module.total.is_leaf
    snapshot.restore()
    assert module.total.is_leaf
    assert not module.total.requires_grad
    assert module.total == 0


def test_restoring_does_not_invalidate_a_graph_that_is_yet_to_be_walked() -> None:
    module = nn.Linear(2, 1)
    loss = module(torch.ones(1, 2)).square().sum()
    snapshot = Snapshot([module])
    module.weight.data.zero_()
    snapshot.restore()
    loss.backward()  # torch refuses if a saved tensor counts as modified since
    assert module.weight.grad is not None


def test_a_grad_stays_the_same_tensor() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = grad = torch.ones(2)
    snapshot = Snapshot([parameter])
    for change in (lambda: setattr(parameter, "grad", None), lambda: grad.zero_()):
        change()
        snapshot.restore()
        assert parameter.grad is grad
        assert grad.tolist() == [1, 1]


def test_memory_that_was_not_written_to_is_not_written_to(tmp_path: Any) -> None:
    path = tmp_path / "table.npy"
    np.save(path, np.full(3, np.nan))
    with pytest.warns(UserWarning, match="not writable"):
        table = torch.from_numpy(np.load(path, mmap_mode="r"))
    snapshot = Snapshot([holder(table=table)])
    snapshot.restore()  # writing there would end the process
    assert table.isnan().all()


# ------------------------------------------------------------------------------------- arrays and generators


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4), np.array(3.0), np.arange(6.0).reshape(2, 3).T, np.array(["a", "b"]), np.zeros(0),
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), np.array([1, None], dtype=object),
        np.ma.masked_array([1, 2], mask=[True, False]),
    ],
    ids=str,
)  # fmt: skip
def test_an_array_holds_what_it_held(array: np.ndarray) -> None:
    before = np.array(array)
    snapshot = Snapshot([holder(a=array)])
    array[...] = np.zeros((), dtype=array.dtype)
    snapshot.restore()
    assert np.array_equal(np.array(array), before)


def test_a_read_only_array_is_no_trouble() -> None:
    array = np.arange(3)
    array.flags.writeable = False
    Snapshot([[array]]).restore()
    assert array.tolist() == [0, 1, 2]


GENERATORS: dict[str, Callable[[], tuple[Any, Callable[[], float]]]] = {
    "torch": lambda: (g := torch.Generator().manual_seed(1), lambda: torch.rand((), generator=g).item()),
    "numpy": lambda: (g := np.random.default_rng(1), lambda: float(g.random())),
    "numpy, Mersenne Twister": lambda: (
        g := np.random.Generator(np.random.MT19937(1)),
        lambda: float(g.standard_normal()),
    ),
    "numpy bit generator": lambda: (g := np.random.PCG64(1), lambda: float(g.random_raw())),
    "numpy legacy": lambda: (g := np.random.RandomState(1), lambda: float(g.randn())),
    "python": lambda: (g := random.Random(1), lambda: g.gauss(0, 1)),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_goes_on_from_where_it_was(name: str) -> None:
    generator, draw = GENERATORS[name]()
    draw()
    snapshot = Snapshot([holder(inside=[{"g": generator}])])
    first = [draw() for _ in range(3)]
    for _ in range(2):
        snapshot.restore()
        assert [draw() for _ in range(3)] == first


def test_every_global_generator_goes_on_from_where_it_was() -> None:
    def draw() -> tuple[float, ...]:
        return torch.rand(()).item(), random.gauss(0, 1), float(np.random.randn())

    draw()  # leaves half a pair of normal numbers in waiting
    state = RandomState()
    first = [draw() for _ in range(3)]
    for _ in range(2):
        state.restore()
        assert [draw() for _ in range(3)] == first


# ------------------------------------------------------------------------------ what training keeps its state in

METRICS: dict[str, Callable[[], torchmetrics.Metric]] = {
    "tensor states": lambda: torchmetrics.classification.MulticlassAccuracy(3),
    "list states": lambda: torchmetrics.classification.MulticlassAUROC(3),
    "running": lambda: torchmetrics.wrappers.Running(torchmetrics.MeanMetric(), window=2),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_in_the_middle_of_its_epoch_computes_what_it_would_have(name: str) -> None:
    metric = METRICS[name]()
    generator = torch.Generator().manual_seed(0)

    def batch() -> tuple[Tensor, ...]:
        scores = torch.rand(8, 3, generator=generator)
        return (scores.mean(),) if name == "running" else (scores, torch.arange(8) % 3)

    metric(*batch())
    snapshot = Snapshot([holder(metric=metric)])
    before = metric.compute()
    snapshot.restore()
    count = metric._update_count
    for _ in range(2):
        metric(*batch())
        metric.compute()
        metric.reset()
        snapshot.restore()
        assert metric._update_count == count
        assert torch.equal(metric.compute(), before)


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1)),
        lambda p: torch.optim.RMSprop(p, lr=0.1),
        lambda p: torch.optim.LBFGS(p, lr=0.1),
    ],
    ids=["SGD", "Adam", "Adam with a tensor as its lr", "RMSprop", "LBFGS"],
)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_an_optimizer_steps_on_as_if_it_had_not_stepped(build: Any, steps_before: int) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = build([weight])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))

    def step() -> list[float]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (weight - 3).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        scheduler.step()
        return [*weight.tolist(), float(optimizer.param_groups[0]["lr"])]

    for _ in range(steps_before):
        step()
    snapshot = Snapshot([optimizer, scheduler])
    first = [step() for _ in range(2)]
    for _ in range(2):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 9.0})
        snapshot.restore()
        assert len(optimizer.param_groups) == 1
        assert len(optimizer.state) == (1 if steps_before else 0)
        assert [step() for _ in range(2)] == first
        snapshot.restore()


def test_a_loss_scaler_scales_on_as_if_it_had_not_scaled() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    snapshot = Snapshot([scaler])
    scaler.scale(torch.ones(()))
    scaler.update(2.0)
    snapshot.restore()
    assert scaler._scale is None
    assert scaler.scale(torch.ones(())) == 8


def test_a_plain_object_that_averages_weights_averages_on() -> None:
    class Average:
        def __init__(self, module: nn.Module) -> None:
            self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}
            self.updates = 0

        def update(self, module: nn.Module) -> None:
            self.updates += 1
            for name, p in module.named_parameters():
                self.shadow[name].mul_(0.9).add_(p.detach(), alpha=0.1)
                self.shadow[name + " old"] = p.detach().clone()

    module = nn.Linear(2, 2)
    module.average = average = Average(module)
    before = {name: value.clone() for name, value in average.shadow.items()}
    snapshot = Snapshot([module])
    module.weight.data.add_(1)
    average.update(module)
    snapshot.restore()
    assert list(average.shadow) == list(before)
    assert all(torch.equal(average.shadow[name], before[name]) for name in before)
    assert average.updates == 0


# ----------------------------------------------------------------------------------------------------- the data


class Data(Dataset):
    def __init__(self) -> None:
        self.images = torch.zeros(3000, 8)
        self.served = torch.zeros(3, dtype=torch.int64)
        self.epochs = np.zeros(2)
        self.rows = [[index] for index in range(9000)]
        self.rng = random.Random(3)

    def __len__(self) -> int:
        return 3000

    def __getitem__(self, index: int) -> Tensor:
        self.served[0] += 1
        self.epochs += 1
        return self.images[index] + self.rng.random()


@pytest.mark.parametrize("contents", [True, False])
def test_a_datasets_counters_and_generators_are_state_and_so_is_what_can_be_copied(contents: bool) -> None:
    data = Data()
    loader = DataLoader(data, sampler=RandomSampler(data, generator=torch.Generator().manual_seed(1)), batch_size=2)
    snapshot = Snapshot([holder(loader=loader)], contents=contents)
    first = [batch.tolist() for batch in loader]
    data.images[0] = 5.0
    data.rows[7][0] = -1
    snapshot.restore()
    assert data.served.tolist() == [0, 0, 0]
    assert data.epochs.tolist() == [0, 0]
    assert not data.images.any()
    assert data.rows[7] == [7]
    assert snapshot.changed() == []
    assert [batch.tolist() for batch in loader] == first


def test_a_tensor_of_the_model_is_the_models_wherever_else_it_hangs() -> None:
    data = Data()
    for attributes in ({"data": data, "bank": data.images}, {"bank": data.images, "data": data}):
        module = holder(**attributes)
        snapshot = Snapshot([module])
        data.images += 1
        snapshot.restore()
        assert not data.images.any()


Change = Callable[[Data], Any]
CHANGES: dict[str, tuple[str, Change]] = {
    "one item of a tensor": ("Data.images", lambda data: data.images[1234].add_(1)),
    "a tensor, by way of numpy": ("Data.images", lambda data: data.images.numpy().__setitem__(1234, 1)),
    "an array": ("Data.table", lambda data: data.table.__setitem__((123, 2), 1)),
    "an array, two rows of which change places": (
        "Data.table",
        lambda data: data.table.__setitem__([0, 999], data.table[[999, 0]]),
    ),
    "the last item of a list": ("Data.rows", lambda data: data.rows[-1].append(1)),
    "the first item of a dictionary": ("Data.known", lambda data: data.known[0].clear()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_too_large_to_be_copied_is_named_if_it_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "_COPIED_BYTES", 1024)
    monkeypatch.setattr(snapshot_module, "_DATA_SIZE", 5000)
    data = Data()
    data.table, data.known = np.arange(8000.0).reshape(1000, 8), {index: [index] for index in range(20_000)}
    owner, change = CHANGES[name]
    snapshot = Snapshot([holder(data=data)], contents=False)
    assert snapshot.changed() == []
    change(data)
    data.served += 1
    snapshot.restore()
    assert snapshot.changed() == [owner]
    assert not data.served.any()


def test_very_many_items_that_cannot_change_are_not_looked_at() -> None:
    data = Data()
    data.rows = list(range(100_000))
    assert Snapshot([data], contents=False)._large == []


def test_a_large_list_of_the_users_is_put_back_but_its_items_are_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "_DATA_SIZE", 5000)
    data = Data()
    snapshot = Snapshot([data])
    seen = len(snapshot._kept)
    assert seen < 100
    data.rows.append([1])
    snapshot.restore()
    assert len(data.rows) == 9000


def test_a_million_numbers_cost_one_object() -> None:
    it = list(range(1_000_000))
    snapshot = Snapshot([it])
    it[500_000] = -1
    snapshot.restore()
    assert it[500_000] == 500_000
    assert len(snapshot._kept) <= 2


# ----------------------------------------------------------------------------------------------- the promise


def test_nothing_of_a_probe_is_alive_after_it_was_undone() -> None:
    module = nn.Linear(4, 4)
    module.register_buffer("running", torch.zeros(()))
    module.cache, module.history = {}, [1]
    optimizer = torch.optim.Adam(module.parameters())
    snapshot = Snapshot([module, optimizer])
    alive = []

    def note(tensor: Tensor) -> Tensor:
        alive.append(weakref.ref(tensor))
        return tensor

    def probe() -> None:
        x = note(torch.ones(2, 4))
        module.last = note(module(x).sum())
        module.running += module.last
        module.cache["x"], module.extra = x, note(nn.Parameter(torch.ones(1)))
        module.history.append(note(torch.ones(1)))
        optimizer.zero_grad()
        module.last.backward()
        note(module.weight.grad)
        optimizer.step()
        note(optimizer.state[module.weight]["exp_avg"])
        module.weight.data = note(torch.zeros(9))

    probe()
    snapshot.restore()
    gc.collect()
    assert len(alive) == 7
    assert [reference() for reference in alive] == [None] * 7


def test_only_tensors_of_the_roots_count_as_residents() -> None:
    module = nn.Linear(2, 2)
    module.bias.grad = torch.zeros(2)
    snapshot = Snapshot([module])
    assert {id(t) for t in snapshot.tensors} == {id(module.weight), id(module.bias), id(module.bias.grad)}


def test_an_undo_that_fails_is_raised_once_all_else_is_back() -> None:
    first, last, array = [1], [1], np.zeros(3)
    snapshot = Snapshot([first, array, last])
    first.append(2)
    last.append(2)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        snapshot.restore()
    assert (first, last) == ([1], [1])


ARMED: list[int] = []  # global: a snapshot would find, and disarm, what a closure or a class holds


class Interrupting:
    def __hash__(self) -> int:
        if ARMED:
            ARMED.pop()
            raise KeyboardInterrupt
        return 1


def test_ctrl_c_in_the_middle_leaves_no_container_half_filled() -> None:
    it, last = {"a": 1, Interrupting(): 2, "b": 3}, [1]
    snapshot = Snapshot([it, last])
    it["c"] = 4
    last.append(2)
    ARMED.append(1)
    with pytest.raises(KeyboardInterrupt):
        snapshot.restore()
    assert list(it.values()) == [1, 2, 3]
    assert last == [1]
