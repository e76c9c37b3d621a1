"""Which baselines set no bar."""

from __future__ import annotations

import pytest

from bstuner.core.layout import BatchLayout
from bstuner.core.trial import Mark, TrialRequest, TrialRun
from bstuner.errors import BaselineFailed
from bstuner.study.settings import TuneSettings
from bstuner.study.stopping import check_baseline


def run(*metrics: float, samples: int = 320) -> TrialRun:
    marks = tuple(Mark(32 * place, metric, float(place)) for place, metric in enumerate(metrics, 1))
    return TrialRun(
        TrialRequest(32, 0.1), BatchLayout(32), "finished", marks, samples=samples, steps=10, samples_per_second=32.0
    )


def test_one_that_learns_sets_it() -> None:
    check_baseline(run(3.0, 2.0, 2.5), TuneSettings("val_loss"), budget=320)
    check_baseline(run(0.5, 0.7), TuneSettings("val_acc", mode="max"), budget=320)
    check_baseline(run(3.0), TuneSettings("val_loss"), budget=320)


@pytest.mark.parametrize("metrics", [(1.0, 1.0, 1.0), (1.0, 0.5, 1.2)])
def test_one_that_is_no_better_at_its_end_does_not(metrics: tuple[float, ...]) -> None:
    with pytest.raises(BaselineFailed, match=r"val_loss was no better at the end .* than at the first validation"):
        check_baseline(run(*metrics), TuneSettings("val_loss"), budget=320)
    check_baseline(run(*metrics), TuneSettings("val_loss", objective="metric"), budget=320)


def test_a_loss_with_the_mode_of_a_score_is_noticed() -> None:
    with pytest.raises(BaselineFailed, match="check mode='max'"):
        check_baseline(run(3.0, 2.0, 1.0), TuneSettings("val_loss", mode="max"), budget=320)


def test_one_that_something_else_has_ended_does_not() -> None:
    with pytest.raises(BaselineFailed, match="ended by itself after 160 of 320 samples"):
        check_baseline(run(3.0, 2.0, samples=160), TuneSettings("val_loss"), budget=320)
    check_baseline(run(3.0, 2.0, samples=300), TuneSettings("val_loss"), budget=320)  # a last batch that is not full
