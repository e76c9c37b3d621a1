"""What tests of shared studies need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from crew import Crew
from postgres import Server, postgresql_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with postgresql_server() as server:
        yield server


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew
