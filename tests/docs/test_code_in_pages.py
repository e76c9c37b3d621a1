"""The documentation's code runs, its commands are taken, its links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import bstuner
from bstuner.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
DOCS = sorted(ROOT.glob("docs/*.md"))
PAGES = [ROOT / "README.md", *DOCS]
WITH_COMMANDS = [*PAGES, *sorted(ROOT.glob("examples/*"))]


class Block(NamedTuple):
    """A fenced block of a page: the first line of its text, and why it is not run, if it is not."""

    language: str
    line: int
    text: str
    not_run: str


def blocks(page: Path) -> Iterator[Block]:
    fence = re.compile(r"(?:<!-- not run: (?P<why>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
    text = page.read_text()
    for found in fence.finditer(text):
        line = text[: found.start("text")].count("\n") + 1
        yield Block(found["language"], line, found["text"], found["why"] or "")


class Model(L.LightningModule):
    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 30)]


class Data(L.LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size
        inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        self.samples = TensorDataset(inputs, inputs.sum(1, keepdim=True))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.samples, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.samples, batch_size=32)


# Which logger there is by default is no matter of the pages.
@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed")
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "python" for b in blocks(p))], ids=lambda p: p.name
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    """With a small model and its data, new for every block; the Trainer of one block is there in the next."""
    names: dict[str, Any] = {name: getattr(bstuner, name) for name in bstuner.__all__}
    names |= {"L": L, "torch": torch, "bstuner": bstuner}
    for block in blocks(page):
        if block.language != "python" or block.not_run:
            continue
        torch.manual_seed(0)
        names |= {"model": Model(), "data": Data()}
        if block.text.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block.text, names, page.name, str(page), block.line - 1)
            result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
            assert result.failed == 0
            names |= test.globs
        else:
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)


def commands() -> Iterator[tuple[str, str]]:
    """Every command line of bstuner in a page or an example, and where it is."""
    for page in WITH_COMMANDS:
        if not page.is_file():
            continue
        text = page.read_text().replace("\\\n", " ")
        if page.suffix == ".md":
            fenced = "".join(block.text for block in blocks(page) if block.language in ("", "sh"))
            lines = re.findall(r"^(?:\$ )?(bstuner .+)$", fenced, re.M)
            lines += [" ".join(span.split()) for span in re.findall(r"`(bstuner [^`]+)`", text)]
        else:
            lines = re.findall(r"^(?:srun )?(bstuner .+)$", text, re.M)
        for line in dict.fromkeys(lines):
            if len(shlex.split(line, comments=True)) > 2:  # not the mere name of a command
                yield page.name, line


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_a_command_line_of_the_documentation_is_one_that_the_command_takes(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    for name in COMMANDS:
        command = importlib.import_module(f"bstuner.cli.{name}").COMMAND
        monkeypatch.setattr(type(command), "run", lambda self, options, typed: ran.append(self.name))
    # What the shell puts in the place of variables does not matter, but must be of their kind.
    words = shlex.split(re.sub(r"\$\{STUDY:.*?\}", "sqlite:///study.db", line), comments=True)
    if words[-1] == "--help":
        with pytest.raises(SystemExit, match="0"):
            main(words[1:])
        return
    assert main(words[1:]) == 0
    assert ran == [words[1]]


def test_the_extras_that_the_documentation_installs_exist() -> None:
    named = {extra for page in PAGES for extra in re.findall(r"bstuner\[(\w+)\]", page.read_text())}
    assert named
    assert named <= set(metadata("bstuner").get_all("Provides-Extra"))


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md"], ids=str)
def test_the_links_of_a_page_outside_the_built_ones_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_pages_are_all_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    listed = itertools.chain.from_iterable(
        block.split("\n\n", 1)[1].split() for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.S)
    )
    assert sorted(listed) == sorted(page.stem for page in DOCS if page.stem != "index")
