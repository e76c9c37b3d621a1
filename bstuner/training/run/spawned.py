"""Search in processes that Lightning spawns or forks, and bring the answer back to the one that calls it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch.multiprocessing import ProcessExitedException

from bstuner.errors import BstunerError, PeerLost
from bstuner.training._lightning import end_processes, launch, leave_launcher, lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["in_processes"]


def in_processes(
    trainer: Trainer, action: Callable[..., Any], model: LightningModule, data: Mapping[str, Any], *more: Any
) -> Any:
    """Run `action(trainer, model, data, *more)` in processes of the run, and return what that of rank 0 returns.

    There the Trainer runs in the process it is in, as under `torchrun`. Where the result refers to the model, to the
    datamodule or to loaders that were passed, it refers to those of this process when it comes back.

    Args:
        trainer: a Trainer that spawns or forks processes.
        action: a function that can be pickled, as all that it is given.
        model: the module.
        data: the datamodule and the loaders, by the names of the Trainer's arguments.
        more: what else the action needs.

    Raises:
        BstunerError: what the action raised in the process of rank 0.
        PeerLost: a process ended before the action did.

    """
    try:
        answer = launch(trainer, _in_process, trainer, action, model, data, *more)
    except ProcessExitedException as error:
        raise PeerLost(f"Expected all processes to run the search to its end, but {error.msg}. {_HINT}") from error
    finally:
        end_processes(trainer)  # after Ctrl-C; otherwise none is left
    kind = lightning_of(trainer).LightningDataModule
    trainer.datamodule = next((value for value in data.values() if isinstance(value, kind)), None)
    content = _Unpickler(io.BytesIO(answer), {"model": model, **data}).load()
    if isinstance(content, BstunerError):
        raise content
    return content


_HINT = (
    "See in its output why (if there is nothing, the system may have killed it for using too much memory), then "
    "start again."
)


def _in_process(trainer: Trainer, action: Callable[..., Any], model: Any, data: Mapping[str, Any], *more: Any) -> bytes:
    leave_launcher(trainer)
    content: Any
    try:
        content = action(trainer, model, data, *more)
    except BstunerError as error:
        content = error  # to be raised as it is: torch would make it a text that is part of another error
    names = {id(value): name for name, value in data.items()}
    names |= {id(trainer.lightning_module): "model", id(model): "model"}
    buffer = io.BytesIO()
    _Pickler(buffer, names).dump(content)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    """Writes the names of objects that the other process has too, instead of their content."""

    def __init__(self, file: io.BytesIO, names: Mapping[int, str]) -> None:
        super().__init__(file)
        self._names = names

    def persistent_id(self, obj: Any) -> str | None:
        return None if obj is None else self._names.get(id(obj))


class _Unpickler(pickle.Unpickler):
    """Puts this process's objects where their names stand."""

    def __init__(self, file: io.BytesIO, objects: Mapping[str, Any]) -> None:
        super().__init__(file)
        self._objects = objects

    def persistent_load(self, pid: str) -> Any:
        return self._objects[pid]
