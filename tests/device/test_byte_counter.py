"""The counter agrees with the bytes worked out by hand, for every kind of tensor and op."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import rnn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from bstuner.device.byte_counter import TensorByteCounter


def tensors_of(model, optimizer=None):
    state = [] if optimizer is None else [v for s in optimizer.state.values() for v in s.values()]
    return [*model.parameters(), *model.buffers(), *state]


def train_step(model, optimizer, batch):
    optimizer.zero_grad()
    model(batch).sum().backward()
    optimizer.step()


def peak_of_step(model, batch):
    """The peak of the second step, when the optimizer's state exists."""
    optimizer = torch.optim.Adam(model.parameters())
    train_step(model, optimizer, batch)
    optimizer.zero_grad()
    with TensorByteCounter(resident=tensors_of(model, optimizer)) as counter:
        train_step(model, optimizer, batch)
    return counter.peak_bytes


def test_views_of_one_storage_count_once():
    with TensorByteCounter() as counter:
        x = torch.zeros(100)  # 400 bytes
        views = [x.view(10, 10), x[5:], x.t(), x.expand(7, 100), x.detach()]
        assert counter.live_bytes == 400
        del x
        assert counter.live_bytes == 400
        del views
        assert counter.live_bytes == 0
    assert counter.peak_bytes == 400


def test_the_peak_of_forward_and_backward_is_the_sum_worked_out_by_hand():
    x = torch.ones(1000, requires_grad=True)
    with TensorByteCounter(resident=[x]) as counter:  # 4000
        y = x.exp()  # saved for backward: 8000
        loss = y.sum()  # 8004
        assert (counter.live_bytes, counter.peak_bytes) == (8004, 8004)
        del y
        assert counter.live_bytes == 8004  # the graph still holds it
        loss.backward()  # + 4 (gradient of the loss) + 4000 (gradient of x)
        assert counter.live_bytes == 8004
    assert counter.peak_bytes == 12008


def test_an_op_in_place_or_into_out_adds_nothing():
    with TensorByteCounter() as counter:
        x, out = torch.zeros(100), torch.zeros(100)
        x.add_(1).relu_()
        torch.mul(x, 2, out=out)
        torch._foreach_add_([x, out], 1.0)
    assert counter.peak_bytes == 800


def test_a_resident_tensor_counts_once_from_the_start_until_it_is_freed():
    x = torch.zeros(100)
    counter = TensorByteCounter(resident=[x, x, x[3:]])
    assert (counter.live_bytes, counter.peak_bytes) == (400, 400)
    del x
    assert (counter.live_bytes, counter.peak_bytes) == (0, 400)


def test_a_tensor_from_before_counts_from_its_first_use():
    x = torch.zeros(100)
    with TensorByteCounter() as counter:
        assert counter.live_bytes == 0
        x.sum()
        assert counter.live_bytes == 400


@pytest.mark.parametrize("resize", [lambda x: x.resize_(300), lambda x: x.untyped_storage().resize_(1200)])
def test_a_resized_storage_counts_with_its_new_size(resize):
    with TensorByteCounter() as counter:
        x = torch.zeros(100)
        resize(x)
        x.add_(1)
        assert counter.live_bytes == 1200
        del x
        assert counter.live_bytes == 0


def test_inference_mode_hides_no_memory():
    x, y = torch.zeros(100, 100), torch.ones(100, 100)
    peaks = []
    for mode in (torch.no_grad, torch.inference_mode):  # inference mode passes composite ops on in one piece
        with mode(), TensorByteCounter(resident=[x, y]) as counter:
            nn.functional.pairwise_distance(x, y)
        peaks.append(counter.peak_bytes)
    assert peaks[0] == peaks[1] > 3 * 40_000


def test_checkpointing_lowers_the_peak():
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Linear(256, 8)) for _ in range(4))

    class Model(nn.Module):
        def __init__(self, recompute):
            super().__init__()
            self.blocks, self.recompute = blocks, recompute

        def forward(self, x):
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
            return x

    batch = torch.ones(512, 8)
    assert peak_of_step(Model(recompute=True), batch) < 0.6 * peak_of_step(Model(recompute=False), batch)


def test_the_peak_grows_linearly_with_the_batch():
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    peaks = [peak_of_step(model, torch.ones(size, 16)) for size in (256, 512, 1024)]
    assert peaks[2] - peaks[1] == pytest.approx(2 * (peaks[1] - peaks[0]), rel=1e-3)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        packed = rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
        output, _ = rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.norm(output.transpose(1, 2))


@pytest.mark.parametrize("model", [nn.Linear(8, 8), Recurrent(), nn.MultiheadAttention(8, 2)], ids=repr)
def test_after_a_step_only_what_is_still_reachable_is_live(model):
    optimizer = torch.optim.Adam(model.parameters())
    batch = torch.ones(4, 6, 8)
    with TensorByteCounter(resident=tensors_of(model)) as counter:
        for _ in range(2):
            optimizer.zero_grad()
            output = model(batch, batch, batch)[0] if isinstance(model, nn.MultiheadAttention) else model(batch)
            output.sum().backward()
            optimizer.step()
            del output
        gradients = [parameter.grad for parameter in model.parameters()]
        left = TensorByteCounter(resident=[*tensors_of(model, optimizer), *gradients, batch])
        assert counter.live_bytes == left.live_bytes


def test_the_counter_keeps_no_tensor_alive():
    x = torch.zeros(10)
    with TensorByteCounter(resident=[x]) as counter:
        y = x + 1
    alive = [weakref.ref(x), weakref.ref(y)]
    del x, y
    assert [ref() for ref in alive] == [None, None]
    assert counter.live_bytes == 0


def test_the_counter_itself_goes_away():
    x = torch.zeros(10)
    ref = weakref.ref(TensorByteCounter(resident=[x]))
    gc.collect()
    assert ref() is None


class Wrapped(torch.Tensor):
    """A subclass around another tensor, as quantized and distributed tensors are."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, (10**6,), dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Wrapped(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return Wrapped(func(args[0].inner, *args[1:]))


@pytest.mark.parametrize(
    ("make", "nbytes"),
    [
        (lambda: torch.sparse_coo_tensor(torch.tensor([[0, 5]]), torch.ones(2), (10**6,)), 2 * 8 + 2 * 4),
        (
            lambda: torch.sparse_csr_tensor(torch.arange(4), torch.arange(3), torch.ones(3)),
            4 * 8 + 3 * 8 + 3 * 4,
        ),
        (
            lambda: torch.sparse_csc_tensor(torch.arange(4), torch.arange(3), torch.ones(3)),
            4 * 8 + 3 * 8 + 3 * 4,
        ),
        (lambda: torch.zeros(4, device="meta"), 0),
        (lambda: torch.zeros(0), 0),
        (lambda: torch.zeros(4).to_mkldnn(), 0),
        (lambda: Wrapped(torch.zeros(25)), 100),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), 5 * 4),
    ],
    ids=["coo", "csr", "csc", "meta", "empty", "mkldnn", "wrapper", "nested"],
)
# These layouts warn once per process that they are not final.
@pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support",
    "ignore:Sparse invariant checks",
    "ignore:The PyTorch API of nested tensors",
)
def test_a_tensor_of_another_layout_counts_what_it_holds(make, nbytes):
    assert TensorByteCounter(resident=[make()]).peak_bytes == nbytes


def test_ops_on_unusual_tensors_run_under_the_counter():
    with TensorByteCounter() as counter:
        weight = torch.eye(3, requires_grad=True)
        torch.sparse.mm(torch.eye(3).to_sparse(), weight).sum().backward()
        doubled = Wrapped(torch.ones(50)) * 2
        assert isinstance(doubled, Wrapped)
        assert counter.live_bytes >= 200
        torch.zeros(3, device="meta").sum()


def test_another_mode_inside_still_sees_every_op():
    class Recorder(TorchDispatchMode):
        ops = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Recorder.ops += 1
            return func(*args, **(kwargs or {}))

    with TensorByteCounter() as counter, Recorder():
        torch.zeros(10).add(1)
    assert (Recorder.ops, counter.peak_bytes) == (2, 80)
