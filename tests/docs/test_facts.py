"""What the documentation tells of results, studies and the house is all that there is of them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
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
    rows = re.findall(r"^\| (\w+) \|( [\w, ]+)? \|$", (DOCS / "how.md").read_text(), re.M)
    drawn = {room: set(re.findall(r"\w+", imports)) for room, imports in rows if room != "room"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {"api"} == set(drawn)
    built = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        room, *_ = path.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bstuner."):
                built[room].add(node.module.split(".")[1])
    assert {room: (built[room] & set(drawn)) - {room} for room in drawn} == drawn
