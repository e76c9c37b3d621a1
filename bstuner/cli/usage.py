"""What is wrong with a command line, in the words of one."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

__all__ = ["reworded"]

_UNKNOWN = re.compile(r"Unrecognized arguments: (--[^\s=]+)")
_KEY = re.compile(r'Parser key "(\w+)":')
_EXPECTED = re.compile(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])")
_FOUND = re.compile(r"(?:Given|Got) value: (.*)")
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}


def reworded(message: str, options: Collection[str]) -> str:
    """A message of the option parser, with the option as it was typed, what it takes, and what was found.

    >>> reworded("Unrecognized arguments: --max-val", ["--max_val", "--margin"])
    'Expected an option, found --max-val. Did you mean --max_val?'
    >>> reworded('Parser key "mode":\\n  Expected a typing.Literal[\\'min\\', \\'max\\']. Got value: most', ["--mode"])
    "--mode: expected 'min' or 'max', found most."

    Args:
        message: what it says.
        options: all there are.

    """
    if unknown := _UNKNOWN.match(message):
        alike = get_close_matches(unknown[1].replace("-", "_").replace("__", "--", 1), options, n=1)
        hint = f"Did you mean {alike[0]}?" if alike else "--help lists them all."
        return f"Expected an option, found {unknown[1]}. {hint}"
    key, kinds, found = _KEY.match(message), _EXPECTED.findall(message), _FOUND.search(message)
    if not (key and kinds and found):
        return message
    # What else is allowed comes first, null last.
    words = [_TYPES.get(kind, kind) if kind else choices.replace("', '", "' or '") for kind, choices in kinds]
    words = sorted(dict.fromkeys(words), key="null".__eq__)
    return f"--{key[1]}: expected {' or '.join(words)}, found {found[1]}."
