"""Where a study is kept: opened so that several workers can share it, and named without its password."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock
from sqlalchemy import URL, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from bstuner.errors import InvalidSetting, StorageUnusable
from bstuner.study._optuna import (
    backend_of,
    database_url,
    engine_of,
    has_studies,
    is_journal_entry,
    journal_path,
    storage_of,
)

__all__ = ["DEFAULT_FILE", "Storage", "open_storage", "storage_file", "storage_in_words", "storage_trouble"]

Storage: TypeAlias = str | os.PathLike[str] | BaseStorage | None

DEFAULT_FILE = "bstuner-study.log"

# Of what may follow the question mark of a URL, the names that are shown: none of them can hold a secret.
_SHOWN = frozenset({"host", "port", "unix_socket", "sslmode", "charset"})
# Workers that start at once stumble over each other's new tables; one of them gets further each time.
_TRIES = 10
# What another worker does to an SQLite file takes milliseconds; the rest is for a slow disk.
_SQLITE_PATIENCE = 60.0
# A worker that is killed while it writes to a journal leaves its lock behind. To write takes one line and one fsync.
_LOCK_PATIENCE = 10


def open_storage(storage: Storage, *, new: bool = True, writes: bool = True) -> BaseStorage:
    """Open the storage of a study, and make what it needs where it is new.

    Args:
        storage: A path that ends in `.log`, for a journal file; an Optuna URL, for a database; an Optuna storage, which
            is returned as it is; None for the journal file `bstuner-study.log` in the current folder.
        new: Whether it may be new. If not, nothing is made where there is none.
        writes: Whether it is written to. If not, it is none that may be new, and SQLite and PostgreSQL are told to
            refuse any change.

    Raises:
        InvalidSetting: It is none of these.
        StorageUnusable: The database cannot be reached, or the file cannot be used, or it is one of another kind, or
            there is none and it may not be new.
    """
    if isinstance(storage, BaseStorage):
        return storage
    place = _place(storage)
    if not new and (file := _file_of(place)) and not file.exists():
        raise StorageUnusable(
            f"storage: expected a file with studies, found none at {file}. Tune first, or name where the studies are."
        )
    with storage_trouble(place):
        return _open_database(place, new, writes) if isinstance(place, URL) else _open_journal(place)


def storage_in_words(storage: Storage | Study) -> str:
    """Name a storage for people and files, without its password.

    >>> storage_in_words("postgresql://me:secret@example.org/studies?sslpassword=secret&sslmode=require")
    'postgresql://me@example.org/studies?sslmode=require'

    Args:
        storage: As for `open_storage`, or a study that is kept there.

    Raises:
        InvalidSetting: As for `open_storage`.
    """
    if isinstance(storage, Study):
        storage = storage_of(storage)
    if not isinstance(storage, BaseStorage):
        return _shown(_place(storage))
    if isinstance(storage, InMemoryStorage):
        return "the memory of this process"
    if url := database_url(storage):
        return _shown(make_url(url))
    return journal_path(storage) or type(backend_of(storage)).__name__


def storage_file(study: Study) -> Path | None:
    """The file that a study is kept in; None where it is kept in the database of a server, or in memory.

    Args:
        study: The study.
    """
    storage = storage_of(study)
    if url := database_url(storage):
        return _file_of(make_url(url))
    file = journal_path(storage)
    return Path(file).absolute() if file else None


@contextmanager
def storage_trouble(place: URL | Path | str) -> Iterator[None]:
    """Say what to do where a storage cannot be used."""
    name = place if isinstance(place, str) else _shown(place)
    try:
        yield
    except OSError as error:
        raise StorageUnusable(
            f"storage: expected a file that can be written, found {name}: {error.strerror or error}. "
            "Make its folder or allow writing there, or name another file."
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageUnusable(
            f"storage: expected a database that can be reached and written, found {name}: {_first_line(error)}. "
            "Start the server, correct the address, the user or the password, or name another storage."
        ) from error


def _place(storage: str | os.PathLike[str] | None) -> URL | Path:
    """The URL of a database or the whole path of a journal file."""
    text = os.fspath(DEFAULT_FILE if storage is None else storage)
    try:
        if "://" in text:
            return make_url(text)
        if text.endswith(".log"):
            return Path(text).expanduser().absolute()  # whole, because training may change the current folder
    except (ArgumentError, ValueError):
        pass
    hidden = f"...@{text.rpartition('@')[2]}" if "@" in text else text  # what stands before may be a password
    raise InvalidSetting(
        "storage: expected a file name that ends in .log, or a URL such as sqlite:///study.db or "
        f"postgresql://user:password@host/database, found {hidden.partition('?')[0]!r}; write it like one of these."
    ) from None


def _file_of(place: URL | Path) -> Path | None:
    """The file that holds everything; None for the database of a server."""
    if isinstance(place, Path):
        return place
    in_file = place.get_backend_name() == "sqlite" and place.database not in (None, "", ":memory:")
    return Path(str(place.database)).absolute() if in_file else None


def _shown(place: URL | Path) -> str:
    if isinstance(place, Path):
        return str(place)
    harmless = {name: value for name, value in place.query.items() if name in _SHOWN}
    return URL.create(
        place.drivername, place.username, None, place.host, place.port, place.database, harmless
    ).render_as_string()


def _open_journal(path: Path) -> BaseStorage:
    """Open a journal file, unless the file holds something else: the first entry would spoil it."""
    if path.exists():
        with path.open("rb") as file:
            line = file.readline(2**20)
        if line and not is_journal_entry(line):
            raise StorageUnusable(
                f"storage: expected the journal of a study or a new file, found a file of another kind at {path}. "
                "It was left as it is. Name another file."
            )
    # Windows makes symbolic links, Optuna's usual lock, for administrators only.
    kind = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
    lock = kind(str(path), _LOCK_PATIENCE)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise StorageUnusable(
            f"storage: expected the journal of a study, found a line that cannot be read in {path}: {error}. "
            "It was left as it is. Repair it or name another file."
        ) from error


def _open_database(url: URL, new: bool, writes: bool) -> BaseStorage:
    """Open a database, and make Optuna's tables where there are none and it may be new."""
    if url.drivername == "postgresql":  # SQLAlchemy then takes psycopg2 up to 2.0 and psycopg from 2.1, here or not
        driver = next(filter(find_spec, ("psycopg2", "psycopg")), None)
        url = url.set(drivername=f"postgresql+{driver}") if driver else url
    options: dict[str, Any] = {"pool_pre_ping": True}  # a connection that was dropped during a long trial is replaced
    if url.get_backend_name() == "sqlite":
        options = {"connect_args": {"timeout": _SQLITE_PATIENCE}}
    elif url.get_backend_name() == "postgresql" and not writes:
        options["execution_options"] = {"postgresql_readonly": True}
    if not has_studies(_tables(url, options)) and not new:
        raise StorageUnusable(
            f"storage: expected a database with studies, found none in {_shown(url)}. "
            "Tune first, or name where the studies are."
        )
    for left in reversed(range(_TRIES)):
        try:
            address = url.render_as_string(hide_password=False)
            storage = RDBStorage(address, dict(options), skip_table_creation=not writes)
            break
        except (SQLAlchemyError, StorageInternalError):
            if not left:
                raise
            time.sleep(random.uniform(0.05, 0.3))
    if _file_of(url):
        (_lock_from_the_start if writes else _refuse_changes)(engine_of(storage))
    return storage


def _tables(url: URL, options: dict[str, Any]) -> list[str]:
    """The names of the tables. This comes first, so that what is no such database is not tried again and again."""
    try:
        engine = create_engine(url, **options)
    except NoSuchModuleError as error:
        raise InvalidSetting(
            f"storage: expected a kind of database that SQLAlchemy knows, such as sqlite, postgresql or mysql, found "
            f"{url.drivername!r}; correct it."
        ) from error
    except ImportError as error:
        extra = "pip install 'bstuner[postgresql]'" if url.get_backend_name() == "postgresql" else "install its driver"
        raise StorageUnusable(
            f"storage: expected a Python package that speaks to {url.get_backend_name()}, found none: {error}. "
            f"To have it: {extra}."
        ) from error
    try:
        return inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _lock_from_the_start(engine: Engine) -> None:
    """Lock an SQLite file when a transaction begins, not when it first writes.

    Otherwise two workers can both read that a trial waits, and both take it.
    """
    event.listen(engine, "connect", lambda connection, record: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections made before know nothing of this


def _refuse_changes(engine: Engine) -> None:
    event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA query_only = ON"))
    engine.dispose()  # connections made before know nothing of this


def _first_line(error: BaseException) -> str:
    """What the database said."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    words = str(cause.orig) if isinstance(cause, DBAPIError) else str(cause)
    return words.strip().partition("\n")[0].rstrip(".")
