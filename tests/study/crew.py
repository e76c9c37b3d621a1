"""Processes that work on one study, some of which are killed."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

# One process imports everything once, and each worker is forked from it: that takes milliseconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    *("bstuner.study.search", "bstuner.study.store", "bstuner.study.workers"),
    *("alembic.command", "alembic.migration", "optuna.storages._rdb.models"),  # imported when a database is opened
])  # fmt: skip

HANG = 50.0  # seconds, far more than anything here takes


class Crew:
    """The processes of one test. None outlives it."""

    def __init__(self) -> None:
        self.members: list[BaseProcess] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        for member in self.members:
            if member.is_alive():
                member.kill()
            member.join()

    def start(self, target: Callable[..., None], *arguments: object) -> BaseProcess:
        member = CONTEXT.Process(target=target, args=arguments)
        member.start()
        self.members.append(member)
        return member

    def all_succeed(self, *members: BaseProcess) -> None:
        end = time.monotonic() + HANG
        for member in members:
            member.join(max(0.0, end - time.monotonic()))
        assert [member.exitcode for member in members] == [0] * len(members)


def until(happens: Callable[[], Any]) -> Any:
    """Wait until something happens, and return it."""
    end = time.monotonic() + HANG
    while not (found := happens()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
    return found
