"""A search says what it has to say itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_utilities.core import rank_zero

__all__ = ["muted"]


@contextmanager
def muted() -> Iterator[None]:
    """Keep back warnings, and what Lightning tells of its steps: the training that follows says it all again, once.

    >>> with muted():
    ...     warnings.warn("not heard")
    """
    # By it Lightning tells, among other things, that `estimated_stepping_batches` loads the data. Whichever of
    # `lightning` and `pytorch_lightning` was imported last has put its own there.
    log: logging.Logger = rank_zero.log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.addFilter(_is_serious)
        try:
            yield
        finally:
            log.removeFilter(_is_serious)


def _is_serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
