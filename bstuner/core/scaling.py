"""How the learning rate, and Adam's other constants, follow the batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from bstuner.errors import InvalidSetting

__all__ = [
    "AdamConstants",
    "Rule",
    "RuleFound",
    "rule_for",
    "scale_adam",
    "scale_lr",
    "unscale_lr",
    "warmup_lr",
]

Rule = Literal["linear", "sqrt", "none"]

# By the names of optimizer classes, in lower case. What follows the gradient itself scales linearly; what divides by
# the gradient's size, its second moment or its sign, by the square root.
_LINEAR = frozenset({"sgd", "asgd", "sgdp", "sgdw", "nag", "lars"})
_SQRT = frozenset({
    *("adam", "adamw", "nadam", "radam", "adamax", "sparseadam", "adafactor", "adagrad", "adadelta", "rmsprop"),
    *("rmsproptf", "lamb", "lion", "adabelief", "adan", "sophia", "sophiag", "ademamix", "stableadamw"),
    *("adam8bit", "adamw8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit", "lion8bit", "pagedlion8bit"),
    *("fusedadam", "fusedlamb", "cpuadam", "deepspeedcpuadam", "adamwschedulefree"),
})  # fmt: skip


class RuleFound(NamedTuple):
    """A scaling rule, and whether the optimizer was known or the rule is a guess."""

    rule: Rule
    known: bool


class AdamConstants(NamedTuple):
    """What Adam has besides its learning rate."""

    beta1: float
    beta2: float
    eps: float


def scale_lr(lr: float, batch_size: int, reference_batch_size: int, rule: Rule) -> float:
    """Scale a learning rate from one batch size to another.

    >>> scale_lr(0.1, batch_size=1024, reference_batch_size=256, rule="linear")
    0.4
    >>> scale_lr(0.001, batch_size=1024, reference_batch_size=256, rule="sqrt")
    0.002

    Linear (Goyal et al. 2017, arXiv 1706.02677, section 2.1): k small steps of SGD go about as far as one of k times
    the learning rate on the mean of their gradients. Square root (Malladi et al. 2022, arXiv 2205.10287): steps of Adam
    and its kin have about the same length whatever the gradient's noise, and this keeps the noise per sample.

    Args:
        lr: Learning rate at the reference batch size.
        batch_size: Samples per optimizer step, over all processes.
        reference_batch_size: Samples per optimizer step for which `lr` is meant.
        rule: "linear", "sqrt" or "none".

    Raises:
        InvalidSetting: The rule is another one, a batch size is not positive, or the learning rate is no finite number.
    """
    _check(math.isfinite(lr), "lr", "a finite learning rate", lr)
    return lr * _factor(batch_size, reference_batch_size, rule)


def unscale_lr(lr: float, batch_size: int, reference_batch_size: int, rule: Rule) -> float:
    """Tell the learning rate at the reference batch size from the one at another: the inverse of `scale_lr`.

    >>> unscale_lr(0.4, batch_size=1024, reference_batch_size=256, rule="linear")
    0.1

    Args:
        lr: Learning rate at `batch_size`.
        batch_size: Samples per optimizer step, over all processes.
        reference_batch_size: Samples per optimizer step for which the result is meant.
        rule: "linear", "sqrt" or "none".

    Raises:
        InvalidSetting: As for `scale_lr`.
    """
    _check(math.isfinite(lr), "lr", "a finite learning rate", lr)
    return lr / _factor(batch_size, reference_batch_size, rule)


def rule_for(class_names: Iterable[str]) -> RuleFound:
    """Choose the rule for an optimizer by its class.

    >>> rule_for(["AdamW", "Optimizer"])
    RuleFound(rule='sqrt', known=True)
    >>> rule_for(["MyOwn", "Optimizer"])
    RuleFound(rule='sqrt', known=False)

    SGD and its kin scale linearly, Adam, RMSprop, Lion, LAMB, Adafactor and their kin by the square root. So does one
    that is not known: raising the learning rate too little costs time, raising it too much costs the run.

    Args:
        class_names: Names of the optimizer's class and of its bases, the class first. The first that is known decides.
    """
    for name in class_names:
        if name.lower() in _LINEAR:
            return RuleFound("linear", known=True)
        if name.lower() in _SQRT:
            return RuleFound("sqrt", known=True)
    return RuleFound("sqrt", known=False)


def scale_adam(constants: AdamConstants, batch_size: int, reference_batch_size: int) -> AdamConstants:
    """Scale Adam's averages and epsilon to another batch size: both average over the same samples as before.

    >>> scale_adam(AdamConstants(0.9, 0.999, 1e-8), batch_size=1024, reference_batch_size=256)
    AdamConstants(beta1=0.6561, beta2=0.996005996001, eps=5e-09)

    With k = batch_size / reference_batch_size, beta becomes beta**k: its half-life, counted in samples, stays (Marek et
    al. 2025, arXiv 2507.07101). To first order that is the rule of Malladi et al. 2022 (arXiv 2205.10287), 1 - beta
    times k, which turns negative where k is large. Epsilon becomes eps / sqrt(k), as the gradient's noise does (ibid.).

    Args:
        constants: Those at the reference batch size.
        batch_size: Samples per optimizer step, over all processes.
        reference_batch_size: Samples per optimizer step for which `constants` are meant.

    Raises:
        InvalidSetting: A batch size is not positive, or a beta is not in [0, 1).
    """
    k = _factor(batch_size, reference_batch_size, "linear")
    for name in ("beta1", "beta2"):
        value = getattr(constants, name)
        _check(0 <= value < 1, name, "a share from 0 up to 1", value)
    return AdamConstants(constants.beta1**k, constants.beta2**k, constants.eps / math.sqrt(k))


def warmup_lr(lr: float, start_lr: float, samples: int, warmup_samples: int) -> float:
    """Raise the learning rate gradually: from `start_lr` to `lr` in a straight line over the samples.

    >>> [warmup_lr(0.75, start_lr=0.25, samples=seen, warmup_samples=512) for seen in (0, 256, 512, 1024)]
    [0.25, 0.5, 0.75, 0.75]

    Gradual warm-up of Goyal et al. 2017 (arXiv 1706.02677, section 2.2), counted in samples so that it means the same
    at any batch size. There `start_lr` is the learning rate before it was scaled.

    Args:
        lr: Learning rate after the warm-up.
        start_lr: Learning rate of the first step.
        samples: Samples seen before this step, over all processes.
        warmup_samples: Samples that the warm-up takes; 0 for none.
    """
    if samples >= warmup_samples:
        return lr
    return start_lr + (lr - start_lr) * samples / warmup_samples


def _factor(batch_size: int, reference_batch_size: int, rule: Rule) -> float:
    _check(batch_size > 0, "batch_size", "samples, at least 1", batch_size)
    _check(reference_batch_size > 0, "reference_batch_size", "samples, at least 1", reference_batch_size)
    _check(rule in ("linear", "sqrt", "none"), "rule", "'linear', 'sqrt' or 'none'", rule)
    k = batch_size / reference_batch_size
    return {"linear": k, "sqrt": math.sqrt(k), "none": 1.0}[rule]


def _check(valid: bool, name: str, expected: str, found: object) -> None:
    if not valid:
        raise InvalidSetting(f"{name}: expected {expected}, found {found!r}.")
