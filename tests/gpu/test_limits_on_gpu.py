"""A limit on a GPU's memory: what a growing batch makes of it, and what a search leaves."""

from __future__ import annotations

import gc
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from callbacks.tuning import REFERENCE, Noisy, Wish, one_cycle, result_of, seeded, train, warmups, wishing
from devices import generator, on
from growing import Grower, fit, halves
from sameness import assert_same
from torch import Tensor

import bstuner
from bstuner import BatchSizeScheduler

pytestmark = pytest.mark.gpu

LIMIT = 512 * zoo.MIB


class Large(Grower):
    """Takes about 2 MiB a sample."""

    def __init__(self, batch_size: int) -> None:
        # 80 steps of 64 samples an epoch; the batch grows to 512, a tenth of the samples.
        super().__init__(halves(80, 100, 120), length=5120, batch_size=batch_size)
        elementwise = [layer for _ in range(4) for layer in (torch.nn.Tanh(), torch.nn.Dropout(0.1))]
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 2**16), *elementwise, torch.nn.Linear(2**16, 10))


class Peak(L.Callback):
    """The most memory that training takes; a search calls the hook too, but earlier."""

    def on_train_start(self, *_: Any) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def on_train_end(self, *_: Any) -> None:
        self.bytes = torch.cuda.max_memory_allocated()


def test_the_micro_batch_grows_up_to_what_fits_and_accumulation_takes_over() -> None:
    model, peak, callback = Large(64), Peak(), BatchSizeScheduler(memory_limit=LIMIT)
    fit(model, callback, peak, epochs=2, **on("cuda"))
    assert callback.plan is not None
    fits = callback.plan.batches.fits
    assert 64 <= fits < 512, "or there is nothing to see here"
    assert max(model.sizes()) == fits
    steps = list(callback.plan.steps())
    assert {len(step.micros) for step in steps if step.batch_size == 512} == {512 // fits}
    assert sorted(model.samples(1)) == list(range(5120))
    assert peak.bytes <= 0.9 * LIMIT
    fit(Large(2 * fits), peak, max_steps=2, **on("cuda"))
    assert peak.bytes > 0.9 * LIMIT, "twice as many do not fit"


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # of the run by hand, too
def test_after_tuning_training_equals_the_run_started_by_hand(precision: str) -> None:
    def everything(*callbacks: L.Callback, **model: Any) -> dict[str, Any]:
        module = seeded(Noisy, make=one_cycle, **model)
        left = train(module, {}, *callbacks, Wish(), **on("cuda", precision))
        return {**left, "generator": generator("cuda")}

    tuner = wishing(base_lr=2 * REFERENCE, memory_limit=LIMIT)
    found = everything(tuner, batch_size=8, written=REFERENCE)
    result = result_of(tuner)
    assert result.batch_size == 16
    assert all(trial.peak_bytes for trial in result.trials)
    by_hand = everything(*warmups(result), batch_size=16, written=result.lr)
    assert_same(found, by_hand)


def test_a_trial_that_runs_out_of_memory_is_an_answer() -> None:
    class Hungry(Noisy):
        """Takes all of the limit, later than any probe runs."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if len(batch[0]) == 16 and self.trainer.global_step == 4:
                torch.empty(LIMIT, dtype=torch.uint8, device=self.device)
            return super().training_step(batch, batch_idx)

    tuner = wishing(memory_limit=LIMIT)
    found = train(seeded(Hungry, lr=REFERENCE), {}, tuner, Wish(), **on("cuda"))
    result = result_of(tuner)
    assert [trial.verdict for trial in result.trials] == ["baseline", "out of memory"]
    assert result.best == result.baseline
    assert_same(found, train(seeded(Hungry, lr=REFERENCE), {}, Wish(), **on("cuda")))


def state_of_the_gpu() -> dict[str, Any]:
    gc.collect()
    return {
        "generators": torch.cuda.get_rng_state_all(),
        "fraction": round(torch.cuda.get_per_process_memory_fraction(), 6),
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "device": torch.cuda.current_device(),
        "allocated": torch.cuda.memory_allocated(),
    }


@pytest.mark.parametrize("method", ["fit", "validate"])
def test_find_leaves_the_gpu_as_it_was(method: Any) -> None:
    model = zoo.Regularised(batch_size=8)
    trainer = zoo.trainer(**on("cuda", deterministic=False, benchmark=True))
    torch.cuda.manual_seed(5)
    torch.cuda.set_per_process_memory_fraction(0.5)
    try:
        before = state_of_the_gpu()
        bstuner.find(trainer, model, method=method, memory_limit=LIMIT, max_val=64)
        assert_same(state_of_the_gpu(), before)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
