"""A server of the tests' own, in a thread of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bstuner.cli.dashboard_server import App, open_server


@contextmanager
def serving(app: App) -> Iterator[int]:
    """Serve an app as `bstuner dashboard` does, and tell the port."""
    with open_server(app, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
