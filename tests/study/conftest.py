"""What tests of shared studies need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from crew import Crew


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew
