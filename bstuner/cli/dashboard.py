"""`bstuner dashboard`: optuna-dashboard on the studies that are here, for this machine alone."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import optuna
from jsonargparse import ArgumentParser, Namespace
from optuna import Study
from optuna.storages import BaseStorage

from bstuner.cli.command import Command
from bstuner.cli.dashboard_server import HOST, App, open_server
from bstuner.cli.dashboard_store import FoldersOfArtifacts
from bstuner.cli.studies import existing_storage, our_studies, pick_study
from bstuner.dashboards import FOLDER_ATTRIBUTE, artifacts_folder, is_published, publish_study
from bstuner.errors import InvalidSetting
from bstuner.study import storage_in_words, study_id

__all__ = ["COMMAND", "Dashboard"]

_LABEL = 11
_MOST = 65_535


class Dashboard(Command):
    """The studies in a browser."""

    name = "dashboard"
    description = """Open the studies of bstuner tune in optuna-dashboard, for this machine alone.

Each study has a note with its verdict and the settings to copy, figures of
memory, throughput, trials and curves, and every trial with its numbers; a search
that goes on is followed. Ctrl-C ends it. Whoever opens the page can change and
delete studies; so it listens to 127.0.0.1, which other machines cannot reach.

  bstuner dashboard
  bstuner dashboard --storage postgresql://me@host/studies --port 8081
"""

    def add_options(self, parser: ArgumentParser) -> None:
        """Where the studies are, and where to show them."""
        words = (
            "where the studies are kept: an Optuna URL (postgresql://...) or a path of a journal file that ends in "
            ".log. None for the file bstuner-study.log in the current folder."
        )
        parser.add_argument("--storage", type=str | None, default=None, help=words)
        words = "port on this machine; None for 8080, or the next one that is free"
        parser.add_argument("--port", type=int | None, default=None, help=words)
        words = "whether to open a tab of a browser, where there is a display"
        parser.add_argument("--browser", type=bool, default=True, help=words)

    def check(self, options: Namespace) -> None:
        """Look at the port."""
        if options.port is not None and not 0 <= options.port <= _MOST:
            raise InvalidSetting(
                f"port: expected a number up to {_MOST}, or 0 for any that is free, found {options.port}."
            )

    def run(self, options: Namespace, typed: Sequence[str]) -> None:
        """Serve optuna-dashboard until Ctrl-C; prints where."""
        if find_spec("optuna_dashboard") is None:
            raise InvalidSetting(
                "Expected optuna-dashboard, which draws the pages, found none. "
                "Install it: pip install 'bstuner[dashboard]'."
            )
        try:
            _serve(options.storage, options.port, options.browser)
        except KeyboardInterrupt:  # its regular end
            print()


def _serve(storage: str | None, port: int | None, browser: bool) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = existing_storage(storage)
    study = pick_study(backend)
    studies = [study, *(each for each in our_studies(backend) if each.study_name != study.study_name)]
    with open_server(_app(backend, studies), port) as server:
        _bring_up_to_date(studies)
        url = f"http://{HOST}:{server.server_port}/dashboard"
        _say("Dashboard", f"{url} of {storage_in_words(backend)}")
        _say("Latest", f"{url}/studies/{study_id(study)} is {study.study_name}")
        _say("Stop", "Ctrl-C")
        if browser and _has_display():
            webbrowser.open(f"{url}/studies/{study_id(study)}")
        server.serve_forever()


def _bring_up_to_date(studies: Sequence[Study]) -> None:
    """Write what the pages show of the latest study, and of those whose search could not do so."""
    latest, *others = studies
    for study in (latest, *(each for each in others if not is_published(each))):
        try:
            publish_study(study, artifacts_folder(study, Path()))
        except Exception as error:  # nothing of it keeps the trials from being looked at
            _say("Note", f"what {study.study_name} shows beside its trials could not be brought up to date: {error}")


def _app(storage: BaseStorage, studies: Sequence[Study]) -> App:
    # An extra: whoever opens no dashboard need not install it.
    from optuna_dashboard import wsgi  # type: ignore[import-not-found, import-untyped, unused-ignore]

    here = [folder for study in studies if (folder := artifacts_folder(study, Path())) is not None]
    told = [Path(study.user_attrs[FOLDER_ATTRIBUTE]) for study in studies if FOLDER_ATTRIBUTE in study.user_attrs]
    return wsgi(storage, FoldersOfArtifacts([*here, *told]))  # type: ignore[no-any-return]


def _has_display() -> bool:
    """Whether a browser would open a window of its own, not take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _say(label: str, words: str) -> None:
    print(f"{label:<{_LABEL}}{words}", flush=True)


COMMAND = Dashboard()
