"""Under a memory limit on the CPU, the answer is that of trying every power of two in real training."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import EMAWeightAveraging

from bstuner import BatchSizeFinder
from bstuner.device.memory import CpuMemory

MARGIN = 0.1


class LongestText(zoo.RaggedText):
    """Ragged text at its worst: every sample is the longest."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(self.length // 2)


class WorstTransformer(zoo.Transformer):
    dataset = LongestText


MODELS: dict[str, tuple[type[zoo.Base], type[zoo.Base], int, Callable[[], list[L.Callback]]]] = {
    # name: (model to search in, model whose every batch is the worst, memory limit, callbacks)
    "MLP": (zoo.Wide, zoo.Wide, 5 * zoo.MIB, list),
    "CNN with BatchNorm": (zoo.Cnn, zoo.Cnn, 32 * zoo.MIB, list),
    "transformer on ragged text": (zoo.Transformer, WorstTransformer, 48 * zoo.MIB, list),
    "LSTM": (zoo.Lstm, zoo.Lstm, 6 * zoo.MIB, list),
    "autoencoder, manual optimization": (zoo.ManualAutoencoder, zoo.ManualAutoencoder, 2 * zoo.MIB, list),
    "MLP with weight averaging": (zoo.Wide, zoo.Wide, 5 * zoo.MIB, lambda: [EMAWeightAveraging(decay=0.9)]),
    "MLP with accumulation": (zoo.Wide, zoo.Wide, 5 * zoo.MIB, list),
}


def fits(model: type[zoo.Base], size: int, limit: int, callbacks: list[L.Callback], accumulate: int) -> bool:
    """Train for real, with real loaders, under the limit."""
    module = model(batch_size=size, length=4 * size)
    trainer = zoo.trainer(*callbacks, max_epochs=1, limit_val_batches=1, accumulate_grad_batches=accumulate)
    memory = CpuMemory(limit)
    try:
        with memory.measure(module.parameters()) as reading:
            trainer.fit(module)
    except torch.OutOfMemoryError:
        return False
    return reading.peak_bytes <= limit * (1 - MARGIN)


@pytest.mark.parametrize("name", MODELS)
def test_the_answer_is_that_of_brute_force(name: str) -> None:
    model, worst, limit, callbacks = MODELS[name]
    accumulate = 2 if "accumulation" in name else 1
    finder = BatchSizeFinder(memory_limit=limit, margin=MARGIN)
    L.seed_everything(1, verbose=False)
    trainer = zoo.trainer(finder, *callbacks(), max_epochs=1, limit_train_batches=1, accumulate_grad_batches=accumulate)
    trainer.fit(model(batch_size=2, length=2048))

    largest, size = None, 2
    while fits(worst, size, limit, callbacks(), accumulate):
        largest, size = size, 2 * size
    assert largest is not None
    assert 8 <= largest <= 512, "the limit must bind well inside the range"
    assert finder.result is not None
    assert finder.result.batch_size == largest
    assert finder.result.limited_by == "memory"


def test_random_batches_pass_where_the_longest_sample_would_not() -> None:
    """Why the probe looks for the largest sample: training on luck passes, training on the worst case does not."""
    limit = 48 * zoo.MIB
    finder = BatchSizeFinder(memory_limit=limit, margin=MARGIN)
    zoo.trainer(finder, max_epochs=1, limit_train_batches=1).fit(zoo.Transformer(batch_size=2, length=2048))
    assert finder.result is not None
    twice = 2 * finder.result.batch_size

    class Lucky(zoo.Transformer):
        """The same data without the one sample that is the longest."""

        class dataset(zoo.RaggedText):
            def __getitem__(self, index: int) -> torch.Tensor:
                return super().__getitem__(index if index != self.length // 2 else 0)[:14]

    assert fits(Lucky, twice, limit, [], 1)
    assert not fits(WorstTransformer, twice, limit, [], 1)
