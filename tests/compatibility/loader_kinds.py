"""Kinds of loaders that users have, each as one row of data: how it is built, and which batches it has to give.

The tests run these rows, and the table in `docs/compatibility.md` is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
import zoo
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

SAMPLES = 40
ANSWER = 16  # what each search is capped at
BEFORE = 3  # what each loader is built with before a search: no size that a search probes

# Data: each sample carries its number, so that a test can tell which were seen.


def sample(index: int) -> dict[str, Tensor]:
    return {"id": torch.tensor(index), "x": torch.randn(8, generator=torch.Generator().manual_seed(index))}


class Numbered(Dataset):
    def __init__(self, length: int = SAMPLES) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return sample(index)


class Named(Numbered):
    """A dataset with names for keys; Lightning asks for numbers in prediction."""

    def __getitem__(self, key: str | int) -> dict[str, Tensor]:
        return sample(int(str(key).removeprefix("no. ")))


class Opened(Numbered):
    """A dataset that each worker opens for itself; without workers it is shut."""

    opened = False

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not self.opened:
            raise OSError("shut")
        return sample(index)


def open_dataset(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.opened = True


class ManyAtOnce(Dataset):
    """A dataset that is only ever asked for several samples at a time."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitems__(self, keys: list[int]) -> list[dict[str, Tensor]]:
        return [sample(key) for key in keys]


class InBulk(Numbered):
    """A dataset that is asked for a batch at a time."""

    def __getitem__(self, keys: Any) -> dict[str, Tensor]:
        return torch.utils.data.default_collate([sample(key) for key in keys])


class Stream(IterableDataset):
    """An iterable dataset; its workers share the samples among them."""

    def __init__(self, length: int = SAMPLES) -> None:
        self.length = length

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return (sample(index) for index in range(first, self.length, step))


class CountedStream(Stream):
    def __len__(self) -> int:
        return self.length


class Batched(Stream):
    """An iterable dataset that makes the batches itself, for a DataLoader with batch_size=None."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        samples = list(super().__iter__())
        return (
            torch.utils.data.default_collate(samples[start : start + self.size])
            for start in range(0, len(samples), self.size)
        )


# Samplers and loaders of users' own.


class OwnBatchSampler(BatchSampler):
    """A batch sampler with an argument of its own: leaves out the first samples."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool, skip: int = 0) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.skip = skip

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.sampler)[self.skip :]
        for start in range(0, len(indices), self.batch_size):
            yield indices[start : start + self.batch_size]

    def __len__(self) -> int:
        return -(-(len(self.sampler) - self.skip) // self.batch_size)


class Buckets(Sampler):
    """A sampler of batches that has no sampler inside."""

    def __init__(self, length: int, batch_size: int) -> None:
        self.length, self.batch_size = length, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        starts = range(0, self.length, self.batch_size)
        return (list(range(start, min(start + self.batch_size, self.length))) for start in starts)

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)


class Pairs(Sampler):
    """A sampler of batches that has no batch size."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1], [2, 3]])

    def __len__(self) -> int:
        return 2


class CutWhenBuilt(Sampler):
    """A sampler of batches that cuts them when it is built."""

    def __init__(self, length: int, batch_size: int) -> None:
        self.batch_size = batch_size
        self.batches = list(Buckets(length, batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class CountedWhenBuilt(Buckets):
    """A sampler of batches that counts them when it is built."""

    def __init__(self, length: int, batch_size: int) -> None:
        super().__init__(length, batch_size)
        self.count = super().__len__()

    def __len__(self) -> int:
        return self.count


class PlainBatchSampler:
    """A batch sampler that is none of torch's, but is built as theirs are."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        return iter(BatchSampler(self.sampler, self.batch_size, self.drop_last))

    def __len__(self) -> int:
        return len(BatchSampler(self.sampler, self.batch_size, self.drop_last))


class OwnDataLoader(DataLoader):
    """A DataLoader with a constructor of its own."""

    def __init__(self, dataset: Any, batch_size: int, label: str, **options: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, **options)
        self.label = label


class Renaming(DataLoader):
    """A DataLoader with a constructor of its own, in which nothing has the name it has in DataLoader's."""

    def __init__(self, length: int, per_step: int) -> None:
        super().__init__(Numbered(length), batch_size=per_step, shuffle=True)


class OwnLoader:
    """A loader that is no DataLoader; it reads its `batch_size` whenever it is iterated."""

    def __init__(self, batch_size: int, length: int = SAMPLES) -> None:
        self.batch_size = batch_size
        self.length = length

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(Numbered(self.length), batch_size=self.batch_size))


class Fixed(OwnLoader):
    """A loader whose batch size is a property that cannot be set."""

    batch_size = property(lambda self: 4)

    def __init__(self) -> None:
        self.length = SAMPLES


class Sizeless:
    """A loader that is no DataLoader and has no batch size."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(Numbered(), batch_size=20))


# Models, and the places where a batch size can live.


class Model(zoo.Bare):
    """A model that records which samples each step saw; it makes no loaders and has no batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.record: list[Any] = []

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.Linear(16, 4))

    def see(self, batch: Any, loader: int) -> None:
        stage = "sanity" if self.trainer.sanity_checking else self.trainer.state.stage.value
        ids = {name: part["id"].tolist() for name, part in leaves(batch).items()}
        self.record.append((stage, self.current_epoch if stage == "train" else 0, loader, ids))
        zoo.NOTES.append(len(next(iter(ids.values()))))

    def loss(self, batch: Any) -> Tensor:
        parts = leaves(batch).values()
        return torch.stack([self.net(part["x"].to(self.dtype)).square().mean() for part in parts]).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.see(batch, 0)
        loss = self.loss(batch)
        self.losses.append(loss.item())
        self.log("train_loss", loss, batch_size=1)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.see(batch, dataloader_idx)
        self.log("val_loss", self.loss(batch), batch_size=1)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.see(batch, dataloader_idx)
        return {name: self.net(part["x"].to(self.dtype)) for name, part in leaves(batch).items()}


def leaves(batch: Any, name: str = "") -> dict[str, Any]:
    """The batches in what a combination of loaders gives, by their place in it."""
    if batch is None:
        return {}
    if isinstance(batch, dict) and "id" in batch:
        return {name: batch}
    items = batch.items() if isinstance(batch, dict) else enumerate(batch)
    return {path: leaf for key, part in items for path, leaf in leaves(part, f"{name}/{key}".lstrip("/")).items()}


Make = Callable[[int], Any]  # what the user passes, or returns from a hook, at a batch size


class Hooks:
    """`*_dataloader()` hooks of a module or a datamodule, which keeps the batch size where nobody looks for it."""

    make: Make
    make_val: Make

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.keep(batch_size)

    def keep(self, batch_size: int) -> None:
        self.kept = batch_size

    def size(self) -> int:
        return self.kept

    def train_dataloader(self) -> Any:
        return self.make(self.size())

    test_dataloader = predict_dataloader = train_dataloader

    def val_dataloader(self) -> Any:
        fitting = self.trainer.state.fn == "fit"  # type: ignore[attr-defined]
        return (self.make_val if fitting else self.make)(self.size())


class InAttribute(Hooks):
    def keep(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def size(self) -> int:
        return self.batch_size


class InHparams(Hooks):
    def keep(self, batch_size: int) -> None:
        self.save_hyperparameters({"batch_size": batch_size})  # type: ignore[attr-defined]

    def size(self) -> int:
        return self.hparams.batch_size  # type: ignore[attr-defined]


class NotRead(Hooks):
    """It has an attribute `batch_size`, and builds its loaders with another number."""

    def keep(self, batch_size: int) -> None:
        self.batch_size, self.kept = 1, batch_size


def plain(size: int) -> DataLoader:
    return DataLoader(Numbered(), batch_size=size, shuffle=True)


def following(size: int) -> DataLoader:
    """A validation loader built with the attribute that the training loader is built with."""
    return DataLoader(Numbered(20), batch_size=size)


def apart(size: int) -> DataLoader:
    """A validation loader whose size is a question of its own."""
    return DataLoader(Numbered(20), batch_size=5)


@dataclass(frozen=True)
class Run:
    """What one run is given."""

    module: L.LightningModule
    arguments: dict[str, Any]


Build = Callable[[int, str], Run]  # from a batch size and "fit", "validate", "test" or "predict"


def passed(make: Make = plain) -> Build:
    """The user passes the loaders to the Trainer."""

    def build(size: int, stage: str) -> Run:
        if stage == "fit":
            return Run(Model(), {"train_dataloaders": make(size), "val_dataloaders": apart(size)})
        return Run(Model(), {"dataloaders": make(size)})

    return build


def in_module(make: Make = plain, place: type = Hooks, val: Make = apart) -> Build:
    """Hooks of the module make the loaders."""
    made = {"make": staticmethod(make), "make_val": staticmethod(val)}
    return lambda size, stage: Run(type("Module", (place, Model), made)(size), {})


def in_datamodule(make: Make = plain, place: type = Hooks, val: Make = apart) -> Build:
    """Hooks of a datamodule make the loaders."""
    made = {"make": staticmethod(make), "make_val": staticmethod(val)}
    return lambda size, stage: Run(Model(), {"datamodule": type("Data", (place, L.LightningDataModule), made)(size)})


def in_both(size: int, stage: str) -> Run:
    """The datamodule makes the loaders, and the module has the size, too, for some purpose of its own."""
    module = in_module(place=InHparams, val=following)(size, stage).module
    return Run(module, in_datamodule(place=InAttribute, val=following)(size, stage).arguments)


def from_datasets(size: int, stage: str) -> Run:
    """Lightning makes the datamodule; its validation loader is another one, since only one size can be given there."""
    sets = dict.fromkeys(("train_dataset", "test_dataset", "predict_dataset", "val_dataset"), Numbered())
    data = L.LightningDataModule.from_datasets(**sets, batch_size=size)
    if stage == "fit":
        data.val_dataloader = lambda: apart(size)
    return Run(Model(), {"datamodule": data})


STAGES = ("fit", "validate", "test", "predict")
Sizes = dict[str, list[int]]  # of the batches of an epoch, by the place of the loader among several
ONE: Sizes = {"0": [16, 16, 8]}


@dataclass(frozen=True)
class Kind:
    """A kind of loader that is searched for.

    Attributes:
        title: what it is.
        where: where its batch size lives.
        build: makes a run of it.
        holder: what the result calls the place of the batch size, at most up to a word for the stage.
        fit: the batches of an epoch of a fit, on one process.
        evaluation: the batches of an evaluation; None for those of `fit`.
        predict: the batches of a prediction; None for those of an evaluation.
        val: the sizes of the validation batches of a fit.
        once: the loaders that give each sample once in an epoch of a fit; None for all.
        impossible: the stages in which Lightning itself refuses it, and how its error starts.
        finder: settings of the finder.
        warning: how a warning of the result starts; empty for none.
        ignored: warnings of Lightning or torch, which they give without a search too.

    """

    title: str
    where: str
    build: Build
    holder: str
    fit: Sizes = field(default_factory=lambda: ONE)
    evaluation: Sizes | None = None
    predict: Sizes | None = None
    val: tuple[int, ...] = (5, 5, 5, 5)
    once: tuple[str, ...] | None = None
    impossible: dict[str, str] = field(default_factory=dict)
    finder: dict[str, Any] = field(default_factory=dict)
    warning: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def stages(self) -> list[str]:
        """What Lightning does with it."""
        return [stage for stage in STAGES if stage not in self.impossible]

    def expected(self, stage: str) -> Sizes:
        """The sizes of the batches of an epoch."""
        evaluation = self.fit if self.evaluation is None else self.evaluation
        predict = evaluation if self.predict is None else self.predict
        return {"fit": self.fit, "predict": predict}.get(stage, evaluation)

    def whole(self, stage: str) -> Iterable[str]:
        """The loaders that give each sample once in an epoch."""
        expected = self.expected(stage)
        return expected if self.once is None or expected is not self.fit else self.once


@dataclass(frozen=True)
class Refused:
    """A kind of loader that a search refuses.

    Attributes:
        title: what it is.
        where: where its batch size lives.
        build: makes a run of it.
        error: how the error starts.
        ignored: warnings of Lightning, which it gives without a search too.

    """

    title: str
    where: str
    build: Build
    error: str
    ignored: tuple[str, ...] = ()


PASSED = "the batch_size of the loader passed to the Trainer"
EACH_PASSED = "the batch_size of each of the 2 loaders passed to the Trainer"
RATIO_PASSED = "the batch_size of each of the 2 loaders, in their ratio of 3 : 6, passed to the Trainer"
RETURNED = "the batch_size of the loader that Module."
FOLLOWS = (16, 4)
ONLY_SEQUENTIAL = {"predict": '`trainer.predict()` only supports the `CombinedLoader(mode="sequential")` mode'}
NEVER_SEQUENTIAL = {"fit": '`_FitLoop` does not support the `CombinedLoader(mode="sequential")` mode'}
RENAMED = {"predict": "Trying to inject custom `Sampler` into the `Renaming` instance"}
RENAMED_HOOK = {"predict": "Trying to inject parameters into the `Renaming` instance"}
COUNTED = ("Your `IterableDataset` has `__len__` defined",)
UNPINNED = ("'pin_memory' argument is set as true but no accelerator is found",)
CUSTOM = ("You are using a custom batch sampler",)
STATEFUL = ("'set_vital' is deprecated",)


def pair(second: int = 1, length: int = SAMPLES) -> Make:
    """Two loaders in a dict, the second of them `second` times as large."""
    return lambda size: {
        "a": DataLoader(Numbered(), batch_size=size, shuffle=True),
        "b": DataLoader(Numbered(length), batch_size=second * size),
    }


def combination(mode: str) -> Make:
    return lambda size: CombinedLoader(pair(length=24)(size), mode)


def nested(size: int) -> Any:
    one, two = pair()(size).values()
    return {"a": one, "more": [two, DataLoader(Numbered(20), batch_size=size)]}


def batch_sampler(kind: Any, **options: Any) -> Make:
    def make(size: int) -> DataLoader:
        data = Numbered()
        return DataLoader(data, batch_sampler=kind(SequentialSampler(data), size, False, **options))

    return make


def weighted(size: int) -> DataLoader:
    sampler = WeightedRandomSampler(torch.arange(1.0, SAMPLES + 1), num_samples=SAMPLES)
    return DataLoader(Numbered(), batch_size=size, sampler=sampler)


def loader(kind: Any = DataLoader, dataset: Any = Numbered, **options: Any) -> Make:
    return lambda size: kind(dataset(), batch_size=size, **options)


def bulk(size: int) -> DataLoader:
    data = InBulk()
    return DataLoader(data, batch_size=None, sampler=BatchSampler(SequentialSampler(data), size, False))


def as_they_come(size: int) -> DataLoader:
    return DataLoader(Batched(size), batch_size=None)


def seeded(size: int) -> DataLoader:
    return DataLoader(Numbered(), batch_size=size, shuffle=True, generator=torch.Generator().manual_seed(5))


KINDS = {
    "module attribute": Kind(
        "a `DataLoader`", "attribute of the module",
        in_module(place=InAttribute, val=following), "Module.batch_size", val=FOLLOWS,
    ),
    "module hparams": Kind(
        "a `DataLoader`", "hparams of the module",
        in_module(place=InHparams, val=following), "Module.batch_size", val=FOLLOWS,
    ),
    "datamodule attribute": Kind(
        "a `DataLoader`", "attribute of the datamodule",
        in_datamodule(place=InAttribute, val=following), "Data.batch_size", val=FOLLOWS,
    ),
    "datamodule hparams": Kind(
        "a `DataLoader`", "hparams of the datamodule",
        in_datamodule(place=InHparams, val=following), "Data.batch_size", val=FOLLOWS,
    ),
    "module and datamodule": Kind(
        "a `DataLoader`", "both module and datamodule: all are written", in_both, "Data.batch_size", val=FOLLOWS,
    ),
    "attribute of another name": Kind(
        "a `DataLoader`", "an attribute named with `batch_arg_name=`",
        in_module(val=following), "Module.kept", val=FOLLOWS, finder={"batch_arg_name": "kept"},
    ),
    "attribute, two loaders": Kind(
        "a dict of two, one of twice the size", "attribute of the module",
        in_module(pair(2), InAttribute, following), "Module.batch_size",
        fit={"a": [16, 16, 8], "b": [32, 8, 32]},
        evaluation={"0": [16, 16, 8], "1": [32, 8]}, val=FOLLOWS, once=("a",),
    ),
    "attribute, stateful": Kind(
        "torchdata's `StatefulDataLoader`", "attribute of the module",
        in_module(loader(StatefulDataLoader), InAttribute, following), "Module.batch_size", val=FOLLOWS,
        ignored=STATEFUL,
    ),
    "attribute, batches as they come": Kind(
        "a `DataLoader` with `batch_size=None`", "attribute of the module, from which the dataset is built",
        in_module(as_they_come, InAttribute, following), "Module.batch_size", val=FOLLOWS,
        warning="DataLoader makes its batches itself",
    ),
    "attribute, not read": Kind(
        "a `DataLoader`", "the loader itself: the module's attribute is not what it is built with",
        in_module(place=NotRead), RETURNED, warning="Module.batch_size is not what the loader is built with",
    ),
    "passed": Kind("a `DataLoader`", "the loader passed to the Trainer", passed(), PASSED),
    "module hook": Kind("a `DataLoader`", "the loader that a module's hook returns", in_module(), RETURNED),
    "datamodule hook": Kind(
        "a `DataLoader`", "the loader that a datamodule's hook returns",
        in_datamodule(), "the batch_size of the loader that Data.",
    ),
    "from_datasets": Kind(
        "`LightningDataModule.from_datasets`", "the loader that it makes", from_datasets,
        "the batch_size of the loader that LightningDataModule.", ignored=UNPINNED,
    ),
    "list": Kind(
        "a list of two", "the loaders passed", passed(lambda size: list(pair()(size).values())), EACH_PASSED,
        fit={"0": [16, 16, 8], "1": [16, 16, 8]},
    ),
    "dict": Kind(
        "a dict of two, one of twice the size", "the loaders passed, in their ratio", passed(pair(2)), RATIO_PASSED,
        fit={"a": [16, 16, 8], "b": [32, 8, 32]}, evaluation={"0": [16, 16, 8], "1": [32, 8]}, once=("a",),
    ),
    "list with an own loader": Kind(
        "a list of a `DataLoader` and a loader that is none", "the loaders passed",
        passed(lambda size: [plain(size), OwnLoader(size)]), EACH_PASSED,
        fit={"0": [16, 16, 8], "1": [16, 16, 8]}, warning="OwnLoader makes its batches itself",
    ),
    "nested": Kind(
        "a dict with a list in it", "the loaders passed", passed(nested),
        "the batch_size of each of the 3 loaders passed to the Trainer",
        fit={"a": [16, 16, 8], "more/0": [16, 16, 8], "more/1": [16, 4, 16]},
        evaluation={"0": [16, 16, 8], "1": [16, 16, 8], "2": [16, 4]}, once=("a", "more/0"),
    ),
    "dict from a hook": Kind(
        "a dict of two, one of twice the size", "the loaders that a module's hook returns", in_module(pair(2)),
        "the batch_size of each of the 2 loaders, in their ratio of 3 : 6, that Module.",
        fit={"a": [16, 16, 8], "b": [32, 8, 32]}, evaluation={"0": [16, 16, 8], "1": [32, 8]}, once=("a",),
    ),
    "min_size": Kind(
        '`CombinedLoader(mode="min_size")`', "the loaders passed", passed(combination("min_size")), EACH_PASSED,
        fit={"a": [16, 16], "b": [16, 8]}, once=("b",), impossible=ONLY_SEQUENTIAL,
    ),
    "max_size": Kind(
        '`CombinedLoader(mode="max_size")`', "the loaders passed", passed(combination("max_size")), EACH_PASSED,
        fit={"a": [16, 16, 8], "b": [16, 8]}, impossible=ONLY_SEQUENTIAL,
    ),
    "max_size_cycle": Kind(
        '`CombinedLoader(mode="max_size_cycle")`', "the loaders passed", passed(combination("max_size_cycle")),
        EACH_PASSED, fit={"a": [16, 16, 8], "b": [16, 8, 16]}, once=("a",), impossible=ONLY_SEQUENTIAL,
    ),
    "sequential": Kind(
        '`CombinedLoader(mode="sequential")`', "the loaders passed", passed(combination("sequential")), EACH_PASSED,
        fit={"0": [16, 16, 8], "1": [16, 8]}, impossible=NEVER_SEQUENTIAL,
    ),
    "min_size from a hook": Kind(
        '`CombinedLoader(mode="min_size")`', "the loaders that a module's hook returns",
        in_module(combination("min_size")), "the batch_size of each of the 2 loaders that Module.",
        fit={"a": [16, 16], "b": [16, 8]}, once=("b",), impossible=ONLY_SEQUENTIAL,
    ),
    "stream": Kind(
        "an `IterableDataset` without a length", "the loader passed", passed(loader(dataset=Stream)), PASSED,
    ),
    "stream with a length": Kind(
        "an `IterableDataset` with a length", "the loader passed", passed(loader(dataset=CountedStream)), PASSED,
        ignored=COUNTED,
    ),
    "stream with workers": Kind(
        "an `IterableDataset`, 2 workers", "the loader passed",
        passed(loader(dataset=Stream, num_workers=2)), PASSED, fit={"0": [16, 16, 4, 4]},
    ),
    "stream from a hook": Kind(
        "an `IterableDataset` without a length", "the loader that a module's hook returns",
        in_module(loader(dataset=Stream)), RETURNED,
    ),
    "workers": Kind(
        "2 workers", "the loader passed", passed(loader(shuffle=True, num_workers=2)), PASSED,
    ),
    "persistent workers": Kind(
        "2 persistent workers", "the loader passed",
        passed(loader(shuffle=True, num_workers=2, persistent_workers=True)), PASSED,
    ),
    "persistent workers from a hook": Kind(
        "2 persistent workers", "the loader that a module's hook returns",
        in_module(loader(shuffle=True, num_workers=2, persistent_workers=True)), RETURNED,
    ),
    "batch sampler": Kind(
        "a subclass of `BatchSampler` with arguments of its own", "the batch sampler of the loader passed",
        passed(batch_sampler(OwnBatchSampler, skip=0)), PASSED,
    ),
    "batch sampler from a hook": Kind(
        "a subclass of `BatchSampler` with arguments of its own", "the batch sampler of the loader that a hook returns",
        in_module(batch_sampler(OwnBatchSampler, skip=4)), RETURNED, fit={"0": [16, 16, 4]}, once=(),
    ),
    "plain batch sampler": Kind(
        "a batch sampler that is no subclass, with a `batch_size`", "the batch sampler of the loader passed",
        passed(batch_sampler(PlainBatchSampler)), PASSED,
    ),
    "plain batch sampler from a hook": Kind(
        "a batch sampler that is no subclass, with a `batch_size`",
        "the batch sampler of the loader that a hook returns",
        in_module(batch_sampler(PlainBatchSampler)), RETURNED,
    ),
    "sampler of batches": Kind(
        "a `Sampler` of batches with a `batch_size`", "the batch sampler of the loader passed",
        passed(lambda size: DataLoader(Numbered(), batch_sampler=Buckets(SAMPLES, size))), PASSED, ignored=CUSTOM,
    ),
    "stateful": Kind(
        "torchdata's `StatefulDataLoader`", "the loader passed", passed(loader(StatefulDataLoader, shuffle=True)),
        PASSED, ignored=STATEFUL,
    ),
    "stateful from a hook": Kind(
        "torchdata's `StatefulDataLoader`", "the loader that a module's hook returns",
        in_module(loader(StatefulDataLoader, shuffle=True)), RETURNED, ignored=STATEFUL,
    ),
    "stateful with workers": Kind(
        "torchdata's `StatefulDataLoader`, 2 persistent workers", "the loader passed",
        passed(loader(StatefulDataLoader, shuffle=True, num_workers=2, persistent_workers=True)), PASSED,
        ignored=STATEFUL,
    ),
    "own constructor": Kind(
        "a subclass of `DataLoader` with a constructor of its own", "the loader passed",
        passed(loader(OwnDataLoader, label="mine", shuffle=True)), PASSED,
    ),
    "own constructor from a hook": Kind(
        "a subclass of `DataLoader` with a constructor of its own", "the loader that a module's hook returns",
        in_module(loader(OwnDataLoader, label="mine", shuffle=True)), RETURNED,
    ),
    "other names": Kind(
        "a subclass of `DataLoader` that takes other arguments", "the loader passed",
        passed(lambda size: Renaming(SAMPLES, size)), PASSED, impossible=RENAMED,
    ),
    "other names from a hook": Kind(
        "a subclass of `DataLoader` that takes other arguments", "the loader that a module's hook returns",
        in_module(lambda size: Renaming(SAMPLES, size)), RETURNED, impossible=RENAMED_HOOK,
    ),
    "own loader": Kind(
        "a loader that is no `DataLoader`, with a `batch_size`", "the loader passed", passed(OwnLoader), PASSED,
        warning="OwnLoader makes its batches itself",
    ),
    "own loader from a hook": Kind(
        "a loader that is no `DataLoader`, with a `batch_size`", "the loader that a module's hook returns",
        in_module(OwnLoader), RETURNED, warning="OwnLoader makes its batches itself",
    ),
    "weighted sampler": Kind(
        "`WeightedRandomSampler`", "the loader passed", passed(weighted), PASSED, once=(),
    ),
    "subset sampler": Kind(
        "`SubsetRandomSampler`", "the loader passed",
        passed(lambda size: DataLoader(Numbered(), size, sampler=SubsetRandomSampler(range(SAMPLES)))), PASSED,
    ),
    "keys that are names": Kind(
        "a sampler whose keys are names", "the loader passed",
        passed(lambda size: DataLoader(Named(), size, sampler=[f"no. {index}" for index in range(SAMPLES)])), PASSED,
    ),
    "opened in workers": Kind(
        "a dataset that `worker_init_fn` opens, 2 workers", "the loader passed",
        passed(loader(dataset=Opened, shuffle=True, num_workers=2, worker_init_fn=open_dataset)), PASSED,
    ),
    "many at once": Kind(
        "a dataset with `__getitems__` alone", "the loader passed", passed(loader(dataset=ManyAtOnce)), PASSED,
    ),
    "bulk": Kind(
        "`batch_size=None, sampler=BatchSampler(...)`: torch's bulk loading", "the sampler of the loader passed",
        passed(bulk), PASSED, warning="DataLoader makes its batches itself",
    ),
    "drop_last": Kind(
        "`drop_last=True`", "the loader passed", passed(loader(shuffle=True, drop_last=True)), PASSED,
        fit={"0": [16, 16]}, once=(), predict=ONE,
    ),
    "pin_memory": Kind(
        "`pin_memory=True`", "the loader passed", passed(loader(shuffle=True, pin_memory=True)), PASSED,
        ignored=UNPINNED,
    ),
    "generator": Kind("`generator=` with a seed", "the loader passed", passed(seeded), PASSED),
    "generator from a hook": Kind(
        "`generator=` with a seed", "the loader that a module's hook returns", in_module(seeded), RETURNED,
    ),
}  # fmt: skip

REFUSED = {
    "batches as they come, passed": Refused(
        "a `DataLoader` with `batch_size=None`", "nowhere", passed(as_they_come),
        "The DataLoader over Batched must have a batch size, but it was built with batch_size=None",
    ),
    "batches as they come, from a hook": Refused(
        "a `DataLoader` with `batch_size=None`", "nowhere: a hook without an attribute", in_module(as_they_come),
        "The DataLoader over Batched must have a batch size, but it was built with batch_size=None",
    ),
    "no batch size": Refused(
        "a loader that is no `DataLoader`, without a `batch_size`", "nowhere", passed(lambda size: Sizeless()),
        "Expected a loader whose batch size can be changed",
    ),
    "batch sampler without a size": Refused(
        "a batch sampler without a `batch_size`", "nowhere",
        passed(lambda size: DataLoader(Numbered(), batch_sampler=Pairs())),
        "The loader's Pairs must have an integer attribute `batch_size` that can be set, but it has None", CUSTOM,
    ),
    "batches cut when built": Refused(
        "a batch sampler that cuts its batches when it is built", "nowhere",
        passed(lambda size: DataLoader(Numbered(), batch_sampler=CutWhenBuilt(SAMPLES, size))),
        "Expected CutWhenBuilt to follow its batch size, found batches of 3 samples at batch_size=3 and at", CUSTOM,
    ),
    "batches counted when built": Refused(
        "a batch sampler that counts its batches when it is built", "nowhere",
        passed(lambda size: DataLoader(Numbered(), batch_sampler=CountedWhenBuilt(SAMPLES, size))),
        "Expected CountedWhenBuilt to count its batches at the size it has, found that at batch_size=6 its", CUSTOM,
    ),
    "read-only size": Refused(
        "a loader whose `batch_size` cannot be set", "nowhere", passed(lambda size: Fixed()),
        "The loader's Fixed must have an integer attribute `batch_size` that can be set, but it has 'a read-only",
    ),
}  # fmt: skip

# Which rows are tested with two processes ("ddp"), and what an epoch of a fit gives each of them. A stream, and a
# loader that is no DataLoader, are read by both from beginning to end.
HALF: Sizes = {"0": [16, 4]}
TWO_PROCESSES: dict[str, Sizes] = {
    "module attribute": HALF,
    "module and datamodule": HALF,
    "attribute, not read": HALF,
    "passed": HALF,
    "module hook": HALF,
    "datamodule hook": HALF,
    "from_datasets": HALF,
    "dict": {"a": [16, 4], "b": [20, 20]},
    "max_size_cycle": {"a": [16, 4], "b": [12, 12]},
    "stream": ONE,
    "persistent workers": HALF,
    "batch sampler from a hook": {"0": [16]},
    "plain batch sampler from a hook": HALF,
    "stateful": HALF,
    "own constructor from a hook": HALF,
    "own loader": ONE,
    "attribute, batches as they come": ONE,
}
PREDICTED_ON_TWO = (
    "module attribute", "passed", "module hook", "stream", "batch sampler from a hook", "own constructor from a hook",
)  # fmt: skip
# Which rows are tested at other precisions.
PRECISIONS = ("bf16-mixed", "bf16-true")
AT_PRECISIONS = (
    "module attribute",
    "passed",
    "module hook",
    "dict",
    "stream",
    "batch sampler",
    "stateful",
    "own loader",
)
# Which rows are tested on a GPU.
ON_GPU = (*AT_PRECISIONS, "pin_memory", "workers", "attribute, batches as they come")
GPU_PRECISIONS = ("16-mixed", "bf16-mixed")


def selected(names: Iterable[str]) -> list[tuple[str, str]]:
    """The rows and stages tested elsewhere than on one process at 32 bit: Lightning builds loaders anew to predict."""
    return [(name, stage) for name in names for stage in ("fit", "predict") if stage in KINDS[name].stages]


def on_two_processes() -> list[tuple[str, str]]:
    """The rows and stages tested with two processes."""
    return [*((name, "fit") for name in TWO_PROCESSES), *((name, "predict") for name in PREDICTED_ON_TWO)]
