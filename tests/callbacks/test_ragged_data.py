"""Samples of every kind and of varying size: what is probed is the worst batch, and the answer holds for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, Dataset

import bstuner
from bstuner import BatchSizeFinder
from bstuner.device.byte_counter import TensorByteCounter

LONGEST, WIDTH = 40, 64
LIMIT = 6 * zoo.MIB
USABLE = int(0.9 * LIMIT)
SEED = 0  # shuffles so that the longest sample of 1000 comes late


def tokens(length: int, index: int) -> Tensor:
    return (torch.arange(length) + index) % 50


class Text(NamedTuple):
    tokens: Tensor
    label: int


@dataclasses.dataclass
class Record:
    tokens: Tensor
    label: int
    name: str = "a record"


@dataclasses.dataclass
class RecordBatch:
    tokens: Tensor
    labels: Tensor
    names: list[str]


class Clip:
    """A sample that is an object, which keeps its data in slots."""

    __slots__ = ("label", "tokens")

    def __init__(self, tokens: Tensor, label: int) -> None:
        self.tokens, self.label = tokens, label


class ClipBatch:
    """A batch of which Lightning knows nothing: only the module's own hook can move it."""

    def __init__(self, clips: list[Clip]) -> None:
        self.padded = zoo.pad([clip.tokens for clip in clips])
        self.labels = torch.tensor([clip.label for clip in clips])
        self.where = "host"


class Ragged(Dataset):
    """Samples of 4 to 12 tokens; those in `long`, neither the first nor the last, are the longest."""

    def __init__(self, length: int, sample: Callable[[int, int], Any], long: Sequence[int] = (201,)) -> None:
        self.length, self.sample, self.long = length, sample, long

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.sample(LONGEST if index in self.long else 4 + index % 9, index)


class Longest(Ragged):
    """The worst case: every sample is the longest."""

    def __getitem__(self, index: int) -> Any:
        return self.sample(LONGEST, index)


class Model(zoo.Base):
    """A model of one kind of data; tokens become vectors, and whatever holds them is only unpacked."""

    ragged: Callable[..., Ragged] = Ragged

    def __init__(self, batch_size: int = 2, length: int = 1024, **loader: Any) -> None:
        super().__init__(batch_size, length, collate_fn=self.collate, **loader)

    def build(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Embedding(50, WIDTH)]
        for _ in range(4):
            layers += [nn.Linear(WIDTH, WIDTH), nn.Tanh()]
        return nn.Sequential(*layers)

    @staticmethod
    def sample(length: int, index: int) -> Any:
        return tokens(length, index)

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        return zoo.pad(samples)

    def loss(self, batch: Any) -> Tensor:
        return self.net(batch).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)  # and no log: Lightning cannot tell the size of every kind of batch

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.ragged(self.length, self.sample), batch_size=self.batch_size, **self.loader)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.ragged(16, self.sample), batch_size=8, collate_fn=self.collate)


class PaddedText(Model):
    pass


class ListOfText(Model):
    """`collate_fn` pads nothing: a batch is a list of sequences, which the model runs one by one."""

    @staticmethod
    def collate(samples: list[Tensor]) -> list[Tensor]:
        return samples

    def loss(self, batch: list[Tensor]) -> Tensor:
        return torch.stack([self.net(text).square().mean() for text in batch]).mean()


class PackedText(Model):
    """`collate_fn` packs: a batch is one long row of tokens and the sizes to cut it by."""

    @staticmethod
    def collate(samples: list[Tensor]) -> PackedSequence:
        return pack_sequence(samples, enforce_sorted=False)

    def loss(self, batch: PackedSequence) -> Tensor:
        assert len(batch.data) == batch.batch_sizes.sum()
        return self.net(batch.data).square().mean()


class ConcatenatedText(Model):
    """`collate_fn` puts all tokens into one row, with offsets, as `nn.EmbeddingBag` takes them."""

    @staticmethod
    def collate(samples: list[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat(samples), torch.tensor([0, *(len(text) for text in samples)]).cumsum(0)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        text, offsets = batch
        assert offsets[-1] == len(text)
        return self.net(text).square().mean()


class PaddedDicts(Model):
    @staticmethod
    def sample(length: int, index: int) -> dict[str, Any]:
        return {"id": f"sample {index}", "tokens": tokens(length, index), "label": index % 3}

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "ids": [sample["id"] for sample in samples],
            "tokens": zoo.pad([sample["tokens"] for sample in samples]),
            "labels": torch.tensor([sample["label"] for sample in samples]),
        }

    def loss(self, batch: dict[str, Any]) -> Tensor:
        assert len(batch["ids"]) == len(batch["tokens"])
        return self.net(batch["tokens"]).square().mean() + 0 * batch["labels"].sum()


class PaddedTuples(Model):
    @staticmethod
    def sample(length: int, index: int) -> tuple[Tensor, int]:
        return tokens(length, index), index % 3

    @staticmethod
    def collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        return zoo.pad([text for text, _ in samples]), torch.tensor([label for _, label in samples])

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.net(batch[0]).square().mean() + 0 * batch[1].sum()


class PaddedNamedTuples(PaddedTuples):
    @staticmethod
    def sample(length: int, index: int) -> Text:
        return Text(tokens(length, index), index % 3)

    @staticmethod
    def collate(samples: list[Text]) -> Text:
        return Text(zoo.pad([text.tokens for text in samples]), torch.tensor([text.label for text in samples]))

    def loss(self, batch: Text) -> Tensor:
        return self.net(batch.tokens).square().mean() + 0 * batch.label.sum()


class PaddedDataclasses(Model):
    @staticmethod
    def sample(length: int, index: int) -> Record:
        return Record(tokens(length, index), index % 3)

    @staticmethod
    def collate(samples: list[Record]) -> RecordBatch:
        labels = torch.tensor([sample.label for sample in samples])
        return RecordBatch(zoo.pad([sample.tokens for sample in samples]), labels, [sample.name for sample in samples])

    def loss(self, batch: RecordBatch) -> Tensor:
        assert len(batch.names) == len(batch.tokens)
        return self.net(batch.tokens).square().mean() + 0 * batch.labels.sum()


class CustomObjects(Model):
    """Objects for samples, an object for a batch, and a hook that moves it."""

    @staticmethod
    def sample(length: int, index: int) -> Clip:
        return Clip(tokens(length, index), index % 3)

    @staticmethod
    def collate(samples: list[Clip]) -> ClipBatch:
        return ClipBatch(samples)

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, dataloader_idx: int) -> ClipBatch:
        batch.padded, batch.where = batch.padded.to(device), "moved"
        return batch

    def loss(self, batch: ClipBatch) -> Tensor:
        assert batch.where == "moved"
        return self.net(batch.padded).square().mean() + 0 * batch.labels.sum()


class CustomObjectsSeenOnTheHost(CustomObjects):
    """`on_before_batch_transfer` does work that must come before the move."""

    def on_before_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        assert (batch.where, batch.padded.device.type) == ("host", "cpu")
        batch.where = "prepared"
        return batch

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, dataloader_idx: int) -> ClipBatch:
        assert batch.where == "prepared"
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


class ToSelf:
    """A batch that moves itself, which Lightning does ask for."""

    def __init__(self, samples: list[Tensor]) -> None:
        self.padded, self.where = zoo.pad(samples), "host"

    def to(self, device: torch.device, **_: Any) -> ToSelf:
        self.padded, self.where = self.padded.to(device), "moved"
        return self


class BatchesThatMoveThemselves(Model):
    @staticmethod
    def collate(samples: list[Tensor]) -> ToSelf:
        return ToSelf(samples)

    def loss(self, batch: ToSelf) -> Tensor:
        assert batch.where == "moved"
        return self.net(batch.padded).square().mean()


class PaddedImages(Model):
    """Images of varying height and width, padded to the largest of the batch."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())

    @staticmethod
    def sample(length: int, index: int) -> Tensor:
        return torch.full((1, length, length), 1.0 + index)

    @staticmethod
    def collate(samples: list[Tensor]) -> Tensor:
        height, width = (max(image.shape[side] for image in samples) for side in (1, 2))
        padded = torch.zeros(len(samples), 1, height, width)
        for row, image in zip(padded, samples, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return padded


class ListOfImages(PaddedImages):
    """Images of varying size in a list, as detection models take them."""

    @staticmethod
    def collate(samples: list[Tensor]) -> list[Tensor]:
        return samples

    def loss(self, batch: list[Tensor]) -> Tensor:
        return torch.stack([self.net(image).square().mean() for image in batch]).mean()


class LabelsOfTheirOwnLength(Model):
    """Speech: many frames in, few letters out; frames and letters are padded, each to its own longest."""

    @staticmethod
    def sample(length: int, index: int) -> tuple[Tensor, Tensor]:
        return tokens(length, index), tokens(max(1, length // 4), index)

    @staticmethod
    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return zoo.pad([frames for frames, _ in samples]), zoo.pad([letters for _, letters in samples])

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        frames, letters = batch
        return self.net(frames).square().mean() + self.net(letters).square().mean()


KINDS: list[type[Model]] = [
    PaddedText,
    ListOfText,
    PackedText,
    ConcatenatedText,
    PaddedImages,
    ListOfImages,
    PaddedDicts,
    PaddedTuples,
    PaddedNamedTuples,
    PaddedDataclasses,
    CustomObjects,
    CustomObjectsSeenOnTheHost,
    BatchesThatMoveThemselves,
    LabelsOfTheirOwnLength,
]


def trained(model: type[Model], size: int, ragged: Callable[..., Ragged], **limits: Any) -> bool:
    """Train by hand, without a finder, under the limit: does it get through?"""
    module = model(size, limits.pop("length", 3 * size), generator=torch.Generator().manual_seed(SEED))
    module.ragged = ragged
    try:
        with TensorByteCounter(USABLE, module.parameters()):
            zoo.trainer(max_epochs=1, limit_val_batches=0, **limits).fit(module)
    except torch.OutOfMemoryError:
        return False
    return True


def searched(module: Model, **settings: Any) -> int:
    """Search in a fit under the limit."""
    finder = BatchSizeFinder(memory_limit=LIMIT, **settings)
    zoo.trainer(finder, max_epochs=1, limit_train_batches=1, num_sanity_val_steps=0).fit(module)
    assert finder.result is not None
    assert finder.result.limited_by == "memory"
    return finder.result.batch_size


@pytest.mark.parametrize("model", KINDS)
def test_the_longest_samples_train_at_the_answer_and_not_at_twice_it(model: type[Model]) -> None:
    answer = searched(model())
    assert 4 <= answer <= 256, "the limit must bind well inside the range"
    assert trained(model, answer, Longest)
    assert not trained(model, 2 * answer, Longest)


FEW_LONG = (50, 201, 380, 511)  # of 512


class FewLong(Ragged):
    """A few samples are much longer than the rest."""

    def __init__(self, length: int, sample: Callable[[int, int], Any]) -> None:
        super().__init__(length, sample, FEW_LONG)


@pytest.mark.parametrize("model", [ListOfText, PackedText, ListOfImages])
def test_a_whole_random_epoch_passes_at_twice_the_answer_while_the_longest_samples_would_not(
    model: type[Model],
) -> None:
    module = model(length=512)
    module.ragged = FewLong
    answer = searched(module)
    # Where nothing is padded, one long sample among short ones does no harm; many of them at once do.
    assert trained(model, 2 * answer, FewLong, length=512)
    assert not trained(model, 2 * answer, Longest)
    assert trained(model, answer, Longest)


@pytest.mark.parametrize("model", [PaddedText, CustomObjects, PaddedImages])
def test_the_first_random_batches_pass_at_twice_the_answer_and_a_later_one_of_the_epoch_does_not(
    model: type[Model],
) -> None:
    module = model(length=1000)
    answer = searched(module)
    # Where batches are padded, a probe of three random ones, as they come, is a matter of luck.
    assert trained(model, 2 * answer, Ragged, length=1000, limit_train_batches=3)
    assert not trained(model, 2 * answer, Ragged, length=1000)
    assert trained(model, answer, Ragged, length=1000)


@pytest.mark.parametrize("place", [0, 511, 1023])
def test_the_longest_sample_is_probed_wherever_it_is(place: int) -> None:
    class Watched(PaddedText):
        def loss(self, batch: Tensor) -> Tensor:
            zoo.NOTES.append(batch.shape[1])
            return super().loss(batch)

    module = Watched(length=1024)  # the scan looks at 1000 of them, evenly spread
    module.ragged = lambda length, sample: Ragged(length, sample, (place, (place + 1) % length))
    bstuner.find(zoo.trainer(limit_val_batches=0), module, max_val=8)
    assert set(zoo.NOTES) == {LONGEST}


class Translation(Model):
    """Source and target differ in length, and the longest source is not that of the longest target."""

    lengths: Sequence[tuple[int, int]] = ((34, 1), (1, 33))

    @classmethod
    def pairs(cls, index: int) -> tuple[Tensor, Tensor]:
        source, target = {300: cls.lengths[0], 600: cls.lengths[1]}.get(index, (5, 5))
        return tokens(source, index), tokens(target, index)

    @staticmethod
    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return zoo.pad([source for source, _ in samples]), zoo.pad([target for _, target in samples])

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        zoo.NOTES.append(tuple(part.shape[1] for part in batch))
        return sum((self.net(part).square().mean() for part in batch), torch.tensor(0.0))

    def train_dataloader(self) -> DataLoader:
        pairs = [self.pairs(index) for index in range(self.length)]
        return DataLoader(pairs, batch_size=self.batch_size, **self.loader)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return DataLoader([self.pairs(0)], collate_fn=self.collate)  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [((40, 4), (4, 36)), ((4, 40), (36, 4)), ((40, 5), (5, 36))])
def test_the_longest_input_and_the_longest_label_are_probed_together_where_each_is_padded(
    lengths: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    class Case(Translation):
        pass

    Case.lengths = lengths
    bstuner.find(zoo.trainer(limit_val_batches=0), Case(), max_val=8)
    worst = tuple(max(side) for side in zip(*lengths, strict=True))
    assert set(zoo.NOTES) == {worst}


def test_the_answer_holds_for_batches_of_the_longest_input_and_the_longest_label() -> None:
    answer = searched(Translation())

    class Worst(Translation):
        @classmethod
        def pairs(cls, index: int) -> tuple[Tensor, Tensor]:
            return tokens(34, index), tokens(33, index)

    assert trained(Worst, answer, Ragged)
    assert not trained(Worst, 2 * answer, Ragged)


@pytest.mark.parametrize("padded", [True, False])
def test_a_tall_and_a_wide_image_are_probed_together_only_where_images_are_padded(padded: bool) -> None:
    class Photos(PaddedImages if padded else ListOfImages):  # type: ignore[misc]
        @staticmethod
        def sample(length: int, index: int) -> Tensor:
            height, width = {7: (40, 6), 8: (6, 44), 9: (20, 20)}.get(index, (10, 10))
            return torch.ones(1, height, width)

        def loss(self, batch: Any) -> Tensor:
            zoo.NOTES.extend({tuple(image.shape[1:]) for image in batch})
            return super().loss(batch)

    bstuner.find(zoo.trainer(limit_val_batches=0), Photos(length=64), init_val=16, max_val=16)
    assert set(zoo.NOTES) == ({(40, 44)} if padded else {(20, 20), (10, 10)})


def test_samples_that_refuse_to_share_a_batch_are_probed_by_themselves() -> None:
    class Strict(Translation):
        """Batches are of one length, as a sampler that sorts by length makes them."""

        @staticmethod
        def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
            return torch.stack([source for source, _ in samples]), torch.stack([target for _, target in samples])

    bstuner.find(zoo.trainer(limit_val_batches=0), Strict(), max_val=8)
    assert set(zoo.NOTES) == {(34, 1)}


@pytest.mark.parametrize("model", KINDS)
def test_training_equals_the_run_started_by_hand(model: type[Model]) -> None:
    def weights(*callbacks: L.Callback, size: int) -> dict[str, Tensor]:
        L.seed_everything(5, verbose=False)
        module = model(size, 64)
        zoo.trainer(*callbacks, max_epochs=1).fit(module)
        assert module.batch_size == 16
        return module.state_dict()

    found, by_hand = weights(BatchSizeFinder(max_val=16), size=3), weights(size=16)
    assert list(found) == list(by_hand)
    assert all(torch.equal(found[name], by_hand[name]) for name in found)


@pytest.mark.gpu
@pytest.mark.parametrize("model", [CustomObjects, CustomObjectsSeenOnTheHost, BatchesThatMoveThemselves, PackedText])
def test_on_a_gpu_batches_of_any_kind_are_made_on_the_host_where_the_user_moves_them(model: type[Model]) -> None:
    result = bstuner.find(zoo.trainer(accelerator="gpu", devices=1), model(), max_val=16)
    assert result.batch_size == 16
