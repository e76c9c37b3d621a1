"""The searches and the plan alone, for notebooks and scripts: no training afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from bstuner.callbacks import BatchSizeFinder, BatchSizeScheduler, BatchSizeTuner
from bstuner.core import FindResult, TuneResult
from bstuner.core.growth import RunPlan
from bstuner.device import RandomState
from bstuner.errors import InvalidSetting
from bstuner.study import best
from bstuner.training._lightning import lightning_of, mute_loggers, spawns_processes
from bstuner.training.batching import Placement
from bstuner.training.freezing import Snapshot
from bstuner.training.run import OwnCallback, in_processes, lightnings_searches
from bstuner.training.settings import TunedPlacement

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

__all__ = ["best", "find", "schedule", "tune"]

Method = Literal["fit", "validate", "test", "predict"]
_Found = tuple[FindResult | None, Placement | None]
_Tuned = tuple[TuneResult | None, TunedPlacement | None]


def find(
    trainer: Trainer,
    model: LightningModule,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    dataloaders: Any = None,
    datamodule: LightningDataModule | None = None,
    method: Method = "fit",
    **settings: Any,
) -> FindResult:
    """Find the largest batch that fits, put it in place, and do not train.

    Example:
        >>> import lightning as L, torch
        >>> from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
        >>> import bstuner
        >>> loader = torch.utils.data.DataLoader(RandomDataset(32, 64), batch_size=4)
        >>> trainer = L.Trainer(max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False)
        >>> result = bstuner.find(trainer, BoringModel(), loader, max_val=32, memory_limit="1GiB")
        >>> result.batch_size, result.limited_by, loader.batch_size
        (32, 'max_val', 32)

    Args:
        trainer: the Trainer to search in; it can fit, validate, test or predict afterwards as if it had not searched.
        model: the LightningModule.
        train_dataloaders: as for `trainer.fit`.
        val_dataloaders: as for `trainer.fit`.
        dataloaders: as for `trainer.validate`, `test` and `predict`.
        datamodule: as for all of them.
        method: which of the four to search for.
        settings: the arguments of `BatchSizeFinder`.

    Raises:
        InvalidSetting: an argument is out of range, unreadable or in the wrong place.
        NothingFits: not even the smallest batch runs within the memory.
        BatchSizeNotSettable: there is no place where the batch size could be changed.
        PeerError: another process of the run failed.
        PeerLost: another process of the run ended.

    """
    if method not in ("fit", "validate", "test", "predict"):
        raise InvalidSetting(f"Expected method to be 'fit', 'validate', 'test' or 'predict', found {method!r}.")
    unused = dataloaders if method == "fit" else (train_dataloaders, val_dataloaders)
    if unused not in (None, (None, None)):
        expected = "train_dataloaders= and val_dataloaders=" if method == "fit" else "dataloaders="
        raise InvalidSetting(f"Expected loaders for method={method!r} as {expected}, found them in another argument.")
    data = (
        {"train_dataloaders": train_dataloaders, "val_dataloaders": val_dataloaders}
        if method == "fit"
        else {"dataloaders": dataloaders}
    )
    found: _Found = _search(trainer, model, {**data, "datamodule": datamodule}, method, _Find(**settings))
    result, placement = found
    if result is None or placement is None:
        raise InvalidSetting("Expected a Trainer that can search; under fast_dev_run there is nothing to search for.")
    placement.apply(trainer)
    return result


def tune(
    trainer: Trainer,
    model: LightningModule,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: LightningDataModule | None = None,
    **settings: Any,
) -> TuneResult:
    """Find the batch size and learning rate that reach your own quality soonest, put them in place, and do not train.

    The batch size goes where it lives, and what the Trainer counts in steps follows; the learning rate goes into its
    attribute. What only your code can say, such as a warm-up, is told in `result.by_hand`; the callback needs none of
    that, since it trains with it.

    Args:
        trainer: the Trainer to search in; it can fit afterwards as if it had not searched.
        model: the LightningModule.
        train_dataloaders: as for `trainer.fit`.
        val_dataloaders: as for `trainer.fit`.
        datamodule: as for `trainer.fit`.
        settings: the arguments of `BatchSizeTuner`.

    Raises:
        InvalidSetting: an argument is out of range or unreadable.
        NothingFits: not even the smallest batch runs within the memory.
        BaselineFailed: the run with your own settings diverges, or runs out of memory.
        MonitorMissing: validation does not log the metric.
        StudyMismatch: the study that was named is one of another device, range or model.
        PeerError: another process of the run failed.
        PeerLost: another process of the run ended.

    """
    data = {"train_dataloaders": train_dataloaders, "val_dataloaders": val_dataloaders, "datamodule": datamodule}
    tuned: _Tuned = _search(trainer, model, data, "fit", _Tune(**settings))
    result, placement = tuned
    if result is None or placement is None:
        raise InvalidSetting("Expected a Trainer that can search; under fast_dev_run there is nothing to search for.")
    left = f"Not in place, because only your code can say so: {'; '.join(result.by_hand)}."
    return result.with_settings(placement.apply(trainer, model), [left] if result.by_hand else [])


def schedule(
    trainer: Trainer,
    model: LightningModule,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: LightningDataModule | None = None,
    **settings: Any,
) -> RunPlan:
    """Plan how the batch would grow in a fit, and do not train.

    Without settings, a `BatchSizeScheduler` among the Trainer's callbacks is asked for its plan. With settings, it is
    left out.

    Example:
        >>> import lightning as L, torch
        >>> from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
        >>> from bstuner.api import schedule
        >>> loader = torch.utils.data.DataLoader(RandomDataset(32, 640), batch_size=4)
        >>> trainer = L.Trainer(max_epochs=3, logger=False, enable_progress_bar=False, enable_checkpointing=False)
        >>> plan = schedule(trainer, BoringModel(), loader, fits=64)
        >>> [phase.batch_size for phase in plan.phases], plan.nominal_steps, plan.planned_steps
        ([4, 32, 64], 480, 190)

    Args:
        trainer: the Trainer to plan in; it can fit afterwards as if it had not been asked.
        model: the LightningModule.
        train_dataloaders: as for `trainer.fit`.
        val_dataloaders: as for `trainer.fit`.
        datamodule: as for `trainer.fit`.
        settings: the arguments of `BatchSizeScheduler`.

    Raises:
        InvalidSetting: an argument is out of range or unreadable.
        SettingRefused: the fit is of a kind whose batches cannot be planned.
        NothingFits: not even the smallest batch runs within the memory.

    """
    nothing = "Expected a fit whose batches can be planned, found"
    for name in ("fast_dev_run", "overfit_batches"):
        if getattr(trainer, name):
            # The callback lets such a fit run as it is, and here nothing is to be trained.
            raise InvalidSetting(f"{nothing} {name}={getattr(trainer, name)!r}. Leave it out.")
    data = {"train_dataloaders": train_dataloaders, "val_dataloaders": val_dataloaders, "datamodule": datamodule}
    own = [callback for callback in trainer.callbacks if isinstance(callback, BatchSizeScheduler)]
    asked = own[0] if own and not settings else None
    plan: RunPlan | None = _search(trainer, model, data, "fit", _Schedule(asked, **settings))
    if plan is None:
        raise InvalidSetting(f"{nothing} no training batches. Set limit_train_batches above 0.")
    remarks = [
        f"{type(callback).__name__} among your callbacks is left out: the plan starts from the batch size and learning "
        "rate in your code."
        for callback in trainer.callbacks
        if isinstance(callback, OwnCallback) and callback is not asked
    ]
    return replace(plan, remarks=(*plan.remarks, *remarks))


def _search(trainer: Trainer, model: LightningModule, data: dict[str, Any], method: Method, search: _Searching) -> Any:
    """Run a search in the place of a fit or an evaluation; what it found, and where that belongs."""
    callbacks, loggers = trainer.callbacks, trainer.loggers
    left_out = _left_out(trainer)
    taking_part = [callback for callback in callbacks if not isinstance(callback, left_out)]
    random = RandomState()
    # What `setup` and `configure_model` do will be done again by the run to come.
    before = [Snapshot(taking_part), Snapshot([model, data], contents=False)]
    trainer.callbacks = [search, *taking_part]
    mute_loggers(trainer)
    try:
        if spawns_processes(trainer):
            found = in_processes(trainer, _run, model, data, method, search)
        else:
            found = _run(trainer, model, data, method, search)
    finally:
        trainer.callbacks, trainer.loggers = callbacks, loggers
        for snapshot in before:
            snapshot.restore()
        random.restore()
    model.trainer = trainer
    return found


def _left_out(trainer: Trainer) -> tuple[type, ...]:
    """Return the kinds of callbacks that save, whose set-up alone leaves files behind, and those that search."""
    saves = lightning_of(trainer, "callbacks").Checkpoint, lightning_of(trainer, "cli").SaveConfigCallback
    return *saves, *lightnings_searches(trainer), OwnCallback


def _run(trainer: Trainer, model: LightningModule, data: dict[str, Any], method: Method, search: _Searching) -> Any:
    getattr(trainer, method)(model, **data)
    return search.found()


class _Find(BatchSizeFinder):
    """The callback, where the search is all there is."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.search_only = True

    def found(self) -> _Found:
        """What was found, and where it belongs."""
        return self.result, self._placement


class _Tune(BatchSizeTuner):
    """The callback, where the search is all there is."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.search_only = True

    def found(self) -> _Tuned:
        """What was found, and where it belongs."""
        return self.result, self.placement


class _Schedule(BatchSizeScheduler):
    """The callback, where the plan is all there is; that of the user, if there is one."""

    def __init__(self, own: BatchSizeScheduler | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        if own is not None:
            vars(self).update(vars(own))
        self.search_only = True

    def found(self) -> RunPlan | None:
        """The plan."""
        return self.plan


_Searching = _Find | _Tune | _Schedule
