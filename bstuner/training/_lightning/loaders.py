"""What Lightning knows of loaders: where they come from, how it prepares them, and how it forgets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bstuner.data import set_batch_size
from bstuner.training._lightning.loops import EVALUATION_LOOPS
from bstuner.training._lightning.roots import lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities import CombinedLoader

__all__ = [
    "begin_epoch_anew",
    "combination_mode",
    "forget_loaders",
    "has_loaders",
    "hook_of",
    "last_reload",
    "loaders_come_from_hooks",
    "loaders_noticed",
    "prepared_loader",
    "request_loaders",
    "resize",
    "resize_when_rebuilt",
    "restart_evaluation",
    "set_last_reload",
    "substitute_train_loaders",
]


def _source(trainer: Trainer, role: str) -> Any:
    # _data_source: the only place that knows whether loaders were passed to fit() or come from a hook.
    if role == "train":
        return trainer.fit_loop._data_source
    if role == "val":
        return trainer.fit_loop.epoch_loop.val_loop._data_source
    return getattr(trainer, EVALUATION_LOOPS[role])._data_source


def loaders_come_from_hooks(trainer: Trainer, role: str) -> bool:
    """Whether the loaders of "train", "val", "validate", "test" or "predict" come from a `*_dataloader()` hook."""
    return bool(_source(trainer, role).is_module())


def hook_of(trainer: Trainer, role: str) -> tuple[Any, str]:
    """The module or datamodule whose hook returns the loaders of a role, and the hook's name."""
    source = _source(trainer, role)
    return source.instance, source.name


_notices: list[Callable[[str, Any], None]] = []


@contextmanager
def loaders_noticed(notice: Callable[[str, Any], None]) -> Iterator[None]:
    """Have a function hear of all loaders that `request_loaders` returns inside the block, with their role."""
    _notices.append(notice)
    try:
        yield
    finally:
        _notices.remove(notice)


def request_loaders(trainer: Trainer, role: str) -> Any:
    """What the user passed, or what the user's hook returns now."""
    # _request_dataloader: within it, loaders remember how they were built, so that they can be rebuilt.
    request = _Request(_source(trainer, role))
    lightning_of(trainer, "trainer.connectors.data_connector")._request_dataloader(request)
    if request.error is not None:
        raise request.error
    for notice in _notices:
        notice(role, request.loaders)
    return request.loaders


class _Request:
    """A source that keeps the error of a hook back: _request_dataloader would leave torch's classes patched."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.loaders: Any = None
        self.error: BaseException | None = None

    def dataloader(self) -> Any:
        try:
            self.loaders = self._source.dataloader()
        except BaseException as error:
            self.error = error


def prepared_loader(trainer: Trainer, role: str, loader: Any) -> Any:
    """The loader that Lightning will use in the place of the user's: with a sampler for this process, for example."""
    stages = lightning_of(trainer, "trainer.states").RunningStage
    stage = {"train": stages.TRAINING, "test": stages.TESTING, "predict": stages.PREDICTING}
    # _data_connector: the only place that knows which loaders get a DistributedSampler.
    return trainer._data_connector._prepare_dataloader(
        loader, shuffle=role == "train", mode=stage.get(role, stages.VALIDATING)
    )


def resize_when_rebuilt(loader: Any, size: int) -> None:
    """Have a loader keep a batch size that was set in place when Lightning builds it again around another sampler."""
    # __pl_attrs_record: functions, with their arguments, that Lightning calls with a loader it has built again.
    kept = [entry for entry in getattr(loader, "__pl_attrs_record", []) if entry[1] is not resize]
    object.__setattr__(loader, "__pl_attrs_record", [*kept, ((size,), resize)])


def resize(loader: Any, size: int) -> None:
    """Change the batch size of a loader in place, be it one that Lightning has built again."""
    set_batch_size(loader, size)
    # _IndexBatchSamplerWrapper, which prediction puts around the batch sampler, reads the size of the one inside.
    inside = getattr(getattr(loader, "batch_sampler", None), "_batch_sampler", None)
    if inside is not None:
        inside.batch_size = size


class _SubstitutedSource:
    """A source of loaders that changes what the user's source gives."""

    def __init__(self, source: Any, change: Callable[[Callable[[], Any]], Any]) -> None:
        self._source = source
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_source"], name)

    def dataloader(self) -> Any:
        return self._change(self._source.dataloader)


def substitute_train_loaders(trainer: Trainer, change: Callable[[Callable[[], Any]], Any]) -> Callable[[], None]:
    """Have the fit train on other loaders than the user's; what is returned takes that back.

    Args:
        trainer: the Trainer of the run.
        change: makes the loaders to train on; it is given a function that returns what the user passed, or what the
            user's hook returns.

    """
    loop = trainer.fit_loop
    # _data_source: behind it are both kinds, and neither the user's loaders nor the user's hook has to be touched.
    source = loop._data_source
    loop._data_source = _SubstitutedSource(source, change)  # type: ignore[assignment]  # of the same methods

    def take_back() -> None:
        loop._data_source = source

    return take_back


def combination_mode(loaders: CombinedLoader) -> str:
    """How a CombinedLoader combines its loaders: "min_size", "max_size", "max_size_cycle" or "sequential"."""
    return str(loaders._mode)  # kept nowhere public


def has_loaders(trainer: Trainer) -> bool:
    """Whether a fit has its training loaders already, since `estimated_stepping_batches` has been asked for perhaps."""
    return trainer.fit_loop._combined_loader is not None  # the public properties would make them


def forget_loaders(trainer: Trainer) -> None:
    """Make the fit request its loaders again: those made at the old batch size are stale."""
    # _combined_loader: setup_data() returns at once while it is set.
    trainer.fit_loop._combined_loader = None
    trainer.fit_loop.epoch_loop.val_loop._combined_loader = None


def last_reload(trainer: Trainer) -> float:
    """The epoch for which the training loaders were last made."""
    return trainer.fit_loop._last_train_dl_reload_epoch  # kept nowhere public


def set_last_reload(trainer: Trainer, epoch: float) -> None:
    """Have the loaders made anew when they would have been in a run that was not interrupted.

    A resumed fit makes them at its start, and counts `reload_dataloaders_every_n_epochs` from there.
    """
    trainer.fit_loop._last_train_dl_reload_epoch = epoch


def restart_evaluation(trainer: Trainer, stage: str) -> None:
    """Make a running evaluation loop, before its first batch, request its loaders again."""
    loop = getattr(trainer, EVALUATION_LOOPS[stage])
    loop._combined_loader = None
    loop.setup_data()
    loop.reset()


def begin_epoch_anew(trainer: Trainer) -> None:
    """Give an epoch that has not had its first batch yet loaders made anew."""
    forget_loaders(trainer)
    trainer.fit_loop.setup_data()
    loaders = trainer.fit_loop._combined_loader
    for loader in loaders.flattened if loaders is not None else ():
        # The fit loop has told the epoch to the old samplers already.
        lightning_of(trainer, "loops.fit_loop")._set_sampler_epoch(loader, trainer.current_epoch)
