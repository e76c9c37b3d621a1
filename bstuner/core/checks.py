"""The words in which a wrong argument is refused."""

from __future__ import annotations

from bstuner.errors import InvalidSetting

__all__ = ["check", "is_whole"]


def check(valid: bool, name: str, expected: str, found: object) -> None:
    """Refuse an argument that is not valid.

    >>> check(False, "margin", "a share from 0 up to 1", 7)
    Traceback (most recent call last):
    bstuner.errors.InvalidSetting: margin: expected a share from 0 up to 1, found 7.

    Args:
        valid: Whether it is.
        name: The argument's name.
        expected: What it has to be, in words.
        found: What it is.

    Raises:
        InvalidSetting: It is not valid.
    """
    if not valid:
        raise InvalidSetting(f"{name}: expected {expected}, found {found!r}.")


def is_whole(value: object) -> bool:
    """Whether a value is a whole number of at least 1; True and False are none.

    >>> is_whole(1), is_whole(0), is_whole(True), is_whole(2.0)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
