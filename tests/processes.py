"""Processes that train together, started as torchrun does: each test file's functions, or scripts, on N ranks."""

from __future__ import annotations

import atexit
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

HANG = 120.0  # seconds, far more than any launch needs


class Rank(NamedTuple):
    """How one process ended; what it printed, both streams together; what its function returned, if it did."""

    returncode: int
    output: str
    value: Any


def launch(
    target: Callable[..., Any] | Path,
    *arguments: object,
    ranks: int = 2,
    env: Callable[[int], Mapping[str, str]] = lambda rank: {},
    succeed: bool = True,
    timeout: float = HANG,
) -> list[Rank]:
    """Run a function, or a script, in N processes, and wait until all have ended.

    A process that still runs after the timeout is killed, and the test fails with the output of all.

    Args:
        target: A function of a test module, whose arguments and result can be pickled, or the path of a script.
        arguments: What the function is given, or the script's command line.
        ranks: How many processes.
        env: More environment variables for each rank.
        succeed: Whether every process has to exit with 0.
        timeout: The seconds after which it counts as a hang.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [(Path(folder, f"{rank}.txt"), Path(folder, f"{rank}.pickle")) for rank in range(ranks)]
        port = str(_free_port())
        call = Path(folder, "call.pickle")  # complete before any process reads it
        if not isinstance(target, Path):
            call.write_bytes(pickle.dumps((target.__module__, target.__qualname__, arguments)))
        processes = []
        for rank, (output, value) in enumerate(files):
            if isinstance(target, Path):
                command = [sys.executable, str(target), *map(str, arguments)]
            else:
                command = [sys.executable, __file__, str(call), str(value)]
            with output.open("wb") as stream:
                processes.append(
                    subprocess.Popen(
                        command,
                        env={**_environment(target, rank, ranks, port), **env(rank)},
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # so that its own children can be killed with it
                    )
                )
        hung = _wait(processes, timeout)
        results = [
            Rank(process.returncode, output.read_text(), pickle.loads(value.read_bytes()) if value.exists() else None)
            for process, (output, value) in zip(processes, files, strict=True)
        ]
    everything = "\n".join(f"--- rank {rank}: exit code {r.returncode}\n{r.output}" for rank, r in enumerate(results))
    assert not hung, f"ranks {hung} still ran after {timeout} s\n{everything}"
    assert not succeed or all(result.returncode == 0 for result in results), everything
    return results


def _environment(target: Callable[..., Any] | Path, rank: int, ranks: int, port: str) -> dict[str, str]:
    home = target if isinstance(target, Path) else Path(sys.modules[target.__module__].__file__ or "")
    paths = [str(home.parent), str(Path(__file__).parent), str(Path(__file__).parents[1])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
    }


def _wait(processes: list[subprocess.Popen[bytes]], timeout: float) -> list[int]:
    end = time.monotonic() + timeout
    hung = []
    for rank, process in enumerate(processes):
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            hung.append(rank)
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return hung


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _main() -> None:
    call, value = map(Path, sys.argv[1:])
    module, function, arguments = pickle.loads(call.read_bytes())
    result = getattr(importlib.import_module(module), function)(*arguments)
    value.write_bytes(pickle.dumps(result))
    # All is done, and put away as at any exit. At the real end of the interpreter one in some hundred launches aborts
    # in a thread of torch's ("terminate called without an active exception"), which is no matter of these tests.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _main()
