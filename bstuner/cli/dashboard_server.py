"""A server for optuna-dashboard that this machine alone can reach."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from bstuner.errors import InvalidSetting

__all__ = ["HOST", "open_server"]

HOST = "127.0.0.1"  # the dashboard asks nobody for a password and can delete studies
FIRST_PORT, PORTS = 8080, 20

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def open_server(app: App, port: int | None = None) -> WSGIServer:
    """Bind a server to this machine's own address; `serve_forever` starts it.

    Args:
        app: What it serves.
        port: The port; 0 for any that is free; None for 8080, or the next one that is free.

    Raises:
        InvalidSetting: The port is in use, or may not be used.

    """
    for each in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,):
        try:
            return make_server(HOST, each, _for_this_machine(app), _Server, _Handler)
        except (OSError, OverflowError) as error:
            if port is not None or getattr(error, "errno", None) != errno.EADDRINUSE:
                raise InvalidSetting(
                    f"port: expected one that is free, found {each}: {getattr(error, 'strerror', None) or error}. "
                    "Choose another with --port, or leave it out for the next one that is free."
                ) from None
    raise InvalidSetting(
        f"port: expected a free one from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}, found none. Choose one with --port."
    )


def _for_this_machine(app: App) -> App:
    """Answer only who asks for this machine by its name.

    A page in the user's browser may have its own name point to this address, and would then be allowed to read and
    write whatever is served here.
    """

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        name = environ.get("HTTP_HOST", "").rpartition(":")[0] or environ.get("HTTP_HOST", "")
        if name not in (HOST, "localhost"):
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"Expected http://{HOST} or http://localhost, found {name!r}.".encode()]
        return app(environ, start_response)

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: a browser asks for several things at once."""

    daemon_threads = True  # Ctrl-C waits for no request

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""
