"""What a search shows while it works: one line of progress, then the findings."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from bstuner.core import FindResult, Probe, format_bytes
from bstuner.report.terminal.find_summary import render_find

__all__ = ["SearchDisplay"]


class SearchDisplay:
    """Shows a search on the terminal; silent when not enabled.

    Args:
        enabled: whether to show anything at all.

    """

    def __init__(self, enabled: bool) -> None:
        self._console = Console(quiet=not enabled)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            console=self._console,
            transient=True,
            # On a pipe a moving line is only noise: the findings at the end are plain text.
            disable=not enabled or not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._best: Probe | None = None
        self._count = 0

    def __enter__(self) -> SearchDisplay:
        self._progress.start()
        self._task = self._progress.add_task("Looking at the data", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def scanning(self, done: int, total: int) -> None:
        """Samples are being looked at."""
        self._update(f"Looking for the largest sample: {done:,} of {total:,}", done, total)

    def probing(self, size: int, of: str) -> None:
        """A size is about to run."""
        found = f", {self._best.batch_size} fits" if self._best else ""
        self._update(f"Probing {of} {size}{found}")

    def probed(self, probe: Probe, of: str) -> None:
        """A size has run."""
        self._count += 1
        if of == "batch size" and probe.fits and (self._best is None or probe.batch_size > self._best.batch_size):
            self._best = probe

    def show(self, result: FindResult) -> None:
        """Print the findings."""
        self._progress.stop()
        self._console.print(render_find(result))

    def show_interrupted(self, init_val: bool = True) -> str:
        """Say what was found so far, and how to go on; the words, where nothing is to be shown.

        Args:
            init_val: whether a search can be told where to begin.

        """
        self._progress.stop()
        if self._best is None:
            words = "Interrupted: no batch size has been shown to fit yet. Run again to search."
        else:
            peak = f" ({format_bytes(self._best.peak_bytes)})" if self._best.peak_bytes is not None else ""
            again = f" with init_val={self._best.batch_size} to go on from there" if init_val else " to search"
            words = (
                f"Interrupted after {self._count} probes: {self._best.batch_size}{peak} fits, larger sizes are "
                f"unknown. Run again{again}."
            )
        if self._console.quiet:
            return words
        self._console.print(words)
        return ""

    def _update(self, text: str, done: int | None = None, total: int | None = None) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=text, completed=done or 0, total=total)
