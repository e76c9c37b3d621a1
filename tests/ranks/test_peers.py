"""Processes that train together: whichever fails, and wherever, all leave the attempt and can go on with the next."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from processes import launch
from torch import Tensor, distributed as dist, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.nn.parallel import DistributedDataParallel

from bstuner.device.byte_counter import TensorByteCounter
from bstuner.errors import PeerLost
from bstuner.ranks.peers import Peers

# --- What the ranks run. Each step is run by all ranks in one attempt; `fail` does so on rank 1 only.


def fail(peers: Peers, error: type[BaseException] = torch.OutOfMemoryError) -> None:
    if peers.rank == 1:
        raise error("rank 1 fails")


class FailsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        fail(ctx.peers)
        return gradient, None


class Net(nn.Module):
    """Buffers, and a place in the middle where something can happen in forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32))
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(32, 4))
        self.unused = nn.Linear(2, 2)
        self.middle: Callable[[Tensor], Any] = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


NET = Net()


def wrapped(peers: Peers, guard: bool = True, unused: bool = True, static: bool = False) -> DistributedDataParallel:
    NET.unused.requires_grad_(unused)
    # Small buckets: some gradients have been reduced when others fail.
    ddp = DistributedDataParallel(NET, bucket_cap_mb=0.0005, find_unused_parameters=unused, static_graph=static)
    if guard:
        peers.guard(ddp)
    return ddp


def train(
    peers: Peers,
    middle: Callable[[Tensor], Any] = lambda x: x,
    before_batch: Callable[[int], None] = lambda batch: None,
    before_step: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Three steps under DDP; the second forward starts with a broadcast in C++, the agreement on buckets."""
    NET.middle = middle
    ddp = wrapped(peers, **options)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
    for batch in range(3):
        before_batch(batch)
        x = torch.randn(6, 8)
        ddp(x).square().mean().backward()
        before_step()
        optimizer.step()
        optimizer.zero_grad()


def in_forward(peers: Peers) -> None:
    train(peers, middle=lambda x: (fail(peers), x)[1])


def in_a_tensor_hook(peers: Peers) -> None:
    def hooked(x: Tensor) -> Tensor:
        x.register_hook(lambda gradient: fail(peers))
        return x

    train(peers, middle=hooked)


def in_backward(peers: Peers) -> None:
    train(peers, middle=lambda x: FailsInBackward.apply(x, peers))


def in_backward_without_unused_parameters(peers: Peers) -> None:
    train(peers, middle=lambda x: FailsInBackward.apply(x, peers), unused=False)


def in_the_first_backward_of_a_static_graph(peers: Peers) -> None:
    train(peers, middle=lambda x: FailsInBackward.apply(x, peers), static=True)


def in_the_optimizer_step(peers: Peers) -> None:
    train(peers, before_step=lambda: fail(peers), unused=False)


def before_the_second_forward(peers: Peers) -> None:
    train(peers, before_batch=lambda batch: fail(peers) if batch == 1 else None, unused=False)


def in_the_last_batch(peers: Peers) -> None:
    train(peers, before_batch=lambda batch: fail(peers) if batch == 2 else None)


def before_wrapping(peers: Peers) -> None:
    fail(peers)
    wrapped(peers)


def before_the_broadcast_of_buffers(peers: Peers) -> None:
    ddp = wrapped(peers, guard=False)
    with torch.no_grad():
        fail(peers)
        ddp(torch.randn(6, 8))


def before_an_all_gather_in_forward(peers: Peers) -> None:
    def synchronized(x: Tensor) -> Tensor:
        means = [torch.empty(32) for _ in range(peers.size)]
        fail(peers)
        dist.all_gather(means, x.detach().mean(0))
        return x - torch.stack(means).mean(0)

    train(peers, middle=synchronized)


def before_a_barrier(peers: Peers) -> None:
    fail(peers)
    dist.barrier()


def before_an_asynchronous_all_reduce(peers: Peers) -> None:
    fail(peers)
    dist.all_reduce(torch.ones(2), async_op=True).wait()


def before_an_all_gather_of_objects(peers: Peers) -> None:
    fail(peers)
    dist.all_gather_object([None] * peers.size, "something")


def inside_an_all_gather_of_objects(peers: Peers) -> None:
    # Its sizes are gathered; then one rank cannot allocate what they add up to.
    original = torch.empty

    def empty(*args: Any, **kwargs: Any) -> Tensor:
        fail(peers)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        dist.all_gather_object([None] * peers.size, "something")


def before_a_collective_of_another_whole_group(peers: Peers) -> None:
    fail(peers)
    dist.broadcast(torch.ones(2), src=0, group=GROUPS["all"])


def before_a_sum_over_a_mesh(peers: Peers) -> None:
    parts = DTensor.from_local(torch.ones(2), GROUPS["mesh"], [Partial()])
    fail(peers)
    parts.redistribute(placements=[Replicate()])


def before_a_meeting(peers: Peers) -> None:
    peers.meet()
    fail(peers)
    peers.meet()


def at_the_end(peers: Peers) -> None:
    dist.barrier()
    fail(peers)


def while_others_catch_every_error_and_try_again(peers: Peers) -> None:
    while True:
        try:
            fail(peers)
            GROUPS["tries"] = GROUPS.get("tries", 0) + 1
            if GROUPS["tries"] == 9:
                break
            dist.barrier()
        except Exception:
            if peers.rank == 1:
                raise


def while_others_swallow_even_that(peers: Peers) -> None:
    fail(peers)
    for _ in range(3):
        try:
            dist.barrier()
        except BaseException:
            continue


def while_others_raise_something_else_for_it(peers: Peers) -> None:
    fail(peers)
    try:
        dist.barrier()
    except BaseException as error:
        raise ValueError("wrapped by the user") from error


def by_ctrl_c(peers: Peers) -> None:
    fail(peers, KeyboardInterrupt)
    dist.barrier()


def by_ctrl_c_while_it_waits(peers: Peers) -> None:
    """Rank 1 is interrupted while it waits for rank 0, which is about to join in the collective."""
    pid = GROUPS["pids"][1]
    dist.barrier()
    if peers.rank == 0:
        time.sleep(0.5)  # until rank 1 waits; sooner or later changes nothing but what is tested
        os.kill(pid, signal.SIGINT)
        time.sleep(0.5)
    dist.all_reduce(torch.ones(2))
    dist.barrier()


FAILURES = [
    in_forward,
    in_a_tensor_hook,
    in_backward,
    in_backward_without_unused_parameters,
    in_the_first_backward_of_a_static_graph,
    in_the_optimizer_step,
    before_the_second_forward,
    in_the_last_batch,
    before_wrapping,
    before_the_broadcast_of_buffers,
    before_an_all_gather_in_forward,
    before_a_barrier,
    before_an_asynchronous_all_reduce,
    before_an_all_gather_of_objects,
    inside_an_all_gather_of_objects,
    before_a_collective_of_another_whole_group,
    before_a_sum_over_a_mesh,
    before_a_meeting,
    at_the_end,
    while_others_catch_every_error_and_try_again,
    while_others_swallow_even_that,
    while_others_raise_something_else_for_it,
    by_ctrl_c,
    by_ctrl_c_while_it_waits,
]


def one_has_finished(peers: Peers) -> None:
    if peers.rank == 0:
        dist.barrier()


def one_starts_a_batch(peers: Peers) -> None:
    dist.barrier() if peers.rank == 0 else peers.meet()


def one_has_finished_and_the_error_is_swallowed(peers: Peers) -> None:
    for _ in range(3 * (peers.rank == 0)):
        try:
            dist.barrier()
        except Exception:
            continue


DIVERGENCES = [one_has_finished, one_starts_a_batch, one_has_finished_and_the_error_is_swallowed]


def fail_on_both(peers: Peers) -> None:
    raise (torch.OutOfMemoryError, ValueError)[peers.rank]("my own")


def smaller_groups_and_two_ranks_alone(peers: Peers) -> None:
    if peers.rank == 0:
        dist.barrier(group=GROUPS["first"])
        dist.send(torch.ones(2), dst=1)
    else:
        dist.recv(torch.ones(2), src=0)
        dist.barrier(group=dist.GroupMember.NON_GROUP_MEMBER)


GROUPS: dict[str, Any] = {}


def outcome(peers: Peers, step: Callable[[Peers], None]) -> tuple[str, str, str]:
    """What came of a step in an attempt on this rank: the error, its cause, its text."""
    try:
        with peers.attempt():
            step(peers)
    except BaseException as error:
        return type(error).__name__, type(error.__cause__).__name__, str(error)
    return "finished", "", ""


def gradients(ddp: DistributedDataParallel) -> list[Tensor]:
    NET.zero_grad()
    torch.manual_seed(dist.get_rank())
    ddp(torch.randn(6, 8)).square().mean().backward()
    return [parameter.grad.clone() for parameter in NET.parameters() if parameter.grad is not None]


def patched() -> list[Any]:
    """Some of what an attempt puts others in the place of."""
    functional = sys.modules["torch.distributed._functional_collectives"]
    return [dist.all_reduce, dist.distributed_c10d.all_reduce, dist._broadcast_coalesced, functional.all_reduce]


def everything_on_two_ranks() -> dict[str, Any]:
    dist.init_process_group("gloo")
    original = patched()
    GROUPS["all"] = dist.new_group()
    GROUPS["first"] = dist.new_group([0])
    GROUPS["mesh"] = init_device_mesh("cpu", (2,))
    peers = Peers.here()
    GROUPS["pids"] = peers.gather(os.getpid())
    notes: dict[str, Any] = {"size": peers.size, "rank": peers.rank}
    for step in (*FAILURES, *DIVERGENCES, fail_on_both):
        print(step.__name__, flush=True)  # to be read after a hang
        notes[step.__name__] = outcome(peers, step)
        notes[step.__name__, "verdicts"] = peers.gather(notes[step.__name__][0])
        notes[step.__name__, "next"] = outcome(peers, train)
    notes["tries"] = GROUPS.get("tries")
    notes["groups"] = outcome(peers, smaller_groups_and_two_ranks_alone)

    NET.middle = lambda x: x
    plain = gradients(wrapped(peers, guard=False))
    with peers.attempt():
        ddp = wrapped(peers)
        notes["same gradients"] = all(map(torch.equal, plain, gradients(ddp)))
    dead = weakref.ref(ddp)
    del ddp
    notes["wrapper is free"] = dead() is None

    with peers.attempt():
        notes["all ready"] = peers.meet()
        notes["one is not"] = peers.meet(ready=peers.rank == 0)
        notes["all again"] = peers.meet(ready=True)
        from torch.distributed import all_reduce  # the guarded one
    total = torch.ones(1)
    (all_reduce if peers.rank == 0 else dist.all_reduce)(total)  # nothing is exchanged any more
    notes["taken along"] = total.item()

    with peers.attempt(), TensorByteCounter() as counter:
        peers.meet()
        notes["bytes counted"] = counter.live_bytes
        train(peers)
        notes["bytes counted in training"] = counter.peak_bytes

    notes["in a thread"] = []
    thread = threading.Thread(target=lambda: notes["in a thread"].append(outcome(peers, before_a_barrier)))
    thread.start()
    thread.join()

    notes["shared"] = peers.share(f"of rank {peers.rank}")
    notes["sharers"] = peers.sharers("cpu"), peers.sharers(f"cuda:{peers.rank}")
    notes["restored"] = original == patched()
    notes["handler"] = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    peers.close()
    dist.destroy_process_group()
    peers.close()
    return notes


# --- What is asserted of it.


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return [rank.value for rank in launch(everything_on_two_ranks, timeout=90)]


@pytest.mark.parametrize("step", FAILURES, ids=lambda step: step.__name__)
def test_a_rank_fails_and_the_other_leaves_with_it(two, step):
    error = "KeyboardInterrupt" if "ctrl_c" in step.__name__ else "OutOfMemoryError"
    assert two[1][step.__name__][0] == error
    name, _, text = two[0][step.__name__]
    assert name == "PeerFailed"
    assert text == (
        "All 2 ranks were to finish this attempt, but rank 1 failed, and rank 0 left it too. "
        "The error is in the failed rank's output."
    )
    for rank in two:
        assert rank[step.__name__, "verdicts"] == ["PeerFailed", error]


@pytest.mark.parametrize("step", [*FAILURES, *DIVERGENCES, fail_on_both], ids=lambda step: step.__name__)
def test_the_next_attempt_succeeds_with_a_new_wrapper(two, step):
    assert two[0][step.__name__, "next"] == two[1][step.__name__, "next"] == ("finished", "", "")


@pytest.mark.parametrize("step", DIVERGENCES, ids=lambda step: step.__name__)
def test_ranks_that_run_different_steps_learn_that(two, step):
    other = "started a batch" if "batch" in step.__name__ else "finished"
    for rank in two:
        name, _, text = rank[step.__name__]
        assert name == "PeersDiverged"
        assert text == (
            f"All ranks must run the same batches and collectives, but rank 0 called a collective, rank 1 {other}. "
            f"Make every rank run as many batches as the others, and call the collectives of torch.distributed on "
            f"all or none."
        )


def test_what_became_of_the_error_is_its_cause(two):
    assert two[0]["while_others_raise_something_else_for_it"][1] == "ValueError"


def test_a_step_that_catches_every_error_tries_once(two):
    assert two[0]["tries"] == 1


def test_ranks_that_fail_at_once_keep_their_own_errors(two):
    assert [rank["fail_on_both"][0] for rank in two] == ["OutOfMemoryError", "ValueError"]


def test_smaller_groups_and_pairs_of_ranks_are_left_alone(two):
    assert [rank["groups"] for rank in two] == [("finished", "", "")] * 2


def test_guarded_gradients_are_the_same(two):
    assert [rank["same gradients"] for rank in two] == [True, True]


def test_a_guarded_wrapper_is_freed(two):
    assert [rank["wrapper is free"] for rank in two] == [True, True]


def test_all_are_ready_or_none_goes_on(two):
    for rank in two:
        assert (rank["all ready"], rank["one is not"], rank["all again"]) == (True, False, True)


def test_a_function_imported_in_an_attempt_works_after_it(two):
    assert [rank["taken along"] for rank in two] == [2.0, 2.0]


def test_exchanges_are_no_part_of_the_memory_a_step_takes(two):
    for rank in two:
        assert rank["bytes counted"] == 0
        assert rank["bytes counted in training"] > 0


def test_an_attempt_may_run_in_a_thread(two):
    assert [rank["in a thread"][0][0] for rank in two] == ["PeerFailed", "OutOfMemoryError"]


def test_ranks_tell_each_other_values(two):
    for number, rank in enumerate(two):
        assert (rank["size"], rank["rank"]) == (2, number)
        assert rank["shared"] == "of rank 0"
        assert rank["sharers"] == (2, 1)


def test_nothing_stays_patched(two):
    for rank in two:
        assert rank["restored"]
        assert rank["handler"]


def lose_a_process(victim: int) -> list[tuple[str, str]]:
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 4, os.environ["RANK"] == "0")
    dist.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=4)
    peers = Peers.here()
    notes = []
    notes.append(outcome(peers, before_a_barrier)[::2])
    assert peers.gather(peers.rank) == [0, 1, 2, 3]

    def killed(peers: Peers) -> None:
        if peers.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()

    notes.append(outcome(peers, killed)[::2])
    # Nobody leaves before all know, so that it is not the end of another process that tells them.
    store.add("lost", 1)
    while store.add("lost", 0) < 3:
        time.sleep(0.05)
    notes.append(outcome(peers, before_a_barrier)[::2])
    with pytest.raises(PeerLost) as error:
        peers.gather(0)
    notes.append((type(error.value).__name__, str(error.value)))
    peers.close()
    store.add("left", 1)
    while peers.rank == 0 and store.add("left", 0) < 3:  # it holds the store
        time.sleep(0.05)
    return notes


def test_the_others_learn_that_a_process_was_killed():
    ranks = launch(lose_a_process, 2, ranks=4, succeed=False, timeout=90)
    assert [rank.returncode for rank in ranks] == [0, 0, -signal.SIGKILL, 0], ranks
    for number in (0, 1, 3):
        failed, lost, again, gathered = ranks[number].value
        assert failed[0] == ("OutOfMemoryError" if number == 1 else "PeerFailed")
        assert lost == again == gathered
        assert lost[0] == "PeerLost"
        assert lost[1].startswith(
            f"All 4 processes must answer before training goes on, but rank {number} lost the connection to one of "
            f"them ("
        )
        assert lost[1].endswith(
            "See in the other ranks' output why it ended (if there is nothing, the system may have killed it for "
            "using too much memory), then start all of them again."
        )


def test_a_process_alone_asks_nobody():
    original = dist.all_reduce
    peers = Peers.here()
    with peers.attempt():
        assert peers.meet()
        assert not peers.meet(ready=False)
        assert dist.all_reduce is original
    with pytest.raises(torch.OutOfMemoryError), peers.attempt():
        raise torch.OutOfMemoryError
    assert (peers.size, peers.rank) == (1, 0)
    assert (peers.gather("a"), peers.share("b"), peers.sharers("cpu")) == (["a"], "b", 1)
    peers.close()
