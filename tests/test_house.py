"""The house: which folder imports which, and through what door. (Which room may import which is in docs/how.md.)"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bstuner

PACKAGE = Path(bstuner.__file__).parent
ROOT = PACKAGE.parent
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))
WITH_OFFERS = [folder for folder in FOLDERS if (folder / "__init__.pyi").exists()]
WINGS = ("probing", "trials", "growing")


def dotted(folder: Path) -> str:
    return ".".join(folder.relative_to(ROOT).parts)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """What a file imports from the package: (module, name)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").partition(".")[0] == "bstuner":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "bstuner")


def offers(folder: Path) -> set[str]:
    return set(importlib.import_module(dotted(folder)).__all__)


def test_from_outside_a_folder_its_names_are_imported_from_the_folder() -> None:
    # `errors` and `api` are files of the package itself, and the command line is started by the name of a function.
    doors = {dotted(folder) for folder in FOLDERS} | {"bstuner.errors", "bstuner.api"}
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name} from {module}"
        for path in PACKAGE.rglob("*.py")
        for module, name in imports(path)
        if module not in doors and module.rpartition(".")[0] != dotted(path.parent)
        if (path.name, module) != ("__main__.py", "bstuner.cli.main")
    ]
    assert wrong == []


def test_within_a_folder_its_names_are_imported_from_their_modules() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name} from its own folder"
        for path in PACKAGE.rglob("*.py")
        for module, name in imports(path)
        if path.parent != PACKAGE and module == dotted(path.parent)
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", WITH_OFFERS, ids=dotted)
def test_what_a_folder_offers_is_there_and_hides_no_module_of_it(folder: Path) -> None:
    package = importlib.import_module(dotted(folder))
    assert all(hasattr(package, name) for name in package.__all__)
    # Python sets a module that is imported as an attribute of its folder, and the offered name would be that module.
    assert offers(folder) & {path.stem for path in folder.glob("*.py")} == set()


def test_folders_offer_what_is_used_outside_them_and_no_more() -> None:
    texts = [path for part in ("bstuner", "tests", "benchmarks", "examples") for path in (ROOT / part).rglob("*.py")]
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    used = {pair for path in texts for pair in imports(path)}
    # `_lightning` is a module to the canaries, which look at it from outside.
    canaries = (ROOT / "tests/training/test_lightning_canary.py").read_text()
    used |= {("bstuner.training._lightning", name) for name in re.findall(r"_lightning\.(\w+)", canaries)}
    shown = "".join(page.read_text() for page in pages)
    idle = [
        f"{dotted(folder)}.{name}"
        for folder in WITH_OFFERS
        for name in offers(folder)
        if (dotted(folder), name) not in used and f"{dotted(folder)}.{name}" not in shown
    ]
    assert idle == []


def test_wings_do_not_know_each_other() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for wing in WINGS
        for path in (PACKAGE / "training" / wing).glob("*.py")
        for module, _ in imports(path)
        for other in WINGS
        if other != wing and module.startswith(f"bstuner.training.{other}")
    ]
    assert wrong == []


def test_training_has_few_rooms_and_none_is_full() -> None:
    rooms = [folder for folder in FOLDERS if folder.parent == PACKAGE / "training"]
    assert len(rooms) <= 9
    assert {dotted(room) for room in rooms if len(list(room.glob("*.py"))) > 12} == set()
    assert [path.name for path in (PACKAGE / "training").glob("*.py")] == ["__init__.py"]


FOREIGN = {
    "core": ("torch", "lightning", "pytorch_lightning", "lightning_utilities", "optuna"),
    "ranks": ("lightning", "pytorch_lightning", "lightning_utilities", "optuna"),
    "device": ("lightning", "pytorch_lightning", "lightning_utilities", "optuna"),
    "optim": ("lightning", "pytorch_lightning", "lightning_utilities", "optuna"),
    "data": ("lightning", "pytorch_lightning", "lightning_utilities", "optuna"),
    "training": ("optuna",),
    "study": ("torch", "lightning", "pytorch_lightning", "lightning_utilities"),
    "report": ("torch", "lightning", "pytorch_lightning", "lightning_utilities", "optuna"),
}


@pytest.mark.parametrize("floor", FOREIGN)
def test_a_floor_does_not_know_the_packages_above_it(floor: str) -> None:
    wrong = []
    for path in (PACKAGE / floor).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong += [f"{path.name} imports {name}" for name in names if name.partition(".")[0] in FOREIGN[floor]]
    assert wrong == []


LIGHT = """
import sys
{statement}
heavy = {{"torch", "lightning", "pytorch_lightning", "optuna", "sqlalchemy", "matplotlib"}}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import bstuner, bstuner.core, bstuner.core.growth, bstuner.report, bstuner.callbacks, bstuner.training.run",
        "from bstuner.core import BatchSizeSearch, FindResult",
        "from bstuner.core.growth import plan_growth",
        "import contextlib, bstuner.cli.main\nwith contextlib.suppress(SystemExit): bstuner.cli.main.main(['--help'])",
    ],
    ids=["folders", "core", "growth", "help"],
)
def test_a_light_import_stays_light(statement: str) -> None:
    code = LIGHT.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
