"""Put a batch and a learning rate in place in a fit, with all that has to follow them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bstuner.core import BatchLayout, EpochData
from bstuner.training._lightning import lightning_setattr
from bstuner.training.batching import Batching
from bstuner.training.run import steps_of
from bstuner.training.settings.learning_rate import LearningRate
from bstuner.training.settings.scheduler_steps import StepConstants
from bstuner.training.settings.trainer_steps import StepSettings

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["SettingsInPlace", "TunedPlacement"]


@dataclass
class SettingsInPlace:
    """Where the settings of a fit live; the same for trials and for the training that follows.

    Args:
        batching: where the micro-batch size lives.
        layout: the user's own batch.
        data: what the training loaders hold for one process.
        learning_rate: where the learning rate lives.
        step_settings: the Trainer's settings that count steps.
        step_constants: the schedulers' constants that count steps.
        scale_adam: whether Adam's betas and epsilon follow the batch.
        changed: what was set in the Trainer beside batch size and learning rate, in words.
        converted: what was converted of the schedulers' and Adam's constants, in words.
        warnings: what the user should know of that.

    """

    batching: Batching
    layout: BatchLayout
    data: EpochData
    learning_rate: LearningRate
    step_settings: StepSettings
    step_constants: StepConstants
    scale_adam: bool = False
    changed: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)

    def prepare(self, trainer: Trainer, layout: BatchLayout) -> None:
        """Write the batch, and the Trainer's settings that go with it: before there are optimizers."""
        self.batching.apply(layout.micro)
        trainer.accumulate_grad_batches = layout.accumulate
        self.changed = self.step_settings.apply(trainer, layout)

    def build(self, trainer: Trainer, layout: BatchLayout, lr: float) -> None:
        """Have the user's code make optimizers and schedulers for this batch, at this learning rate."""
        sizes = layout.global_batch_size, self.layout.global_batch_size
        self.learning_rate.build(trainer, lr, adam=sizes if self.scale_adam else None)
        ratio = self.layout.global_batch_size / layout.global_batch_size
        steps = steps_of(trainer, layout, self.data)
        done = self.step_constants.convert(trainer.lr_scheduler_configs, ratio, steps=steps)
        self.converted = (*done.changed, *(_adam_in_words(trainer) if self.scale_adam and ratio != 1 else ()))
        self.warnings = [*self.learning_rate.warnings, *done.warnings]

    def placement(self, layout: BatchLayout, lr: float) -> TunedPlacement:
        """What of these can be put in place outside a fit."""
        return TunedPlacement(self.batching, self.step_settings, self.learning_rate.attribute, layout, lr)


def _adam_in_words(trainer: Trainer) -> tuple[str, ...]:
    told = []
    for optimizer in trainer.optimizers:
        group = optimizer.param_groups[0]
        if "betas" in group and "eps" in group:
            betas = ", ".join(repr(float(beta)) for beta in group["betas"])
            told.append(f"{type(optimizer).__name__}(betas=({betas}), eps={float(group['eps'])!r})")
    return tuple(told)


@dataclass(frozen=True)
class TunedPlacement:
    """A batch and a learning rate, and where they belong outside a fit.

    Args:
        batching: where the micro-batch size lives.
        step_settings: the Trainer's settings that count steps.
        attribute: the name of the attribute that holds the learning rate; None where there is none.
        layout: the batch.
        lr: the learning rate.

    """

    batching: Batching
    step_settings: StepSettings
    attribute: str | None
    layout: BatchLayout
    lr: float

    def apply(self, trainer: Trainer, module: LightningModule) -> tuple[str, ...]:
        """Write it all; the settings of the Trainer that changed, in words."""
        self.batching.apply(self.layout.micro)
        trainer.accumulate_grad_batches = self.layout.accumulate
        if self.attribute is not None:
            # Not the Trainer's: it has none where processes that it has spawned have searched.
            lightning_setattr(module, self.attribute, self.lr)
        # The callbacks that save were set aside for the search, and are as the user has them.
        return self.step_settings.with_checkpoints_of(trainer).apply(trainer, self.layout)
