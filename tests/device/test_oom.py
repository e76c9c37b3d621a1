"""Which errors count as "out of memory", as a table, both ways."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from bstuner.device.oom import OUT_OF_MEMORY, is_out_of_memory

# Messages as they appear in the wild.
OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    torch.OutOfMemoryError("any text at all"),
    MemoryError(),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 10.76 GiB total capacity)"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 5.28 GiB. GPU 0 has a total capacity of 15.98 GiB"),
    RuntimeError("HIP error: out of memory"),
    RuntimeError("XPU out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.7 GiB"),
    RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    RuntimeError("level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.50 GiB, max allowed: 18.72 GiB)"),
    RuntimeError("Invalid buffer size: 24.00 GB"),
    RuntimeError("[Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::1073741824"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried"),
    RuntimeError('!handles_.at(i) INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":430'),
    RuntimeError("CUDA driver error: device not ready"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("miopenStatusAllocFailed"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-cont"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("NCCL error: unhandled cuda error. Last error:\nFailed to CUDA calloc 6291456 bytes"),
    RuntimeError("ncclUnhandledCudaError: Call to CUDA function failed.\nCuda failure 'out of memory'"),
    RuntimeError("ncclUnhandledCudaError: Call to CUDA function failed.\nCuda failure 2 'out of memory'"),
    RuntimeError("nonzero is not supported for tensors with more than INT_MAX elements"),
    RuntimeError("Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false"),
    RuntimeError("CUDA error: invalid configuration argument"),
    RuntimeError("Caught OutOfMemoryError in DataLoader worker process 0.\nOriginal Traceback ..."),
    RuntimeError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback ..."),
]
NOT = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR after an illegal memory access was encountered"),
    torch.OutOfMemoryError("CUDA error: an illegal memory access was encountered"),
    ValueError("CUDA out of memory, says my own cache"),
    KeyError("out of memory"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 4x3)"),
    RuntimeError("Expected more than 1 value per channel when training, got input size [1, 8]"),
    RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."),
    RuntimeError(),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", OUT, ids=repr)
def test_a_batch_too_large_is_out_of_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", NOT, ids=repr)
def test_any_other_error_is_not_out_of_memory(error):
    assert not is_out_of_memory(error)


def test_every_text_of_the_table_is_needed_by_a_message_above():
    messages = [str(error).lower() for error in OUT if type(error) is RuntimeError]
    for entry in OUT_OF_MEMORY:
        assert any(entry.text.lower() in message for message in messages), entry


def raised_from(outer, cause):
    try:
        raise outer from cause
    except type(outer) as error:
        return error


def raised_while_handling(outer, handled):
    try:
        try:
            raise handled
        except type(handled):
            raise outer  # noqa: B904  (the context is what is tested)
    except type(outer) as error:
        return error


def test_an_error_raised_from_an_out_of_memory_error_counts():
    inner = raised_from(ValueError("in layer 3"), torch.OutOfMemoryError("full"))
    assert is_out_of_memory(raised_from(RuntimeError("step failed"), inner))


def test_an_error_raised_while_handling_an_out_of_memory_error_does_not_count():
    error = raised_while_handling(AttributeError("no attribute 'close'"), torch.OutOfMemoryError("full"))
    assert not is_out_of_memory(error)


def test_an_illegal_access_anywhere_among_the_causes_is_a_veto():
    cause = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert not is_out_of_memory(raised_from(RuntimeError("CUDA out of memory"), cause))


def test_causes_that_form_a_ring_end():
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_out_of_memory(one)


def test_host_memory_that_torch_cannot_allocate_counts():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


class Greedy(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.error


def raised_in_a_worker(error):
    """The error as the main process sees it, without the traceback that would keep the worker alive."""
    try:
        next(iter(DataLoader(Greedy(error), num_workers=1)))
    except Exception as raised:
        return raised.with_traceback(None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(torch.OutOfMemoryError("full"), True), (MemoryError("full"), True), (RuntimeError("bug"), False)],
    ids=repr,
)
def test_a_workers_error_is_judged_as_in_the_main_process(error, expected):
    raised = raised_in_a_worker(error)
    assert "in DataLoader worker process 0" in str(raised)
    assert is_out_of_memory(raised) is expected
