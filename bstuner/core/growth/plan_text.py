"""The text in which people write a batch-size schedule: "0:256 30ep:512 60ep:1024"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NoReturn

from bstuner.core.growth.phases import Phase
from bstuner.errors import InvalidSetting

__all__ = ["format_plan", "parse_plan"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_EPOCHS = "ep"
# 18 digits are more samples than there are; a bound keeps what follows in numbers that can be computed with.
_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(.*)", re.DOTALL)
_SIZE = re.compile(r"[0-9]{1,18}")
# Starts in epochs are written as such up to this many decimals.
_EPOCH_DECIMALS = 3


def parse_plan(text: str, samples_per_epoch: int | None = None) -> list[Phase]:
    """Read a batch-size schedule: where each part starts, a colon, and its batch size over all processes.

    >>> parse_plan("0:256 0.5ep:512 1.5K:1024", samples_per_epoch=1000)
    [Phase(start_sample=0, batch_size=256, lr_factor=1.0), Phase(start_sample=500, batch_size=512, lr_factor=1.0), \
Phase(start_sample=1500, batch_size=1024, lr_factor=1.0)]

    A start is in samples, in thousands (K), millions (M) or billions (B) of them, or in epochs (ep); upper and lower
    case mean the same, and a start between two samples is the nearest one. The learning rate is left as it is.

    Args:
        text: The schedule, its parts separated by blanks.
        samples_per_epoch: Samples that an epoch trains on, over all processes; None where unknown.

    Raises:
        InvalidSetting: It cannot be read, does not start at 0, does not ascend, or has epochs of unknown length.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidSetting(f"Expected a batch-size schedule as text, such as '0:256 30ep:512', found {text!r}.")
    phases: list[Phase] = []
    before_text = ""
    for token in re.finditer(r"\S+", text):
        start_text, colon, size_text = token[0].partition(":")
        if not colon:
            _refuse(text, token.span(), f"a start, a colon and a batch size, such as 30ep:512, found {token[0]!r}")
        begin, middle = token.start(), token.start() + len(start_text)
        start = _start(text, (begin, middle), samples_per_epoch)
        if not phases and start != 0:
            _refuse(text, (begin, middle), f"a first start of 0, found {start_text!r}; put 0:SIZE before it")
        if phases and start <= phases[-1].start_sample:
            found = start_text if start_text == str(start) else f"{start_text!r}, which is {start:,} samples"
            before = f"{phases[-1].start_sample:,} samples"
            if all(each.lower().endswith(_EPOCHS) for each in (before_text, start_text)):
                before, found = before_text, start_text  # whatever the length of an epoch
            _refuse(text, (begin, middle), f"a start after the one before it, {before}, found {found}")
        before_text = start_text
        phases.append(Phase(start, _size(text, (middle + 1, token.end()), size_text)))
    return phases


def format_plan(phases: Sequence[Phase], samples_per_epoch: int | None = None) -> str:
    """Write a batch-size schedule as text; read again, it has the same starts and batch sizes.

    >>> format_plan([Phase(0, 256), Phase(500, 512), Phase(7_000_000, 1024)], samples_per_epoch=1000)
    '0:256 0.5ep:512 7000ep:1024'
    >>> format_plan([Phase(0, 256), Phase(500, 512), Phase(7_000_000, 1024)])
    '0:256 500:512 7M:1024'

    Args:
        phases: Those of a run, by their starts; `lr_factor` has no place in the text.
        samples_per_epoch: Samples that an epoch trains on, over all processes; None to write no epochs.
    """
    return " ".join(f"{_start_text(phase.start_sample, samples_per_epoch)}:{phase.batch_size}" for phase in phases)


def _start(text: str, span: tuple[int, int], samples_per_epoch: int | None) -> int:
    found = text[slice(*span)]
    match = _NUMBER.fullmatch(found)
    if match is None:
        _refuse(text, span, f"a start such as 30000, 1.5M or 30ep before the colon, found {found!r}")
    number, unit = Fraction(match[1]), match[2]
    if unit.lower() == _EPOCHS:
        if samples_per_epoch is None:
            reason = "since an epoch of this data has no known length"
            _refuse(text, span, f"a start in samples, such as 30000 or 1.5M, {reason}, found {found!r}")
        return round(number * samples_per_epoch)
    if unit.upper() not in _UNITS:
        place = (span[1] - len(unit), span[1])
        _refuse(text, place, f"K, M or B for samples, ep for epochs, or no unit for samples, found {unit!r}")
    return round(number * _UNITS[unit.upper()])


def _size(text: str, span: tuple[int, int], found: str) -> int:
    if _SIZE.fullmatch(found) is None or int(found) == 0:
        expected = "a batch size right after the colon, a whole number of at least 1 without a unit"
        _refuse(text, span, f"{expected}, found {found!r}" if found else f"{expected}, found nothing")
    return int(found)


def _start_text(start: int, samples_per_epoch: int | None) -> str:
    if start and samples_per_epoch:
        thousandths, rest = divmod(start * 10**_EPOCH_DECIMALS, samples_per_epoch)
        if not rest:
            return _decimal(thousandths, _EPOCH_DECIMALS) + _EPOCHS
    written = (_decimal(start, 3 * power) + unit for power, unit in enumerate(_UNITS))
    return min(written, key=len)


def _decimal(number: int, decimals: int) -> str:
    """A whole number of the given decimal places, without zeros at the end."""
    whole, rest = divmod(number, 10**decimals)
    return f"{whole}.{rest:0{decimals}}".rstrip("0").rstrip(".") if rest else str(whole)


def _refuse(text: str, span: tuple[int, int], complaint: str) -> NoReturn:
    # Every blank becomes one space: the mark below stays under what it points at.
    line = re.sub(r"\s", " ", text)
    mark = " " * span[0] + "^" * max(1, span[1] - span[0])  # one mark where something is missing
    raise InvalidSetting(f"The batch-size schedule cannot be read:\n    {line}\n    {mark}\nExpected {complaint}.")
