"""`--apply`: the script goes on with the answer in place, as if it had been started with it by hand."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bstuner.cli.script import Call
from bstuner.errors import InvalidSetting, SettingRefused
from bstuner.training._lightning import lightning_of, spawns_processes

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.cli import SaveConfigCallback

    Hook = Callable[[Trainer, LightningModule], None]

__all__ = ["go_on"]


def go_on(
    call: Call,
    callback: Callback,
    tell: Callable[[], dict[str, Any]],
    *,
    replaces: tuple[type, ...] = (),
    stays: bool = False,
) -> Any:
    """Fit as a script wants it, with a callback in its Trainer that searches first.

    Args:
        call: of the Trainer's `fit`.
        callback: what searches; it may be one of the script's own.
        tell: called after the search, before the training, in every process; returns the answer as a part of a
            LightningCLI configuration.
        replaces: kinds of callbacks of the script's own that the callback takes the place of.
        stays: whether the callback is a part of the answer, and stays in the Trainer.

    Returns:
        What the Trainer returns.

    Raises:
        SettingRefused: the Trainer trains in processes that it spawns, or a configuration would be overwritten.
        InvalidSetting: there is nothing to search for.

    """
    trainer: Any = call.trainer
    if trainer.fast_dev_run:
        raise InvalidSetting("Expected a Trainer that can search; under fast_dev_run there is nothing to search for.")
    if spawns_processes(trainer):
        raise SettingRefused(
            "Expected a strategy whose processes the script can go on in, found one that spawns or forks them. Set "
            "strategy='ddp', or leave --apply out and set the answer by hand."
        )
    left_out = [each for each in trainer.callbacks if isinstance(each, replaces) and each is not callback]
    if left_out and trainer.is_global_zero:
        names = ", ".join(type(each).__name__ for each in left_out)
        print(f"bstuner: left out of the script's callbacks: {names}", file=sys.stderr)
    saves = lightning_of(trainer, "cli").SaveConfigCallback
    configs = [each for each in trainer.callbacks if isinstance(each, saves)]
    aside = [callback, *left_out, *configs]
    trainer.callbacks = [callback, *(each for each in trainer.callbacks if each not in aside)]

    def prepare(trainer: Trainer, module: LightningModule) -> None:
        for config in configs:
            _refuse_to_overwrite(trainer, config)

    def announce(trainer: Trainer, module: LightningModule) -> None:
        overlay = tell()
        for config in configs:
            _save_with(trainer, module, config, overlay)

    _follow(callback, "setup", prepare)
    _follow(callback, "on_fit_start", announce)
    try:
        return call.proceed()
    finally:
        del vars(callback)["setup"], vars(callback)["on_fit_start"]
        if not stays:
            trainer.callbacks = [each for each in trainer.callbacks if each is not callback]
        trainer.callbacks = [*trainer.callbacks, *configs]  # they have saved, once


def _follow(callback: Callback, name: str, action: Hook) -> None:
    """Have a hook of this one callback followed by an action: a subclass would have another name in checkpoints."""
    hook = getattr(callback, name)

    @functools.wraps(hook)
    def followed(trainer: Trainer, module: LightningModule, *args: Any, **kwargs: Any) -> None:
        hook(trainer, module, *args, **kwargs)
        action(trainer, module)

    vars(callback)[name] = followed


def _refuse_to_overwrite(trainer: Trainer, config: SaveConfigCallback) -> None:
    """Now, as Lightning does: after the search it would be late."""
    if config.overwrite or not config.save_to_log_dir:
        return
    path = Path(trainer.log_dir or "") / config.config_filename
    if trainer.strategy.broadcast(path.is_file()):
        raise SettingRefused(
            f"Expected no configuration of another run in the place of this one's, found {path}. Take it away, or have "
            'it replaced: LightningCLI(save_config_kwargs={"overwrite": True}).'
        )


def _save_with(trainer: Trainer, module: LightningModule, config: SaveConfigCallback, overlay: dict[str, Any]) -> None:
    """Save a configuration that starts the training that follows."""
    config.config = config.parser.parse_object(overlay, cfg_base=config.config)
    config.setup(trainer, module, "fit")
