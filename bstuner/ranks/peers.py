"""The processes that train together, kept in step while any of them may fail."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed as dist

from bstuner.errors import PeerLost, PeersDiverged
from bstuner.ranks.collectives import announce_ddp, announced
from bstuner.ranks.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.nn.parallel import DistributedDataParallel

__all__ = ["PeerFailed", "Peers"]

T = TypeVar("T")


class PeerFailed(BaseException):
    """Another rank failed, so this rank leaves the attempt too.

    Not an `Exception`: a step that catches those and tries again must not go on without the others.
    """


class _State(IntEnum):
    """Where a rank stands, as it tells the others."""

    COLLECTIVE = 1
    READY = 2
    NOT_READY = 3
    DONE = 4
    FAILED = 5


_PHRASES = {
    _State.COLLECTIVE: "called a collective",
    _State.READY: "started a batch",
    _State.NOT_READY: "started a batch",
    _State.DONE: "finished",
}


class Peers:
    """The processes that train together.

    >>> peers = Peers.here()
    >>> with peers.attempt():
    ...     peers.meet(ready=False)
    False
    >>> peers.size, peers.rank, peers.gather("fits")
    (1, 0, ['fits'])

    Inside an attempt, no rank enters a collective before all have said that they will: in an exchange, one small
    all-reduce over a group of its own. A rank that fails says so in the exchange the others wait in, and all leave.
    Every rank learns the same from each exchange, so all take part in the same number of them.

    Guarded are the functions of `torch.distributed`, called by those names, and the functional ones that tensors on a
    mesh of devices call, on groups of all ranks. Not guarded, so that a rank which fails can leave others waiting for
    the group's timeout: groups of fewer ranks and point-to-point calls (an exchange needs everybody); functions
    imported by name before the attempt (`from torch.distributed import all_reduce`); what C++ or compiled code calls,
    other than `DistributedDataParallel` after `guard`; and an error inside a collective's own C++ code. A `meet` at the
    start of each batch keeps what such a failure costs to one batch.

    Args:
        control: The group for exchanges, of all ranks and used for nothing else, or None for a lone process.

    Attributes:
        size: How many processes there are.
        rank: The number of this one, from 0.
    """

    def __init__(self, control: dist.ProcessGroup | None = None) -> None:
        """Take the group over; nobody fails before the first attempt."""
        self.size = 1 if control is None else control.size()
        self.rank = 0 if control is None else control.rank()
        self._control = control
        self._states = torch.zeros(self.size, dtype=torch.int64, device="cpu")
        self._lost = ""  # how, once a process is lost
        self._under_way = False
        # The type and text of what ended the attempt. Not the error: its traceback would keep tensors alive.
        self._end: tuple[type[BaseException], str] | None = None
        self._interrupts = Interrupts()

    @classmethod
    def here(cls, device: torch.device | None = None) -> Peers:
        """Find the processes of this run; all of them must call this.

        Args:
            device: Where the group of all processes communicates; None for the CPU.

        Raises:
            PeerLost: A process ended before it came here.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return cls()
        try:
            # Making a group waits for all on a store, which does not notice one that has ended. This does.
            dist.all_reduce(torch.zeros(1, device=device))
        except RuntimeError as error:
            raise PeerLost(
                f"All {dist.get_world_size()} processes must come to the search, but one of them ended ({error}). "
                f"See in its output why, then start all of them again."
            ) from error
        # Gloo, since an exchange must neither wait for a GPU nor use its memory.
        return cls(dist.new_group(backend="gloo"))

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Run what may fail on any rank: then it ends on all.

        A `TensorByteCounter` belongs inside, not around it.

        Raises:
            PeerFailed: Another rank failed; so did this one if it raises any other error.
            PeersDiverged: The ranks do not run the same steps.
            PeerLost: A process ended, or no longer answers.
        """
        if self.size == 1:
            yield
            return
        self._under_way, self._end = True, None
        try:
            with self._interrupts.watched(), announced(self._enter, self._concerns_all):
                try:
                    yield
                    self._exchange(_State.DONE)
                except BaseException as error:
                    if self._under_way and self._end is None:
                        self._exchange(_State.FAILED)
                    elif self._end is not None and isinstance(error, Exception) and type(error) is not self._end[0]:
                        # What became of it on its way through autograd, C++ or the user's code.
                        raise self._ending() from error
                    raise
        finally:
            self._under_way, self._end = False, None

    def meet(self, ready: bool = True) -> bool:
        """Wait, inside an attempt, for all others, and tell whether every rank is ready.

        Args:
            ready: Whether this rank is.

        Raises:
            PeerFailed: Another rank failed.
            PeersDiverged: Another rank called a collective, or has finished.
            PeerLost: A process ended, or no longer answers.
        """
        if self.size == 1:
            return ready
        return _State.NOT_READY not in self._exchange(_State.READY if ready else _State.NOT_READY)

    def guard(self, ddp: DistributedDataParallel, own_hook: bool = False) -> None:
        """Guard the collectives that `DistributedDataParallel` runs in C++.

        Its all-reduce of gradients moves to Python, with the same result. Before the second forward the ranks agree
        on its buckets, so each forward starts with an exchange.

        After a failed attempt, make a new wrapper, once nothing refers to this one: no traceback either. Two alive
        around one module disturb each other.

        Args:
            ddp: The wrapper.
            own_hook: Whether it has a communication hook already, and takes no other. One that calls the functions
                of `torch.distributed` is guarded there.
        """
        announce_ddp(ddp, self._announce, own_hook)

    def gather(self, value: T) -> list[T]:
        """Collect, outside an attempt, every rank's value, by rank.

        Args:
            value: This rank's, which can be pickled.

        Raises:
            PeerLost: A process ended, or no longer answers.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        self._ask(lambda group: dist.all_gather_object(values, value, group=group))
        return values

    def share(self, value: T) -> T:
        """Tell, outside an attempt, every rank the value of rank 0.

        Args:
            value: This rank's, which can be pickled.
        """
        return self.gather(value)[0]

    def sharers(self, device: str) -> int:
        """Count, outside an attempt, the processes on this host that name the same device, this one included.

        Args:
            device: A name that differs between the devices of a host.
        """
        here = (socket.gethostname(), device)
        return self.gather(here).count(here)

    def close(self) -> None:
        """Give up the group for exchanges; the processes are alone from here on."""
        if self._control is not None and dist.is_initialized():
            dist.destroy_process_group(self._control)
        self._control = None

    def _announce(self) -> None:
        if self._under_way:
            self._exchange(_State.COLLECTIVE)

    @contextmanager
    def _enter(self) -> Iterator[None]:
        """Announce a collective, and hold Ctrl-C back until it is over."""
        with self._interrupts.held():
            self._exchange(_State.COLLECTIVE)
            yield

    def _concerns_all(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        # Not after the attempt: a module first imported inside it may have taken the announcing function along.
        if not self._under_way:
            return False
        for value in (*args, *kwargs.values()):
            if isinstance(value, dist.ProcessGroup):
                return value is not self._control and value.size() == self.size
            if value is dist.GroupMember.NON_GROUP_MEMBER:
                return False
        return True

    def _exchange(self, mine: _State) -> list[_State]:
        """Tell all ranks where this one stands, and hear where they stand: the heart of it all."""
        if self._end is not None:
            raise self._ending()
        with self._interrupts.held():
            # The user's dispatch modes, and the byte counter, are not to see this.
            unseen = torch._C._DisableTorchDispatch()
            try:
                self._states.zero_()
                self._states[self.rank] = mine
                self._ask(lambda group: dist.all_reduce(self._states, dist.ReduceOp.MAX, group=group))
            finally:
                del unseen
            states = [_State(state) for state in self._states.tolist()]
            self._under_way = set(states) != {_State.DONE}
            self._end = self._what_ends_it(states)
        if self._end is not None and mine is not _State.FAILED:
            raise self._ending()
        return states

    def _what_ends_it(self, states: list[_State]) -> tuple[type[BaseException], str] | None:
        failed = [str(rank) for rank, state in enumerate(states) if state is _State.FAILED]
        if failed:
            return PeerFailed, (
                f"All {self.size} ranks were to finish this attempt, but rank {', '.join(failed)} failed, and rank "
                f"{self.rank} left it too. The error is in the failed rank's output."
            )
        if len({_State.READY if state is _State.NOT_READY else state for state in states}) > 1:
            where = ", ".join(f"rank {rank} {_PHRASES[state]}" for rank, state in enumerate(states))
            return PeersDiverged, (
                f"All ranks must run the same batches and collectives, but {where}. Make every rank run as many "
                f"batches as the others, and call the collectives of torch.distributed on all or none."
            )
        return None

    def _ask(self, collective: Callable[[dist.ProcessGroup | None], None]) -> None:
        reason = ""
        try:
            if not self._lost:
                collective(self._control)
        except RuntimeError as error:
            reason = str(error)
        if reason:
            self._lost = (
                f"All {self.size} processes must answer before training goes on, but rank {self.rank} lost the "
                f"connection to one of them ({reason}). See in the other ranks' output why it ended (if there is "
                f"nothing, the system may have killed it for using too much memory), then start all of them again."
            )
            # Gloo tells the dead process's neighbours only. Those who wait for this rank hear of it when its
            # connections close, with the last reference: that is why the error, whose traceback has one, is gone.
            self.close()
        if self._lost:
            self._end = PeerLost, self._lost
            raise PeerLost(self._lost)

    def _ending(self) -> BaseException:
        assert self._end is not None
        kind, text = self._end
        return kind(text)
