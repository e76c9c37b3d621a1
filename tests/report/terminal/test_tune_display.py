"""What a search for batch size and learning rate shows while it works."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from recorded_trials import AGAIN, BASELINE, BEST, DIVERGED, MEMORY, RESULT, SLOWER
from rich.console import Console

from bstuner.core.trial import Mark, TrialRequest
from bstuner.core.tune_result import TrialSummary, TuningObserver
from bstuner.report.terminal.tune_display import TuningDisplay

TRIALS = (BASELINE, MEMORY, DIVERGED, SLOWER, BEST)
MARK = Mark(49_152, 1.2345, 2.4)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A display on a terminal of some size, and what is to be seen there."""

    def __init__(self, width: int = 100, height: int = 30, terminal: bool = True, **settings: Any) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, width=width, height=height, force_terminal=terminal)
        self.clock = Clock()
        settings = {"monitor": "val_loss", **settings}
        self.display = TuningDisplay(True, console=self.console, clock=self.clock, **settings)

    def start(self, trial: TrialSummary) -> None:
        self.display.trial_started(trial.number, trial.role, TrialRequest(trial.global_batch_size, trial.lr))

    def run(self, trials: Sequence[TrialSummary], seconds: float = 10.0) -> None:
        for trial in trials:
            self.start(trial)
            self.clock.now += seconds
            self.display.trial_ended(trial)

    def frame(self) -> list[str]:
        """The last picture that the terminal was given."""
        copy = Console(file=io.StringIO(), width=self.console.width, height=self.console.height, record=True)
        copy.print(self.display._picture())
        return [line.rstrip() for line in copy.export_text().splitlines()]

    def rows(self) -> list[str]:
        return [" ".join(line.split()) for line in self.frame()]


def many(count: int) -> list[TrialSummary]:
    """Of many trials, the fifth is the best."""
    return [
        replace(TRIALS[number] if number < len(TRIALS) else SLOWER, number=number, lr=1e-3 * (number + 1))
        for number in range(count)
    ]


def test_a_table_of_the_trials_and_a_line_of_progress() -> None:
    screen = Screen()
    screen.display.expect(budget=98_304, n_trials=20)
    with screen.display:
        screen.run(TRIALS)
        screen.start(replace(SLOWER, number=5))
        screen.display.trial_marked(MARK)
        assert screen.frame() == [
            "trial  batch       lr  samples/s  val_loss  seconds  verdict",
            "    0     32     4e-4      5,067     1.186     19.4  baseline",
            "    1  1,024  2.26e-3          -         -        -  out of memory",
            "    2    512     0.31     25,000         -        -  not finite",
            "    3     64     1e-3      9,000      1.34        -  slower",
            "    4    256   6.4e-3     20,480      1.18     3.20  best",
            "    5     64     1e-3     20,480     1.234           running, 50%",
            "━━━━━━╸                   5 of 20 trials done, 6.1x sooner, about 2 min left",
        ]


def test_a_best_one_that_was_beaten_says_so() -> None:
    screen = Screen()
    with screen.display:
        screen.run([*TRIALS, replace(BEST, number=5, seconds=2.9)])
        assert screen.rows()[-3:-1] == [
            "4 256 6.4e-3 20,480 1.18 3.20 was best",
            "5 256 6.4e-3 20,480 1.18 2.90 best",
        ]


def test_the_picture_that_stays_has_no_line_of_progress() -> None:
    screen = Screen()
    with screen.display:
        screen.run(TRIALS)
        screen.start(SLOWER)
    assert screen.rows()[-1] == "4 256 6.4e-3 20,480 1.18 3.20 best"


def test_nothing_stays_where_nothing_was_tried() -> None:
    screen = Screen()
    with screen.display:
        assert screen.rows()[-1] == "Preparing the first trial"
    assert screen.frame() in ([], [""])


@pytest.mark.parametrize("height", [6, 10, 24])
def test_many_trials_keep_to_the_height_of_the_terminal(height: int) -> None:
    screen = Screen(height=height)
    screen.display.expect(budget=98_304, n_trials=60)
    trials = many(46)
    with screen.display:
        screen.run(trials[:45])
        screen.start(trials[45])
        rows = screen.rows()
        assert len(rows) == height - 1, "the cursor needs a line too"
        assert rows[1].startswith("4 256 5e-3"), "the best is always there"
        assert rows[2] == f"({50 - height} more)"
        assert rows[-2].startswith("45 64 0.046"), "and so is the one that runs"
        assert height == 6 or rows[-3].startswith("44 64 0.045")
        screen.display.trial_ended(trials[45])
    rows = screen.rows()
    assert len(rows) == height - 2
    assert rows[-1].startswith("45 64 0.046")


def test_the_best_is_shown_once_where_it_is_among_the_last() -> None:
    screen = Screen(height=10)
    with screen.display:
        screen.run([*many(40), replace(BEST, number=40)])
        rows = screen.rows()
        assert rows[1] == "(35 more)"
        assert [row for row in rows if row.endswith(" best")] == [rows[-2]]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal(width: int) -> None:
    screen = Screen(width=width, monitor="val/perplexity_of_everything")
    screen.display.expect(budget=98_304, n_trials=20)
    with screen.display:
        screen.run(TRIALS)
        screen.start(replace(SLOWER, number=5))
        screen.display.trial_marked(MARK)
        frame = screen.frame()
        assert len(frame) == 8, "no line is folded"
        assert max(map(len, frame)) <= width
    if width == 60:
        assert screen.frame()[5] == "    4   256  6.4e-3         1.18    3.20 best"


@pytest.mark.parametrize("objective", ["metric", "both"])
def test_without_a_target_there_are_no_seconds_to_it(objective: Any) -> None:
    screen = Screen(objective=objective)
    with screen.display:
        screen.run(TRIALS)
        assert screen.rows()[0] == "trial batch lr samples/s val_loss verdict"
        assert screen.rows()[-1] == "5 trials done"


def test_what_it_does_now_and_how_long_that_may_take() -> None:
    screen = Screen(width=60)
    display = screen.display
    display.expect(budget=98_304, n_trials=21)
    with display:
        display.waiting("the baseline, which another worker runs")
        assert screen.rows()[-1] == "Waiting for the baseline, which another worker runs"
        screen.start(BASELINE)
        assert screen.rows()[-1] == "Training with your own settings"
        screen.clock.now += 30
        display.trial_ended(BASELINE)
        assert screen.rows()[-1] == "1 of 21 trials done, at most about 10 min left"
        screen.run([replace(MEMORY, number=1)], seconds=4)
        assert screen.rows()[-1] == "2 of 21 trials done, about 76 s left"
        screen.start(replace(SLOWER, number=5))  # others ran two to four: five in the time of one
        screen.clock.now += 4
        assert screen.rows()[-1] == "5 of 21 trials done, about 60 s left"
        display.trial_ended(replace(SLOWER, number=5))
        assert screen.rows()[-1] == "6 of 21 trials done, about 24 s left"
        screen.start(replace(SLOWER, number=23))  # some were repeated
        display.trial_ended(replace(SLOWER, number=23))
        assert screen.rows()[-1].startswith("21 of 21 trials done")
        screen.start(AGAIN[1])
        assert screen.rows()[-2:] == [
            "again 256 6.4e-3 - running, 0%",
            "Checking the best with another order of the data",
        ]
        screen.start(AGAIN[0])
        display.trial_ended(AGAIN[0])
        display.trial_ended(AGAIN[1])
        assert screen.rows()[-3].endswith("baseline")
        assert screen.rows()[-2].endswith("confirmed")


def test_a_search_whose_length_is_unknown() -> None:
    screen = Screen()
    with screen.display:
        screen.run(TRIALS)
        screen.start(replace(SLOWER, number=5))
        screen.display.trial_marked(MARK)
        assert screen.rows()[-2:] == ["5 64 1e-3 20,480 1.234 running", "5 trials done, 6.1x sooner"]


LINES = [
    "Trial 0: batch 32, lr 4e-4, val_loss 1.186 after 98,304 samples, 19.4 s, 5,067 samples/s: baseline",
    "Trial 1: batch 1,024, lr 2.26e-3: out of memory (out of memory in training)",
    "Trial 2: batch 512, lr 0.31, 25,000 samples/s: not finite",
    "Trial 3: batch 64, lr 1e-3, val_loss 1.34 after 32,768 samples, 9,000 samples/s: slower (too slow)",
    "Trial 4: batch 256, lr 6.4e-3, val_loss 1.186 after 65,536 samples, 3.2 s, 20,480 samples/s: best",
]


def test_in_a_file_a_line_for_each_trial_that_has_ended() -> None:
    screen = Screen(width=40, terminal=False)
    with screen.display:
        screen.run(TRIALS)
        screen.display.waiting("trial 5, which another worker runs")
        screen.display.waiting("trial 5, which another worker runs")
        screen.start(replace(SLOWER, number=6))
        screen.display.trial_marked(MARK)
        screen.display.trial_ended(AGAIN[1])
    assert screen.file.getvalue().splitlines() == [
        *LINES,
        "Waiting for trial 5, which another worker runs",
        "Confirmation: batch 256, lr 6.4e-3, val_loss 1.186 after 65,536 samples, 3.4 s, 20,480 samples/s: best",
    ]


def test_where_only_the_metric_counts_it_is_told_at_the_end_of_the_trial() -> None:
    screen = Screen(terminal=False, objective="metric")
    with screen.display:
        screen.run([BASELINE, replace(BEST, curve=(MARK, Mark(98_304, 1.18, 4.8)))])
    told = "Trial 4: batch 256, lr 6.4e-3, val_loss 1.18 after 98,304 samples, 20,480 samples/s: best"
    assert screen.file.getvalue().splitlines()[-1] == told


def test_on_a_terminal_each_event_draws_anew() -> None:
    screen = Screen()
    with screen.display:
        for event in (
            lambda: screen.start(BASELINE),
            lambda: screen.display.trial_marked(MARK),
            lambda: screen.display.trial_ended(BASELINE),
            lambda: screen.display.waiting("somebody"),
        ):
            before = len(screen.file.getvalue())
            event()
            assert len(screen.file.getvalue()) > before
    assert "\x1b[1;32m" in screen.file.getvalue(), "the best row stands out"


def test_the_findings_follow_the_table() -> None:
    screen = Screen(terminal=False)
    with screen.display:
        screen.run(TRIALS)
        screen.display.show(RESULT)
    told = screen.file.getvalue().splitlines()
    assert told[:5] == LINES
    assert any(line.startswith("Best       batch 256, lr 6.4e-3") for line in told)


HOW = "Run the same command again to go on."


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ((), "Interrupted before the first trial had ended."),
        (TRIALS[:1], "Interrupted after 1 trial: nothing better than your own settings so far."),
        (
            TRIALS,
            "Interrupted after 5 trials. Best so far: batch 256, lr 6.4e-3, val_loss 1.186 after 65,536 samples, "
            "3.2 s, 6.1x sooner than your own settings.",
        ),
    ],
)
def test_an_interrupt_tells_the_best_so_far_and_how_to_go_on(trials: Sequence[TrialSummary], words: str) -> None:
    screen = Screen(width=300, terminal=False)
    with screen.display:
        screen.run(trials)
        screen.display.show_interrupted(HOW)
    assert screen.file.getvalue().splitlines()[-1] == f"{words} {HOW}"


def test_a_disabled_display_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = TuningDisplay(False, monitor="val_loss")
    with display:
        for trial in TRIALS:
            display.trial_started(trial.number, trial.role, TrialRequest(trial.global_batch_size, trial.lr))
            display.trial_marked(MARK)
            display.trial_ended(trial)
        display.waiting("somebody")
        display.show(RESULT)
        display.show_interrupted(HOW)
    assert capsys.readouterr() == ("", "")


def test_it_observes() -> None:
    observer: TuningObserver = TuningDisplay(False, monitor="val_loss")
    observer.waiting("nothing")
