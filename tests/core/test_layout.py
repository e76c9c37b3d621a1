from __future__ import annotations

import time
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from bstuner.core.layout import BatchLayout, fuller_layouts, nearest_layouts, possible_micro_batches
from bstuner.errors import InvalidSetting, LayoutImpossible

repeatable = settings(max_examples=200, derandomize=True, deadline=None)


def best_micro(share: int, fits: int) -> int:
    return max(size for size in range(1, min(share, fits) + 1) if share % size == 0)


def test_the_global_batch_is_the_product_of_the_three() -> None:
    assert BatchLayout(micro=3, accumulate=5, world=7).global_batch_size == 105
    assert BatchLayout(3) == BatchLayout(micro=3, accumulate=1, world=1)


def test_a_layout_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        BatchLayout(1).micro = 2  # type: ignore[misc]


@pytest.mark.parametrize("name", ["micro", "accumulate", "world"])
@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2", None])
def test_refuses_what_is_not_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(InvalidSetting) as caught:
        BatchLayout(**{"micro": 1, name: value})
    assert str(caught.value) == f"{name}: expected a whole number of at least 1, found {value!r}; pass 1 or more."


@pytest.mark.parametrize("name", ["global_batch_size", "world"])
def test_possible_micro_batches_refuses_zero(name: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"^{name}: expected a whole number"):
        possible_micro_batches(**{"global_batch_size": 8, name: 0})


@repeatable
@given(share=st.integers(1, 5000), world=st.integers(1, 64))
def test_possible_micro_batches_are_the_divisors_of_each_share(share: int, world: int) -> None:
    expected = [size for size in range(1, share + 1) if share % size == 0]
    assert possible_micro_batches(share * world, world) == expected


@pytest.mark.parametrize(
    ("wanted", "world", "nearest"),
    [
        (1000, 3, "The nearest are 999 and 1002."),
        (1001, 8, "The nearest are 1000 and 1008."),
        (5, 8, "The nearest is 8."),
    ],
)
def test_names_the_nearest_where_the_processes_cannot_share(wanted: int, world: int, nearest: str) -> None:
    with pytest.raises(LayoutImpossible) as caught:
        possible_micro_batches(wanted, world)
    start = f"Expected a global batch size that {world} processes can share equally, found {wanted}."
    assert str(caught.value) == f"{start} {nearest}"


@repeatable
@given(wanted=st.integers(1, 3000), world=st.integers(1, 9), bounds=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_the_nearest_layouts_are_the_nearest(wanted: int, world: int, bounds: tuple[int, int]) -> None:
    smallest, fits = sorted(bounds)

    def possible(size: int) -> bool:
        return size % world == 0 and best_micro(size // world, fits) >= smallest

    below, above = nearest_layouts(wanted, world, fits, smallest)
    near = [layout for layout in (below, above) if layout is not None]
    assert all(layout.world == world for layout in near)
    assert all(layout.micro == best_micro(layout.micro * layout.accumulate, fits) for layout in near)
    sizes_below = [size for size in range(1, wanted) if possible(size)]
    assert (below.global_batch_size if below else None) == (sizes_below[-1] if sizes_below else None)
    assert possible(above.global_batch_size)
    assert not any(possible(size) for size in range(wanted + 1, above.global_batch_size))


def test_nothing_is_below_the_smallest() -> None:
    assert nearest_layouts(8, world=2, fits=9, smallest=4) == (None, BatchLayout(5, 1, 2))


@pytest.mark.parametrize("name", ["wanted", "world", "fits", "smallest"])
def test_nearest_layouts_refuses_zero(name: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"^{name}: expected a whole number"):
        nearest_layouts(**{"wanted": 8, "world": 2, "fits": 4, "smallest": 1, name: 0})


def test_refuses_a_smallest_that_does_not_fit() -> None:
    with pytest.raises(InvalidSetting) as caught:
        nearest_layouts(8, world=1, fits=4, smallest=5)
    assert str(caught.value) == "smallest: expected at most fits=4, found 5; lower it."


@pytest.mark.parametrize(
    ("layout", "fits", "fuller"),
    [
        pytest.param(BatchLayout(1, 1021), 256, [BatchLayout(255, 4), BatchLayout(146, 7)], id="a prime"),
        pytest.param(BatchLayout(1, 1021, 2), 256, [BatchLayout(255, 4, 2), BatchLayout(146, 7, 2)], id="2 processes"),
        pytest.param(BatchLayout(127, 3), 255, [BatchLayout(190, 2), BatchLayout(191, 2)], id="just below half"),
        pytest.param(BatchLayout(1, 13), 5, [BatchLayout(4, 3), BatchLayout(5, 3)], id="2 is not half of 5"),
        pytest.param(BatchLayout(128, 3), 256, [], id="half"),
        pytest.param(BatchLayout(1), 256, [], id="without accumulation"),
    ],
)
def test_fuller_layouts_of_a_wasteful_one(layout: BatchLayout, fits: int, fuller: list[BatchLayout]) -> None:
    assert fuller_layouts(layout, fits) == fuller


def test_fuller_layouts_refuses_zero() -> None:
    with pytest.raises(InvalidSetting, match=r"^fits: expected a whole number"):
        fuller_layouts(BatchLayout(1), 0)


@repeatable
@given(share=st.integers(2, 5000), world=st.integers(1, 4), fits=st.integers(1, 600))
def test_fuller_layouts_are_at_least_half_full(share: int, world: int, fits: int) -> None:
    micro = best_micro(share, fits)
    layout = BatchLayout(micro, share // micro, world)
    fuller = fuller_layouts(layout, fits)
    assert all(fits / 2 <= other.micro <= fits for other in fuller)
    assert len(fuller) == (2 if layout.accumulate > 1 and micro < fits / 2 else 0)


def test_a_billion_samples_take_no_time() -> None:
    start = time.perf_counter()
    assert possible_micro_batches(10**9)[-1] == 10**9
    below, above = nearest_layouts(999_999_937, world=1, fits=4096, smallest=2048)  # a prime
    assert below is not None
    assert below.global_batch_size < 999_999_937 < above.global_batch_size
    assert time.perf_counter() - start < 10  # trying every number up to it takes minutes
