"""The public names."""

from __future__ import annotations

import subprocess
import sys

import bstuner


def test_the_public_names() -> None:
    assert bstuner.__all__ == [
        *("BatchSizeFinder", "BatchSizeScheduler", "BatchSizeTuner", "BstunerError", "FindResult"),
        *("LearningRateWarmup", "Probe", "TuneResult", "best", "find", "schedule", "searching", "tune"),
    ]
    assert all(hasattr(bstuner, name) for name in bstuner.__all__)


def test_the_package_imports_without_a_word() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:bstuner", "-c", "import bstuner"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
