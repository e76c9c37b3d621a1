"""Which baselines set no bar."""

from __future__ import annotations

from dataclasses import replace

import pytest
from formula_runner import SPACE

from bstuner.core.layout import BatchLayout
from bstuner.core.trial import Mark, TrialRequest, TrialRun
from bstuner.errors import BaselineFailed
from bstuner.study.settings import TuneSettings
from bstuner.study.space import BASE_LR
from bstuner.study.stopping import baseline_trouble, lowered, refuse_baseline


def run(*metrics: float, samples: int = 320) -> TrialRun:
    marks = tuple(Mark(32 * place, metric, float(place)) for place, metric in enumerate(metrics, 1))
    return TrialRun(
        TrialRequest(32, 0.1), BatchLayout(32), "finished", marks, samples=samples, steps=10, samples_per_second=32.0
    )


def check(trial: TrialRun, settings: TuneSettings) -> None:
    refuse_baseline(trial, settings, budget=320, first_lr=trial.request.lr)


def test_one_that_learns_sets_it() -> None:
    check(run(3.0, 2.0, 2.5), TuneSettings("val_loss"))
    check(run(0.5, 0.7), TuneSettings("val_acc", mode="max"))
    check(run(3.0), TuneSettings("val_loss"))


@pytest.mark.parametrize("metrics", [(1.0, 1.0, 1.0), (1.0, 0.5, 1.2)])
def test_one_that_is_no_better_at_its_end_does_not(metrics: tuple[float, ...]) -> None:
    with pytest.raises(BaselineFailed, match=r"val_loss was no better at the end .* than at the first validation"):
        check(run(*metrics), TuneSettings("val_loss"))
    check(run(*metrics), TuneSettings("val_loss", objective="metric"))


def test_a_loss_with_the_mode_of_a_score_is_noticed() -> None:
    with pytest.raises(BaselineFailed, match="check mode='max'"):
        check(run(3.0, 2.0, 1.0), TuneSettings("val_loss", mode="max"))


def test_one_that_something_else_has_ended_does_not() -> None:
    with pytest.raises(BaselineFailed, match="ended by itself after 160 of 320 samples"):
        check(run(3.0, 2.0, samples=160), TuneSettings("val_loss"))
    check(run(3.0, 2.0, samples=300), TuneSettings("val_loss"))  # a last batch that is not full


def test_one_that_does_not_train_is_told_apart_from_one_that_does() -> None:
    settings = TuneSettings("val_loss")

    assert baseline_trouble(run(1.0, 0.5, 1.2), settings) == "not reached"
    assert baseline_trouble(replace(run(), ending="not finite"), settings) == "not finite"
    assert baseline_trouble(run(1.0, 0.5), settings) is None
    assert baseline_trouble(replace(run(), ending="out of memory"), settings) is None


def test_the_learning_rate_is_lowered_to_the_end_of_the_range_and_no_further() -> None:
    tried = [SPACE.baseline]
    while (lower := lowered(tried[-1], SPACE)) is not None:
        tried.append(lower)

    rates = [params[BASE_LR] for params in tried]
    assert rates == pytest.approx([SPACE.reference_lr / 10 ** (step / 2) for step in range(5)])
    assert min(rates) >= SPACE.lr_range[0]
    with pytest.raises(BaselineFailed, match=r"learning rates from 1 down to 0\.1 val_loss was not finite"):
        refuse_baseline(replace(run(), ending="not finite"), TuneSettings("val_loss"), 320, first_lr=1.0)
