"""The troubleshooting page has every error of the code, and none that the code does not have."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import bstuner
from bstuner import errors

PACKAGE = Path(bstuner.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
HOLE = "\0"  # what differs in a message


class Messages(ast.NodeVisitor):
    """The strings of a module, and those that its errors are made with; a hole wherever something is filled in."""

    def __init__(self, path: Path) -> None:
        self.all: list[str] = []
        self.raised: list[str] = []
        self._names: dict[str, str] = {}  # of strings that are put together first
        self.visit(ast.parse(path.read_text()))

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
            self.all.append(self._text(node))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            self._names[node.targets[0].id] = self._text(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors.__all__:
            self.raised += [self._text(argument) for argument in node.args[:1]]
        self.generic_visit(node)

    def _text(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(map(self._text, node.values))
        if isinstance(node, ast.FormattedValue):
            return self._text(node.value) if isinstance(node.value, ast.Name) else HOLE
        if isinstance(node, ast.BinOp):
            return self._text(node.left) + self._text(node.right)
        return self._names.get(node.id, HOLE) if isinstance(node, ast.Name) else HOLE


@pytest.fixture(scope="module")
def code() -> list[Messages]:
    return [Messages(path) for path in PACKAGE.rglob("*.py")]


def messages_in_the_tables() -> list[list[str]]:
    """The first column of every row, in pieces between what differs."""
    return [row.split("...") for row in re.findall(r"^\| `(.+?)` \|", PAGE.read_text(), re.M)]


def says(pieces: list[str], message: str) -> bool:
    """Whether a message has these pieces, in this order, from its beginning on."""
    position = 0
    for number, piece in enumerate(piece.strip() for piece in pieces):
        found = message.find(piece, position)
        if found < 0 or (number == 0 and found > 0):
            return False
        position = found + len(piece)
    return True


def test_every_message_in_the_troubleshooting_tables_is_one_of_the_code(code: list[Messages]) -> None:
    known = [message for module in code for message in module.all]
    stale = [row for row in messages_in_the_tables() if not any(says(row, message) for message in known)]
    assert stale == []


def test_every_error_of_the_code_is_in_the_troubleshooting_tables(code: list[Messages]) -> None:
    # What the page says of arguments in general: `NAME: expected ...` and `Expected NAME to be ...`.
    general = re.compile(r"(\w+|\0)(, \w+)*: expected |Expected (\w+|\0) (to be|of at least) ")
    raised = [message for module in code for message in module.raised if message.strip(HOLE + " ")]
    assert len(raised) > 100
    tables = messages_in_the_tables()
    missing = [m for m in raised if not general.match(m) and not any(says(row, m) for row in tables)]
    assert missing == []
