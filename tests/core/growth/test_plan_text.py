"""The text of a plan: what is written is what is read, and what cannot be read is pointed at."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from bstuner.core.growth.phases import Phase
from bstuner.core.growth.plan_text import format_plan, parse_plan
from bstuner.errors import InvalidSetting

repeatable = settings(max_examples=150, derandomize=True, deadline=None)

START = "a start such as 30000, 1.5M or 30ep before the colon"
UNIT = "K, M or B for samples, ep for epochs, or no unit for samples"
SIZE = "a batch size right after the colon, a whole number of at least 1 without a unit"

starts = st.one_of(
    st.integers(1, 10**15),
    st.integers(1, 10**6).map(lambda number: number * 1000),
    st.integers(1, 10**4).map(lambda number: number * 500_000),
)


@repeatable
@given(
    later=st.sets(starts, max_size=6),
    sizes=st.lists(st.integers(1, 10**9), min_size=7, max_size=7),
    epoch=st.one_of(st.none(), st.integers(1, 10**7), st.sampled_from([1000, 50_000, 60_000])),
)
def test_what_is_written_is_read(later: set[int], sizes: list[int], epoch: int | None) -> None:
    phases = [Phase(start, size) for start, size in zip([0, *sorted(later)], sizes, strict=False)]
    assert parse_plan(format_plan(phases, epoch), epoch) == phases


@pytest.mark.parametrize(
    ("text", "epoch", "phases"),
    [
        ("0:256 30ep:512 60ep:1024", 50_000, [(0, 256), (1_500_000, 512), (3_000_000, 1024)]),
        ("0:256", None, [(0, 256)]),
        ("  0:256\n\t1000:128 ", None, [(0, 256), (1000, 128)]),
        ("0:768 1.5K:1 2M:2 .25B:3 1B:4", None, [(0, 768), (1500, 1), (2 * 10**6, 2), (250 * 10**6, 3), (10**9, 4)]),
        ("0ep:8 0.5ep:16 1.5EP:32 2k:64", 1001, [(0, 8), (500, 16), (1502, 32), (2000, 64)]),
        ("0K:8 7.:9 0.1ep:10", 1000, [(0, 8), (7, 9), (100, 10)]),
    ],
)  # fmt: skip
def test_reads_samples_and_epochs(text: str, epoch: int | None, phases: list[tuple[int, int]]) -> None:
    assert parse_plan(text, epoch) == [Phase(start, size, 1.0) for start, size in phases]


def test_decimals_are_exact() -> None:
    """0.29 x 100 is 28.999999999999996 in floating point."""
    assert parse_plan("0:1 0.29ep:2 1.001M:3", 100)[1:] == [Phase(29, 2), Phase(1_001_000, 3)]


@pytest.mark.parametrize(
    ("starts", "epoch", "text"),
    [
        ([0, 1_500_000, 3_000_000], 50_000, "0:1 30ep:1 60ep:1"),
        ([0, 25_000, 50_001], 50_000, "0:1 0.5ep:1 50001:1"),
        ([0, 12_500, 50_000_000], None, "0:1 12500:1 50M:1"),
        ([0, 65_536, 100_000, 250_000_000_000], None, "0:1 65536:1 100K:1 250B:1"),
    ],
)
def test_writes_what_is_short(starts: list[int], epoch: int | None, text: str) -> None:
    assert format_plan([Phase(start, 1, 7.0) for start in starts], epoch) == text


@pytest.mark.parametrize(
    ("text", "marked", "expected"),
    [
        # On the start.
        ("10:256", "10", "a first start of 0, found '10'; put 0:SIZE before it"),
        ("0:1 :512", "", f"{START}, found ''"),
        ("0:1 -5:512", "-5", f"{START}, found '-5'"),
        ("0:1 ep:512", "ep", f"{START}, found 'ep'"),
        ("0:1 ٣:512", "٣", f"{START}, found '٣'"),
        (f"0:1 {'9' * 19}:2", "9", f"{UNIT}, found '9'"),
        ("0:1 30xp:512", "xp", f"{UNIT}, found 'xp'"),
        ("0:1 1e3:512", "e3", f"{UNIT}, found 'e3'"),
        ("0:1 1,000:512", ",000", f"{UNIT}, found ',000'"),
        ("0:1 1K:2 1000:3", "1000", "a start after the one before it, 1,000 samples, found 1000"),
        ("0:1 1K:2 .5K:3", ".5K", "a start after the one before it, 1,000 samples, found '.5K', which is 500 samples"),
        ("0:1 0:2", "0", "a start after the one before it, 0 samples, found 0"),
        # On the batch size.
        ("0:", "", f"{SIZE}, found nothing"),
        ("0: 256", "", f"{SIZE}, found nothing"),
        ("0:0", "0", f"{SIZE}, found '0'"),
        ("0:-8", "-8", f"{SIZE}, found '-8'"),
        ("0:1K", "1K", f"{SIZE}, found '1K'"),
        ("0:1.5", "1.5", f"{SIZE}, found '1.5'"),
        ("0:1, 5:2", "1,", f"{SIZE}, found '1,'"),
        ("0:1:2", "1:2", f"{SIZE}, found '1:2'"),
        # On the whole.
        ("0:256 512", "512", "a start, a colon and a batch size, such as 30ep:512, found '512'"),
        ("0:1\t7:2\n30xp:3", "xp", f"{UNIT}, found 'xp'"),
    ],
)  # fmt: skip
def test_points_at_what_cannot_be_read(text: str, marked: str, expected: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_plan(text)
    headline, line, mark, advice = str(caught.value).split("\n")
    assert headline == "The batch-size schedule cannot be read:"
    assert line == "    " + text.replace("\t", " ").replace("\n", " "), "the text is quoted, on one line"
    assert mark.strip() == "^" * max(1, len(marked))
    start = mark.index("^")
    assert line[start : start + len(marked)] == marked
    assert advice == f"Expected {expected}."


def test_points_at_the_last_of_two_that_look_alike() -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_plan("0:256 5:256 5:256")
    assert str(caught.value).split("\n")[2] == "    " + " " * 12 + "^"


def test_refuses_epochs_of_unknown_length() -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_plan("0:256 30ep:512")
    *_, mark, advice = str(caught.value).split("\n")
    assert mark == "    " + " " * 6 + "^^^^"
    assert advice == (
        "Expected a start in samples, such as 30000 or 1.5M, since an epoch of this data has no known length, "
        "found '30ep'."
    )


@pytest.mark.parametrize("text", ["", "  \n", None, 256, ["0:256"]])
def test_refuses_what_is_no_text(text: object) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_plan(text)
    assert str(caught.value) == f"Expected a batch-size schedule as text, such as '0:256 30ep:512', found {text!r}."


@repeatable
@given(text=st.text(alphabet="019.:KMBepx- \t", max_size=25), epoch=st.one_of(st.none(), st.integers(1, 1000)))
def test_any_text_is_read_or_refused(text: str, epoch: int | None) -> None:
    try:
        phases = parse_plan(text, epoch)
    except InvalidSetting:
        return
    assert phases[0].start_sample == 0
    assert all(one.start_sample < two.start_sample for one, two in pairwise(phases))
    assert all(phase.batch_size >= 1 for phase in phases)
    assert parse_plan(format_plan(phases, epoch), epoch) == phases


@pytest.mark.parametrize("samples_per_epoch", [1, 1000])
def test_epochs_that_do_not_ascend_are_told_in_epochs_whatever_their_length(samples_per_epoch: int) -> None:
    with pytest.raises(InvalidSetting, match=r"Expected a start after the one before it, 30ep, found 20ep\."):
        parse_plan("0:1 30ep:2 20ep:3", samples_per_epoch)
