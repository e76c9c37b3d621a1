"""What the documentation tells of results, studies and the house is all that there is of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from studies import FIND, searched

import bstuner
from bstuner.study.findings import Findings

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = Path(bstuner.__file__).parent


def in_code(page: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", (DOCS / page).read_text()))


def test_every_number_of_a_result_and_of_a_study_is_explained() -> None:
    study = searched()
    result = Findings.read(study).result
    assert result is not None
    trial = result.as_dict()["trials"][0]
    attributes = {name for each in study.trials for name in (*each.params, *each.user_attrs)}

    explained = in_code("numbers.md")
    for told in (FIND.as_dict(), FIND.as_dict()["probes"][0], result.as_dict(), trial, attributes, study.user_attrs):
        assert set(told) - explained == set()


def test_the_house_is_drawn_as_it_is_built() -> None:
    table = re.search(r"^\| room \| imports \|\n\|---\|---\|\n((?:\|.*\|\n)+)", (DOCS / "how.md").read_text(), re.M)
    assert table is not None
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]
    drawn = {room: set(filter(None, imports.split(", "))) for room, imports in rows}
    rooms = [room for room, _ in rows]
    assert {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} == {*rooms, "."} - {"api"}

    built: dict[str, set[str]] = {room: set() for room in rooms}
    for path in PACKAGE.rglob("*.py"):
        folder = path.parent.relative_to(PACKAGE).as_posix()
        room = folder if folder != "." else "cli" if path.stem == "__main__" else "api"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bstuner."):
                built[room].add(room_of(node.module, rooms))
    assert {room: below - {room, ""} for room, below in built.items()} == drawn

    upward = [(room, below) for room in rooms for below in drawn[room] if rooms.index(below) > rooms.index(room)]
    assert upward == []


def room_of(module: str, rooms: list[str]) -> str:
    """The folder that a module of the package lies in; empty for `errors`, which all may import."""
    path = module.removeprefix("bstuner.").replace(".", "/")
    while path and path not in rooms:
        path = path.rpartition("/")[0]
    return path
