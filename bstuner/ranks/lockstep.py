"""Run something on every process of a run, so that an error on one of them ends it on all."""

from __future__ import annotations

from collections.abc import Callable

from bstuner.errors import PeerError
from bstuner.ranks.peers import PeerFailed, Peers

__all__ = ["run_on_all"]


def _nothing() -> None:
    """Nothing to put back."""


def _no_excuse(error: BaseException) -> str:
    return ""


def run_on_all(
    peers: Peers,
    action: Callable[[], None],
    *,
    put_back: Callable[[], None] = _nothing,
    excuse: Callable[[BaseException], str] = _no_excuse,
) -> list[str]:
    """Run an action on every process, and tell for each the excuse of its error; "" where there was none.

    Example:
        >>> def divide():
        ...     1 / 0
        >>> run_on_all(Peers(), divide, excuse=lambda error: "no remainder" * isinstance(error, ZeroDivisionError))
        ['no remainder']

    Args:
        peers: the processes.
        action: what to run.
        put_back: called afterwards in any case, when no traceback pins the tensors of the action any more.
        excuse: says in words why an error is no failure but an answer; "" for an error that is a failure.

    Raises:
        PeerError: another process failed. (The process that failed raises its own error.)

    """
    excused, failure = "", None
    try:
        with peers.attempt():
            action()
    except PeerFailed:
        pass  # its own process says why
    except BaseException as error:
        excused = excuse(error)
        if not excused:
            failure = error
    put_back()
    told = peers.gather((excused, "" if failure is None else f"{type(failure).__name__}: {failure}"))
    if failure is not None:
        raise failure
    for rank, (_, words) in enumerate(told):
        if words:
            raise PeerError(
                f"Expected the search to run on all {peers.size} processes, but process {rank} failed with {words}. "
                "Its own output tells more."
            )
    return [words for words, _ in told]
