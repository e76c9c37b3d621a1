"""Convert what a scheduler counts in optimizer steps, so that it means the same samples at another batch size.

`StepLR(step_size=1000)` at eight times the batch would decay after eight times the samples. Numbers that the user's
code computes from the length of the fit need no help: `configure_optimizers` runs again at the new batch size, and they
come out anew. What came out the same although the fit takes another number of steps was written down as a constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.optim.lr_scheduler import CyclicLR

from bstuner.optim import is_of_torch, number_in, read_constants, write_constants

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import LRSchedulerConfig

__all__ = ["Converted", "StepConstants"]


class Converted(NamedTuple):
    """What was converted, and what could not be.

    Args:
        changed: The constants that were converted, in words.
        warnings: What counts steps and stays as it is, in words.
    """

    changed: tuple[str, ...]
    warnings: tuple[str, ...]


class StepConstants:
    """The constants of the schedulers that are stepped at every optimizer step, as they are at the reference.

    Args:
        found: For each scheduler of the run, what it and those inside it hold.
    """

    def __init__(self, found: list[list[_Held]]) -> None:
        self._found = found

    @classmethod
    def of(cls, configs: Iterable[LRSchedulerConfig]) -> StepConstants:
        """Read the constants of schedulers that were made at the reference batch size.

        Args:
            configs: The run's, `trainer.lr_scheduler_configs`.
        """
        return cls([_held(config) for config in configs])

    def convert(self, configs: Iterable[LRSchedulerConfig], ratio: float, steps: int | None = None) -> Converted:
        """Convert the constants of schedulers that were just made at another batch size, in place.

        Args:
            configs: The run's, `trainer.lr_scheduler_configs`.
            ratio: Reference batch size divided by the one at which they were made, both over all processes.
            steps: Optimizer steps of the fit, where that is known. A OneCycleLR fails when it is stepped beyond its
                end; it is not made shorter than this.
        """
        changed: list[str] = []
        warnings: list[str] = []
        for config, before in zip(configs, self._found, strict=False):
            now = _held(config)
            for old, new in zip(before, now, strict=False):
                if ratio == 1 or type(old.scheduler) is not type(new.scheduler):
                    continue
                if new.unknown is not None:
                    warnings += _unknown(new.scheduler, old.unknown or [], new.unknown)
                else:
                    changed += _convert(new.scheduler, old.constants, ratio, steps, alone=len(now) == 1)
        return Converted(tuple(changed), tuple(dict.fromkeys(warnings)))


class _Held(NamedTuple):
    """What one scheduler holds: known constants by name, or the numbers that were seen in an unknown one."""

    scheduler: Any
    constants: dict[str, Any]
    unknown: list[float] | None


def _held(config: LRSchedulerConfig) -> list[_Held]:
    return [_of_one(each) for each in _inside(config.scheduler)] if config.interval == "step" else []


def _inside(scheduler: Any) -> Iterator[Any]:
    """A scheduler and all inside it."""
    yield scheduler
    for each in getattr(scheduler, "_schedulers", ()):
        yield from _inside(each)


def _of_one(scheduler: Any) -> _Held:
    functions = getattr(scheduler, "lr_lambdas", [])
    if isinstance(scheduler, CyclicLR) and scheduler.scale_mode == "iterations":
        functions = [scheduler._scale_fn_custom] if scheduler._scale_fn_custom is not None else []
    if functions:
        return _Held(scheduler, {}, [number for function in functions for number in _numbers_in(function)])
    if not is_of_torch(scheduler):
        own = {name: value for name, value in vars(scheduler).items() if name not in ("last_epoch", "_step_count")}
        return _Held(scheduler, {}, [number for value in own.values() for number in _counts(value)])
    return _Held(scheduler, read_constants(scheduler), None)


def _numbers_in(function: Any) -> list[float]:
    """The counts that a function holds: what it was partially applied to, what it encloses, its attributes."""
    held: list[Any] = []
    while isinstance(function, functools.partial):
        held += [*function.args, *function.keywords.values()]
        function = function.func
    held += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held += [*(getattr(function, "__defaults__", None) or ()), *getattr(function, "__dict__", {}).values()]
    return [number for value in held for number in _counts(value)]


def _counts(value: Any) -> list[float]:
    """The numbers in a value that may be counts of steps."""
    numbers = [number_in(each) for each in (value if isinstance(value, (list, tuple)) else [value])]
    return [number for number in numbers if number is not None and number > 1 and number == int(number)]


def _convert(scheduler: Any, before: dict[str, Any], ratio: float, steps: int | None, *, alone: bool) -> list[str]:
    now = read_constants(scheduler)
    # What differs was computed from the length of the fit, one by one: a list may hold both.
    new = {name: _each(before[name], value, functools.partial(_new, name, ratio)) for name, value in now.items()}
    if alone and steps is not None and "total_steps" in new and new["total_steps"] != now["total_steps"]:
        new["total_steps"] = max(new["total_steps"], steps)
    if new == now:
        return []
    write_constants(scheduler, new, alone)
    name = type(scheduler).__name__
    return [f"{name}.{key} {_text(now[key])} -> {_text(new[key])}" for key in now if new[key] != now[key]]


def _each(before: Any, now: Any, convert: Callable[[Any], Any]) -> Any:
    if not isinstance(now, list):
        return convert(now) if now == before else now
    if len(now) != len(before):
        return now
    return [_each(*pair, convert) for pair in zip(before, now, strict=True)]


def _new(name: str, ratio: float, value: Any) -> Any:
    if name == "gamma":  # a factor for each step: over the same samples their product stays
        return value ** (1 / ratio)
    return max(1, round(value * ratio)) if value > 0 else value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _unknown(scheduler: Any, before: list[float], now: list[float]) -> list[str]:
    if len(before) == len(now) and before and not any(one == other for one, other in zip(before, now, strict=True)):
        return []  # all of it was computed from the length of the fit
    kind = type(scheduler).__name__
    what = f"The function of {kind}" if is_of_torch(scheduler) else f"{kind}, which is not one of torch's schedulers,"
    return [
        f"{what} is asked at every optimizer step, and what it counts cannot be converted to samples: unless it is "
        "computed from trainer.estimated_stepping_batches, it spans other samples at another batch size."
    ]
