"""Another seed is another order of the data, whoever keeps the generator that orders it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import zoo
from test_runner import RUNS, Learner, fit, run
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler

from bstuner.training.trials.open import Trials
from bstuner.training.trials.reseed import reseed_loaders


class Shuffled(zoo.Vectors):
    """A dataset that draws which sample it gives."""

    def __init__(self, own: Any) -> None:
        super().__init__(16)
        self.own = own

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pick = self.own.integers if isinstance(self.own, np.random.Generator) else self.own.randint
        return super().__getitem__(int(pick(0, 15)))


class Order:
    """A sampler with a generator of Python's."""

    def __init__(self) -> None:
        self.own = random.Random(3)

    def __iter__(self) -> Iterator[int]:
        order = list(range(16))
        self.own.shuffle(order)
        return iter(order)

    def __len__(self) -> int:
        return 16


class Pairs:
    """A batch sampler whose order is that of the sampler that it holds."""

    def __init__(self) -> None:
        self.sampler = Order()

    def __iter__(self) -> Iterator[list[int]]:
        return ([index, index] for index in self.sampler)

    def __len__(self) -> int:
        return 16


def torchs() -> torch.Generator:
    return torch.Generator().manual_seed(3)


KINDS = {
    "a loader": lambda: DataLoader(zoo.Vectors(16), shuffle=True, generator=torchs()),
    "a sampler": lambda: DataLoader(
        zoo.Vectors(16), sampler=RandomSampler(zoo.Vectors(16), generator=torchs()), batch_size=4
    ),
    "weights": lambda: DataLoader(
        zoo.Vectors(16), sampler=WeightedRandomSampler([1.0] * 16, 16, generator=torchs()), batch_size=4
    ),
    "a sampler with Python's": lambda: DataLoader(zoo.Vectors(16), sampler=Order()),
    "a batch sampler's sampler": lambda: DataLoader(zoo.Vectors(16), batch_sampler=Pairs()),
    "a dataset with NumPy's": lambda: DataLoader(Shuffled(np.random.default_rng(3))),
    "a dataset with NumPy's of old": lambda: DataLoader(Shuffled(np.random.RandomState(3))),
    "a dataset with Python's": lambda: DataLoader(Shuffled(random.Random(3))),
}


def drawn(make: Any, seed: int | None) -> list[float]:
    """What a new loader gives after being seeded; Python's, NumPy's and torch's own generators are as ever."""
    L.seed_everything(0, verbose=False)
    loader = make()
    if seed is not None:
        reseed_loaders(SimpleNamespace(train_dataloader=loader), seed)  # type: ignore[arg-type]
    return [float(x.sum()) for x, _ in loader]


@pytest.mark.parametrize("kind", KINDS)
def test_generators_are_found_wherever_they_are_kept(kind: str) -> None:
    first, second, again = (drawn(KINDS[kind], seed) for seed in (1, 2, 1))
    assert first == again
    assert len({tuple(first), tuple(second), tuple(drawn(KINDS[kind], None))}) == 3


class OwnOrder(Learner):
    """Its loader is shuffled by a generator of its own, which it keeps; notes the order."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.order = torchs()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        zoo.NOTES.append(("batch", float(batch[0].sum()), None))
        return super().training_step(batch, batch_idx)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(zoo.Vectors(self.length), self.batch_size, shuffle=True, generator=self.order)


def batches() -> list[float]:
    seen = [note[1] for note in zoo.NOTES if note[0] == "batch"]
    zoo.NOTES.clear()
    return seen


def test_a_trial_with_another_seed_has_another_order_and_the_fit_has_its_own() -> None:
    def use(trials: Trials) -> None:
        for seed in (None, 2, None):
            zoo.NOTES.clear()
            run(trials, 8, seed=seed)
            RUNS.append(batches())

    fit(OwnOrder(length=64), use, trainer={"max_epochs": 2}, trial_budget=64)
    found = batches()
    first, other, again = RUNS
    assert first == again
    assert len(first) == len(other) == 8
    assert set(first).isdisjoint(other)
    zoo.trainer(max_epochs=2).fit(OwnOrder(length=64))
    assert found == batches()
    assert found[:8] == first
