"""Measure `bstuner.BatchSizeFinder` beside Lightning's own: same scripts, same memory limit, same largest size.

    python benchmarks/find_vs_lightning.py [--cases NAME ...] [--repeats N] [--device cpu|cuda] [--json]

Every measurement is a process of its own. It runs `fit` up to the moment training starts, then trains a few batches
of the largest samples at the answer, under the same limit: is the answer safe? What the same script does without a
finder up to that moment is taken off.
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
from bstuner.core.memory_size import parse_bytes
from bstuner.device.memory import CpuMemory
from bstuner.device.oom import is_out_of_memory

FINDERS = ("none", "bstuner", "lightning")
COUNTS = ("samples", "steps", "sizes", "reads", "loaders")
MIB = 2**20
Result = dict[str, Any]


class TrainingStarts(Exception):
    """Not an error: what had to be measured is over."""


class StopAtStart(L.Callback):
    """Ends `fit` where its training starts; the training steps that a finder runs are not that."""

    def __init__(self, case: Case) -> None:
        self.case, self.searching = case, False
        self.seen: Result = {"held": None, "reserved": None}

    def watch(self, search: Callable[..., None]) -> Callable[..., None]:
        def watched(*args: Any) -> None:
            self.searching = True
            search(*args)
            self.searching = False

        return watched

    def on_train_start(self, *_: Any) -> None:
        if not self.searching:
            self.seen = {"at": now(), **bytes_held(self.case)}
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


def bytes_held(case: Case) -> Result:
    """Bytes of live tensors, and bytes the device's allocator has reserved for them."""
    gc.collect()
    if case.device == "cuda":
        return {"held": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved()}
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return {"held": sum(storages.values()), "reserved": 0}


def search(case: Case, finder: str, limit: int | None) -> Result:
    """Run `fit` with a finder until training starts."""
    # Lightning knows "out of memory" by certain texts only, and the limit on the CPU has another.
    batch_size_scaling.is_oom_error = is_out_of_memory
    script, stop, error = case.build(), StopAtStart(case), ""
    callbacks: list[Any] = [stop]
    if finder != "none":
        callbacks.insert(0, make_finder(finder, case, limit))
        callbacks[0].scale_batch_size = stop.watch(callbacks[0].scale_batch_size)
    # bstuner enforces the limit by itself on the CPU; Lightning's finder knows none.
    around = contextlib.nullcontext() if (case.device, finder) == ("cpu", "bstuner") else limited(case, limit, script)
    with tempfile.TemporaryDirectory() as folder:
        started = now()
        try:
            with around:
                trainer(case, *callbacks, default_root_dir=folder).fit(script)
        except TrainingStarts:
            pass
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
    seconds = stop.seen.pop("at", now()) - started
    done = {**vars(WORK), "sizes": len(WORK.sizes), "seconds": seconds, **stop.seen}
    return {**done, "answer": None if error else script.batch_size, "error": error}


def train(case: Case, size: int, limit: int | None) -> tuple[str, float | None]:
    """Train a few batches of the largest samples: "safe" or what went wrong, and the seconds of one step."""
    gc.collect()
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


def measure_one(case: Case, finder: str, limit: int | None, seed: int) -> Result:
    """Everything about one finder on one case; to be called once per process."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(seed)
    if case.device == "cpu":
        torch.set_num_threads(1)  # several wait for each other where other processes share the cores
    result = search(case, finder, limit)
    verdict, step = "crashed", None
    if not result["error"]:
        verdict, step = train(case, result["answer"], limit)
        if verdict == "safe":  # time it without the limit, whose enforcement on the CPU slows steps down
            _, step = train(case, result["answer"], None)
    return {**result, "verdict": verdict, "step_seconds": step}


def run_one(*arguments: str) -> Result:
    """`measure_one` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, repeats: int, limit: int | None) -> dict[str, Result]:
    """The medians for each finder, in processes that take turns."""
    bytes_ = str(limit or 0)
    turns = [{finder: run_one(name, finder, bytes_, str(seed)) for finder in FINDERS} for seed in range(repeats)]
    middle = {finder: summary([turn[finder] for turn in turns]) for finder in FINDERS}
    without = middle.pop("none")
    for result in middle.values():
        for key in ("seconds", "held", "reserved", "loaders"):
            result[key] = None if result[key] is None else result[key] - without[key]
        step = result["step_seconds"]
        result["steps_at_answer"] = result["seconds"] / step if step else None
    return middle


def summary(runs: list[Result]) -> Result:
    """The median of each number; of answers, verdicts and errors the different ones."""
    texts = {key: list(dict.fromkeys(run[key] for run in runs)) for key in ("answer", "verdict", "error")}
    numbers = {key: [run[key] for run in runs if run[key] is not None] for key in runs[0] if key not in texts}
    return {**texts, **{key: statistics.median(values) if values else None for key, values in numbers.items()}}


def losses(ours: Result, theirs: Result) -> str:
    """Where bstuner comes out behind."""
    lost = [what for what in ("seconds", "samples", "steps", "held") if (ours[what] or 0) > (theirs[what] or 0)]
    if ours["verdict"] != ["safe"]:
        lost += [verdict for verdict in ours["verdict"] if verdict != "safe"]
    elif theirs["verdict"] == ["safe"] and min(ours["answer"]) < max(theirs["answer"]):
        lost.append("smaller answer")
    return ", ".join(lost) or "-"


def table(*rows: list[Any]) -> str:
    """A Markdown table that reads well as it is; the first row is its head."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    texts.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in texts
    )


def row_of(name: str, finder: str, result: Result) -> list[Any]:
    steps = result["steps_at_answer"]
    texts = ["/".join(str(each or "-") for each in result[key]) for key in ("answer", "verdict")]
    counts = [f"{result[count]:.0f}" for count in COUNTS]
    held = "/".join("-" if result[key] is None else f"{result[key] / MIB:.1f}" for key in ("held", "reserved"))
    return [name, finder, *texts, f"{result['seconds']:.2f}", f"{steps:.1f}" if steps else "-", *counts, held]


def report(cases: dict[str, dict[str, Result]]) -> str:
    ratios: list[list[Any]] = [["case", "seconds", "samples", "steps", "within 4 steps + 2 s", "bstuner loses"]]
    figures = [["case", "finder", "answer", "verdict", "seconds", "steps at the answer", *COUNTS, "MiB held/reserved"]]
    notes = []
    for name, by_finder in cases.items():
        ours, theirs = by_finder["bstuner"], by_finder["lightning"]
        times = [f"{theirs[what] / ours[what]:.1f}x" for what in ("seconds", "samples", "steps")]
        goal = ours["step_seconds"] and ours["seconds"] <= 2 + 4 * ours["step_seconds"]
        ratios.append([name, *times, "yes" if goal else "no", losses(ours, theirs)])
        figures += [row_of(name, finder, result) for finder, result in by_finder.items()]
        notes.append(f"- {name}: {CASES[name].about}; {CASES[name].memory_limit or 'all the memory there is'}")
        notes += [f"  - {finder}: {error}" for finder in by_finder for error in by_finder[finder]["error"] if error]
    return "\n\n".join(["Lightning's / bstuner's:", table(*ratios), table(*figures), "\n".join(notes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: all cases of the device")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-limit", help='for all cases, such as "8GiB"; default: what each case says')
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", nargs=4, metavar=("CASE", "FINDER", "BYTES", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, finder, limit, seed = arguments.one
        print(json.dumps(measure_one(CASES[name], finder, int(limit) or None, int(seed))))
        return
    results = {}
    for name in arguments.cases or [name for name, case in CASES.items() if case.device == arguments.device]:
        limit = arguments.memory_limit or CASES[name].memory_limit
        results[name] = measure(name, arguments.repeats, parse_bytes(limit) if limit else None)
    if arguments.json:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "lightning": L.__version__}
        print(json.dumps({**versions, "device": arguments.device, "repeats": arguments.repeats, "cases": results}))
    else:
        print(report(results))


if __name__ == "__main__":
    main()
