"""Ctrl-C, held back while a process must not leave others waiting."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Interrupts"]


class Interrupts:
    """Ctrl-C, held back while this rank must not leave the others in the middle of a collective."""

    def __init__(self) -> None:
        self._holding = False
        self._pending = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take Ctrl-C over, to be held when it has to be."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield  # nothing raises here
            return

        def handle(number: int, frame: Any) -> None:
            if self._holding:
                self._pending = True
            else:
                before(number, frame)

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let Ctrl-C wait for the end of the block."""
        outer, self._holding = self._holding, True
        try:
            yield
        finally:
            self._holding = outer
            if self._pending and not outer:
                self._pending = False
                signal.raise_signal(signal.SIGINT)
