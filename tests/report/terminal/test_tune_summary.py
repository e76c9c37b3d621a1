"""What a user reads at the end of a search for batch size and learning rate."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from recorded_trials import AGAIN, BASELINE, BEST, DIVERGED, MEMORY, RESULT, SLOWER
from rich.console import Console

from bstuner.core.trial import Mark
from bstuner.core.tune_result import TrialSummary, TuneResult
from bstuner.report.terminal.tune_summary import render_tune
from bstuner.report.words import format_settings


def lines(result: TuneResult, width: int = 120) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_tune(result))
    return [line.rstrip() for line in console.export_text().splitlines()]


def facts(result: TuneResult) -> list[str]:
    return [" ".join(line.split()) for line in lines(result, width=200)]


def test_the_findings_line_by_line() -> None:
    assert lines(RESULT) == [
        "Device     NVIDIA H200, 140.0 GiB, 126.0 GiB usable (10% kept free)",
        "Fits       1024 per device (64.0 GiB measured; 2048 would need 128.0 GiB) after 2 probes, 2.2 s",
        "Knee       256: 100% of the throughput of 1024",
        "Baseline   batch 32, lr 4e-4   val_loss 1.186 after 98,304 samples, 19.4 s",
        "Trials     5 in 34 s (1.8 baselines), 1 ran out of memory, 1 diverged",
        "Ended      all 5 trials were run",
        "Best       batch 256, lr 6.4e-3 (sqrt rule, base lr 2.26e-3)   val_loss 1.186 after 3.2 s: 6.1x sooner",
        "Samples    65,536 instead of 98,304 (33% fewer) to the same val_loss",
        "Confirmed  with another order of the data too: 3.4 s against 18.5 s",
        "Study      first in study.journal",
    ]


def test_on_a_narrow_terminal_what_came_of_the_settings_has_a_line_of_its_own() -> None:
    narrow = lines(RESULT, width=60)
    assert max(map(len, narrow)) <= 60
    at = narrow.index("Best       batch 256, lr 6.4e-3 (sqrt rule, base lr 2.26e-3)")
    assert narrow[at + 1] == "           val_loss 1.186 after 3.2 s: 6.1x sooner"


def with_an_end(trial: TrialSummary) -> TrialSummary:
    return replace(trial, curve=(Mark(98_304, trial.metric or 0.0, 1.0),))


STAY = " Your own settings stay."
LARGE = replace(BEST, batch_size=64, accumulate_grad_batches=4, global_batch_size=1024, lr=0.1)
CURVE = (Mark(49_152, 1.09, 2.4), Mark(98_304, 1.101, 4.8))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"best": BASELINE, "speedup": 1.0, "confirmed": None},
            "Best batch 32, lr 4e-4 your own settings: none of 4 others was better",
        ),
        (
            {"best": BASELINE, "trials": (BASELINE,), "confirmed": None},
            "Best batch 32, lr 4e-4 your own settings",
        ),
        ({"confirmed": None, "confirmation": ()}, "Confirmed not tried with another order of the data"),
        (
            {"confirmed": False, "confirmation": (AGAIN[0], replace(AGAIN[1], seconds=19.9))},
            "Confirmed no: with another order of the data: 19.9 s against 18.5 s." + STAY,
        ),
        (
            {"confirmed": False, "confirmation": (AGAIN[0], replace(AGAIN[1], seconds=None, verdict="not reached"))},
            "Confirmed no: with another order of the data: it did not reach the target." + STAY,
        ),
        (
            {"confirmed": False, "confirmation": (AGAIN[0], replace(AGAIN[1], seconds=None, verdict="not finite"))},
            "Confirmed no: with another order of the data: it did not reach the target (not finite)." + STAY,
        ),
        (
            {"confirmation": (replace(AGAIN[0], seconds=None), AGAIN[1])},
            "Confirmed with another order of the data too: your own did not reach the target",
        ),
        (
            {"best": replace(BEST, samples=262_144), "speedup": 1.04},
            "Samples 262,144 instead of 98,304 (2.7x as many) to the same val_loss",
        ),
        (
            {"best": replace(BEST, samples=120_000)},
            "Samples 120,000 instead of 98,304 (22% more) to the same val_loss",
        ),
        (
            {"best": replace(BEST, samples=98_304)},
            "Samples 98,304 instead of 98,304 (as many) to the same val_loss",
        ),
        (
            {"speedup_interval": (3.04, 12.1)},
            "Best batch 256, lr 6.4e-3 (sqrt rule, base lr 2.26e-3) val_loss 1.186 after 3.2 s: 3.0x to 12.1x sooner",
        ),
        (
            {"share_of_fit": 0.384},
            "Trials 5 in 34 s (1.8 baselines, 38% of the fit's training time), 1 ran out of memory, 1 diverged",
        ),
        ({"as_good": (SLOWER,)}, "Alike 1 other pair is as good"),
        (
            {"at_edge": (DIVERGED, SLOWER)},
            "Edge 2 pairs that were ahead sit at the edge: a higher learning rate is worse, so a long training may not "
            "survive there",
        ),
        (
            {"speedup": 1.04},
            "Best batch 256, lr 6.4e-3 (sqrt rule, base lr 2.26e-3) val_loss 1.186 after 3.2 s: 1.04x sooner",
        ),
        (
            {"best": LARGE, "rule": "none"},
            "Best batch 1,024 = 64 x 4 accumulated x 4 processes, lr 0.1 val_loss 1.186 after 3.2 s: 6.1x sooner",
        ),
        (
            {"best": LARGE, "rule": "linear"},
            "Best batch 1,024 = 64 x 4 accumulated x 4 processes, lr 0.1 (linear rule, base lr 3.13e-3) "
            "val_loss 1.186 after 3.2 s: 6.1x sooner",
        ),
        (
            {"objective": "metric", "speedup": None, "best": replace(BEST, curve=CURVE)},
            "Best batch 256, lr 6.4e-3 (sqrt rule, base lr 2.26e-3) "
            "val_loss 1.09 instead of 1.186 within 98,304 samples",
        ),
        (
            {"objective": "metric", "mode": "max", "speedup": None, "best": replace(BEST, curve=CURVE)},
            "Best batch 256, lr 6.4e-3 (sqrt rule, base lr 2.26e-3) "
            "val_loss 1.101 instead of 1.186 within 98,304 samples",
        ),
        (
            {"objective": "metric", "speedup": None},
            "Speed 20,480 samples/s instead of 5,067 (4.0x)",
        ),
        (
            {"objective": "metric", "speedup": None, "confirmation": tuple(map(with_an_end, AGAIN))},
            "Confirmed with another order of the data too: val_loss 1.18 against 1.186 at the end",
        ),
        ({"set_values": ("max_steps 3072 -> 384",)}, "Set max_steps 3072 -> 384"),
        ({"warnings": ("[brackets] stay",)}, "Warning [brackets] stay"),
        ({"seconds": 4000.0}, "Trials 5 in 66 min 40 s (1.8 baselines), 1 ran out of memory, 1 diverged"),
        ({"trials": (BASELINE, SLOWER, BEST)}, "Trials 3 in 34 s (1.8 baselines)"),
        (
            {"baseline": replace(BASELINE, seconds=None), "objective": "metric", "speedup": None},
            "Baseline batch 32, lr 4e-4 val_loss 1.186 after 98,304 samples, 19.4 s",
        ),
    ],
)
def test_each_finding_has_its_words(change: dict[str, Any], line: str) -> None:
    assert line in facts(replace(RESULT, **change))


def test_a_warning_of_both_searches_is_told_once() -> None:
    assert RESULT.find is not None
    both = replace(RESULT, find=replace(RESULT.find, warnings=("mind",)), warnings=("mind", "the gap"))
    assert [line for line in facts(both) if line.startswith("Warning")] == ["Warning mind", "Warning the gap"]


def to_the_end(trial: TrialSummary) -> TrialSummary:
    """A trial that ran its whole budget."""
    if trial.metric is None:
        return trial
    return replace(trial, samples=98_304, curve=(Mark(98_304, trial.metric, 10.0),))


def front(**change: Any) -> list[str]:
    small = replace(BEST, number=5, batch_size=16, global_batch_size=16, metric=1.1, samples_per_second=3000.0)
    trials = (BASELINE, MEMORY, DIVERGED, replace(BEST, metric=1.22), small)
    whole = tuple(map(to_the_end, trials))
    return facts(replace(RESULT, objective="both", best=BASELINE, speedup=None, trials=whole, find=None, **change))


def test_of_two_objectives_the_front_is_shown_and_nothing_taken() -> None:
    told = front()
    assert "Best batch 32, lr 4e-4 your own settings stay: choose from the front below" in told
    assert not any(line.startswith("Confirmed") for line in told)
    assert told[-4:] == [
        "batch size lr val_loss samples/s",
        "16 6.4e-3 1.1 3,000",
        "32 4e-4 1.186 5,067 your own",
        "256 6.4e-3 1.22 20,480",
    ]


def test_of_two_objectives_the_end_that_was_taken_is_marked() -> None:
    taken = to_the_end(replace(BEST, metric=1.22))
    trials = (to_the_end(BASELINE), taken)
    told = facts(replace(RESULT, objective="both", best=taken, speedup=None, trials=trials, find=None))
    assert told[-1] == "256 6.4e-3 1.22 20,480 taken"
    assert (
        "Best batch 256, lr 6.4e-3 (sqrt rule, base lr 2.26e-3) val_loss 1.22 instead of 1.186 within 98,304 samples"
        in told
    )


def test_processes_are_told_without_accumulation_too() -> None:
    assert format_settings(replace(BEST, batch_size=128)) == "batch 256 = 128 x 2 processes, lr 6.4e-3"
    assert format_settings(MEMORY) == "batch 1,024, lr 2.26e-3"
    assert format_settings(DIVERGED) == "batch 512, lr 0.31"
