"""Sizes of memory are read and written, and a limit stops every part of a training step on the CPU."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from bstuner.core.memory_size import format_bytes, parse_bytes
from bstuner.device.byte_counter import TensorByteCounter
from bstuner.errors import InvalidSetting


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1073741824, 1073741824),
        ("1073741824", 1073741824),
        ("100 B", 100),
        ("1KiB", 2**10),
        ("512MiB", 512 * 2**20),
        ("24GiB", 24 * 2**30),
        ("24 GiB", 24 * 2**30),
        ("24gib", 24 * 2**30),
        (" 2TiB ", 2 * 2**40),
        ("1kb", 10**3),
        ("24 GB", 24 * 10**9),
        ("24MB", 24 * 10**6),
        ("3 TB", 3 * 10**12),
        ("1.5GiB", 3 * 2**29),
    ],
)
def test_a_size_is_read_in_any_unit(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["24G", "1.5g", "", "GiB", "-1GiB", "1,5 GiB", "1e9", "24 bananas", "1  GiB"])
def test_a_text_that_cannot_be_read_is_refused_with_the_units_to_write(text):
    with pytest.raises(InvalidSetting) as caught:
        parse_bytes(text)
    assert str(caught.value) == (
        'memory_limit must be a number of bytes or a text such as "24GiB" or "512 MB", but got '
        f"{text!r}. Write a number and one of KiB, MiB, GiB, TiB, KB, MB, GB, TB."
    )


@pytest.mark.parametrize("text", [0, "0", "0 GiB", "0.1 B"])
def test_less_than_one_byte_is_refused(text):
    with pytest.raises(InvalidSetting, match=r"less than one byte\. For no limit, leave it out"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "kind"), [(1.5, "float"), (True, "bool"), (None, "NoneType")])
def test_another_type_is_refused_by_name(text, kind):
    with pytest.raises(InvalidSetting, match=rf"but got {text!r} \({kind}\)"):
        parse_bytes(text)


def test_a_negative_number_is_refused():
    with pytest.raises(InvalidSetting, match="but got -5"):
        parse_bytes(-5)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**30, "1.0 GiB"),
        (int(139.8 * 2**30), "139.8 GiB"),
        (2**40, "1.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_a_size_is_written_in_the_largest_unit_that_keeps_it_at_one_or_more(size, text):
    assert format_bytes(size) == text


@given(st.integers(min_value=1, max_value=2**50))
def test_a_written_size_reads_back_to_within_its_last_digit(size):
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.05)


def part_refused(limit):
    """The part of a first training step in which the limit stops it."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters())
    part = "forward"
    with contextlib.suppress(torch.OutOfMemoryError), TensorByteCounter(limit, model.parameters()) as counter:
        loss = model(torch.ones(64, 64)).sum()
        part = "backward"
        loss.backward()
        part = "optimizer step"
        optimizer.step()
        part = "nowhere"
    assert (counter.peak_bytes > limit) == (part != "nowhere")
    return part


def test_a_limit_is_enforced_in_forward_backward_and_optimizer_step():
    parts = [part_refused(limit) for limit in range(40_000, 240_000, 4_000)]
    assert list(dict.fromkeys(parts)) == ["forward", "backward", "optimizer step", "nowhere"]


def test_the_error_says_how_much_was_live_and_what_the_limit_is():
    with TensorByteCounter(limit=2**20), pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**21, dtype=torch.uint8)
    assert str(caught.value) == "bstuner: 2.0 MiB of tensors live, limit 1.0 MiB (memory_limit)"


def test_the_refused_tensor_is_freed_and_smaller_ones_still_fit():
    with TensorByteCounter(limit=1000) as counter:
        kept = torch.zeros(200)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.zeros(100)
        assert counter.live_bytes == 800
        kept.mul_(2)
        assert (kept.view(2, 100)[0, :10] + 1).sum() == 10
        assert counter.peak_bytes == 1200
    assert caught.tb is not None  # the traceback was alive all along, and kept nothing


def test_an_input_too_large_is_refused_once_and_can_still_be_cleaned_up():
    x = torch.zeros(1000)
    with TensorByteCounter(limit=1000):
        with pytest.raises(torch.OutOfMemoryError):
            x.zero_()
        x.zero_()


def test_no_mode_is_left_and_autograd_works_after_a_refusal_in_backward():
    x = torch.ones(1000, requires_grad=True)
    with pytest.raises(torch.OutOfMemoryError), TensorByteCounter(limit=11_000, resident=[x]):
        x.exp().sum().backward()
    x.grad = None
    x.exp().sum().backward()
    assert x.grad is not None
