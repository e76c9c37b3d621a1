"""Every row of the table in `docs/compatibility.md`: each kind of loader, in each stage of a Trainer."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import re
import time
import traceback
import warnings
from contextlib import AbstractContextManager, ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from loader_kinds import (
    ANSWER,
    AT_PRECISIONS,
    BEFORE,
    GPU_PRECISIONS,
    KINDS,
    ON_GPU,
    ONE,
    PRECISIONS,
    REFUSED,
    STAGES,
    TWO_PROCESSES,
    Kind,
    Model,
    OwnLoader,
    Refused,
    Run,
    apart,
    on_two_processes,
    selected,
)
from processes import launch
from sameness import assert_same, everything
from table import committed, table
from torchdata.stateful_dataloader import StatefulDataLoader

from bstuner import BatchSizeFinder
from bstuner.errors import BatchSizeNotSettable, EmptyDataset

# Evaluations of shuffled loaders are of no use to anyone but these tests, which tell by the order what was drawn.
pytestmark = pytest.mark.filterwarnings("ignore:Your `.*_dataloader`'s sampler has shuffling enabled")


def ignoring(kind: Kind | Refused) -> AbstractContextManager[Any]:
    """Without the warnings that this kind brings with it, search or no search."""
    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    for message in kind.ignored:
        warnings.filterwarnings("ignore", re.escape(message))
    return stack


def start(run: Run, stage: str, *callbacks: L.Callback, **options: Any) -> dict[str, Any]:
    """Run it, and return all that it leaves behind."""
    trainer = zoo.trainer(*callbacks, **options)
    answer = getattr(trainer, stage)(run.module, **run.arguments)
    assert multiprocessing.active_children() == [], "no worker is left behind"
    left = {"answer": answer, "record": run.module.record, "metrics": dict(trainer.callback_metrics)}
    owners = [run.module, *([trainer.datamodule] if trainer.datamodule else [])]
    left["holders"] = [(getattr(owner, "batch_size", None), owner.hparams.get("batch_size")) for owner in owners]
    if stage == "fit":
        left |= everything(run.module, trainer)
        if isinstance(run.arguments.get("train_dataloaders"), StatefulDataLoader):
            run.arguments["train_dataloaders"]._iterator = None  # telling its state has started its workers again
        # A hook that reads no attribute is hidden behind one that sets the size.
        left["attributes"] = [name for name in left["attributes"] if not name.endswith("_dataloader")]
    return left


def observe(kind: Kind, stage: str, **options: Any) -> tuple[Any, dict[str, Any], list[int]]:
    """Search and go on; compare that with the run started by hand, and return the result, and what steps saw."""
    L.seed_everything(3, verbose=False)
    by_hand = start(kind.build(ANSWER, stage), stage, **options)
    zoo.NOTES.clear()
    L.seed_everything(3, verbose=False)
    finder = BatchSizeFinder(max_val=ANSWER, **kind.finder)
    found = start(kind.build(BEFORE, stage), stage, finder, **options)
    assert_same(found, by_hand)
    assert finder.result is not None
    return finder.result, found, zoo.NOTES[: -len(found["record"])]


def epochs_of(record: list[Any], stage: str) -> list[dict[str, list[list[int]]]]:
    """The samples of each batch, by epoch and loader."""
    epochs: dict[int, dict[str, list[list[int]]]] = {}
    for of, epoch, loader, ids in record:
        if of == ("train" if stage == "fit" else stage):
            for name, part in ids.items():
                epochs.setdefault(epoch, {}).setdefault(name or str(loader), []).append(part)
    return list(epochs.values())


def validations_of(record: list[Any]) -> list[int]:
    """The sizes of the validation batches of a fit."""
    return [len(ids[""]) for of, _, _, ids in record if of == "validate"]


def check(kind: Kind, stage: str, **options: Any) -> list[dict[str, list[list[int]]]]:
    """Search and go on, and see whether all is as the table says; the samples of each batch, by epoch and loader."""
    with ignoring(kind):
        result, found, searched = observe(kind, stage, **options)
    assert (result.batch_size, result.limited_by, result.reference_batch_size) == (ANSWER, "max_val", BEFORE)
    assert result.holder.startswith(kind.holder)
    assert [warning[: len(kind.warning)] for warning in result.warnings] == [kind.warning] * bool(kind.warning)
    assert next(probe for probe in result.probes if probe.batch_size == ANSWER).peak_bytes is not None
    assert ANSWER in searched, "the answer has run"
    epochs = epochs_of(found["record"], stage)
    assert len(epochs) == (2 if stage == "fit" else 1)
    if stage == "fit" and options.get("devices") != 2:
        assert validations_of(found["record"]) == [*kind.val, *kind.val]
    return epochs


def sizes_of(epoch: dict[str, list[list[int]]]) -> dict[str, list[int]]:
    return {loader: [len(ids) for ids in batches] for loader, batches in epoch.items()}


@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name, kind in KINDS.items() for stage in kind.stages])
def test_a_kind_of_loader(name: str, stage: str) -> None:
    kind = KINDS[name]
    expected = kind.expected(stage)
    for epoch in check(kind, stage):
        assert sizes_of(epoch) == expected
        for loader in kind.whole(stage):
            assert sorted(chain(*epoch[loader])) == list(range(sum(expected[loader])))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "stage"), selected(AT_PRECISIONS))
def test_a_kind_of_loader_at_a_precision(name: str, stage: str, precision: Any) -> None:
    for epoch in check(KINDS[name], stage, precision=precision):
        assert sizes_of(epoch) == KINDS[name].expected(stage)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", GPU_PRECISIONS)
@pytest.mark.parametrize(("name", "stage"), selected(ON_GPU))
def test_a_kind_of_loader_on_a_gpu(name: str, stage: str, precision: Any) -> None:
    options = {"accelerator": "gpu", "devices": 1, "precision": precision, "deterministic": True}
    for epoch in check(KINDS[name], stage, **options):
        assert sizes_of(epoch) == KINDS[name].expected(stage)


def run_on_two() -> dict[tuple[str, str], Any]:
    """Every row that is tested with two processes, on one of them: its epochs, or the words of its error."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    answers: dict[tuple[str, str], Any] = {}
    for name, stage in on_two_processes():
        try:
            answers[name, stage] = check(KINDS[name], stage, strategy="ddp", devices=2)
        except Exception:
            answers[name, stage] = traceback.format_exc()
    return answers


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the two processes answer; they are launched once, though pytest-xdist shares out the tests."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return [rank.value for rank in launch(run_on_two, ranks=2, timeout=240)]
    answers = Path(tmp_path_factory.getbasetemp().parent, f"{run}.pickle")
    claim, made = answers.with_suffix(".claim"), answers.with_suffix(".made")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        while not answers.exists():
            time.sleep(0.1)
        return pickle.loads(answers.read_bytes())
    try:
        values = [rank.value for rank in launch(run_on_two, ranks=2, timeout=240)]
    except BaseException:
        values = []
        raise
    finally:
        made.write_bytes(pickle.dumps(values))
        made.rename(answers)
    return values


@pytest.mark.parametrize(("name", "stage"), on_two_processes())
def test_a_kind_of_loader_with_two_processes(of_two: list[Any], name: str, stage: str) -> None:
    kind = KINDS[name]
    answers = [answers[name, stage] for answers in of_two]
    assert len(answers) == 2, "the launch failed in the other worker of pytest-xdist"
    for answer in answers:
        assert not isinstance(answer, str), answer
    for epochs in zip(*answers, strict=True):
        if stage == "fit":
            assert [sizes_of(epoch) for epoch in epochs] == 2 * [TWO_PROCESSES[name]]
        shared = TWO_PROCESSES[name] is not ONE  # else each process reads all
        for loader in kind.whole(stage):
            seen = [list(chain(*epoch[loader])) for epoch in epochs]
            samples = list(range(sum(kind.expected(stage)[loader])))
            for ids in [list(chain(*seen))] if shared else seen:
                assert sorted(ids) == samples


def refusal(run: Run, stage: str, *callbacks: L.Callback) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the callers tell which
        start(run, stage, *callbacks)
    return caught.value


@pytest.mark.parametrize(
    ("name", "stage"), [(name, stage) for name, kind in KINDS.items() for stage in kind.impossible]
)
def test_what_lightning_refuses_it_refuses_in_its_own_words(name: str, stage: str) -> None:
    kind = KINDS[name]
    by_hand = refusal(kind.build(BEFORE, stage), stage)
    assert str(by_hand).strip().startswith(kind.impossible[stage])
    found = refusal(kind.build(BEFORE, stage), stage, BatchSizeFinder(max_val=ANSWER))
    assert (type(found), str(found)) == (type(by_hand), str(by_hand))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_kind_that_is_refused_is_told_what_to_do(name: str, stage: str) -> None:
    kind = REFUSED[name]
    with ignoring(kind):
        error = refusal(kind.build(BEFORE, stage), stage, BatchSizeFinder(max_val=ANSWER))
    assert isinstance(error, BatchSizeNotSettable)
    assert str(error).startswith(kind.error)


WITHOUT_A_CAP = (
    "passed",
    "list with an own loader",
    "own loader",
    "sampler of batches",
    "stream with a length",
    "from_datasets",
)


@pytest.mark.parametrize("name", WITHOUT_A_CAP)
def test_without_a_cap_the_data_bounds_the_answer(name: str) -> None:
    kind = KINDS[name]
    run, finder = kind.build(BEFORE, "fit"), BatchSizeFinder()
    with ignoring(kind):
        start(run, "fit", finder)
    assert finder.result is not None
    assert (finder.result.batch_size, finder.result.limited_by) == (32, "dataset")
    assert [len(ids) for ids in epochs_of(run.module.record, "fit")[0]["0"]] == [32, 8]


class ReadOnce(OwnLoader):
    """A loader that is empty when it is iterated."""

    def __iter__(self) -> Any:
        return iter(())


def test_a_loader_that_gives_nothing_is_told() -> None:
    run = Run(Model(), {"train_dataloaders": ReadOnce(BEFORE), "val_dataloaders": apart(BEFORE)})
    with pytest.raises(EmptyDataset, match="Expected ReadOnce to give batches whenever it is iterated, found none"):
        start(run, "fit", BatchSizeFinder(max_val=ANSWER))


def test_the_table_in_the_docs_is_the_one_tested() -> None:
    assert committed()[1] == table(), "run tests/compatibility/table.py with tests/ on PYTHONPATH"
