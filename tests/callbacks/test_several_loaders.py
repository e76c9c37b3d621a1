"""Several training loaders at once: what follows the batch size, what does not, and what bounds it."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

import bstuner
from bstuner import BatchSizeFinder
from bstuner.errors import EmptyDataset, LayoutImpossible, SettingRefused


class Several(zoo.Bare):
    """Trains on batches of several loaders, and notes their sizes."""

    validation_step = L.LightningModule.validation_step

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen["sizes"].append([len(part[0]) for part in batch])
        return super().training_step([torch.cat(parts) for parts in zip(*batch, strict=True)], batch_idx)


class Normed(Several):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return sum(self.loss(part) for part in batch)

    build = zoo.Regularised.build


def loader(samples: int, size: int, **kwargs: Any) -> DataLoader:
    return DataLoader(zoo.Vectors(samples), batch_size=size, **kwargs)


def test_the_ratio_between_loaders_is_kept() -> None:
    model = Several()
    zoo.trainer(BatchSizeFinder(max_val=32), max_epochs=1).fit(model, [loader(512, 16), loader(4096, 112)])
    assert model.seen["sizes"][0] == [32, 224]


def test_a_loader_that_the_attribute_does_not_drive_stays_and_does_not_bound_the_size() -> None:
    class Half(Several):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 16

        def train_dataloader(self) -> Any:
            return [loader(512, self.batch_size), loader(10_000, 8)]

    model, finder = Half(), BatchSizeFinder()
    zoo.trainer(finder, max_epochs=1, limit_train_batches=3).fit(model)
    assert finder.result is not None
    assert (finder.result.batch_size, finder.result.limited_by) == (512, "dataset")
    assert model.seen["sizes"] == [[512, 8]] * 3


def test_batchnorm_is_never_given_a_single_sample_of_the_smaller_share() -> None:
    result = bstuner.find(zoo.trainer(), Normed(), [loader(512, 16), loader(512, 8)], max_val=64)
    assert result.batch_size == 64
    assert min(probe.batch_size for probe in result.probes) == 4
    result = bstuner.find(zoo.trainer(), Normed(), [loader(512, 112), loader(512, 16)], max_val=64)
    assert min(probe.batch_size for probe in result.probes) == 16, "a seventh of 8 would be one sample"


def test_a_loader_smaller_than_its_own_batch_is_no_reason_to_refuse() -> None:
    model = Several()
    loaders = CombinedLoader([loader(512, 1), loader(10, 64)], "min_size")
    zoo.trainer(BatchSizeFinder(), max_epochs=1).fit(model, loaders)
    assert model.seen["sizes"] == [[1, 10]]


def test_where_a_limit_leaves_one_of_them_empty_that_one_is_named() -> None:
    with pytest.raises(SettingRefused, match=r"limit_train_batches=0.1\) of a dataset of 5 samples leaves none"):
        bstuner.find(zoo.trainer(limit_train_batches=0.1), Several(), [loader(512, 4), loader(5, 4)])


def test_a_hook_may_return_more_loaders_later() -> None:
    class Growing(Several):
        def train_dataloader(self) -> Any:
            return [loader(64, 8)] * (1 + self.trainer.current_epoch)

    model = Growing()
    zoo.trainer(BatchSizeFinder(max_val=16), max_epochs=2, reload_dataloaders_every_n_epochs=1).fit(model)
    assert model.seen["sizes"] == 4 * [[16]] + 4 * [[16, 16]]


def test_the_ratio_survives_a_search_that_rounds_it_away() -> None:
    class Mixed(Several):
        def train_dataloader(self) -> Any:
            return [loader(512, 64), loader(512, 8)]

    model = Mixed()
    for most, sizes in ((4, [4, 1]), (128, [128, 16])):
        model.seen["sizes"].clear()
        zoo.trainer(BatchSizeFinder(max_val=most, init_val=2), max_epochs=1).fit(model)
        assert model.seen["sizes"][0] == sizes


def test_no_training_loader_at_all() -> None:
    class Nothing(Several):
        def train_dataloader(self) -> Any:
            return []

    with pytest.raises(EmptyDataset, match="Expected at least one train loader, found an empty collection"):
        bstuner.find(zoo.trainer(), Nothing())


def test_an_evaluation_of_a_trainer_that_accumulates() -> None:
    for stage in ("validate", "test", "predict"):
        model = zoo.Mlp()
        result = bstuner.find(zoo.trainer(accumulate_grad_batches=4), model, method=stage, max_val=32)
        assert result.batch_size == 32


def test_a_hook_that_refuses_larger_values_has_read_the_attribute() -> None:
    class Strict(zoo.Mlp):
        def train_dataloader(self) -> Any:
            assert self.batch_size <= 16
            return super().train_dataloader()

    assert bstuner.find(zoo.trainer(), Strict(batch_size=16), max_val=16).holder == "Strict.batch_size"


def test_a_last_batch_of_one_that_a_limit_leaves_out_is_no_trouble() -> None:
    result = bstuner.find(
        zoo.trainer(limit_train_batches=4), zoo.Regularised(length=1025), max_val=64, mode="binsearch"
    )
    assert result.batch_size == 64


class Made(torch.utils.data.IterableDataset):
    """Makes batches itself, of all there is at most."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Any:
        vectors = torch.utils.data.default_collate([zoo.Vectors(40)[index] for index in range(40)])
        for start in range(0, 40, self.size):
            yield [part[start : start + self.size] for part in vectors]


def test_batches_that_grow_no_more_bound_the_size() -> None:
    class Own(zoo.Mlp):
        def train_dataloader(self) -> Any:
            return DataLoader(Made(self.batch_size), batch_size=None)

    result = bstuner.find(zoo.trainer(), Own(batch_size=4), memory_limit="64MiB")
    assert (result.batch_size, result.limited_by) == (32, "dataset")
    assert "the data makes no batch of more than 40" in {probe.reason for probe in result.probes}


@pytest.mark.parametrize("value", [None, 16.0, "16"])
def test_an_attribute_that_is_no_whole_number_is_followed_and_bounded_all_the_same(value: Any) -> None:
    class Loose(zoo.Mlp):
        def train_dataloader(self) -> Any:
            return loader(256, int(self.batch_size or 8))

        def val_dataloader(self) -> Any:
            return loader(8, 8)

    model = Loose(batch_size=value)
    result = bstuner.find(zoo.trainer(), model, memory_limit="1GiB")
    assert (result.batch_size, result.limited_by, result.warnings) == (256, "dataset", ())
    assert model.batch_size == 256


def test_a_loader_of_four_times_the_attribute_is_bounded_by_what_it_holds() -> None:
    class Four(zoo.Mlp):
        def train_dataloader(self) -> Any:
            return loader(512, 4 * self.batch_size, drop_last=True)

    model, finder = Four(batch_size=4), BatchSizeFinder()
    trainer = zoo.trainer(finder, max_epochs=1)
    trainer.fit(model)
    assert (model.batch_size, trainer.global_step) == (128, 1)
    with pytest.raises(LayoutImpossible, match="found one whose batches are 4 times that"):
        bstuner.find(zoo.trainer(), Four(batch_size=4), global_batch_size=64)


def test_a_validation_loader_that_drops_its_only_batch_bounds_the_size() -> None:
    class Dropping(zoo.Mlp):
        def val_dataloader(self) -> Any:
            return loader(64, self.batch_size, drop_last=True)

    assert bstuner.find(zoo.trainer(), Dropping(batch_size=8)).batch_size == 64


def test_passed_loaders_keep_their_ratio_from_search_to_search() -> None:
    loaders = [loader(512, 64), loader(512, 4)]
    for most, sizes in ((2, [2, 1]), (256, [256, 16])):
        bstuner.find(zoo.trainer(), Several(), loaders, max_val=most)
        assert [each.batch_size for each in loaders] == sizes


def test_batches_of_another_loader_that_come_as_they_are_do_not_bound_the_size() -> None:
    class Beside(Several):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 8

        def train_dataloader(self) -> Any:
            return [loader(512, self.batch_size), DataLoader(Made(2), batch_size=None)]

    assert bstuner.find(zoo.trainer(), Beside(), max_val=64).batch_size == 64


def test_the_loader_that_is_searched_for_is_the_one_that_follows() -> None:
    class Second(Several):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 8

        def train_dataloader(self) -> Any:
            return [loader(64, 4), loader(1000, self.batch_size)]

    result = bstuner.find(zoo.trainer(), Second(), global_batch_size=128)
    assert (result.batch_size, result.accumulate_grad_batches) == (128, 1)
