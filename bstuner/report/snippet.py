"""An answer as text to copy: Python, a part of a LightningCLI configuration, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

__all__ = ["json_snippet", "python_snippet", "yaml_snippet"]

Warmup = tuple[int, float]  # the samples and the start factor of a `LearningRateWarmup`


def python_snippet(
    batch: int,
    accumulate: int,
    lr: float | None,
    holder: str,
    lr_holder: str,
    *,
    warmup: Warmup | None = None,
    also: Sequence[str] = (),
) -> str:
    """The settings in Python, each with the place where it belongs.

    >>> print(python_snippet(256, 2, 0.0064, "Digits.batch_size", "Digits.lr", also=["max_steps: 400 -> 25"]))
    batch_size = 256  # Digits.batch_size
    lr = 0.0064  # Digits.lr
    trainer = L.Trainer(  # beside your own arguments
        accumulate_grad_batches=2,
    )
    # and change max_steps: 400 -> 25

    Args:
        batch: Samples per device and forward pass.
        accumulate: Batches per optimizer step.
        lr: The learning rate; None to say nothing of it.
        holder: Where the batch size lives, in words.
        lr_holder: Where the learning rate lives, in words.
        warmup: The warm-up that belongs to them: samples and start factor.
        also: What else is to change, in words.
    """
    lines = [f"batch_size = {batch}  # {_line(holder)}"]
    if lr is not None:
        lines.append(f"lr = {lr!r}  # {_line(lr_holder)}")
    # Short lines: a dashboard makes its page as wide as the longest one.
    arguments = [f"    accumulate_grad_batches={accumulate},"]
    if warmup is not None:
        lines.insert(0, "from bstuner import LearningRateWarmup\n")
        arguments.append(f"    callbacks=[LearningRateWarmup(samples={warmup[0]}, start_factor={warmup[1]!r})],")
    lines += ["trainer = L.Trainer(  # beside your own arguments", *arguments, ")"]
    return "\n".join([*lines, *(f"# and change {_line(change)}" for change in also)])


def yaml_snippet(
    batch: int,
    accumulate: int,
    lr: float | None,
    holder: str,
    lr_holder: str,
    *,
    model: str = "",
    warmup: Warmup | None = None,
    also: Sequence[str] = (),
) -> str:
    """The settings as a second `-c` for a LightningCLI script, by the convention that arguments and attributes agree.

    >>> print(yaml_snippet(256, 2, 0.0064, "Digits.batch_size", "Net.lr", model="Net"))
    data:
      batch_size: 256
    model:
      lr: 0.0064
    trainer:
      accumulate_grad_batches: 2

    Args:
        batch: Samples per device and forward pass.
        accumulate: Batches per optimizer step.
        lr: The learning rate; None to say nothing of it.
        holder: Where the batch size lives, in words.
        lr_holder: Where the learning rate lives, in words.
        model: The class of the model; what lives elsewhere belongs to the data.
        warmup: The warm-up that belongs to them: samples and start factor.
        also: What else is to change, in words.
    """
    content: dict[str, Any] = {}
    comments = []
    for place, value in ((holder, batch), (lr_holder, lr)):
        owner, dot, name = place.rpartition(".")
        if value is None:
            continue
        if not dot or " " in place:  # a loader, or the optimizer that the code makes: no argument of a configuration
            comments.append(f"# and set {_line(place)} to {value!r}")
            continue
        part = "model" if owner.removesuffix(".hparams") == model else "data"
        content.setdefault(part, {})[name] = value
    content["trainer"] = {"accumulate_grad_batches": accumulate}
    if warmup is not None:
        arguments = {"samples": warmup[0], "start_factor": warmup[1]}
        content["trainer"]["callbacks+"] = [{"class_path": "bstuner.LearningRateWarmup", "init_args": arguments}]
    comments += [f"# and change {_line(change)}" for change in also]
    return "\n".join([yaml.safe_dump(content, sort_keys=False).rstrip(), *comments])


def json_snippet(
    batch: int,
    accumulate: int,
    lr: float | None,
    holder: str,
    lr_holder: str,
    *,
    warmup: Warmup | None = None,
    also: Sequence[str] = (),
) -> str:
    """The settings as JSON, under the names that `bstuner-result.json` has for them.

    >>> print(json_snippet(256, 1, 0.0064, "Digits.batch_size", "Digits.lr"))
    {
      "batch_size": 256,
      "accumulate_grad_batches": 1,
      "lr": 0.0064,
      "holder": "Digits.batch_size",
      "lr_holder": "Digits.lr",
      "warmup": null,
      "also": []
    }

    Args:
        batch: Samples per device and forward pass.
        accumulate: Batches per optimizer step.
        lr: The learning rate; None for none.
        holder: Where the batch size lives, in words.
        lr_holder: Where the learning rate lives, in words.
        warmup: The warm-up that belongs to them: samples and start factor.
        also: What else is to change, in words.
    """
    content = {
        "batch_size": batch,
        "accumulate_grad_batches": accumulate,
        "lr": lr,
        "holder": holder,
        "lr_holder": lr_holder,
        "warmup": None if warmup is None else {"samples": warmup[0], "start_factor": warmup[1]},
        "also": list(also),
    }
    return json.dumps(content, indent=2)


def _line(words: str) -> str:
    """Words on one line, as a comment has to be."""
    return " ".join(words.split())
