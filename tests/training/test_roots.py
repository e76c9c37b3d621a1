"""Lightning's two packages: every class comes from the one that the Trainer at hand is of."""

from __future__ import annotations

import ast
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import bstuner
from bstuner import BatchSizeFinder, BatchSizeScheduler, BatchSizeTuner, LearningRateWarmup
from bstuner.training import _lightning
from bstuner.training.run import strategy

ROOTS = [lightning.pytorch, pytorch_lightning]
PACKAGE = Path(bstuner.__file__).parent


def trainer_of(root: Any, *callbacks: Any, **kwargs: Any) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return root.Trainer(callbacks=list(callbacks), enable_model_summary=False, **quiet, **kwargs)


def model_of(root: Any) -> Any:
    class Regression(root.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
            self.batch_size, self.lr = 8, 0.01

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return (self.net(batch[0]) - batch[1]).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.25)]

        def train_dataloader(self) -> DataLoader:
            data = torch.randn(1024, 8, generator=torch.Generator().manual_seed(1))
            return DataLoader(TensorDataset(data, data.sum(1, keepdim=True)), batch_size=self.batch_size, shuffle=True)

        def val_dataloader(self) -> DataLoader:
            return DataLoader(self.train_dataloader().dataset, batch_size=64)

    torch.manual_seed(0)
    return Regression()


def fitted(root: Any, callback: Any) -> tuple[Any, Any]:
    logging.getLogger(root.__name__).setLevel(logging.ERROR)
    root.seed_everything(3, verbose=False)
    trainer, model = trainer_of(root, callback, max_epochs=2), model_of(root)
    trainer.fit(model)
    return trainer, model


@pytest.fixture
def both_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal of pytorch_lightning, which stands in one place, lifted."""
    monkeypatch.setattr(strategy, "is_served", lambda trainer: True)


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_a_thing_tells_the_package_that_it_is_of(root: Any) -> None:
    trainer, model = trainer_of(root, max_epochs=1), model_of(root)
    for thing in (trainer, model, trainer.strategy, trainer.fit_loop):
        assert _lightning.lightning_of(thing) is root
    callbacks = _lightning.lightning_of(trainer, "callbacks")
    assert callbacks is importlib.import_module(f"{root.__name__}.callbacks")


def test_what_is_of_neither_package_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Expected an object of .* or pytorch_lightning, found one of object"):
        _lightning.lightning_of(object())


def test_both_packages_are_there_before_a_trainer_is() -> None:
    assert list(_lightning.each_lightning()) == ROOTS
    loaders = [utilities.CombinedLoader for utilities in _lightning.each_lightning("utilities")]
    assert loaders == [root.utilities.CombinedLoader for root in ROOTS]


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_the_public_callbacks_are_callbacks_of_both(root: Any) -> None:
    for kind in (BatchSizeFinder, BatchSizeScheduler, BatchSizeTuner, LearningRateWarmup):
        assert issubclass(kind, root.Callback)


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_fresh_loops_are_of_the_package_of_the_trainer(root: Any) -> None:
    trainer = trainer_of(root, max_epochs=1)
    trainer.fit(model_of(root))
    loaders = root.utilities.CombinedLoader([])
    _lightning.install_fit_loop(trainer, loaders, None, epoch=0, length=9)
    assert isinstance(trainer.fit_loop, root.loops.fit_loop._FitLoop)
    assert isinstance(trainer.profiler, root.profilers.PassThroughProfiler)
    for stage, name in _lightning.EVALUATION_LOOPS.items():
        _lightning.install_evaluation_loop(trainer, stage, loaders)
        assert type(getattr(trainer, name)).__module__.startswith(f"{root.__name__}.")


CALLBACKS = {
    "finder": lambda: BatchSizeFinder(memory_limit="8MiB", max_val=64),
    "scheduler": lambda: BatchSizeScheduler(memory_limit="8MiB"),
    "tuner": lambda: BatchSizeTuner(memory_limit="8MiB", n_trials=1),
}


@pytest.mark.usefixtures("both_served")
@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_apart_from_the_refusal_a_trainer_of_either_is_served_alike(callback: Any) -> None:
    (one, of_one), (other, of_other) = (fitted(root, callback()) for root in ROOTS)
    assert (of_one.batch_size, one.global_step) == (of_other.batch_size, other.global_step)
    for mine, theirs in zip(of_one.parameters(), of_other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def runtime_imports(tree: ast.Module) -> Iterator[str]:
    """The modules that code imports when it runs: not those under TYPE_CHECKING."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def test_no_module_but_one_imports_a_package_of_lightnings_when_it_runs() -> None:
    roots = ("lightning", "pytorch_lightning", "lightning_fabric")
    found = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "roots.py"
        for name in runtime_imports(ast.parse(path.read_text()))
        if name.partition(".")[0] in roots
    ]
    assert found == []
    assert "lightning" in runtime_imports(ast.parse("def f():\n    import lightning"))
