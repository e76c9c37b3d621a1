"""The bytes of the tensors that are alive in host memory, counted op by op and held to a limit."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from bstuner.core import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["TensorByteCounter"]


class _StorageRef(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a storage that remembers what was counted for it."""

    __slots__ = ("key", "nbytes")
    key: int
    nbytes: int


class TensorByteCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of live tensors in host memory, and raise once they exceed a limit.

    >>> with TensorByteCounter() as counter:
    ...     x = torch.ones(1000)  # 4000 bytes
    ...     y = x.view(10, 100)  # a view: no memory of its own
    ...     z = x + 1  # 4000 bytes more
    ...     del z
    >>> counter.live_bytes, counter.peak_bytes
    (4000, 8000)

    A storage counts once, however many tensors view it, from the first op that returns it or is given it
    until it is freed. So a tensor that existed before counts too as soon as it is used: it takes up memory
    the step needs. Not seen: scratch memory a kernel allocates and frees by itself (an LSTM's is a tenth of
    the peak) and tensors without a storage (MKL-DNN's). Other devices' tensors do not count.

    What `torch.compile` has compiled runs eagerly inside; what has to be compiled (`fullgraph=True`,
    `flex_attention`) raises torch's own error.

    Args:
        limit: The most bytes that may be live; an op that exceeds it raises `torch.OutOfMemoryError` and its
            result is dropped, as if an allocator had refused it. None: count only.
        resident: Tensors to count from the start: weights, buffers, optimizer state.

    Attributes:
        live_bytes: The bytes alive now.
        peak_bytes: The most bytes that were alive at one time, the op that was refused included.
    """

    def __init__(self, limit: int | None = None, resident: Iterable[Tensor] = ()) -> None:
        """Count the resident tensors; ops are counted from `with` on."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self._limit = limit
        self._storages: dict[int, _StorageRef] = {}
        self._composite: dict[Any, bool] = {}
        self._count_each(resident)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one op, counting what it is given and what it returns."""
        kwargs = kwargs or {}
        if self._is_composite(func):
            with self:  # tensors of inference mode bring whole layers here (aten::lstm): look inside them
                return func.decompose(*args, **kwargs)
        before = self.live_bytes
        self._count_each(args)
        if kwargs:
            self._count_each(kwargs.values())
        self._refuse_growth(before)
        result = func(*args, **kwargs)
        before = self.live_bytes
        self._count_each((result,))
        try:
            self._refuse_growth(before)
        except torch.OutOfMemoryError:
            del result  # or the traceback would keep alive what was refused
            raise
        return result

    def _is_composite(self, func: Any) -> bool:
        known = self._composite.get(func)
        if known is None:
            known = bool(func._can_decompose())
            self._composite[func] = known
        return known

    def _refuse_growth(self, before: int) -> None:
        # Only an op that added bytes is refused, so that clean-up code still runs after the first refusal.
        if self._limit is not None and self.live_bytes > self._limit and self.live_bytes > before:
            raise torch.OutOfMemoryError(
                f"bstuner: {format_bytes(self.live_bytes)} of tensors live, "
                f"limit {format_bytes(self._limit)} (memory_limit)"
            )

    def _count_each(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                self._count(value)
            elif isinstance(value, (list, tuple)):
                self._count_each(value)

    def _count(self, tensor: Tensor) -> None:
        if is_traceable_wrapper_subclass(tensor):
            self._count_each(getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
            return
        if is_lazy(tensor):
            return  # no memory yet
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:
            self._count_each(_sparse_parts(tensor))
            return
        nbytes = storage.nbytes()
        known = self._storages.get(storage._cdata)
        if known is None:
            if nbytes == 0 or storage.device.type != "cpu":
                return
            # PyTorch keeps one Python object per storage for as long as C++ holds it, say for backward, so
            # this reference dies with the memory, not with the last Python tensor.
            known = _StorageRef(storage, self._forget)
            known.key, known.nbytes = storage._cdata, 0
            self._storages[known.key] = known
        if known.nbytes != nbytes:  # new, or resized since it was last seen
            self.live_bytes += nbytes - known.nbytes
            known.nbytes = nbytes
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _forget(self, dead: Any) -> None:
        del self._storages[dead.key]
        self.live_bytes -= dead.nbytes


def _sparse_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()
