"""Measure `bstuner.BatchSizeFinder` beside Lightning's own: same scripts, same memory limit, same largest size.

    python benchmarks/find_vs_lightning.py [--cases NAME ...] [--repeats N] [--device cpu|cuda] [--json]

Every measurement is a process of its own. It runs `fit` up to the moment training starts, then trains a few batches
of the largest samples at the answer, under the same limit: is the answer safe? What the same script costs without a
finder is taken off the seconds and the memory.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder as LightningFinder
from lightning.pytorch.tuner import batch_size_scaling
from models import CASES, WORK, Case, Script
from torch import Tensor
from torch.utils.data import Subset

import bstuner
from bstuner.device.limit import parse_bytes
from bstuner.device.memory import CpuMemory
from bstuner.device.oom import is_out_of_memory

FINDERS = ("none", "bstuner", "lightning")
COUNTS = ("samples", "steps", "sizes", "reads", "loaders")
MIB = 2**20
Result = dict[str, Any]


class TrainingStarts(Exception):
    """Not an error: what had to be measured is over."""


class StopAtStart(L.Callback):
    """Ends `fit` where its training starts; training steps that a finder runs are not that."""

    searching = False

    def watch(self, search: Callable[..., None]) -> Callable[..., None]:
        def watched(*args: Any) -> None:
            self.searching = True
            search(*args)
            self.searching = False

        return watched

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.searching:
            raise TrainingStarts


class StepClock(L.Callback):
    """The seconds of every training step, its batch being ready."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(now() - self.started)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def trainer(case: Case, *callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    return L.Trainer(
        accelerator=case.device, devices=1, precision=case.precision, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        max_epochs=2, **kwargs,
    )  # fmt: skip


def make_finder(name: str, case: Case, limit: int | None) -> L.Callback:
    if name == "lightning":
        return LightningFinder(max_val=case.max_val)
    # On CUDA the allocator's own limit holds for both finders.
    return bstuner.BatchSizeFinder(max_val=case.max_val, memory_limit=limit if case.device == "cpu" else None)


@contextlib.contextmanager
def limited(case: Case, limit: int | None, script: Script) -> Iterator[None]:
    """Enforce the limit on whatever runs inside."""
    if case.device == "cuda":
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total) if limit else 1.0)
        yield
    elif limit is None:
        yield
    else:
        with CpuMemory(limit).measure(script.parameters()):
            yield


def bytes_held(case: Case) -> tuple[int, int]:
    """Bytes of live tensors, and bytes the device's allocator has reserved for them."""
    gc.collect()
    if case.device == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values()), 0


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"


def search(case: Case, name: str, limit: int | None) -> Result:
    """Run `fit` with a finder until training starts."""
    script, stop, error = case.build(), StopAtStart(), ""
    callbacks: list[Any] = [stop]
    if name != "none":
        callbacks.insert(0, make_finder(name, case, limit))
        callbacks[0].scale_batch_size = stop.watch(callbacks[0].scale_batch_size)
    # bstuner enforces the limit by itself on the CPU; Lightning's finder knows none.
    around = contextlib.nullcontext() if (case.device, name) == ("cpu", "bstuner") else limited(case, limit, script)
    with tempfile.TemporaryDirectory() as folder:
        fit = trainer(case, *callbacks, default_root_dir=folder)
        started = now()
        try:
            with around:
                fit.fit(script)
        except TrainingStarts:
            pass
        except Exception as problem:
            error = first_line(problem)
        seconds = now() - started
    held, reserved = bytes_held(case)
    return {
        **{count: getattr(WORK, count) for count in COUNTS},
        "sizes": len(WORK.sizes),
        "seconds": seconds,
        "held": held,
        "reserved": reserved,
        "answer": None if error else script.batch_size,
        "error": error,
    }


def train(case: Case, size: int, limit: int | None) -> tuple[str, float | None]:
    """Train a few batches of the largest samples: "safe" or what went wrong, and the seconds of one step."""
    script, clock = case.build(), StepClock()
    data, script.batch_size = script.data, size
    script.data = Subset(data, [data.largest] * min(3 * size, len(data)))  # type: ignore[assignment]
    try:
        with limited(case, limit, script):
            trainer(case, clock, limit_train_batches=3, limit_val_batches=1).fit(script)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return f"out of memory, {'training' if script.training else 'validation'}", None
    return ("safe", min(clock.seconds[1:])) if clock.seconds else ("no batch to train on", None)


def measure_one(name: str, finder: str, limit: int | None) -> Result:
    """Everything about one finder on one case; to be called once per process."""
    case = CASES[name]
    # Lightning takes only certain texts for "out of memory", and the limit on the CPU has another.
    batch_size_scaling.is_oom_error = is_out_of_memory
    result = search(case, finder, limit)
    gc.collect()
    result["verdict"], result["step_seconds"] = "crashed", None
    if finder != "none" and not result["error"]:
        result["verdict"], _ = train(case, result["answer"], limit)
        if result["verdict"] == "safe":
            gc.collect()
            # Once more without the limit, whose enforcement on the CPU slows steps down.
            _, result["step_seconds"] = train(case, result["answer"], None)
    return result


def measure(name: str, repeats: int, limit: int | None) -> dict[str, Result]:
    """The medians for each finder, in processes that take turns."""
    runs: dict[str, list[Result]] = {finder: [] for finder in FINDERS}
    for _ in range(repeats):
        for finder in FINDERS:
            command = [sys.executable, __file__, "--one", name, finder, "--memory-limit", str(limit or 0)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}, {finder}: exit {done.returncode}\n{done.stderr[-2000:]}")
            runs[finder].append(json.loads(done.stdout.splitlines()[-1]))
    middle = {finder: median_of(each) for finder, each in runs.items()}
    without = middle.pop("none")
    for result in middle.values():
        for key in ("seconds", "held", "reserved", "loaders", "reads"):
            result[key] -= without[key]
        step = result["step_seconds"]
        result["steps_at_answer"] = result["seconds"] / step if step else None
    return middle


def median_of(runs: list[Result]) -> Result:
    """The median of each number; of a text or an answer the last, as those do not vary."""
    last = runs[-1]
    numbers = [key for key, value in last.items() if isinstance(value, (int, float)) and key != "answer"]
    return {**last, **{key: statistics.median(run[key] for run in runs) for key in numbers}}


def losses(ours: Result, theirs: Result) -> list[str]:
    """Where bstuner comes out behind."""
    lost = [what for what in ("seconds", "samples", "steps", "held") if ours[what] > theirs[what]]
    if ours["verdict"] != "safe":
        lost.append(ours["verdict"])
    elif theirs["verdict"] == "safe" and ours["answer"] < theirs["answer"]:
        lost.append("smaller answer")
    return lost


def table(header: str, rows: list[list[Any]]) -> str:
    """A Markdown table that reads well as it is."""
    texts = [header.split("|"), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in texts]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def report(results: dict[str, dict[str, Result]]) -> str:
    ratios, absolute, errors = [], [], []
    for name, by_finder in results.items():
        ours, theirs = by_finder["bstuner"], by_finder["lightning"]
        times = [f"{theirs[what] / ours[what]:.1f}x" for what in ("seconds", "samples", "steps")]
        goal = ours["step_seconds"] and ours["seconds"] <= 2 + 4 * ours["step_seconds"]
        ratios.append([name, *times, "yes" if goal else "no", ", ".join(losses(ours, theirs)) or "-"])
        for finder, result in by_finder.items():
            steps = result["steps_at_answer"]
            held = "/".join(f"{result[what] / MIB:.1f}" for what in ("held", "reserved"))
            counts = [f"{result[count]:.0f}" for count in COUNTS]
            absolute.append([
                name, finder, result["answer"] or "-", result["verdict"], f"{result['seconds']:.2f}",
                f"{steps:.1f}" if steps else "-", *counts, held,
            ])  # fmt: skip
            errors += [f"{name}, {finder}: {result['error']}"] if result["error"] else []
    head = "case|seconds|samples|steps|4 steps + 2 s|bstuner loses"
    full = f"case|finder|answer|verdict|seconds|steps at the answer|{'|'.join(COUNTS)}|MiB held/reserved"
    abouts = [f"{name}: {CASES[name].about}, {CASES[name].memory_limit or 'all memory'}" for name in results]
    parts = ["Lightning's finder / bstuner's", table(head, ratios), table(full, absolute), *abouts, *errors]
    return "\n\n".join(parts[:3]) + "\n\n" + "\n".join(parts[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: all cases of the device")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-limit", help='for all cases, such as "8GiB"; default: what each case says')
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "FINDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # several threads wait for each other where other processes share the cores
        limit = int(arguments.memory_limit) or None
        print(json.dumps(measure_one(*arguments.one, limit)))
        return
    results = {}
    for name in arguments.cases or [name for name, case in CASES.items() if case.device == arguments.device]:
        limit = arguments.memory_limit or CASES[name].memory_limit
        results[name] = measure(name, arguments.repeats, parse_bytes(limit) if limit else None)
    if arguments.json:
        print(json.dumps({"machine": platform.processor(), "device": arguments.device, "cases": results}))
    else:
        print(report(results))


if __name__ == "__main__":
    main()
