"""A process, told from every other one on any machine, and whether it is still there."""

from __future__ import annotations

import os
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["ProcessMark"]

# A process's start is kept as seconds since its machine's, which a change of the clock moves by less than this.
_SLACK = 2.0


@dataclass(frozen=True)
class ProcessMark:
    """What tells a process from every other one.

    >>> ProcessMark.here().is_running()
    True

    Args:
        host: Its machine's name, for people.
        machine: Names whatever shares one table of processes with it, and one user.
        pid: Its number in that table, which is given to another process once it has ended.
        started: Seconds from the machine's start to its own.
    """

    host: str
    machine: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> ProcessMark:
        """The mark of this process."""
        process = psutil.Process()
        return cls(platform.node(), _machine(), process.pid, _started(process))

    def is_running(self) -> bool | None:
        """Whether it is still there; None where that cannot be told from here."""
        if self.machine != _machine():
            return None
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # it has ended, and its parent has not asked how
                return False
            return abs(_started(process) - self.started) < _SLACK
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return None


def _machine() -> str:
    """A name for this table of processes.

    A host's name will not do: containers share it, and number their processes each on its own. Nor do the processes of
    another user, which a system may hide. Where two processes of one machine get different names, they are only told
    apart more slowly.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"
    except OSError:  # not Linux
        return f"{uuid.getnode():x}"


def _started(process: psutil.Process) -> float:
    return process.create_time() - psutil.boot_time()
