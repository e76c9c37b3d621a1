"""What the finder remarks: what will be other later, and what does not fit by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn
from torch.utils.data import DataLoader

import bstuner
from bstuner import FindResult
from bstuner.core.find_result import Probe
from bstuner.errors import NothingFits
from bstuner.report.words import fastest_words


class Frozen(zoo.Mlp):
    def build(self) -> nn.Module:
        self.backbone = nn.Linear(64, 16)
        return nn.Sequential(self.backbone, nn.Linear(16, 10))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)


def test_layers_that_are_unfrozen_later_are_told() -> None:
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=3, verbose=False)
    result = bstuner.find(zoo.trainer(finetuning, max_epochs=5), Frozen(), max_val=8)
    assert result.warnings == (
        "BackboneFinetuning unfreezes the backbone at epoch 3: from there on a step takes more memory than was probed. "
        "BatchSizeFinder(milestones=(3,)) searches again then.",
    )


def test_loaders_that_are_made_anew_are_told_of() -> None:
    result = bstuner.find(zoo.trainer(max_epochs=5, reload_dataloaders_every_n_epochs=2), zoo.Mlp(), max_val=8)
    assert result.warnings == (
        "Loaders are made anew every 2 epochs, and only the first ones were looked at: if a larger sample may come "
        "later, name it with probe_with, or keep a wider margin.",
    )
    once = zoo.trainer(max_epochs=2, reload_dataloaders_every_n_epochs=2)
    assert bstuner.find(once, zoo.Mlp(), max_val=8).warnings == ()
    validation = zoo.trainer(max_epochs=5, reload_dataloaders_every_n_epochs=2)
    assert bstuner.find(validation, zoo.Mlp(), max_val=8, method="validate").warnings == ()


def test_a_validation_loader_that_does_not_fit_by_itself_is_named_with_its_size() -> None:
    class Hungry(zoo.Wide):
        def val_dataloader(self) -> Any:
            return DataLoader(zoo.Vectors(4096), batch_size=4096)

    with pytest.raises(NothingFits, match="whose loader has a batch size of 4096: make that smaller"):
        bstuner.find(zoo.trainer(max_epochs=1), Hungry(length=4096), memory_limit=5 * zoo.MIB)


def result_of(seconds: dict[int, float]) -> FindResult:
    probes = tuple(Probe(size, 1, time, fits=True) for size, time in seconds.items())
    return FindResult(max(seconds), probes, "memory", 2, 2, "a device", "fit", 1.0)


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        ({16: 0.1, 64: 0.2, 256: 2.0}, 64),
        ({16: 0.1, 64: 0.4, 256: 2.0}, 16),
        ({16: 0.1, 64: 0.2, 256: 0.85}, None),  # 94 % of the throughput of 64
        ({16: 0.1, 64: 0.2, 256: 0.5}, None),
    ],
)
def test_where_the_largest_is_slower_by_far_the_fastest_is_named(
    seconds: dict[int, float], fastest: int | None
) -> None:
    assert result_of(seconds).fastest == fastest


def test_the_fastest_leads_and_points_to_tuning() -> None:
    words = fastest_words(result_of({64: 0.2, 256: 2.0}), 64)
    assert words.startswith(
        "64 per device, by samples per second: 256, the largest that fits, has 40% of its throughput"
    )
    assert "`bstuner tune`" in words
