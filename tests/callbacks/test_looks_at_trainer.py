"""User code that looks at the Trainer sees in a search what it sees in training, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import zoo
from lightning.pytorch.callbacks import BasePredictionWriter, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from torch.utils.data import DataLoader
from tuning import wishing

import bstuner
from bstuner import BatchSizeFinder, BatchSizeScheduler


class Looks(L.Callback):
    """Notes what the Trainer shows when training starts, and makes a folder below the logger's."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (Path(str(trainer.log_dir)) / "images").mkdir(parents=True)  # fails where it was made before
        pl_module.logger.experiment.log_metrics({"own": 1.0}, step=0)  # type: ignore[union-attr]
        loader = trainer.train_dataloader
        zoo.NOTES.append(
            {
                "logger": isinstance(trainer.logger, CSVLogger),
                "version": trainer.logger.version,  # type: ignore[union-attr]
                "folder": Path(str(trainer.log_dir)).name,
                "checkpoint": trainer.checkpoint_callback.dirpath,  # type: ignore[union-attr]
                "stopping": trainer.early_stopping_callback.patience,  # type: ignore[union-attr]
                "bar": type(trainer.progress_bar_callback),
                "loader": (isinstance(loader, DataLoader), len(loader), len(next(iter(loader))[0])),
                "batches": trainer.num_training_batches,
                "size": loader.batch_size,  # type: ignore[union-attr]
            }
        )
        trainer.save_checkpoint(Path(str(trainer.default_root_dir)) / "own.ckpt")
        zoo.NOTES.append(bstuner.searching())


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run(*callbacks: L.Callback) -> L.Trainer:
        trainer = zoo.trainer(
            *callbacks,
            Looks(),
            EarlyStopping("val_loss", patience=7),
            ModelCheckpoint(tmp_path / "checkpoints"),
            TQDMProgressBar(refresh_rate=0),
            logger=CSVLogger(tmp_path, name="runs"),
            enable_checkpointing=True,
            enable_progress_bar=True,
            max_epochs=1,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
        )
        trainer.fit(zoo.Mlp(batch_size=8, length=40))
        return trainer

    return run


@pytest.mark.parametrize(
    "search",
    [
        lambda: BatchSizeFinder(memory_limit="1GiB", max_val=16),
        lambda: BatchSizeScheduler("0:8 24:16", memory_limit="1GiB"),
        lambda: wishing(monitor="val_loss", mode="min", memory_limit="1GiB", trial_budget=32),
    ],
    ids=["finder", "scheduler", "tuner"],
)
def test_the_trainer_shows_in_a_search_what_it_shows_in_training(run: Any, tmp_path: Path, search: Any) -> None:
    trainer = run(search())
    states, looks = zoo.NOTES[1::2], zoo.NOTES[::2]
    assert states == [True] * (len(states) - 1) + [False]
    assert len(looks) > 2
    for look in looks:
        *_, batches, size = look.values()
        batches_of_all = -(-40 // size)
        assert look == {
            "logger": True,
            "version": 0,
            "folder": "version_0",
            "checkpoint": str(tmp_path / "checkpoints"),
            "stopping": 7,
            "bar": TQDMProgressBar,
            "loader": (True, batches_of_all if look is not looks[-1] else batches, size),
            "batches": batches_of_all if look is not looks[-1] else batches,
            "size": size,
        }
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["version_0"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]  # the user's own works again


def test_a_writer_of_predictions_writes_each_once() -> None:
    class Writer(BasePredictionWriter):
        def __init__(self) -> None:
            super().__init__("batch")

        def write_on_batch_end(self, *args: Any) -> None:
            zoo.NOTES.extend(args[3])

    zoo.trainer(Writer(), BatchSizeFinder(memory_limit="1GiB", max_val=8)).predict(
        zoo.Mlp(batch_size=2), DataLoader(zoo.Vectors(20), batch_size=2)
    )
    assert list(range(20)) == zoo.NOTES


class Service(Logger):
    """A logger that talks to a service, and whose run is on already."""

    class Client:
        id = "run-7"

        def upload(self, what: Any) -> None:
            zoo.NOTES.append(what)

    name = "service"
    version = "run-7"

    def __init__(self) -> None:
        super().__init__()
        self._experiment = self.Client()

    @property
    def experiment(self) -> Any:
        return self._experiment

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        zoo.NOTES.append("metrics")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_a_service_hears_of_training_alone() -> None:
    class Uploads(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            client = pl_module.logger.experiment  # type: ignore[union-attr]
            assert isinstance(client, Service.Client)
            assert client.id == "run-7"
            client.upload("weights")

    zoo.trainer(Uploads(), BatchSizeFinder(memory_limit="1GiB", max_val=16), logger=Service(), max_epochs=1).fit(
        zoo.Mlp(batch_size=8, length=64)
    )
    assert zoo.NOTES.count("weights") == 1


class Fails(zoo.Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if len(batch[0]) > 8:
            raise ValueError("more than eight")
        return super().training_step(batch, batch_idx)


@pytest.mark.skipif(not hasattr(Exception, "add_note"), reason="notes came with Python 3.11")
def test_an_error_in_a_probe_says_at_which_size() -> None:
    with pytest.raises(ValueError, match="more than eight") as caught:
        zoo.trainer(BatchSizeFinder(memory_limit="1GiB", max_val=16)).fit(Fails(batch_size=4))
    assert caught.value.__notes__ == [
        "This happened in a search, while bstuner ran a probe of batch size 16, before training."
    ]


class WithHparams(zoo.Mlp):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size)
        del self.batch_size
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader:
        return DataLoader(zoo.Vectors(64), batch_size=self.hparams.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(zoo.Vectors(8), batch_size=8)


def test_what_is_recorded_of_the_batch_size_is_what_training_has(tmp_path: Path) -> None:
    model = WithHparams()
    logger = CSVLogger(tmp_path)
    zoo.trainer(BatchSizeFinder(memory_limit="1GiB", max_val=16), logger=logger, max_epochs=1).fit(model)
    assert model.hparams_initial.batch_size == 16
    assert (Path(logger.log_dir) / "hparams.yaml").read_text() == "batch_size: 16\n"


def test_what_training_opened_in_a_probe_is_let_go() -> None:
    class Handle:
        def __del__(self) -> None:
            zoo.NOTES.append("closed")

    class Opens(L.Callback):
        handle: Any = None

        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.handle = Handle()
            zoo.NOTES.append("opened")

        def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            zoo.NOTES.append("teardown")

    callback = Opens()
    zoo.trainer(callback, BatchSizeFinder(memory_limit="1GiB", max_val=16), max_epochs=1).fit(zoo.Mlp(batch_size=8))
    probes = zoo.NOTES.count("opened") - 1
    assert probes > 0
    assert zoo.NOTES.count("closed") == probes
    assert zoo.NOTES[-2:] == ["opened", "teardown"]
