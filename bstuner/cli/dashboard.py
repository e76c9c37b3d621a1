"""`bstuner dashboard`: optuna-dashboard on the studies that are here, for this machine alone."""

from __future__ import annotations

import os
import sys
import webbrowser
from importlib.util import find_spec

import optuna
from optuna.storages import BaseStorage

from bstuner.cli.dashboard_server import HOST, App, open_server
from bstuner.cli.studies import existing_storage, pick_study
from bstuner.errors import InvalidSetting
from bstuner.study.storage import storage_in_words

__all__ = ["run_dashboard"]

_LABEL = 11


def run_dashboard(storage: str | None = None, port: int | None = None, browser: bool = True) -> None:
    """Serve optuna-dashboard until Ctrl-C; prints where.

    Args:
        storage: where the studies are kept: an Optuna URL, or a path of a journal file that ends in .log; None for the
            file bstuner-study.log in the current folder.
        port: the port on this machine; None for 8080, or the next one that is free.
        browser: whether to open a tab of a browser, where there is a display.

    Raises:
        InvalidSetting: optuna-dashboard is not installed, or the port is in use.
        StorageUnusable: there is no such storage.
        StudyMissing: it holds no study that bstuner made.

    """
    if find_spec("optuna_dashboard") is None:
        raise InvalidSetting(
            "Expected optuna-dashboard, which draws the pages, found none. "
            "Install it: pip install 'bstuner[dashboard]'."
        )
    backend = existing_storage(storage)
    study = pick_study(backend)
    with open_server(_app(backend), port) as server:
        url = f"http://{HOST}:{server.server_port}/dashboard"
        _say("Dashboard", f"{url} of {storage_in_words(backend)}")
        _say("Latest", f"{url}/studies/{study._study_id} is {study.study_name}")
        _say("Stop", "Ctrl-C")
        if browser and _has_display():
            webbrowser.open(f"{url}/studies/{study._study_id}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:  # its regular end
            print()


def _app(storage: BaseStorage) -> App:
    # An extra: whoever opens no dashboard need not install it.
    from optuna_dashboard import wsgi  # type: ignore[import-not-found, import-untyped, unused-ignore]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return wsgi(storage)  # type: ignore[no-any-return]


def _has_display() -> bool:
    """Whether a browser would open a window of its own, not take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _say(label: str, words: str) -> None:
    print(f"{label:<{_LABEL}}{words}", flush=True)
