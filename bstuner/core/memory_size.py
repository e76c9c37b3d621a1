"""Sizes of memory as people write them, and as they read them."""

from __future__ import annotations

import re

from bstuner.errors import InvalidSetting

__all__ = ["format_bytes", "parse_bytes"]

_BINARY = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = {"": 1, "B": 1, **_BINARY, **_DECIMAL}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?) ?([A-Z]*)")


def parse_bytes(text: int | str) -> int:
    """Read the size of memory that was given as `memory_limit`.

    A bare number counts bytes. KiB, MiB, GiB, TiB are powers of 1024 and KB, MB, GB, TB powers of 1000, in
    any case, with or without a space. A lone "G" is refused, because people mean either.

    >>> parse_bytes("24GiB")
    25769803776
    >>> parse_bytes("1.5 gb")
    1500000000

    Args:
        text: The size, in bytes where it is a number.

    Raises:
        InvalidSetting: It cannot be read, or is less than one byte.
    """
    expected = 'memory_limit must be a number of bytes or a text such as "24GiB" or "512 MB"'
    if isinstance(text, bool) or not isinstance(text, (int, str)):
        raise InvalidSetting(f"{expected}, but got {text!r} ({type(text).__name__}).")
    match = _PATTERN.fullmatch(str(text).strip().upper())
    if match is None or match[2] not in _UNITS:
        units = ", ".join(["KiB", "MiB", "GiB", "TiB", *_DECIMAL])
        raise InvalidSetting(f"{expected}, but got {text!r}. Write a number and one of {units}.")
    size = int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]
    if size < 1:
        raise InvalidSetting(f"{expected}, but got {text!r}, less than one byte. For no limit, leave it out.")
    return size


def format_bytes(size: int) -> str:
    """Write a size of memory in the largest binary unit that keeps it at one or more.

    >>> format_bytes(68_826_850_918)
    '64.1 GiB'
    >>> format_bytes(640)
    '640 B'

    Args:
        size: The size in bytes.
    """
    if abs(size) < 2**10:
        return f"{size} B"
    value, unit = size / 2**10, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if round(abs(value), 1) < 1024:  # as it will be printed: never "1024.0 MiB"
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"
