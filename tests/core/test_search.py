from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from random import Random
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from bstuner.core.memory_line import MemoryLine
from bstuner.core.search import BatchSizeSearch
from bstuner.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
GIB = 2**30
CAPACITY = 1000 * MIB


def memory(intercept: float, slope: float, flat: float = 0.0) -> Callable[[int], float]:
    """Peak memory of a model in bytes, from its figures in MiB."""
    return lambda size: max(flat, intercept + slope * size) * MIB


def probe_all(search: BatchSizeSearch, peak: Callable[[int], float | None], capacity: float = CAPACITY) -> list[int]:
    """Search on a device of this capacity, and return the sizes asked."""
    asked: list[int] = []
    while (size := search.next_size()) is not None:
        assert size not in asked
        asked.append(size)
        assert len(asked) <= 100
        used = peak(size)
        search.record(size, None if used is None or used > capacity else used)
    return asked


@pytest.mark.parametrize(
    ("peak", "settings", "asked", "best", "limited_by"),
    [
        pytest.param(memory(100, 10), {}, [2, 16, 64], 64, "memory", id="a line"),
        pytest.param(memory(100, 1, 130), {}, [2, 8, 128, 512], 512, "memory", id="a flat start"),
        pytest.param(memory(100, 400), {}, [2, 4], 2, "memory", id="only 2 fits"),
        pytest.param(memory(100, 600), {}, [2, 1], 1, "memory", id="only 1 fits"),
        pytest.param(memory(2000, 1), {}, [2, 1], None, None, id="nothing fits"),
        pytest.param(memory(100, 100), {"low": 64}, [64, 8, 32, 16], 8, "memory", id="low is no floor"),
        pytest.param(memory(100, 10), {"low": 5}, [4, 16, 64], 64, "memory", id="low is rounded down"),
        pytest.param(memory(100, 10), {"low": 1}, [2, 16, 64], 64, "memory", id="not 1 before 2"),
        pytest.param(memory(100, 1), {"high": 100}, [2, 16, 64], 64, "high", id="high is kept"),
        pytest.param(memory(100, 1), {"low": 1, "high": 1}, [1], 1, "high", id="1 where high is 1"),
        pytest.param(memory(100, 10), {"mode": "binsearch"}, [2, 16, 81, 90], 90, "memory", id="integers"),
        pytest.param(
            memory(100, 1, 130),
            {"mode": "binsearch"},
            [2, 15, 316, 876, 900],
            900,
            "memory",
            id="integers after a flat start",
        ),
        pytest.param(
            memory(100, 1),
            {"mode": "binsearch", "high": 100},
            [2, 19, 100],
            100,
            "high",
            id="integers up to high",
        ),
        pytest.param(
            memory(100, 10),
            {"predict": False},
            [2, 4, 8, 16, 32, 64, 128],
            64,
            "memory",
            id="plain doubling",
        ),
        pytest.param(memory(100, 100), {"predict": False, "low": 64}, [64, 8, 16], 8, "memory", id="plain bisection"),
        pytest.param(
            memory(100, 10),
            {"predict": False, "mode": "binsearch"},
            [2, 4, 8, 16, 32, 64, 128, 96, 80, 88, 92, 90, 91],
            90,
            "memory",
            id="plain bisection of integers",
        ),
        pytest.param(
            memory(1, 1),
            {"predict": False, "mode": "binsearch", "high": 100},
            [2, 4, 8, 16, 32, 64, 100],
            100,
            "high",
            id="plain doubling up to high",
        ),
    ],
)
def test_asks_these_sizes(
    peak: Callable[[int], float], settings: dict[str, Any], asked: list[int], best: int, limited_by: str
) -> None:
    search = BatchSizeSearch(CAPACITY, margin=0, **settings)
    assert probe_all(search, peak) == asked
    assert (search.best, search.limited_by) == (best, limited_by)


@pytest.mark.parametrize(
    ("peak", "sizes", "settings", "asked", "best", "limited_by"),
    [
        pytest.param(memory(100, 10), [1, 2, 5, 16, 80, 400], {}, [2, 16, 80], 80, "memory", id="only listed ones"),
        pytest.param(memory(100, 10), [1, 3, 50], {}, [2, 16, 50], 50, "high", id="the last of the list"),
        pytest.param(memory(100, 10), [1, 5, 25, 50], {"high": 49}, [2, 16, 25], 25, "high", id="high"),
        pytest.param(memory(100, 10), [1, 5, 25, 500], {"high": 499}, [2, 16, 25], 25, "high", id="high between"),
        pytest.param(memory(100, 10), [1021], {}, [2, 16], None, None, id="only one far too large"),
        pytest.param(memory(100, 0.5), [1021], {}, [2, 16, 256, 1021], 1021, "high", id="only one that fits"),
        pytest.param(memory(100, 10), [1, 1021], {}, [2, 16, 1], 1, "memory", id="1 where nothing else can fit"),
        pytest.param(memory(10, 10), [1, 1021], {"low": 64}, [64, 128, 1], 1, "memory", id="low between"),
        pytest.param(memory(100, 600), [1, 2, 4], {}, [2, 1], 1, "memory", id="1 after 2 did not fit"),
        pytest.param(memory(100, 1), [1], {}, [1], 1, "high", id="1 alone"),
        pytest.param(memory(100, 10), [3, 6, 5000], {}, [2, 16, 6], 6, "memory", id="a gap"),
        pytest.param(memory(100, 0.01), [1, 1031], {}, [2, 16, 256, 1031], 1031, "high", id="not 1024 first"),
        pytest.param(memory(2000, 1), [3, 9], {}, [2], None, None, id="nothing fits"),
        pytest.param(memory(100, 100), [3, 7, 100], {"low": 64}, [64, 7], 7, "memory", id="low is no floor"),
        pytest.param(
            memory(100, 10), [1, 2, 5, 16, 80, 400], {"mode": "binsearch"}, [2, 16, 80], 80, "memory", id="no mode"
        ),
        pytest.param(
            memory(100, 10),
            [1, 3, 30, 60, 70, 80, 100, 110],
            {"predict": False},
            [2, 3, 4, 8, 16, 30, 60, 110, 80, 100],
            80,
            "memory",
            id="plain doubling and bisection",
        ),
    ],
)
def test_asks_these_sizes_for_a_list(
    peak: Callable[[int], float],
    sizes: list[int],
    settings: dict[str, Any],
    asked: list[int],
    best: int | None,
    limited_by: str | None,
) -> None:
    search = BatchSizeSearch(CAPACITY, margin=0, sizes=sizes, **settings)
    assert probe_all(search, peak) == asked
    assert (search.best, search.limited_by) == (best, limited_by)


def test_tries_the_listed_sizes_downward_where_fragmentation_defeats_one_below_a_probe() -> None:
    fits = memory(100, 10)
    search = BatchSizeSearch(CAPACITY, margin=0, sizes=[1, 3, 5, 7, 1021])
    assert probe_all(search, lambda size: None if size == 7 else fits(size)) == [2, 16, 7, 5]
    assert search.best == 5


def test_goes_on_above_a_listed_size_that_fits_beyond_the_line() -> None:
    peaks = {2: 87, 12: 173, 50: 470, 98: 899, 99: 921, 100: 930}
    search = BatchSizeSearch(CAPACITY, margin=0.1, sizes=list(peaks))
    assert probe_all(search, lambda size: peaks[size] * MIB) == [2, 12, 50, 100, 98, 99]
    assert search.best == 98


def test_asks_nothing_where_each_listed_size_takes_more_than_a_byte_per_sample() -> None:
    search = BatchSizeSearch(1000, sizes=[1021])
    assert (search.next_size(), search.best) == (None, None)


def test_a_size_off_the_list_is_never_the_best_even_before_the_end() -> None:
    search = BatchSizeSearch(CAPACITY, sizes=[3, 1021])
    search.record(2, MIB)
    assert search.best is None


def test_a_list_changed_later_does_not_change_the_search() -> None:
    sizes = [1, 2, 64]
    search = BatchSizeSearch(CAPACITY, sizes=sizes)
    sizes.clear()
    assert probe_all(search, memory(100, 1))[-1] == 64


@pytest.mark.parametrize(
    ("fragmented", "mode", "asked", "best"),
    [
        ({64}, "power", [2, 16, 64, 32], 32),
        ({32, 64}, "power", [2, 16, 64, 32], 16),
        (range(81, 91), "binsearch", [2, 16, 81, 48, 64, 72, 76, 78, 79, 80], 80),
    ],
)
def test_bisects_downward_where_fragmentation_defeats_the_line(
    fragmented: set[int], mode: Any, asked: list[int], best: int
) -> None:
    fits = memory(100, 10)
    search = BatchSizeSearch(CAPACITY, margin=0, mode=mode)
    assert probe_all(search, lambda size: None if size in fragmented else fits(size)) == asked
    assert search.best == best


def test_the_margin_is_a_share_of_the_capacity() -> None:
    peak = memory(100, 10)  # 740 MiB at 64
    assert [_best(BatchSizeSearch(CAPACITY, margin=margin), peak) for margin in (0.25, 0.26, 0.27)] == [64, 64, 32]


def _best(search: BatchSizeSearch, peak: Callable[[int], float]) -> int | None:
    probe_all(search, peak)
    return search.best


def test_a_peak_between_the_limit_and_the_capacity_does_not_fit() -> None:
    search = BatchSizeSearch(CAPACITY, margin=0.1)
    search.record(2, 0.95 * CAPACITY)
    assert search.best is None
    assert search.next_size() == 1


def test_the_next_size_stays_until_it_is_recorded() -> None:
    search = BatchSizeSearch(CAPACITY)
    assert [search.next_size(), search.next_size()] == [2, 2]


def test_a_model_without_any_peak_ends_at_one_sample_per_byte() -> None:
    search = BatchSizeSearch(GIB)
    assert probe_all(search, lambda size: 0.0)[-1] == GIB
    assert search.limited_by == "memory"


def test_the_line_is_that_of_the_largest_sizes() -> None:
    search = BatchSizeSearch(CAPACITY, margin=0)
    probe_all(search, memory(100, 1, 130))
    assert search.line == MemoryLine(intercept=100 * MIB, slope=1 * MIB)
    assert search.line.at(1024) == 1124 * MIB


def test_there_is_no_line_on_the_flat_start() -> None:
    search = BatchSizeSearch(CAPACITY, high=4)
    probe_all(search, memory(100, 1, 130))
    assert search.best == 4
    assert search.line is None


def test_a_line_never_starts_below_zero_bytes() -> None:
    search = BatchSizeSearch(CAPACITY, high=4)
    for size, peak in ((2, 10 * MIB), (4, 40 * MIB)):
        assert search.next_size() == size
        search.record(size, peak)
    assert search.line == MemoryLine(intercept=0, slope=10 * MIB)


def test_a_memory_line_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        MemoryLine(1.0, 2.0).slope = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "capacity: expected bytes above 0, found 0; pass the device's memory."),
        (
            {"capacity": math.inf},
            "capacity: expected bytes above 0, found inf; pass the device's memory.",
        ),
        ({"low": 0}, "low: expected a batch size of at least 1, found 0; start at 2 or above."),
        (
            {"low": 8, "high": 4},
            "high: expected None or at least low=8, found 4; raise high or lower low.",
        ),
        ({"margin": 1}, "margin: expected a share in [0, 1), found 1; pass 0.1 to keep a tenth free."),
        (
            {"margin": -0.1},
            "margin: expected a share in [0, 1), found -0.1; pass 0.1 to keep a tenth free.",
        ),
        (
            {"mode": "linear"},
            "mode: expected 'power' or 'binsearch', found 'linear'; pass one of the two.",
        ),
        ({"sizes": []}, "sizes: expected ascending batch sizes of at least 1, found []; sort them, each once."),
        (
            {"sizes": [0, 1]},
            "sizes: expected ascending batch sizes of at least 1, found [0, 1]; sort them, each once.",
        ),
        (
            {"sizes": [2, 2]},
            "sizes: expected ascending batch sizes of at least 1, found [2, 2]; sort them, each once.",
        ),
        (
            {"sizes": [8, 16], "high": 7},
            "high: expected at least the smallest of sizes, 8, found 7; raise high.",
        ),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        BatchSizeSearch(**{"capacity": CAPACITY, **settings})
    assert str(caught.value) == message


def test_refuses_a_size_it_did_not_ask() -> None:
    search = BatchSizeSearch(CAPACITY)
    with pytest.raises(InvalidSetting) as caught:
        search.record(4, MIB)
    message = "size: expected the size asked, 2, found 4; record each size once, as next_size() returns it."
    assert str(caught.value) == message


def test_refuses_a_size_recorded_twice() -> None:
    search = BatchSizeSearch(CAPACITY, high=2)
    search.record(2, MIB)
    with pytest.raises(InvalidSetting) as caught:
        search.record(2, MIB)
    assert str(caught.value).startswith("size: expected nothing: the search has ended, found 2;")


@pytest.mark.parametrize("peak", [-1, math.nan, math.inf])
def test_refuses_a_peak_that_is_no_number_of_bytes(peak: float) -> None:
    search = BatchSizeSearch(CAPACITY)
    with pytest.raises(InvalidSetting, match="peak: expected bytes, or None for out of memory, found"):
        search.record(2, peak)
    assert search.next_size() == 2


repeatable = settings(max_examples=400, derandomize=True, deadline=None)
limits = st.one_of(st.none(), st.integers(1, 10**6))


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


# What the search is for, any list at all, and the extremes.
lists = st.one_of(
    st.integers(1, 20000).map(divisors),
    st.sets(st.integers(1, 20000), min_size=1, max_size=20).map(sorted),
    st.sampled_from([[1021], [1, 1021], [10007], [1, 10007], [19999, 20000]]),
)


@repeatable
@given(
    flat=st.floats(0, 1.2),
    intercept=st.floats(0, 1),
    log_slope=st.floats(-7, 0),
    noise=st.lists(st.floats(-0.02, 0.02), min_size=31, max_size=31),
    low=st.integers(1, 600),
    high=limits,
    margin=st.sampled_from([0, 0.1, 0.5]),
    predict=st.booleans(),
)
def test_exact_for_powers_of_two_on_every_line_within_the_tolerance(
    flat: float,
    intercept: float,
    log_slope: float,
    noise: list[float],
    low: int,
    high: int | None,
    margin: float,
    predict: bool,
) -> None:
    def peak(size: int) -> float:
        return GIB * max(flat, intercept + 10**log_slope * size) * (1 + noise[size.bit_length() - 1])

    sizes = [1 << k for k in range(31) if high is None or 1 << k <= high]
    fitting = [size for size in sizes if peak(size) <= GIB * (1 - margin)]
    # Promised where no size fits above one that does not; and size 1 counts only if 2 does not fit.
    assume(all(size in fitting for size in sizes if fitting and 2 <= size <= fitting[-1]))
    search = BatchSizeSearch(GIB, low if high is None else min(low, high), high, margin, predict=predict)
    probe_all(search, peak, GIB)
    assert search.best == max(fitting, default=None)


@repeatable
@given(
    flat=st.integers(0, GIB),
    intercept=st.integers(0, GIB),
    slope=st.integers(1, GIB),
    low=st.integers(1, 600),
    high=limits,
    margin=st.sampled_from([0, 0.1]),
    predict=st.booleans(),
)
def test_exact_for_integers_on_every_line_without_noise(
    flat: int, intercept: int, slope: int, low: int, high: int | None, margin: float, predict: bool
) -> None:
    usable = GIB * (1 - margin)
    search = BatchSizeSearch(
        GIB, low if high is None else min(low, high), high, margin, mode="binsearch", predict=predict
    )
    probe_all(search, lambda size: max(flat, intercept + slope * size), GIB)
    largest = int((usable - intercept) // slope) if flat <= usable else 0
    assert (search.best or 0) == max(0, min(largest, GIB if high is None else high))


@repeatable
@given(
    intercept=st.floats(0, 0.8),
    log_slope=st.floats(-6, -1.5),
    noise=st.randoms(use_true_random=False),
)
def test_close_for_integers_on_every_line_within_the_tolerance(intercept: float, log_slope: float, noise: Any) -> None:
    slope = 10**log_slope
    search = BatchSizeSearch(GIB, mode="binsearch")
    probe_all(search, lambda size: GIB * (intercept + slope * size) * noise.uniform(0.98, 1.02), GIB)
    assert search.best is not None
    # One size up, the peak would be within three tolerances of the limit.
    assert intercept + slope * (search.best + 1) >= 0.9 * 0.94


@repeatable
@given(
    sizes=lists,
    flat=st.floats(0, 1.2),
    intercept=st.floats(0, 1),
    log_slope=st.floats(-5, 0),
    noise=st.floats(0, 0.0188),
    seed=st.integers(0, 2**32),
    low=st.integers(1, 600),
    high=limits,
    margin=st.sampled_from([0, 0.1, 0.5]),
    predict=st.booleans(),
)
def test_exact_for_a_list_on_every_line_within_the_tolerance(
    sizes: list[int],
    flat: float,
    intercept: float,
    log_slope: float,
    noise: float,
    seed: int,
    low: int,
    high: int | None,
    margin: float,
    predict: bool,
) -> None:
    def peak(size: int) -> float:
        stray = Random(seed ^ size).uniform(-noise, noise)
        return GIB * max(flat, intercept + 10**log_slope * size) * (1 + stray)

    assume(high is None or high >= sizes[0])
    search = BatchSizeSearch(GIB, low if high is None else min(low, high), high, margin, predict=predict, sizes=sizes)
    asked = probe_all(search, peak, GIB)
    allowed = [size for size in sizes if high is None or size <= high]
    fitting = [size for size in allowed if peak(size) <= GIB * (1 - margin)]
    # Promised where no size fits above one that does not; and size 1 counts only if 2 does not fit.
    failed = [size for size in {*allowed, *asked} if size >= 2 and peak(size) > GIB * (1 - margin)]
    assume(not failed or not fitting or min(failed) > fitting[-1])
    assert search.best == max(fitting, default=None)
    assert search.limited_by == (None if not fitting else "high" if fitting[-1] == allowed[-1] else "memory")
    assert 1 not in asked or 2 in failed or fitting in ([], [1])


@repeatable
@given(data=st.data(), sizes=lists, predict=st.booleans(), low=st.integers(1, 5000), high=limits)
def test_whatever_the_peaks_for_a_list_it_ends_within_its_bounds_and_the_best_has_fitted(
    data: st.DataObject, sizes: list[int], predict: bool, low: int, high: int | None
) -> None:
    peaks: dict[int, float | None] = {}

    def peak(size: int) -> float | None:
        assert 1 <= size <= (sizes[-1] if high is None else min(high, sizes[-1]))
        failed = [other for other, p in peaks.items() if p is None or p > 0.9 * GIB]
        assert size < min(failed, default=math.inf)
        peaks[size] = data.draw(st.none() | st.floats(0, GIB))
        return peaks[size]

    assume(high is None or high >= sizes[0])
    search = BatchSizeSearch(GIB, low if high is None else min(low, high), high, predict=predict, sizes=sizes)
    asked = probe_all(search, peak, GIB)
    fitting = [size for size in sizes if size in peaks and (p := peaks[size]) is not None and p <= 0.9 * GIB]
    assert search.best == max(fitting, default=None)
    assert all(size in sizes or size & (size - 1) == 0 for size in asked)


@repeatable
@given(prime=st.sampled_from([1021, 4099, 19997]), intercept=st.floats(0.05, 0.6), log_slope=st.floats(-6, -1.5))
def test_a_gap_in_the_list_is_crossed_without_running_out_of_memory(
    prime: int, intercept: float, log_slope: float
) -> None:
    limit = (1 - intercept) / 10**log_slope
    search = BatchSizeSearch(GIB, sizes=[1, prime])
    asked = probe_all(search, lambda size: GIB * (intercept + 10**log_slope * size), GIB)
    assert max(asked) <= limit
    assert sum(asked) <= 2.6 * min(limit, prime)


def test_divisors_cost_about_as_many_samples_as_powers_of_two() -> None:
    random = Random(0)
    ratios: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(300):
        wanted = random.choice([96, 128, 250, 500, 768, 1000, 1536, 2048, 3000, 4096])
        intercept, slope = random.uniform(0.02, 0.6), 10 ** random.uniform(-5, -1.5)
        for listed, found in ratios.items():
            search = BatchSizeSearch(GIB, high=wanted, sizes=divisors(wanted) if listed else None)
            asked = probe_all(search, lambda size, a=intercept, b=slope: GIB * (a + b * size), GIB)  # type: ignore[misc]
            assert search.best is not None
            found.append(sum(asked) / search.best)
            assert len(asked) <= 10
    assert mean(ratios[True]) <= 1.1 * mean(ratios[False])


@repeatable
@given(
    data=st.data(),
    mode=st.sampled_from(["power", "binsearch"]),
    predict=st.booleans(),
    low=st.integers(1, 5000),
    high=limits,
)
def test_whatever_the_peaks_it_ends_within_its_bounds_and_the_best_has_fitted(
    data: st.DataObject, mode: Any, predict: bool, low: int, high: int | None
) -> None:
    peaks: dict[int, float | None] = {}

    def peak(size: int) -> float | None:
        assert 1 <= size <= (GIB if high is None else high)
        failed = [other for other, p in peaks.items() if p is None or p > 0.9 * GIB]
        assert size < min(failed, default=math.inf)
        peaks[size] = data.draw(st.none() | st.floats(0, GIB))
        return peaks[size]

    search = BatchSizeSearch(GIB, low if high is None else min(low, high), high, mode=mode, predict=predict)
    probe_all(search, peak, GIB)
    fitting = [size for size, p in peaks.items() if p is not None and p <= 0.9 * GIB]
    assert search.best == max(fitting, default=None)


@repeatable
@given(broken=st.sets(st.integers(1, 12)), log_slope=st.floats(-3, -1))
def test_fragmentation_costs_few_probes(broken: set[int], log_slope: float) -> None:
    search = BatchSizeSearch(GIB)
    asked = probe_all(
        search,
        lambda size: None if size.bit_length() - 1 in broken else GIB * (0.05 + 10**log_slope * size),
        GIB,
    )
    assert len(asked) <= 8
