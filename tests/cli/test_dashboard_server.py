"""The server of `bstuner dashboard`: this machine alone can reach it."""

from __future__ import annotations

import http.client
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from serving import serving

from bstuner.cli.dashboard_server import FIRST_PORT, open_server
from bstuner.errors import InvalidSetting


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def ask(port: int, host: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/", headers={"Host": host})
    answer = connection.getresponse()
    try:
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "localhost:9999", "localhost"])
def test_this_machine_is_answered_also_through_a_tunnel(host: str) -> None:
    with serving(hello) as port:
        assert ask(port, host.format(port=port)) == (200, "hello")


@pytest.mark.parametrize("host", ["evil.example:{port}", "evil.example", "localhost.evil.example", ""])
def test_a_page_whose_own_name_points_here_is_refused(host: str) -> None:
    with serving(hello) as port:
        assert ask(port, host.format(port=port))[0] == 403


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere 127.0.0.2 is no address of this machine")
def test_no_other_address_of_this_machine_is_listened_to() -> None:
    with serving(hello) as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=30)


def test_without_a_port_the_next_one_that_is_free_is_taken() -> None:
    with open_server(hello) as first, open_server(hello) as second:
        assert FIRST_PORT <= first.server_port < second.server_port


def test_a_port_in_use_is_told_in_one_line() -> None:
    with open_server(hello, 0) as server:
        port = server.server_port
        with pytest.raises(InvalidSetting, match=rf"^port: expected one that is free, found {port}: .*--port") as told:
            open_server(hello, port)
    assert "\n" not in str(told.value)


def test_several_requests_are_answered_at_once() -> None:
    together = threading.Barrier(3, timeout=30)

    def waits_for_the_others(environ: Any, start_response: Any) -> Iterable[bytes]:
        together.wait()
        return hello(environ, start_response)

    with serving(waits_for_the_others) as port:
        answers: list[tuple[int, str]] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(port, "localhost"))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [(200, "hello")] * 3


def test_a_request_writes_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(hello) as port:
        ask(port, "localhost")
    assert capfd.readouterr() == ("", "")
