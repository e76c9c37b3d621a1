"""Bring a result back from a process that was spawned or forked."""

from __future__ import annotations

import os
import pickle
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import Any

__all__ = ["Mailbox"]


class Mailbox:
    """A place for one object that copies of this mailbox in other processes of the machine share.

    Lightning brings weights and metrics back from the processes that it spawns, but nothing of a callback.

    Example:
        >>> mailbox = Mailbox()
        >>> mailbox.post({"batch_size": 64})
        >>> mailbox.take(), mailbox.take()
        ({'batch_size': 64}, None)

    """

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir()) / f"bstuner-{uuid.uuid4().hex}"
        # A forked process runs its copy of the finalizer too: only the one that made the mailbox clears it away.
        weakref.finalize(self, _remove, self._path, os.getpid())

    def post(self, content: Any) -> None:
        """Leave an object that can be pickled, in the place of the one before."""
        self._path.unlink(missing_ok=True)
        # Of this user only: what is read from here is unpickled.
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            pickle.dump(content, file)

    def take(self) -> Any:
        """Take the object out; None where there is none."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        self._path.unlink()
        return pickle.loads(content)


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
