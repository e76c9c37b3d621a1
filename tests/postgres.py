"""A PostgreSQL server of the tests' own: in a temporary folder, reached through a socket, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

USER = "bstuner"
HANG = 60  # seconds, far more than a server needs to start


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """Start a server, or skip where there is none; with BSTUNER_REQUIRE_POSTGRESQL=1, fail."""
    binaries = _binaries()
    account = _account()
    if binaries is None or account is None:
        missing = "no PostgreSQL server" if binaries is None else "no user to run PostgreSQL as, other than root"
        if os.environ.get("BSTUNER_REQUIRE_POSTGRESQL") == "1":
            pytest.fail(f"{missing}, but BSTUNER_REQUIRE_POSTGRESQL=1")
        pytest.skip(f"{missing} here")
    folder = Path(tempfile.mkdtemp(prefix="bstuner-"))  # short: a socket's path holds about 100 characters
    try:
        shutil.chown(folder, account)
        data = folder / "data"
        _run(account, binaries / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        _run(account, binaries / "pg_ctl", "start", "-w", "-D", data, "-l", folder / "log", "-o", options)
        try:
            yield Server(folder)
        finally:
            _run(account, binaries / "pg_ctl", "stop", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder)


class Server:
    """A server that runs, and its databases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_database(self) -> str:
        """Make an empty database, and return its URL."""
        name = f"study_{uuid.uuid4().hex}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self._url(name)

    def drop_connections(self, url: str) -> None:
        """Cut off everybody who is connected to a database, as a restart of the server does."""
        name = url.partition("?")[0].rpartition("/")[2]
        self.execute("postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    def execute(self, database: str, command: str) -> None:
        """Run one command of SQL."""
        url = self._url(database).replace("postgresql:", "postgresql+psycopg2:")
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(command))

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"


def _binaries() -> Path | None:
    """The folder of PostgreSQL's own programs, the newest where there are several."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = Path("/usr/lib/postgresql").glob("*/bin")  # where Debian and Ubuntu keep them, out of the PATH
    return max((f for f in folders if (f / "initdb").exists()), key=lambda f: float(f.parent.name), default=None)


def _account() -> str | None:
    """Who runs the server: PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None


def _run(account: str, *command: object) -> None:
    # A server that inherits a pipe keeps it open, and whoever reads the pipe waits for the server: hence the file.
    with tempfile.TemporaryFile() as output:
        ended = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            user=account if os.geteuid() == 0 else None,
            group=pwd.getpwnam(account).pw_gid if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            timeout=HANG,
            check=False,
        )
        output.seek(0)
        assert ended.returncode == 0, f"{command[0]}: {output.read().decode()}"
