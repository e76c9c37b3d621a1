"""Loggers for a probe or a trial: they answer what the user's own would, and write nothing that stays."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bstuner.training._lightning.roots import each_lightning, lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["loggers_set_aside", "mute_loggers"]

_PLACES = ("save_dir", "root_dir", "log_dir")


def mute_loggers(trainer: Trainer) -> None:
    """Put a dummy in the place of the loggers; the caller puts the user's back."""
    # DummyLogger (undocumented) swallows whatever user code does with it. Never None: user code calls
    # self.logger.log_image() and the like.
    trainer.loggers = [lightning_of(trainer, "loggers.logger").DummyLogger()] if trainer.loggers else []


@contextlib.contextmanager
def loggers_set_aside(trainer: Trainer) -> Iterator[None]:
    """Put stand-ins in the place of the loggers for the block; the caller puts the user's back.

    A stand-in is of the class of the user's logger, and has its attributes, name and version. Its folders lie below one
    that is thrown away at the end of the block: what user code creates there is in nobody's way, and can be created
    again by the next probe.
    """
    folder = _ThrowAwayFolder()
    trainer.loggers = [_stand_in(logger, folder) for logger in trainer.loggers]
    try:
        yield
    finally:
        for logger in trainer.loggers:
            # A SummaryWriter has a thread, an ExperimentWriter nothing to close.
            close = getattr(vars(logger).get("_opened_in_search"), "close", None)
            if close is not None:
                close()
        folder.remove()


class _ThrowAwayFolder:
    """A temporary folder, made when it is first asked for."""

    def __init__(self) -> None:
        self._path = ""

    def below(self, user_path: Any, base: Any) -> str:
        """The folder's own place for a path of the user's, seen from `base` where that holds it."""
        self._path = self._path or tempfile.mkdtemp(prefix="bstuner-")
        path, base = os.fspath(user_path), os.fspath(base or "")
        inside = bool(base) and os.path.abspath(path).startswith(os.path.abspath(base))
        return os.path.normpath(os.path.join(self._path, os.path.relpath(path, base) if inside else "logs"))

    def remove(self) -> None:
        """Remove it with all that was put there."""
        if self._path:
            shutil.rmtree(self._path, ignore_errors=True)


def _stand_in(logger: Any, folder: _ThrowAwayFolder) -> Any:
    user_kind = type(logger)
    plain = copy.copy(logger)
    # _version: a logger without one counts the folders of its kind the first time it is asked. The user's own is yet to
    # be asked; it will answer the same.
    if "_version" in vars(plain) and vars(plain)["_version"] is None and _is_local(user_kind):
        vars(plain)["_version"] = plain.version
    members: dict[str, Any] = {
        name: (lambda *_, **__: None)
        for name in dir(user_kind)
        if not name.startswith("_") and callable(_found(user_kind, name)) and _is_swallowed(user_kind, name)
    }
    for place in _PLACES:
        if isinstance(_found(user_kind, place), property):
            members[place] = property(_placed(plain, place, folder))
    members["experiment"] = property(_experiment(user_kind, vars(logger).get("_experiment")))
    kind = type(user_kind.__name__, (user_kind,), {"__module__": user_kind.__module__, **members})
    stand_in: Any = object.__new__(kind)
    vars(stand_in).update(vars(plain), **({"_experiment": None} if "_experiment" in vars(plain) else {}))
    return stand_in


def _found(kind: type, name: str) -> Any:
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def _is_local(kind: type) -> bool:
    """Whether all that a logger does is to write into its folder."""
    names = ("CSVLogger", "TensorBoardLogger")
    return issubclass(kind, tuple(getattr(package, name) for package in each_lightning("loggers") for name in names))


def _is_swallowed(kind: type, name: str) -> bool:
    """Whether a method is one that logs: all of Lightning's own are, and those that are named so."""
    owner = next(base for base in kind.__mro__ if name in vars(base))
    return owner.__module__.partition(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric") or (
        name.startswith(("log", "save", "finalize", "after_"))
    )


def _placed(plain: Any, place: str, folder: _ThrowAwayFolder) -> Callable[[Any], Any]:
    def read(_: Any) -> Any:
        path = getattr(plain, place)
        return None if path is None else folder.below(path, getattr(plain, "save_dir", None))

    return read


def _experiment(user_kind: type, opened: Any) -> Callable[[Any], Any]:
    """What a logger writes with: one of its own where it writes files, else something that swallows it all."""

    def read(stand_in: Any) -> Any:
        held = vars(stand_in).get("_opened_in_search")
        if held is None:
            held = _found(user_kind, "experiment").__get__(stand_in) if _is_local(user_kind) else _Swallowing(opened)
            vars(stand_in)["_opened_in_search"] = held
        return held

    return read


class _Swallowing:
    """Looks like an object of the user's, answers with its plain values, and does nothing."""

    def __init__(self, user_object: Any) -> None:
        vars(self)["_user_object"] = user_object

    @property  # type: ignore[misc]  # isinstance() asks for it
    def __class__(self) -> Any:
        user_object = vars(self)["_user_object"]
        return _Swallowing if user_object is None else type(user_object)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(vars(self)["_user_object"], name, None)
        return value if isinstance(value, (str, int, float, os.PathLike)) else _Swallowing(value)

    def __setattr__(self, name: str, value: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> None:
        pass

    def __getitem__(self, key: Any) -> Any:
        return _Swallowing(None)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass
