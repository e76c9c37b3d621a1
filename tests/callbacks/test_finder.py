"""What the finder tells, and the choices it takes."""

from __future__ import annotations

import gc
import re
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

import bstuner
from bstuner import BatchSizeFinder, BatchSizeScheduler, BatchSizeTuner, FindResult
from bstuner.errors import InvalidSetting

LIMIT = 5 * zoo.MIB  # Wide trains at 256 under this limit, and not at 512


def found(
    model: L.LightningModule, *callbacks: Callback, trainer: dict[str, Any] | None = None, **settings: Any
) -> FindResult:
    finder = BatchSizeFinder(**settings)
    zoo.trainer(finder, *callbacks, **{"max_epochs": 1, **(trainer or {})}).fit(model)
    assert finder.result is not None
    return finder.result


def test_the_result_tells_what_was_measured() -> None:
    result = found(zoo.Wide(batch_size=8, length=4096), memory_limit=LIMIT)
    assert (result.batch_size, result.limited_by, result.reference_batch_size) == (256, "memory", 8)
    assert (result.capacity_bytes, result.usable_bytes) == (LIMIT, int(0.9 * LIMIT))
    assert (result.stage, result.holder, result.lr) == ("fit", "Wide.batch_size", 1e-3)
    assert (result.dataset_size, result.scanned) == (4096, 4096)
    answer = next(probe for probe in result.probes if probe.batch_size == 256)
    assert answer.fits
    assert answer.peak_bytes is not None
    assert result.memory_slope is not None
    assert result.memory_intercept is not None
    predicted = result.memory_intercept + 256 * result.memory_slope
    assert predicted == pytest.approx(answer.peak_bytes, rel=0.02)
    assert result.memory_intercept + 512 * result.memory_slope > result.usable_bytes
    assert {16, 64, 256} <= set(result.throughput), "a quarter and a sixteenth of the answer are timed"
    assert result.knee in (2, 4, 8, 16, 32, 64, 128, 256)


def test_a_search_costs_few_samples() -> None:
    class Counted(zoo.Wide):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            zoo.NOTES.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    # A limit far above the weights, as on a real device: there the line rules out twice the answer.
    result = bstuner.find(zoo.trainer(), Counted(batch_size=8, length=16_384), memory_limit="16MiB")
    assert result.limited_by == "memory"
    sizes = [probe.batch_size for probe in result.probes if probe.peak_bytes is not None]
    assert sum(sizes) <= 1.75 * result.batch_size
    # On the CPU a probe is two measured steps and a timed one; a sixteenth of the answer was only timed. A reading that
    # contradicts the others, as noise may have it, is taken once more.
    for probe in result.probes:
        steps = 2 if probe.peak_bytes is None else 3
        assert zoo.NOTES.count(probe.batch_size) in (steps, steps + 2)
    assert set(zoo.NOTES) == {probe.batch_size for probe in result.probes}


def test_settings_that_count_in_steps_are_named_with_what_they_now_mean() -> None:
    checkpoint = ModelCheckpoint(every_n_train_steps=5)
    options = {
        "max_steps": 4, "min_steps": 2, "max_epochs": -1, "val_check_interval": 2, "accumulate_grad_batches": 2,
        "limit_train_batches": 3, "enable_checkpointing": True,
    }  # fmt: skip
    result = found(zoo.Regularised(batch_size=8, length=512), checkpoint, trainer=options, max_val=32)
    assert result.changed_settings == (
        "max_steps=4 now spans 256 samples instead of 64",
        "min_steps=2 now spans 128 samples instead of 32",
        "val_check_interval=2 now spans 64 samples instead of 16",
        "limit_train_batches=3 now spans 96 samples instead of 24",
        "ModelCheckpoint(every_n_train_steps)=5 now spans 320 samples instead of 80",
        "OneCycleLR counts optimizer steps: constants written into it now span 4 times the samples",
    )


def test_nothing_is_named_when_the_batch_size_stays_what_it_was() -> None:
    result = found(zoo.Mlp(batch_size=32), max_val=32, trainer={"max_steps": 4, "max_epochs": -1})
    assert result.changed_settings == ()


@pytest.mark.parametrize("choice", [3, lambda dataset: dataset[3]])
def test_the_users_own_sample_wins_over_the_scan(choice: Any) -> None:
    class Watched(zoo.RaggedText):
        def __getitem__(self, index: int) -> torch.Tensor:
            zoo.NOTES.append(("served", index))
            return super().__getitem__(index)

    class Model(zoo.Transformer):
        dataset = Watched

        def loss(self, batch: torch.Tensor) -> torch.Tensor:
            zoo.NOTES.append(("tokens", batch.shape[1]))
            return super().loss(batch)

    model = Model(batch_size=2)
    bstuner.find(zoo.trainer(limit_val_batches=0), model, max_val=16, probe_with=choice)
    assert set(zoo.NOTES) == {("served", 3), ("tokens", 4 + 3)}


def test_each_probe_takes_its_steps_with_accumulation_over_at_most_two_batches() -> None:
    class Counted(zoo.Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            zoo.NOTES.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    def count(*callbacks: Callback, **trainer: Any) -> int:
        zoo.NOTES.clear()
        bstuner.find(zoo.trainer(*callbacks, **trainer), Counted(), init_val=32, max_val=32)
        return zoo.NOTES.count(32)

    assert count() == 3  # two steps measured, one timed
    assert count(accumulate_grad_batches=8) == 2 * 3
    assert count(GradientAccumulationScheduler({0: 1, 4: 8})) == 2 * 3


def test_an_optimizer_that_steps_rarely_is_waited_for() -> None:
    class Rare(zoo.ManualAutoencoder):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            self.manual_backward(self.loss(batch) + self.critic(self.net(batch[0])).mean())
            second.step()
            if batch_idx % 4 == 3:
                first.step()
                zoo.NOTES.append(len(batch[0]))

    bstuner.find(zoo.trainer(limit_val_batches=0), Rare(), init_val=8, max_val=8)
    assert zoo.NOTES.count(8) == 3  # two steps measured, one timed


def test_every_holder_of_the_attribute_is_written() -> None:
    class Both(zoo.Bare):
        def __init__(self, batch_size: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters()

    model, data = Both(), zoo.Data(batch_size=5)
    zoo.trainer(BatchSizeFinder(max_val=16), max_epochs=1).fit(model, datamodule=data)
    assert (model.hparams.batch_size, data.hparams.batch_size) == (16, 16)


def test_an_attribute_of_another_name() -> None:
    class Named(zoo.Mlp):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(self.dataset(self.length), batch_size=self.per_device)

    model = Named()
    model.per_device = 2
    zoo.trainer(BatchSizeFinder(batch_arg_name="per_device", max_val=32), max_epochs=1).fit(model)
    assert (model.per_device, model.batch_size) == (32, 16)


def test_validation_keeps_its_own_size_and_is_checked_to_fit() -> None:
    class Watched(zoo.Bare):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            zoo.NOTES.append(len(batch[0]))
            super().validation_step(batch, batch_idx)

    train, val = DataLoader(zoo.Vectors(512), batch_size=4), DataLoader(zoo.Vectors(64), batch_size=24)
    bstuner.find(zoo.trainer(), Watched(), train, val, max_val=64)
    assert (train.batch_size, val.batch_size, set(zoo.NOTES)) == (64, 24, {24})


def test_the_users_logger_and_bars_hear_nothing_of_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[Any] = []

    class Recorder(L.pytorch.loggers.CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            logged.append((step, sorted(metrics)))

    def run(*callbacks: Callback, size: int) -> list[Any]:
        logged.clear()
        zoo.trainer(*callbacks, logger=Recorder("."), max_epochs=1, log_every_n_steps=1).fit(zoo.Mlp(batch_size=size))
        return list(logged)

    assert run(BatchSizeFinder(max_val=64), size=3) == run(size=64)
    assert capsys.readouterr().out == ""


def test_the_findings_are_printed_where_the_bars_are_on(capsys: pytest.CaptureFixture[str]) -> None:
    found(zoo.Mlp(), trainer={"enable_progress_bar": True, "limit_train_batches": 1}, max_val=32)
    out = capsys.readouterr().out
    assert "Fits    32 per device" in out
    assert "max_val: a larger batch may fit" in out


def test_find_for_an_evaluation() -> None:
    loader = DataLoader(zoo.Vectors(100), batch_size=2)
    result = bstuner.find(zoo.trainer(), zoo.Bare(), dataloaders=loader, method="predict")
    assert (result.batch_size, result.stage, result.limited_by, loader.batch_size) == (64, "predict", "dataset", 64)


class LargeSamples(zoo.Vectors):
    """Samples of 1 MiB each."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(2**18), torch.tensor(index % 10)


class OnLargeSamples(zoo.Base):
    dataset = LargeSamples

    def build(self) -> torch.nn.Module:
        return torch.nn.Linear(2**18, 10)


def test_making_batches_does_not_count_as_the_memory_of_training() -> None:
    # The weights, their gradient and Adam's moments take 40 MiB, a batch of 8 takes 8 MiB, and nothing else counts.
    result = found(OnLargeSamples(batch_size=2), memory_limit="80MiB", max_val=8, trainer={"limit_train_batches": 1})
    assert (result.batch_size, result.limited_by) == (8, "max_val")
    peaks = {probe.batch_size: probe.peak_bytes for probe in result.probes if probe.peak_bytes is not None}
    assert peaks[8] is not None
    assert peaks[8] > peaks[2]  # type: ignore[operator]


def test_user_code_sees_its_own_loaders_through_those_of_a_probe() -> None:
    class Curious(Callback):
        def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
            zoo.NOTES.append((len(trainer.train_dataloader.dataset), trainer.train_dataloader.batch_size))

        def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
            if not trainer.sanity_checking:
                zoo.NOTES.append(len(trainer.val_dataloaders.dataset))

    found(zoo.Mlp(batch_size=4, length=256), Curious(), init_val=16, max_val=16, trainer={"num_sanity_val_steps": 0})
    assert set(zoo.NOTES) == {(256, 16), (256, 4), 64}  # 4: a quarter of the answer, timed


def test_samples_that_may_have_been_missed_are_told() -> None:
    result = found(zoo.Transformer(length=5000), scan=1000, max_val=4, trainer={"limit_train_batches": 1})
    assert (result.scanned, result.dataset_size) == (1000, 5000)
    assert len(result.warnings) == 1
    assert re.fullmatch(
        r"1,000 of 5,000 samples were looked at, of different sizes: if a larger one than \d+ elements exists, name it "
        r"with probe_with, or look further with scan \(scan='all' looks at all\)\.",
        result.warnings[0],
    )
    result = found(zoo.Transformer(length=5000), scan="all", max_val=4, trainer={"limit_train_batches": 1})
    assert (result.scanned, result.dataset_size, result.warnings) == (5000, 5000, ())


class Counting(zoo.Mlp):
    """Its samples depend on how often each was read, which the dataset counts in a large tensor and a long list."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.data, self.batch_size)

    def __init__(self, batch_size: int = 4, counters: int = 8_000) -> None:
        super().__init__(batch_size=batch_size)
        self.data = Counted(counters)


class Counted(zoo.Vectors):
    def __init__(self, counters: int) -> None:
        super().__init__(length=64)
        self.read = torch.zeros(counters)
        self.rows = [{"read": 0} for _ in range(counters)]

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        self.read[index] += 1
        self.rows[index]["read"] += 1
        return x * self.read[index] * self.rows[index]["read"], y


def test_what_a_dataset_counts_in_large_tensors_and_long_lists_is_put_back() -> None:
    def trained(size: int, *callbacks: Callback) -> Counting:
        L.seed_everything(7, verbose=False)
        model = Counting(batch_size=size)
        zoo.trainer(*callbacks, max_epochs=1).fit(model)
        return model

    finder = BatchSizeFinder(max_val=16)
    found, by_hand = trained(4, finder), trained(16)
    assert finder.result is not None
    assert finder.result.warnings == ()
    assert found.losses == by_hand.losses
    assert torch.equal(found.data.read, by_hand.data.read)


def test_what_a_dataset_changes_and_cannot_be_put_back_is_told() -> None:
    warnings = found(Counting(counters=20_000), max_val=16).warnings
    assert warnings == (
        "Your code changes Counted.rows while it is searched with, and that is too large to be put back: training "
        "finds it as the search left it. Where that matters, do not write to it while bstuner.searching() is true.",
    )


@pytest.mark.parametrize("scan", [0, 0.0, -1, True, "5 s", None])
@pytest.mark.parametrize("callback", [BatchSizeFinder, BatchSizeTuner, BatchSizeScheduler])
def test_a_scan_that_is_no_bound_is_refused(callback: Any, scan: Any) -> None:
    with pytest.raises(InvalidSetting, match=r"Expected scan to be seconds .* or 'all', found"):
        callback(scan=scan)


class Multiples(zoo.Mlp):
    """Four views of each scene in a batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch[0].view(-1, 4, batch[0].shape[-1])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("settings", [{}, {"init_val": 4}, {"mode": "binsearch"}, {"init_val": 8, "mode": "binsearch"}])
def test_sizes_that_the_users_code_refuses_cost_no_answer(settings: dict[str, Any]) -> None:
    result = found(Multiples(batch_size=4, length=64), max_val=32, **settings)
    assert result.batch_size == 32
    refused = [probe for probe in result.probes if not probe.fits]
    assert all(probe.reason.startswith("refused by your code: RuntimeError") for probe in refused)
    assert [probe.batch_size for probe in refused] == ([2] if settings.get("init_val", 2) == 2 else [])
    assert len(result.warnings) == len(refused)


def test_an_error_of_the_users_code_says_at_which_size_it_came() -> None:
    class BuiltIn(zoo.Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(batch[0]) != 4:
                raise ValueError("four, and nothing else")
            return super().training_step(batch, batch_idx)

    model = BuiltIn(batch_size=4, length=64)
    with pytest.raises(ValueError, match="four, and nothing else") as error:
        found(model, max_val=32)
    assert error.value.__notes__ == [
        "This happened in a search, while bstuner ran a probe of batch size 32, before training."
    ]
    assert model.batch_size == 4


@pytest.mark.parametrize("own", [1, 3, 4, 48])
@pytest.mark.parametrize("settings", [{}, {"max_val": 3}, {"mode": "binsearch"}, {"global_batch_size": 32}])
def test_code_that_fails_at_any_size_fails_in_its_own_words_after_a_few_probes(
    own: int, settings: dict[str, Any]
) -> None:
    class Broken(zoo.Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            zoo.NOTES.append(("step", len(batch[0]), 0))
            raise ValueError("my own mistake")

    with pytest.raises(ValueError, match="my own mistake") as error:
        found(Broken(batch_size=own, length=64), **settings)
    assert str(error.value) == "my own mistake"
    assert len(zoo.NOTES) <= 2


@pytest.mark.parametrize("own", [3, 48])
def test_a_search_that_starts_again_does_so_at_a_power_of_two_from_the_users_own_size_on(own: int) -> None:
    class NoPair(zoo.Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert len(batch[0]) > 2, "a pair is too few"
            return super().training_step(batch, batch_idx)

    result = found(NoPair(batch_size=own, length=256), max_val=128)
    assert (result.batch_size, result.probes[0].batch_size) == (128, 2)
    assert result.probes[1].batch_size == {3: 4, 48: 64}[own]


def test_the_garbage_collector_is_left_as_it_was() -> None:
    before = gc.get_freeze_count(), gc.isenabled()
    found(zoo.Mlp(), max_val=8)
    assert (gc.get_freeze_count(), gc.isenabled()) == before


@pytest.mark.parametrize(
    ("method", "argument", "expected"),
    [
        ("fit", "dataloaders", "train_dataloaders= and val_dataloaders="),
        ("validate", "train_dataloaders", "dataloaders="),
        ("test", "val_dataloaders", "dataloaders="),
    ],
)
def test_find_refuses_loaders_in_the_wrong_place(method: Any, argument: str, expected: str) -> None:
    loader = DataLoader(zoo.Vectors(8))
    with pytest.raises(InvalidSetting, match=f"Expected loaders for method='{method}' as {expected}"):
        bstuner.find(zoo.trainer(), zoo.Mlp(), method=method, **{argument: loader})


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_on_a_gpu_training_equals_the_run_started_by_hand(precision: Any) -> None:
    def run(*callbacks: Callback, size: int) -> zoo.Base:
        L.seed_everything(1, verbose=False)
        model = zoo.Cnn(batch_size=size)
        options = {"accelerator": "gpu", "devices": 1, "precision": precision, "deterministic": True}
        zoo.trainer(*callbacks, **options).fit(model)
        return model

    model, by_hand = run(BatchSizeFinder(max_val=128), size=3), run(size=128)
    assert model.losses == by_hand.losses
    assert all(torch.equal(model.state_dict()[name], value) for name, value in by_hand.state_dict().items())


@pytest.mark.gpu
def test_on_a_gpu_the_answer_under_a_limit_is_that_of_brute_force() -> None:
    limit = 256 * zoo.MIB
    options = {"accelerator": "gpu", "devices": 1, "max_epochs": 1, "limit_train_batches": 3}
    finder = BatchSizeFinder(memory_limit=limit)
    zoo.trainer(finder, **options).fit(zoo.Cnn(batch_size=2, length=100_000))
    assert finder.result is not None
    answer, size = None, 2
    while size <= 65_536:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        zoo.trainer(**options).fit(zoo.Cnn(batch_size=size, length=4 * size))
        if torch.cuda.max_memory_allocated() > 0.9 * limit:
            break
        answer, size = size, 2 * size
    assert finder.result.batch_size == answer


def test_a_run_in_which_lightnings_tuner_tries_out_is_not_searched_in() -> None:
    finder = BatchSizeFinder(memory_limit="1GiB", max_val=16)
    model = zoo.Mlp(batch_size=8, length=64)
    model.lr = 0.1
    trainer = zoo.trainer(finder, max_epochs=1)
    Tuner(trainer).lr_find(model, num_training=4, update_attr=False)
    assert (finder.result, model.batch_size) == (None, 8)
    trainer.fit(model)
    assert (finder.optimal_batch_size, model.batch_size) == (16, 16)


class Lazy(zoo.Vectors):
    """Opens something when the first sample is read, as for a file that each worker is to open for itself."""

    handle: Any = None

    def __getitem__(self, index: int) -> Any:
        self.handle = self.handle or object()
        return super().__getitem__(index)


GLOBAL_DATA = Lazy(64)


def test_what_a_probe_opened_in_a_dataset_that_is_a_global_is_not_shared_with_workers() -> None:
    class FromGlobal(zoo.Mlp):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(GLOBAL_DATA, batch_size=self.batch_size, num_workers=1)

        def on_train_start(self) -> None:
            if not bstuner.searching():
                zoo.NOTES.append(GLOBAL_DATA.handle)

    zoo.trainer(BatchSizeFinder(memory_limit="1GiB", max_val=16), max_epochs=1).fit(FromGlobal(batch_size=8))
    assert zoo.NOTES == [None]
