"""What a search for batch size and learning rate shows while it works: a table of its trials, then the findings."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bstuner.core import Mark, Objective, Role, TrialRequest, TrialSummary, TuneResult
from bstuner.report import format_metric, format_ratio, format_seconds, format_settings
from bstuner.report.terminal.time_left import TimeLeft
from bstuner.report.terminal.trial_table import Running, trial_table
from bstuner.report.terminal.tune_summary import render_tune

__all__ = ["TuningDisplay"]

_ROOM_FOR_A_BAR = 80
_BAR_WIDTH = 24


class TuningDisplay:
    """Shows a search on the terminal as it goes on; silent when not enabled.

    On a terminal, a table of the trials and a line of progress. Elsewhere, such as in a file, a line for each trial
    that has ended.

    Args:
        enabled: whether to show anything at all.
        monitor: the metric.
        objective: "time", "metric" or "both".
        console: where to show it; None for the standard output.
        clock: tells the time, in seconds.

    """

    def __init__(
        self,
        enabled: bool,
        *,
        monitor: str,
        objective: Objective = "time",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console()
        self._console.quiet = self._console.quiet or not enabled
        self._monitor = monitor
        self._objective = objective
        self._budget: int | None = None
        self._target: float | None = None
        self._pace = TimeLeft(clock)
        self._ended: list[TrialSummary] = []
        self._running: Running | None = None
        self._waiting = ""
        self._over = False
        self._moves = enabled and self._console.is_interactive
        # Drawn only when something has happened: a long table takes tens of milliseconds to draw, and by a clock they
        # would be taken from the very steps whose time is being measured.
        self._live = Live(console=self._console, get_renderable=self._picture, auto_refresh=False)

    def expect(self, *, budget: int | None = None, n_trials: int | None = None) -> None:
        """Say what is known of the search to come; what is left out stays as it was.

        Args:
            budget: samples of a whole trial.
            n_trials: trials of the whole search, the baseline among them.

        """
        self._budget = self._budget if budget is None else budget
        self._pace.n_trials = self._pace.n_trials if n_trials is None else n_trials

    def __enter__(self) -> TuningDisplay:
        if self._moves:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def trial_started(self, number: int | None, role: Role, request: TrialRequest) -> None:
        """A trial is about to run."""
        self._waiting = ""
        self._running = Running(number, request)
        self._pace.started(number, role)
        self._refresh()

    def trial_marked(self, mark: Mark) -> None:
        """The trial that runs was validated."""
        if self._running is not None:
            self._running.mark = mark
        self._refresh()

    def trial_ended(self, trial: TrialSummary) -> None:
        """A trial has ended."""
        if trial.verdict == "baseline" and trial.number is not None and trial.metric is not None:
            self._target = trial.metric
        self._ended.append(trial)
        self._running = None
        self._pace.ended(trial.role)
        if self._moves:
            self._refresh()
        else:
            self._say(self._line(trial))

    def waiting(self, reason: str) -> None:
        """Another worker has to finish something first."""
        if reason != self._waiting and not self._moves:
            self._say(f"Waiting for {reason}")
        self._waiting = reason
        self._refresh()

    def show(self, result: TuneResult) -> None:
        """Print the findings."""
        self._stop()
        self._console.print(render_tune(result))

    def show_interrupted(self, how: str) -> str:
        """Say what was found so far, and how to go on; the words, where nothing is to be shown.

        Args:
            how: how to go on, in a sentence.

        """
        self._stop()
        best = self._best
        count = sum(trial.number is not None for trial in self._ended)
        if best is None:
            found = "Interrupted before the first trial had ended."
        elif best.verdict == "baseline":
            found = f"Interrupted after {_trials(count)}: nothing better than your own settings so far."
        else:
            found = f"Interrupted after {_trials(count)}. Best so far: {self._outcome(best)}{self._gain(best)}."
        words = f"{found} {how}"
        if self._console.quiet:
            return words
        self._console.print(Text(words))
        return ""

    @property
    def _best(self) -> TrialSummary | None:
        """The last one that was the best when it ended."""
        good = [trial for trial in self._ended if trial.number is not None and trial.verdict in ("baseline", "best")]
        return good[-1] if good else None

    def _gain(self, best: TrialSummary) -> str:
        baseline = next((trial for trial in self._ended if trial.verdict == "baseline"), None)
        if self._objective != "time" or baseline is None or baseline is best or not (best.seconds and baseline.seconds):
            return ""
        return f", {format_ratio(baseline.seconds / best.seconds)} sooner than your own settings"

    def _outcome(self, trial: TrialSummary) -> str:
        """Settings and what came of them, in one line."""
        metric, samples, seconds = trial.metric, trial.samples, trial.seconds
        if self._objective != "time":  # samples and seconds are those to the target, which does not matter here
            samples, seconds = trial.curve[-1].samples if trial.curve else samples, None
        elif seconds is not None and self._target is not None:
            metric = self._target
        told = [format_settings(trial)]
        if metric is not None:
            told.append(f"{self._monitor} {format_metric(metric)} after {samples:,} samples")
        if seconds is not None:
            told.append(format_seconds(seconds))
        return ", ".join(told)

    def _line(self, trial: TrialSummary) -> str:
        name = "Confirmation" if trial.number is None else f"Trial {trial.number}"
        reason = f" ({trial.reason})" if trial.reason else ""
        rate = f", {trial.samples_per_second:,.0f} samples/s" if trial.samples_per_second else ""
        return f"{name}: {self._outcome(trial)}{rate}: {trial.verdict}{reason}"

    def _say(self, line: str) -> None:
        # Whole: a log has no width, and a line that is cut in two cannot be searched for.
        self._console.print(Text(line), soft_wrap=True)

    def _refresh(self) -> None:
        if self._moves:
            self._live.refresh()

    def _stop(self) -> None:
        self._over = True
        self._live.stop()

    def _picture(self) -> RenderableType:
        """What is to be seen now: the table, and the line below it while the search goes on."""
        if self._over and not self._ended:
            return ""
        table = trial_table(
            list(self._ended),
            None if self._over else self._running,
            self._best,
            monitor=self._monitor,
            objective=self._objective,
            budget=self._budget,
            width=self._console.width,
            # One line for the progress, one for the cursor.
            height=self._console.height - 2,
        )
        return table if self._over else Group(table, self._progress())

    def _progress(self) -> RenderableType:
        best = self._best
        line = Text(self._doing(), no_wrap=True, overflow="ellipsis")
        if best is not None and (gain := self._gain(best).removesuffix(" than your own settings")):
            line.append(gain)
        if left := self._pace.left():
            line.append(f", {left}")
        share = self._pace.share(self._running.share(self._budget) if self._running else 0.0)
        if share is None or self._console.width < _ROOM_FOR_A_BAR:
            return line
        grid = Table.grid(padding=(0, 2))
        grid.add_row(ProgressBar(total=1.0, completed=share, width=_BAR_WIDTH), line)
        return grid

    def _doing(self) -> str:
        if self._waiting:
            return f"Waiting for {self._waiting}"
        if self._running is not None and self._running.number is None:
            return "Checking the best with another order of the data"
        if not self._ended:
            return "Training with your own settings" if self._running else "Preparing the first trial"
        of = "" if self._pace.n_trials is None else f" of {self._pace.n_trials}"
        return f"{self._pace.done}{of} trials done"


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
