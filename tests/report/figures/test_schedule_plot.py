"""What a user sees of a growth plan."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plans import CONSTANT, ENDLESS, MANY, PROCESSES, STEPS, STREAM, STREAM_WITHOUT_END

from bstuner.core.growth.run_plan import RunPlan
from bstuner.errors import InvalidSetting
from bstuner.report.figures.schedule_plot import check_plot, draw_schedule, save_plot

pytest.importorskip("matplotlib")


def curve(axes: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def at(curve: tuple[np.ndarray, np.ndarray], sample: int) -> float:
    """The value of a curve drawn in steps."""
    samples, values = curve
    return float(values[np.searchsorted(samples, sample, side="right") - 1])


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_curves_are_the_plan_and_the_users_own_schedule() -> None:
    sizes, lrs = draw_schedule(PROCESSES).axes
    for step in PROCESSES.steps():
        sample = step.start_sample
        assert at(curve(sizes, "planned"), sample) == step.batch_size
        assert at(curve(sizes, "yours"), sample) == 64
        assert at(curve(lrs, "yours"), sample) == pytest.approx(PROCESSES.nominal_lr(sample))
        assert at(curve(lrs, "planned"), sample) == pytest.approx(PROCESSES.nominal_lr(sample) * step.lr_factor)
    assert curve(sizes, "planned")[0][-1] == curve(lrs, "planned")[0][-1] == PROCESSES.samples
    assert sizes.get_lines()[0].get_linestyle() == "-"
    assert sizes.get_lines()[1].get_linestyle() == "--", "the user's own is told apart without colours too"


def test_axes_have_names_units_and_one_scale_of_samples() -> None:
    figure = draw_schedule(STEPS)
    sizes, lrs = figure.axes
    assert sizes.get_ylabel() == "batch size (samples per step)"
    assert lrs.get_ylabel() == "learning rate"
    assert lrs.get_xlabel() == "samples"
    assert sizes.get_xlim() == lrs.get_xlim() == (0, STEPS.samples)
    assert (sizes.get_yscale(), lrs.get_yscale()) == ("log", "linear")
    assert [child.get_xlabel() for child in sizes.child_axes] == ["epochs"]
    assert figure.get_suptitle() == "6,020 optimizer steps instead of 12,600: 52% fewer"


def test_the_cap_is_drawn_where_there_is_one() -> None:
    sizes = draw_schedule(STEPS).axes[0]
    assert words(sizes) == ["capped at 100 by a tenth of the 1,000 samples of an epoch"]
    assert sizes.get_ylim()[1] > 100
    assert words(draw_schedule(CONSTANT).axes[0]) == []


def test_a_fit_without_end_has_batch_sizes_alone() -> None:
    figure = draw_schedule(ENDLESS)
    (sizes,) = figure.axes
    assert sizes.get_xlim() == (0, 4314 + 1438)
    assert sizes.get_xlabel() == "samples"
    assert figure.get_suptitle() == "Planned batch size"


def test_a_stream_has_no_epochs() -> None:
    assert draw_schedule(STREAM).axes[0].child_axes == []
    assert draw_schedule(STREAM_WITHOUT_END).axes[0].get_xlim() == (0, 10_000)


@pytest.mark.parametrize("plan", [STEPS, PROCESSES, MANY, ENDLESS, CONSTANT, STREAM, STREAM_WITHOUT_END])
def test_every_plan_can_be_drawn(tmp_path: Path, plan: RunPlan) -> None:
    save_plot(plan, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "start"), [("plan.svg", b"<?xml"), ("plan.pdf", b"%PDF")])
def test_other_kinds_of_files(tmp_path: Path, name: str, start: bytes) -> None:
    check_plot(tmp_path / name)
    save_plot(STEPS, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_another_ending_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"Expected --plot to be a file that ends in \.png, \.svg, \.pdf, found"):
        check_plot(Path("plan.html"))


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidSetting, match=r"pip install 'bstuner\[plot\]'"):
        check_plot(Path("plan.png"))


def test_who_draws_nothing_needs_no_matplotlib() -> None:
    # Lightning itself imports it where it is installed, by way of torchmetrics.
    code = """
import sys
import lightning
for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
    del sys.modules[name]
sys.modules["matplotlib"] = None
import bstuner.cli.schedule
assert "bstuner.report.figures.schedule_plot" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
