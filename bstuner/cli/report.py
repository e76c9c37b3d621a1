"""`bstuner report`: what a study holds, as one page to open and to send, and in short on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from bstuner.cli.command import Command
from bstuner.cli.studies import existing_storage, pick_study
from bstuner.errors import InvalidSetting
from bstuner.report import write_text
from bstuner.report.page import report_page
from bstuner.report.terminal import render_study
from bstuner.study import Findings, storage_in_words, storage_trouble

__all__ = ["COMMAND", "REPORT_FILE", "Report"]

REPORT_FILE = "bstuner-report.html"


class Report(Command):
    """What a study holds, as a page."""

    name = "report"
    description = """Show what a study holds: the verdict, the settings to copy, what was measured.

It is printed in short and written as one HTML file, which opens offline and can
be sent as it is. The study alone is read, so this works on any machine that can
reach its storage, and while the search is on; nothing in it is changed.

  bstuner report
  bstuner report --storage postgresql://me@host/studies --study_name digits
"""

    def add_options(self, parser: ArgumentParser) -> None:
        """Which study, and where the page goes."""
        words = (
            "where the study is kept: an Optuna URL (postgresql://...) or a path of a journal file that ends in .log. "
            "None for the file bstuner-study.log in the current folder."
        )
        parser.add_argument("--storage", type=str | None, default=None, help=words)
        words = "name of the study. None for the one that began last."
        parser.add_argument("--study_name", type=str | None, default=None, help=words)
        parser.add_argument("--output", type=Path, default=Path(REPORT_FILE), help="file for the page")

    def check(self, options: Namespace) -> None:
        """Refuse a file that cannot be written, before anything is read."""
        folder = options.output.parent
        if options.output.is_dir() or not folder.is_dir():
            found = "a folder" if options.output.is_dir() else "one in a folder that does not exist"
            raise InvalidSetting(
                f"Expected --output to be a file to write, found {found}: {options.output}. Name another, or make the "
                "folder."
            )

    def run(self, options: Namespace, typed: Sequence[str]) -> None:
        """Read the study, print it and write the page."""
        storage = existing_storage(options.storage, writes=False)
        study = pick_study(storage, options.study_name)
        with storage_trouble(storage_in_words(study)):
            findings = Findings.read(study)
        Console().print(render_study(findings))
        try:
            write_text(options.output, report_page(findings, datetime.now()))
        except OSError as error:
            raise InvalidSetting(f"Expected --output to be a file that can be written, found {error}.") from error
        print(f"{'Report':<11}{options.output.resolve()}")


COMMAND = Report()
