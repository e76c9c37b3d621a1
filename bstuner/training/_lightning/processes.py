"""Processes: those that Lightning starts for a run, and how they start, speak and end."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from bstuner.training._lightning.roots import each_lightning, lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = [
    "end_processes",
    "launch",
    "leave_launcher",
    "processes_started_with",
    "spawns_processes",
]


def spawns_processes(trainer: Trainer) -> bool:
    """Whether the run is in processes that Lightning has spawned or forked from the one that called it."""
    launchers = lightning_of(trainer, "strategies.launchers.multiprocessing")
    return isinstance(trainer.strategy.launcher, launchers._MultiProcessingLauncher)


def launch(trainer: Trainer, function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in the processes that the Trainer's strategy spawns or forks, and return rank 0's result."""
    # Without trainer=, the launcher returns the result as it is, and does not count this as the one fit it allows.
    return trainer.strategy.launcher.launch(function, *args)  # type: ignore[union-attr]  # there is one where asked


def leave_launcher(trainer: Trainer) -> None:
    """Have a Trainer, in a process that a launcher has made, run in this process."""
    # _launcher: with one, the Trainer's methods would make more processes.
    trainer.strategy._launcher = None


def end_processes(trainer: Trainer, patience: float = 10.0) -> None:
    """See that none of the processes that Lightning has made for a Trainer is left, after some seconds.

    Its observer, which kills this process once it sees that another one has failed, is not to interfere.
    """
    # procs: of the launchers that make processes, each by another class; kept nowhere public. The observer of the
    # subprocess launcher reads the same list: it is emptied, and the observer takes that for the end of the run.
    launched = getattr(trainer.strategy.launcher, "procs", [])
    processes, launched[:] = list(launched), []
    end = time.monotonic() + patience
    for process in processes:
        _wait(process, max(0.0, end - time.monotonic()))


def _wait(process: BaseProcess | subprocess.Popen[bytes], seconds: float) -> None:
    if isinstance(process, subprocess.Popen):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
        process.kill()
        process.wait()
    else:
        process.join(seconds)
        process.kill()
        process.join()


@contextlib.contextmanager
def processes_started_with(command: Sequence[str]) -> Iterator[None]:
    """Have Lightning start the processes of further ranks by a command, followed by the script's own arguments.

    Otherwise they would run the script as it is.
    """
    with contextlib.ExitStack() as stack:
        for launcher in each_lightning("strategies.launchers.subprocess_script"):
            stack.enter_context(_started_with(launcher, command))
        yield


@contextlib.contextmanager
def _started_with(launcher: Any, command: Sequence[str]) -> Iterator[None]:
    # _basic_subprocess_cmd, _hydra_subprocess_cmd: nothing public says how these processes are started. Replaced in
    # the module of the launcher, which has imported them by name.
    basic, hydra = launcher._basic_subprocess_cmd, launcher._hydra_subprocess_cmd

    def own(original: Sequence[str]) -> list[str]:
        named = 3 if original[1] == "-m" else 2  # the interpreter, and the script or module
        return [*command, *original[named:]]

    def own_hydra(local_rank: int) -> tuple[list[str], str]:
        original, folder = hydra(local_rank)
        return own(original), folder

    launcher._basic_subprocess_cmd = lambda: own(basic())
    launcher._hydra_subprocess_cmd = own_hydra
    try:
        yield
    finally:
        launcher._basic_subprocess_cmd, launcher._hydra_subprocess_cmd = basic, hydra
