"""What a command searches in: scripts of every kind, modules, and configurations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cli.commands import Command, result, write

from bstuner.cli.target import split

PARTS = """
import lightning as L
import zoo
from torch.utils.data import DataLoader

class Data(L.LightningDataModule):
    def __init__(self, batch_size: int = 4):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(zoo.Vectors(64), batch_size=self.batch_size)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package `project`, with its parts and a file of data beside them."""
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder / "__init__.py", "")
    write(folder / "parts.py", PARTS)
    write(folder / "size.txt", "4")
    return folder


@pytest.mark.parametrize(
    ("typed", "own", "target"),
    [
        ("--max_val 8 train.py --max_val 9", "--max_val 8", "train.py --max_val 9"),
        ("--max_val=8 -m a.b -x", "--max_val=8", "-m a.b -x"),
        ("-c a.yaml -c b.yaml --a.b=c", "", "-c a.yaml -c b.yaml --a.b=c"),
        ("--margin 0.2 --config=a.yaml --a.b c", "--margin 0.2", "--config=a.yaml --a.b c"),
        ("--help train.py", "--help", "train.py"),
        ("fit -c a.yaml", "", "fit -c a.yaml"),
        ("--max_val", "--max_val", ""),
        ("-- train.py", "", "-- train.py"),
    ],
)
def test_own_options_stand_in_front_of_what_is_searched(typed: str, own: str, target: str) -> None:
    assert split(typed.split(), ("-h", "--help")) == (own.split(), target.split())


def test_a_module_runs_as_by_python_m(project: Path, bstuner: Command) -> None:
    write(
        project / "train.py",
        "import sys\nfrom pathlib import Path\nfrom .parts import Data, zoo\n"
        "assert (__name__, __package__, __spec__.name) == ('__main__', 'project', 'project.train')\n"
        "assert sys.argv == [__file__, '--x', '1'] and sys.modules['__main__'].Data is Data\n"
        "assert sys.path[0] == str(Path().resolve())\n"
        "zoo.trainer().fit(zoo.Bare(), Data(int(Path(__file__).with_name('size.txt').read_text())))\n"
        "print('trained')\n",
    )
    done = bstuner("find", "--max_val", 8, "-m", "project.train", "--x", "1")
    assert done.returncode == 0, done.stderr
    assert "Next    set Data.batch_size to 8 and train" in done.stdout
    assert "trained" not in done.stdout


def test_a_package_runs_by_its_main(project: Path, bstuner: Command) -> None:
    write(project / "__main__.py", "from project.parts import Data, zoo\nzoo.trainer().fit(zoo.Bare(), Data())\n")
    assert bstuner("find", "--max_val", 8, "-m", "project").returncode == 0


@pytest.mark.parametrize("name", ["nowhere", "project.nowhere", "nowhere.at.all"])
def test_a_module_that_is_not_there_is_told(project: Path, bstuner: Command, name: str) -> None:
    done = bstuner("find", "-m", name)
    assert done.returncode == 1
    assert f"bstuner: Expected a module as for `python -m`, found none named '{name}' from {project.parent}" in (
        done.stderr
    )


def test_a_missing_import_of_the_users_is_not_taken_for_a_missing_module(project: Path, bstuner: Command) -> None:
    write(project / "__init__.py", "import not_installed")
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        bstuner("find", "-m", "project.train")


# A LightningCLI.

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
FLAT: dict[str, Any] = {
    "trainer": {**QUIET, "max_epochs": 1},
    "model": {"class_path": "zoo.Bare"},
    "data": {"class_path": "project.parts.Data", "init_args": {"batch_size": 4}},
    "ckpt_path": None,
    "weights_only": None,
}


def configs(folder: Path) -> None:
    write(folder / "flat.yaml", yaml.safe_dump(FLAT))
    write(folder / "nested.yaml", yaml.safe_dump({"fit": FLAT}))
    write(folder / "more.yaml", yaml.safe_dump({"data": {"init_args": {"batch_size": 2}}}))


@pytest.mark.parametrize(
    ("typed", "as_lightning_reads_it", "was"),
    [
        ("-c flat.yaml", "fit -c flat.yaml", 4),
        ("fit --config=flat.yaml --trainer.max_epochs 2", "fit --config=flat.yaml --trainer.max_epochs 2", 4),
        ("--config nested.yaml -c more.yaml", "--config nested.yaml fit -c more.yaml", 2),
        ("-c nested.yaml fit -c more.yaml", "-c nested.yaml fit -c more.yaml", 2),
        ("-c flat.yaml --config=more.yaml --data.batch_size=3", "fit -c flat.yaml --config=more.yaml "
         "--data.batch_size=3", 3),
        ("--config=nested.yaml --data.batch_size=3", "--config=nested.yaml fit --data.batch_size=3", 3),
    ],
)  # fmt: skip
def test_configurations_that_name_their_classes_need_no_script(
    project: Path, bstuner: Command, typed: str, as_lightning_reads_it: str, was: int
) -> None:
    configs(project.parent)
    done = bstuner("find", "--max_val", 8, *typed.split())
    assert done.returncode == 0, done.stderr
    assert f"Was     {was}, as Data.batch_size" in done.stdout
    assert yaml.safe_load(Path("bstuner-overlay.yaml").read_text()) == {"data": {"init_args": {"batch_size": 8}}}
    generic = "python -c 'from lightning.pytorch.cli import LightningCLI; LightningCLI()'"
    overlay = Path("bstuner-overlay.yaml").resolve()
    assert f"Next    {generic} {as_lightning_reads_it} -c {overlay}\n" in done.stdout


@pytest.mark.parametrize("typed", ["fit -c flat.yaml", "-c nested.yaml", "-c nested.yaml fit"])
def test_a_script_takes_the_overlay_however_its_configuration_was_given(
    project: Path, bstuner: Command, by_hand: Command, typed: str
) -> None:
    configs(project.parent)
    write(project.parent / "main.py", "from lightning.pytorch.cli import LightningCLI\nLightningCLI()\n")
    done = bstuner("find", "--max_val", 8, "main.py", *typed.split())
    assert done.returncode == 0, done.stderr
    printed = by_hand(done.stdout.partition("Next    ")[2].strip(), "--print_config")
    assert yaml.safe_load(printed.stdout)["data"]["init_args"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("-c bare.yaml", 'Parser key "model":'),
        ("-c nothing.yaml", "File does not exist"),
        ("-c flat.yaml --trainer.nope=3", "Unrecognized arguments: --trainer.nope=3"),
        ("-c flat.yaml --model zoo.Nope", "zoo.Nope"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused_with_what_to_do(
    project: Path, bstuner: Command, typed: str, message: str
) -> None:
    configs(project.parent)
    write(project.parent / "bare.yaml", yaml.safe_dump({**FLAT, "model": {"lr": 0.1}}))
    done = bstuner("tune", *typed.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert "Where a script builds the LightningCLI, name the script too: main.py fit -c config.yaml" in done.stderr
    assert "--trainer.max_epochs MAX_EPOCHS" not in done.stderr, "fifty lines of usage would hide it"


def test_a_file_named_as_a_subcommand_is_a_script(project: Path, bstuner: Command) -> None:
    write(project.parent / "fit", "from project.parts import Data, zoo\nzoo.trainer().fit(zoo.Bare(), Data())\n")
    assert bstuner("find", "--max_val", 8, "fit").returncode == 0


# Scripts as they are.

TRAIN = "from project.parts import Data, zoo\n"


def searched(folder: Path, bstuner: Command, script: str, *arguments: object) -> Any:
    """The answer of a search in a script, whose output must not say that it trained."""
    write(folder / "train.py", TRAIN + script)
    done = bstuner("find", "--max_val", 8, folder / "train.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "trained" not in done.stdout
    return result(Path())


def test_a_script_that_parses_its_own_arguments(project: Path, bstuner: Command) -> None:
    found = searched(
        project.parent,
        bstuner,
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--size', type=int)\n"
        "if __name__ == '__main__':\n"
        "    zoo.trainer().fit(zoo.Bare(), Data(parser.parse_args().size))\n    print('trained')\n",
        "--size",
        2,
    )
    assert found["reference_batch_size"] == 2


def test_a_script_that_another_library_starts_in_a_folder_of_its_own(project: Path, bstuner: Command) -> None:
    # As hydra does: a decorator reads the arguments, changes the directory and hides what it has read.
    found = searched(
        project.parent,
        bstuner,
        "import functools, os, sys\n"
        "def main(function):\n"
        "    @functools.wraps(function)\n"
        "    def started():\n"
        "        read = dict(word.split('=') for word in sys.argv[1:])\n"
        "        os.makedirs('outputs/today')\n        os.chdir('outputs/today')\n        sys.argv = sys.argv[:1]\n"
        "        return function(read)\n"
        "    return started\n"
        "@main\ndef train(config):\n"
        "    zoo.trainer().fit(zoo.Bare(), Data(int(config['data.size'])))\n    print('trained')\n"
        "if __name__ == '__main__':\n    here = os.getcwd()\n"
        "    try:\n        train()\n    finally:\n        os.chdir(here)\n",
        "data.size=2",
    )
    assert found["reference_batch_size"] == 2
    assert sorted(path.name for path in project.parent.glob("*.json")) == ["bstuner-result.json"]
    assert list((project.parent / "outputs" / "today").iterdir()) == []


def test_of_two_fits_the_first_is_searched(project: Path, bstuner: Command) -> None:
    found = searched(
        project.parent,
        bstuner,
        "for size in (2, 4):\n    zoo.trainer().fit(zoo.Bare(), Data(size))\n    print('trained')\n",
    )
    assert found["reference_batch_size"] == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it ends as by sys.exit()
def test_a_fit_in_a_thread_is_searched(project: Path, bstuner: Command) -> None:
    found = searched(
        project.parent,
        bstuner,
        "import threading\ndef train():\n    zoo.trainer().fit(zoo.Bare(), Data(2))\n    print('trained')\n"
        "thread = threading.Thread(target=train)\nthread.start()\nthread.join()\n",
    )
    assert found["reference_batch_size"] == 2


def test_a_fit_in_another_process_is_explained(project: Path, bstuner: Command) -> None:
    write(project.parent / "train.py", "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])\n")
    done = bstuner("find", "train.py")
    assert done.returncode == 1
    assert "ended without calling a Trainer." in done.stderr
    assert "What it starts in another process is not seen." in done.stderr


def test_an_option_behind_the_script_is_told_to_be_the_scripts(project: Path, bstuner: Command) -> None:
    write(project.parent / "train.py", f"{TRAIN}zoo.trainer().fit(zoo.Bare(), Data())\n")
    done = bstuner("find", "train.py", "--max_val", 8, "--margin=0.2", "--other")
    assert done.stderr.startswith(
        "bstuner: --max_val, --margin is given to train.py, where it stands behind it. An option of bstuner find "
        "stands in front.\n"
    )
    assert "given to" not in bstuner("find", "--max_val", 8, "train.py", "--other").stderr


def test_a_configuration_that_is_named_as_a_script_is_told_so(project: Path, bstuner: Command) -> None:
    configs(project.parent)
    done = bstuner("find", "flat.yaml")
    assert done.returncode == 1
    assert "bstuner: Expected a Python script, found flat.yaml. A configuration is named by -c." in done.stderr
