"""What is too large to copy: a fingerprint, which shows afterwards whether it has changed."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["bytes_of", "fingerprint"]

# Bytes are read in blocks that are spread evenly, at least one; and so many items are read of one container.
_BLOCK, _ITEMS = 4096, 1000


def bytes_of(data: Tensor | np.ndarray[Any, Any]) -> int:
    """How much memory a copy would take."""
    return data.numel() * data.element_size() if isinstance(data, Tensor) else data.nbytes


def fingerprint(large: Tensor | np.ndarray[Any, Any] | Sequence[Any], most: int = 32 << 20) -> tuple[int, int]:
    """Two numbers that are likely to be others after a change.

    >>> weights = torch.zeros(1000)
    >>> before = fingerprint(weights)
    >>> weights[500] = 1.0
    >>> fingerprint(weights) == before
    False

    Args:
        large: a tensor, an array or the items of a container.
        most: bytes to read of it.

    """
    if isinstance(large, Tensor):
        version = -1 if large.is_inference() else large._version  # torch counts writes, those by way of numpy aside
        plain = large.layout is torch.strided and not large.is_nested and not hasattr(large, "__tensor_flatten__")
        on_host = plain and large.device.type == "cpu"
        return version, _checksum(_blocks(_memory(large), most)) if on_host else 0
    if isinstance(large, np.ndarray):
        return large.size, _checksum(_blocks(np.ravel(large, order="K").view(np.uint8), most))
    return len(large), _checksum(_pickled(large, most))


def _memory(tensor: Tensor) -> np.ndarray[Any, Any]:
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()


def _blocks(memory: np.ndarray[Any, Any], most: int) -> Iterable[Any]:
    if memory.size <= max(most, _BLOCK):
        return [memory]
    starts = np.linspace(0, memory.size - _BLOCK, max(1, most // _BLOCK), dtype=np.int64)
    return (memory[start : start + _BLOCK] for start in starts)


def _pickled(items: Sequence[Any], most: int) -> Iterable[bytes]:
    """The ends and an even stride, which are what a scan of a dataset reads first."""
    read = 0
    for index in np.linspace(0, len(items) - 1, min(_ITEMS, len(items)), dtype=np.int64):
        try:
            item = pickle.dumps(items[index])
        except Exception:  # whatever is no data: an open file, a lock, a function
            continue
        yield item
        read += len(item)
        if read > most:
            return


def _checksum(parts: Iterable[Any]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total
