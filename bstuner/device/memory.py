"""What a device has and uses, and a limit enforced on it: CUDA, MPS and the CPU."""

from __future__ import annotations

import gc
import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from bstuner.device.byte_counter import TensorByteCounter
from bstuner.device.host_memory import available_host_memory
from bstuner.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

__all__ = ["CpuMemory", "CudaMemory", "DeviceMemory", "MemoryReading", "MpsMemory", "memory_of", "name_on_host"]


@dataclass
class MemoryReading:
    """What was measured: `peak_bytes`, the most memory in use at once, is valid after `measure` has ended."""

    peak_bytes: int = 0


class DeviceMemory(ABC):
    """The memory of one device.

    Attributes:
        label: The device's name, for people.
        slows_steps: Whether `measure` slows steps down, so that they must be timed outside it.
        capacity: The bytes this process may use: what it uses already, and what is free; or the limit if that
            is less. Found once, when this object is made.
    """

    label: str
    slows_steps: bool = False
    capacity: int

    @abstractmethod
    def measure(self, resident: Iterable[Tensor]) -> AbstractContextManager[MemoryReading]:
        """Measure the peak inside a `with` block, and enforce the limit there.

        Args:
            resident: The tensors already on the device that count: weights, buffers, optimizer state.
        """

    def retries(self) -> int:
        """Count how often the allocator has emptied its cache to make room; 0 where none is counted."""
        return 0

    def synchronize(self) -> None:  # noqa: B027  (nothing to wait for is a complete answer)
        """Wait until the device has done all that was asked of it."""

    def release(self) -> None:
        """Give back all the memory that nothing uses."""
        gc.collect()

    @abstractmethod
    def allocated(self, resident: Iterable[Tensor] = ()) -> int:
        """Count the bytes of tensors on the device now.

        Args:
            resident: The tensors known to be there; only the CPU, whose allocator counts nothing, looks at them.
        """


class CpuMemory(DeviceMemory):
    """Host memory, whose limit is always enforced: beyond it waits the kernel, which kills without an error.

    >>> memory = CpuMemory(limit=2**20)
    >>> with memory.measure(resident=[]) as reading:
    ...     x = torch.ones(1000)
    >>> reading.peak_bytes, memory.capacity
    (4000, 1048576)

    Args:
        limit: The most bytes of tensors, or None for what the host has.
        resident: Tensors whose memory is taken already but may be used: it adds to what is free.
        sharers: How many processes, this one included, share what is free.
    """

    label = "CPU (host memory)"
    slows_steps = True

    def __init__(self, limit: int | None = None, resident: Iterable[Tensor] = (), sharers: int = 1) -> None:
        """Find the capacity."""
        self.capacity = _stricter(available_host_memory() // sharers + self.allocated(resident), limit)

    @contextmanager
    def measure(self, resident: Iterable[Tensor]) -> Iterator[MemoryReading]:
        """Count tensors op by op; see `DeviceMemory.measure`."""
        reading = MemoryReading()
        counter = TensorByteCounter(self.capacity, resident)
        try:
            with counter:
                yield reading
        finally:
            reading.peak_bytes = counter.peak_bytes

    def allocated(self, resident: Iterable[Tensor] = ()) -> int:
        """Count the bytes of the resident tensors, each storage once."""
        return TensorByteCounter(None, resident).live_bytes


class CudaMemory(DeviceMemory):
    """A CUDA or ROCm GPU, measured and limited by torch's caching allocator.

    Args:
        device: The GPU; without an index, the current one.
        limit: The most bytes torch may reserve there, or None for what is free.
        sharers: How many processes, this one included, share what is free.
    """

    def __init__(self, device: torch.device, limit: int | None = None, sharers: int = 1) -> None:
        """Find the capacity."""
        self._device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._limit = limit
        self.label = torch.cuda.get_device_name(self._device)
        free, self._total = torch.cuda.mem_get_info(self._device)
        self.capacity = _stricter(free // sharers + torch.cuda.memory_reserved(self._device), limit)
        self.capacity = _stricter(self.capacity, int(self._fraction() * self._total))

    @contextmanager
    def measure(self, resident: Iterable[Tensor] = ()) -> Iterator[MemoryReading]:
        """Read the allocator's peak; see `DeviceMemory.measure`. It knows the resident tensors."""
        reading = MemoryReading()
        before = self._fraction()
        if self._limit is not None:
            # The allocator counts the memory it holds in reserve against the limit, so it starts with none.
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(before, self._limit / self._total), self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        try:
            yield reading
        finally:
            reading.peak_bytes = torch.cuda.max_memory_allocated(self._device)
            if self._limit is not None:
                torch.cuda.set_per_process_memory_fraction(before, self._device)

    def retries(self) -> int:
        """Count the allocator's retries since the process started."""
        return int(torch.cuda.memory_stats(self._device).get("num_alloc_retries", 0))

    def synchronize(self) -> None:
        """Wait for all streams of the GPU."""
        torch.cuda.synchronize(self._device)

    def release(self) -> None:
        """Collect garbage, take back what cuBLAS works in, and empty the allocator's cache."""
        gc.collect()
        # Workspaces, tens of MiB each on some GPUs, for every thread that has multiplied matrices, the backward pass's
        # among them; cuBLAS asks for them anew. As Lightning does at both ends of a run; not in every build.
        clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()
        torch.cuda.empty_cache()

    def allocated(self, resident: Iterable[Tensor] = ()) -> int:
        """Count the bytes of tensors on the GPU now."""
        return torch.cuda.memory_allocated(self._device)

    def _fraction(self) -> float:
        # Older torch cannot tell the fraction the user has set; 1 is the default.
        getter = getattr(torch.cuda, "get_per_process_memory_fraction", None)
        return 1.0 if getter is None else float(getter(self._device))


class MpsMemory(DeviceMemory):
    """An Apple GPU, whose memory is the host's.

    Torch counts no peak there, but its allocator keeps what it once took: starting from an empty cache, the
    memory it holds at the end is the high-water mark, a little above the peak of the tensors themselves.

    Args:
        limit: The most bytes torch may allocate there, or None for what is free.
        sharers: How many processes, this one included, share what is free.
    """

    label = "Apple MPS"

    def __init__(self, limit: int | None = None, sharers: int = 1) -> None:
        """Find the capacity."""
        self._limit = limit
        self._recommended = torch.mps.recommended_max_memory()
        free = psutil.virtual_memory().available // sharers + torch.mps.driver_allocated_memory()
        self.capacity = _stricter(min(self._recommended, free), limit)

    @contextmanager
    def measure(self, resident: Iterable[Tensor] = ()) -> Iterator[MemoryReading]:
        """Read what the allocator took; see `DeviceMemory.measure`. It knows the resident tensors."""
        reading = MemoryReading()
        torch.mps.synchronize()
        torch.mps.empty_cache()
        if self._limit is not None:
            torch.mps.set_per_process_memory_fraction(min(1.0, self._limit / self._recommended))
        try:
            yield reading
        finally:
            reading.peak_bytes = torch.mps.driver_allocated_memory()
            if self._limit is not None:
                # Torch cannot tell the fraction that was set before; this is the one it starts with.
                ratio = float(os.environ.get("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "1.7"))
                torch.mps.set_per_process_memory_fraction(ratio)

    def synchronize(self) -> None:
        """Wait for all kernels of the GPU."""
        torch.mps.synchronize()

    def release(self) -> None:
        """Collect garbage and empty the allocator's cache."""
        gc.collect()
        torch.mps.empty_cache()

    def allocated(self, resident: Iterable[Tensor] = ()) -> int:
        """Count the bytes of tensors on the GPU now."""
        return torch.mps.current_allocated_memory()


def memory_of(
    device: torch.device, limit: int | None = None, resident: Iterable[Tensor] = (), sharers: int = 1
) -> DeviceMemory:
    """Find the memory of a device.

    >>> memory_of(torch.device("cpu"), limit=10**6).capacity
    1000000

    Args:
        device: The device.
        limit: The most bytes to use of it, or None for all that is free.
        resident: The tensors already on it; only the CPU needs to be told.
        sharers: How many processes, this one included, share what is free of it.

    Raises:
        InvalidSetting: No memory is known for this type of device.
    """
    if device.type == "cpu":
        return CpuMemory(limit, resident, sharers)
    if device.type == "cuda":
        return CudaMemory(device, limit, sharers)
    if device.type == "mps":
        return MpsMemory(limit, sharers)
    raise InvalidSetting(
        f"The device must be cuda (also ROCm), mps or cpu, whose memory can be measured, "
        f"but it is {device.type!r}. Run on one of those, or set the batch size by hand."
    )


def name_on_host(device: torch.device) -> str:
    """Name a device so that every process on this host calls it the same, whatever devices each can see.

    >>> name_on_host(torch.device("cpu"))
    'cpu'

    Args:
        device: The device.
    """
    if device.type != "cuda":
        return device.type
    # Older builds of torch tell no uuid; the index is the same number everywhere unless each process sees other GPUs.
    return f"cuda {getattr(torch.cuda.get_device_properties(device), 'uuid', device.index)}"


def _stricter(capacity: int, limit: int | None) -> int:
    return capacity if limit is None else min(capacity, limit)
