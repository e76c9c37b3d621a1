"""Collectives that are announced before they are entered."""

from __future__ import annotations

import functools
import inspect
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from torch import distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.nn.parallel import DistributedDataParallel

__all__ = ["COLLECTIVES", "FUNCTIONAL", "announce_ddp", "announced"]

# Point-to-point calls are not among them: they concern two ranks, and an exchange needs all.
COLLECTIVES = (
    *("all_gather", "all_gather_coalesced", "all_gather_into_tensor", "all_gather_object", "all_gather_single"),
    *("all_reduce", "all_reduce_coalesced", "all_to_all", "all_to_all_single", "barrier", "monitored_barrier"),
    *("broadcast", "broadcast_object_list", "gather", "gather_object", "reduce", "reduce_scatter"),
    *("reduce_scatter_single", "reduce_scatter_tensor", "scatter", "scatter_object_list"),
    *("_all_gather_base", "_reduce_scatter_base"),  # the older names of two of these
    *("_broadcast_coalesced", "_verify_params_across_processes"),  # DDP's, at its start and before forward
)

# Those that tensors on a mesh of devices call, where a layer is split over processes (tensor parallelism). Versions of
# torch differ in which of them there are.
FUNCTIONAL = (
    *("all_gather_into_tensor_coalesced", "all_gather_single", "all_gather_single_autograd"),
    *("all_gather_single_coalesced", "all_gather_tensor", "all_gather_tensor_autograd", "all_reduce"),
    *("all_reduce_coalesced", "all_to_all_single", "all_to_all_single_autograd", "broadcast"),
    *("reduce_scatter_single", "reduce_scatter_single_autograd", "reduce_scatter_single_coalesced"),
    *("reduce_scatter_tensor", "reduce_scatter_tensor_autograd", "reduce_scatter_tensor_coalesced"),
)


@contextmanager
def announced(
    enter: Callable[[], AbstractContextManager[None]], concerned: Callable[[tuple[Any, ...], dict[str, Any]], bool]
) -> Iterator[None]:
    """Have the functions of `torch.distributed` announce themselves inside a `with` block.

    Args:
        enter: Makes the context in which a collective runs; it announces the collective, and may refuse it.
        concerned: Whether a collective with these arguments is to be announced.
    """

    def announcing(collective: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(collective)
        def called(*args: Any, **kwargs: Any) -> Any:
            if not concerned(args, kwargs):
                return collective(*args, **kwargs)
            # A collective that calls others announces those too: this rank may have failed in between.
            with enter():
                return collective(*args, **kwargs)

        return called

    # Imported here, as torch may have been built without it.
    from torch.distributed import _functional_collectives as functional

    def announcing_functional(collective: Callable[..., Any]) -> Callable[..., Any]:
        announced, signature = announcing(_on_group(collective)), inspect.signature(collective)

        @functools.wraps(collective)
        def called(*args: Any, **kwargs: Any) -> Any:
            if functional._are_we_tracing():  # then nothing is sent
                return collective(*args, **kwargs)
            return announced(_process_group(signature.bind(*args, **kwargs).arguments["group"]), args, kwargs)

        return called

    originals = [
        (module, name, getattr(module, name), announce)
        for module, names, announce in (
            (dist, COLLECTIVES, announcing),
            (dist.distributed_c10d, COLLECTIVES, announcing),
            (functional, FUNCTIONAL, announcing_functional),
        )
        for name in names
        if hasattr(module, name)
    ]
    for module, name, collective, announce in originals:
        setattr(module, name, announce(collective))
    try:
        yield
    finally:
        for module, name, collective, _ in originals:
            setattr(module, name, collective)


def _on_group(collective: Callable[..., Any]) -> Callable[..., Any]:
    """A functional collective that is told its process group before all else."""
    return lambda group, args, kwargs: collective(*args, **kwargs)


def _process_group(group: Any) -> Any:
    """The process group that a functional collective is to use, in whatever form it is told."""
    from torch.distributed.device_mesh import DeviceMesh

    if isinstance(group, str):
        resolve: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]  # no other way
        return resolve(group)
    if isinstance(group, tuple):
        mesh, dimension = group
        return mesh.get_group(dimension)
    if isinstance(group, DeviceMesh):
        return group.get_group()
    # A list of ranks, which torch has given up: left alone, as a group of fewer ranks is.
    return group if isinstance(group, dist.ProcessGroup) else dist.GroupMember.NON_GROUP_MEMBER


def announce_ddp(ddp: DistributedDataParallel, announce: Callable[[], None], own_hook: bool) -> None:
    """Have the collectives that `DistributedDataParallel` runs in C++ announce themselves.

    Args:
        ddp: The wrapper.
        announce: Called before each.
        own_hook: Whether it has a communication hook already, and takes no other.
    """
    # Imported here, as torch may have been built without it.
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    ddp.register_forward_pre_hook(lambda *_: announce())
    if not own_hook:
        ddp.register_comm_hook(ddp.process_group, allreduce_hook)
    if ddp.static_graph:
        reducer: Any = _StaticGraphReducer(ddp.reducer, announce)
        ddp.reducer = reducer


class _StaticGraphReducer:
    """DDP's reducer, which in a static graph's first backward all-reduces in C++ which parameters were used."""

    def __init__(self, reducer: Any, announce: Callable[[], None]) -> None:
        self._reducer = reducer
        self._announce = announce

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _delay_all_reduce(self) -> None:
        self._announce()
        self._reducer._delay_all_reduce()
