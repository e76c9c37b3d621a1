"""Which errors mean that the batch was too large for the device: one table."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["NEVER_OUT_OF_MEMORY", "OUT_OF_MEMORY", "ErrorText", "is_out_of_memory"]


class ErrorText(NamedTuple):
    """A fragment of an error's message, in any case, and where it comes from."""

    text: str
    source: str


OUT_OF_MEMORY = (
    # Allocators
    ErrorText("CUDA out of memory", "torch's CUDA allocator, where only the text survived"),
    ErrorText("CUDA error: out of memory", "cudaMalloc outside the allocator: contexts, other libraries"),
    ErrorText("CUDA driver error: out of memory", "the same from the driver: expandable segments"),
    ErrorText("HIP out of memory", "torch's allocator on ROCm"),
    ErrorText("HIP error: out of memory", "hipMalloc outside the allocator"),
    ErrorText("XPU out of memory", "torch's allocator on Intel GPUs"),
    ErrorText("UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY", "Unified Runtime, below torch.xpu"),
    ErrorText("UR_RESULT_ERROR_OUT_OF_RESOURCES", "Unified Runtime, below torch.xpu"),
    ErrorText("MPS backend out of memory", "torch's allocator on Apple GPUs"),
    ErrorText("Invalid buffer size", "Metal: one tensor larger than a buffer may be"),
    ErrorText("PT_DEVMEM Allocation failed", "Gaudi (HPU)"),
    ErrorText("DefaultCPUAllocator: can't allocate memory", "host memory, Linux and macOS"),
    ErrorText("DefaultCPUAllocator: not enough memory", "host memory, Windows"),
    ErrorText("!handles_.at(i) INTERNAL ASSERT FAILED", "CUDA expandable segments that could not be mapped"),
    ErrorText("CUDA driver error: device not ready", "the same, seen under memory pressure"),
    # Libraries that allocate by themselves, or choose an algorithm by the workspace that is left
    ErrorText("_STATUS_ALLOC_FAILED", "cuBLAS, cuDNN, cuSOLVER, cuSPARSE, hipBLAS: handle or workspace"),
    ErrorText("miopenStatusAllocFailed", "MIOpen, cuDNN's counterpart on ROCm"),
    ErrorText("CUDNN_STATUS_INTERNAL_ERROR", "cuDNN, when its own allocation fails"),
    ErrorText("CUDNN_STATUS_NOT_SUPPORTED", "cuDNN, on tensors too large for its kernels"),
    ErrorText("unable to find an engine", "cuDNN: no algorithm's workspace fits"),
    ErrorText("CUFFT_INTERNAL_ERROR", "cuFFT, when its workspace does not fit"),
    ErrorText("CUFFT_ALLOC_FAILED", "cuFFT"),
    ErrorText("Failed to CUDA calloc", "NCCL's buffers"),
    ErrorText("Cuda failure 'out of memory'", "NCCL before 2.19"),
    ErrorText("Cuda failure 2 'out of memory'", "NCCL from 2.19 on, with the CUDA error's number"),
    # Batches larger than a kernel can index: memory is left, but a smaller batch is the only way on
    ErrorText("INT_MAX elements", "nonzero, upsampling and others that index with 32 bits"),
    ErrorText("canUse32BitIndexMath", "convolutions and grid sampling that index with 32 bits"),
    ErrorText("invalid configuration argument", "a CUDA grid dimension over 65535, such as batch x heads"),
    # A DataLoader worker's error, raised again in the main process as text
    ErrorText("Caught OutOfMemoryError in", "a worker's torch.OutOfMemoryError"),
    ErrorText("Caught MemoryError in", "a worker's MemoryError"),
)
"""Every text that means "a smaller batch may fit"."""

NEVER_OUT_OF_MEMORY = (
    ErrorText("illegal memory access", "a bug in a kernel, or in its indices; the CUDA context is lost"),
    ErrorText("device-side assert", "an index or a label out of range; the CUDA context is lost"),
)
"""Texts that veto the others: no later step on this device can succeed, so no other size may be tried."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the batch was too large for the device.

    >>> is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    True
    >>> is_out_of_memory(ValueError("my own cache is out of memory"))
    False

    `torch.OutOfMemoryError` and `MemoryError` count by type, other `RuntimeError`s by the texts of
    `OUT_OF_MEMORY`. So does an error raised `from` one that counts, since its author named that as the cause.
    An error that merely came up while another was handled (its `__context__`) does not: it failed by itself.

    Args:
        error: The error a step raised.
    """
    causes: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in causes:
        causes.append(link)
        link = link.__cause__
    if any(_contains(cause, NEVER_OUT_OF_MEMORY) for cause in causes):
        return False
    return any(_counts(cause) for cause in causes)


def _counts(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and _contains(error, OUT_OF_MEMORY)


def _contains(error: BaseException, texts: tuple[ErrorText, ...]) -> bool:
    message = str(error).lower()
    return any(entry.text.lower() in message for entry in texts)
