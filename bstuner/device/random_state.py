"""The global random generators of a process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

__all__ = ["RandomState"]


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
            # A checkpoint may come from a process that saw more devices than this one does.
            for index, state in enumerate(self._cuda[: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, index)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)

    def as_values(self) -> dict[str, Any]:
        """The state in numbers, texts and tensors alone, as checkpoints that are loaded with `weights_only` want it."""
        version, words, gauss = self._python
        key = self._numpy["state"]["key"]
        inner = {**self._numpy["state"], "key": torch.from_numpy(key.astype(np.int64))}
        return {
            "python": [version, torch.tensor(words), gauss],
            "numpy": {**self._numpy, "state": inner},
            "torch": self._torch,
            "cuda": self._cuda,
            "mps": self._mps,
        }

    @classmethod
    def of_values(cls, values: dict[str, Any]) -> RandomState:
        """The state that `as_values` has told."""
        state = cls()
        version, words, gauss = values["python"]
        state._python = version, tuple(words.tolist()), gauss
        inner = values["numpy"]["state"]
        state._numpy = {**values["numpy"], "state": {**inner, "key": inner["key"].numpy().astype(np.uint32)}}
        state._torch, state._cuda, state._mps = values["torch"], values["cuda"], values["mps"]
        return state
