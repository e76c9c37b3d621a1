"""Another order of the data for a trial: generators that loaders, samplers and datasets keep for themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bstuner.training.run import flat_loaders

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["reseed_loaders"]

_PARTS = ("sampler", "batch_sampler", "dataset")


def reseed_loaders(trainer: Trainer, seed: int) -> None:
    """Let the training loaders draw as with another seed; the caller puts their generators back.

    Args:
        trainer: a Trainer inside a trial, with its loaders.
        seed: the seed.

    """
    for loader in flat_loaders(trainer.train_dataloader):
        for holder in _holders(loader):
            for generator in list(vars(holder).values()):
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(seed)
                elif isinstance(generator, random.Random):
                    generator.seed(seed)
                elif isinstance(generator, np.random.RandomState):
                    generator.seed(seed % 2**32)
                elif isinstance(generator, np.random.Generator):
                    bits = generator.bit_generator
                    bits.state = type(bits)(seed).state


def _holders(loader: Any) -> Iterator[Any]:
    """A loader, and what it draws by and from."""
    seen: list[Any] = []
    ahead = [loader]
    while ahead:
        thing = ahead.pop()
        if hasattr(thing, "__dict__") and all(thing is not other for other in seen):
            seen.append(thing)
            yield thing
            ahead.extend(getattr(thing, part) for part in _PARTS if getattr(thing, part, None) is not None)
