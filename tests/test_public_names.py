"""The public names, and the floors of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import bstuner

PACKAGE = Path(bstuner.__file__).parent
FLOORS = ["core", "device", "training", "study", "report", "dashboards", "callbacks", "cli"]


def test_the_public_names() -> None:
    assert bstuner.__all__ == [
        *("BatchSizeFinder", "BatchSizeScheduler", "BatchSizeTuner", "BstunerError", "FindResult"),
        *("LearningRateWarmup", "Probe", "TuneResult", "find", "schedule", "tune"),
    ]
    assert all(hasattr(bstuner, name) for name in bstuner.__all__)


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_a_room_imports_only_from_its_own_floor_and_those_below() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for height, floor in enumerate(FLOORS)
        for path in (PACKAGE / floor).glob("*.py")
        for name in imports(path)
        for above in FLOORS[height + 1 :]
        if name.startswith(f"bstuner.{above}")
    ]
    assert wrong == []


def test_the_pure_floor_knows_neither_torch_nor_lightning_and_devices_do_not_know_lightning() -> None:
    foreign = {
        "core": ("torch", "lightning", "optuna"),
        "device": ("lightning", "optuna"),
        "training": ("optuna",),
        "study": ("torch", "lightning"),
        "report": ("torch", "optuna"),
    }
    wrong = [
        f"{path.name} imports {name}"
        for floor, packages in foreign.items()
        for path in (PACKAGE / floor).glob("*.py")
        for name in imports(path)
        if name.partition(".")[0] in packages
    ]
    assert wrong == []


def test_the_package_imports_without_a_word() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:bstuner", "-c", "import bstuner"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
