"""Batches made by repeating a few samples equal those that `collate_fn` would have made."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from bstuner.data.probe_batches import ProbeBatches

Pair = namedtuple("Pair", ["image", "label"])
SAMPLES = [(torch.arange(6.0).view(2, 3) + 10 * n, n, f"name {n}") for n in range(4)]


@dataclasses.dataclass(frozen=True)
class Batch:
    image: torch.Tensor
    names: list[str]


class Opaque:
    def __init__(self, image):
        self.image = image


def images(samples):
    return torch.stack([image for image, *_ in samples])


def names(samples):
    return [name for *_, name in samples]


class Counted:
    """A collate_fn that notes the number of samples of each call."""

    def __init__(self, collate):
        self.collate, self.calls = collate, []

    def __call__(self, samples):
        self.calls.append(len(samples))
        return self.collate(samples)


TILED = {
    "default": default_collate,
    "tensor": images,
    "dict": lambda s: {"image": images(s), "names": names(s), "mode": "train", "nan": float("nan")},
    "ordered dict": lambda s: OrderedDict(image=images(s), extra=None),
    "user dict": lambda s: UserDict(image=images(s), names=names(s)),
    "named tuple": lambda s: Pair(images(s), torch.tensor([n for _, n, _ in s])),
    "dataclass": lambda s: Batch(images(s), names(s)),
    "nan": lambda s: images(s) * float("nan"),
    "constant tensors": lambda s: [images(s), torch.ones(4), torch.tensor(0.5), torch.zeros(0)],
    "tensors per sample": lambda s: tuple(zip(*s, strict=True)),
    "dicts per sample": lambda s: (list(images(s)), [{"label": torch.tensor(n)} for _, n, _ in s]),
    "other dtypes": lambda s: [images(s).to(dtype) for dtype in (torch.bool, torch.bfloat16, torch.complex64)],
    "padded": lambda s: pad_sequence([image.flatten()[: n + 1] for image, n, _ in s], batch_first=True),
}
COLLATED = {
    "random": lambda s: images(s) + torch.rand(len(s), 2, 3),
    "count": lambda s: {"image": images(s), "n": len(s)},
    "packed offsets": lambda s: (images(s).flatten(0, 1), torch.arange(len(s)) * 2),
    "time major": lambda s: images(s).transpose(0, 1).contiguous(),
    "other strides": lambda s: images(s).transpose(1, 2).contiguous().transpose(1, 2),
    "unknown type": lambda s: Opaque(images(s)),
    "arrays": lambda s: images(s).numpy(),
    "sparse": lambda s: images(s).to_sparse(),
    "dict with attributes": lambda s: type("Named", (dict,), {})(image=images(s)),
    "keys by count": lambda s: {f"image {len(s)}": images(s)},
    "list by count": lambda s: [0] * (len(s) + 1),
    "type by count": lambda s: names(s) if len(s) > 4 else tuple(names(s)),
}


def assert_same(one, other):
    assert type(one).__name__ == type(other).__name__
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, (dict, UserDict)):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (Batch, Opaque)):
        assert_same(vars(one), vars(other))
    else:
        assert one == other or (one != one and other != other)


def cycled(size, samples=SAMPLES):
    return [samples[index % len(samples)] for index in range(size)]


@pytest.mark.parametrize("size", [1, 3, 4, 9, 16])
@pytest.mark.parametrize("name", TILED)
def test_a_repeated_batch_equals_the_collated_one(name, size):
    collate = Counted(TILED[name])
    made = ProbeBatches(SAMPLES, collate).make(size)
    assert collate.calls == [4, 12]
    expected = TILED[name](cycled(size))
    if name == "padded":  # to the longest of all samples, as every batch of `size` or more is
        expected = torch.nn.functional.pad(expected, (0, made.shape[1] - expected.shape[1]))
    assert_same(made, expected)


@pytest.mark.parametrize("name", COLLATED)
def test_a_batch_that_is_not_its_rows_repeated_is_collated_each_time(name):
    collate = Counted(COLLATED[name])
    batches = ProbeBatches(SAMPLES, collate)
    torch.manual_seed(0)
    made = [batches.make(7), batches.make(6)]
    assert collate.calls == [4, 12, 7, 6]
    if name != "random":
        for batch, size in zip(made, (7, 6), strict=True):
            assert_same(batch, COLLATED[name](cycled(size)))
    else:
        assert not torch.equal(made[0][:6], made[1])


@pytest.mark.parametrize("count", [1, 2, 8])
def test_any_number_of_samples_can_be_repeated(count):
    samples = [(torch.full((3,), float(n)), n) for n in range(count)]
    assert_same(ProbeBatches(samples, default_collate).make(5), default_collate(cycled(5, samples)))


@pytest.mark.parametrize("collate", [*TILED.values(), *COLLATED.values()], ids=[*TILED, *COLLATED])
def test_changing_a_batch_in_place_changes_no_later_batch(collate):
    def wipe(value):
        if isinstance(value, torch.Tensor):
            value.zero_()
        elif isinstance(value, (dict, UserDict)):
            [wipe(item) for item in value.values()]
            value.clear()
        elif isinstance(value, (list, tuple)):
            [wipe(item) for item in value]

    batches = ProbeBatches(SAMPLES, collate)
    torch.manual_seed(0)
    wipe(batches.make(5))
    torch.manual_seed(0)
    again = batches.make(5)
    fresh = ProbeBatches(SAMPLES, collate)
    torch.manual_seed(0)
    fresh.make(5)
    torch.manual_seed(0)
    assert_same(again, fresh.make(5))


@dataclasses.dataclass
class Labelled:
    image: torch.Tensor
    label: int


def popping(samples):
    return torch.stack([sample.pop("image") for sample in samples])


def scaling(samples):
    return torch.stack([sample["image"].mul_(2) for sample in samples])


def scaling_arrays(samples):
    for sample in samples:
        sample["array"] *= 2
    return torch.tensor(np.stack([sample["array"] for sample in samples]))


@pytest.mark.parametrize("collate", [popping, scaling, scaling_arrays])
def test_a_collate_fn_that_changes_its_samples_makes_right_batches(collate):
    def sample():
        return {"image": torch.ones(3), "array": np.ones(3)}

    samples = [sample(), sample()]
    expected = collate([sample() for _ in range(5)])
    batches = ProbeBatches(samples, collate)
    assert_same([batches.make(5), batches.make(5)], [expected, expected])
    assert_same(samples, [sample(), sample()])


def test_samples_that_cannot_be_copied_are_collated_themselves():
    sample = (index for index in range(3))  # a generator
    assert ProbeBatches([sample], lambda samples: [id(item) for item in samples]).make(2) == [id(sample)] * 2


def test_samples_that_are_objects_are_collated():
    samples = [Labelled(torch.ones(2), 3)]
    made = ProbeBatches(samples, lambda s: torch.stack([item.image * item.label for item in s])).make(4)
    assert torch.equal(made, torch.full((4, 2), 3.0))


def test_a_batch_is_made_on_the_device_that_is_asked_for():
    made = ProbeBatches(SAMPLES, default_collate).make(9, torch.device("meta"))
    assert (made[0].device.type, made[0].shape, made[2][:2]) == ("meta", (9, 2, 3), ("name 0", "name 1"))


def test_an_error_of_the_collate_fn_is_the_users_own():
    with pytest.raises(TypeError, match="default_collate"):
        ProbeBatches([Opaque(torch.ones(1))], default_collate).make(2)
