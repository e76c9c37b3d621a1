"""The digits with a batch that grows where the schedule would have divided the learning rate.

python examples/growth.py --plan           # prints the plan, trains nothing
python examples/growth.py                  # trains by it
bstuner schedule examples/growth.py        # the plan as a table, beside what the schedule alone would do
"""

from __future__ import annotations

import argparse

import lightning as L
import torch
from digits import Classifier, Digits
from torch.optim.lr_scheduler import MultiStepLR

import bstuner


class Decayed(Classifier):
    """The classifier, with its learning rate divided by 4 after half of the fit and after three quarters."""

    def configure_optimizers(self) -> dict[str, object]:
        optimizer: torch.optim.Optimizer = super().configure_optimizers()
        epochs = self.trainer.max_epochs
        return {
            "optimizer": optimizer,
            "lr_scheduler": MultiStepLR(optimizer, [epochs // 2, epochs * 3 // 4], gamma=0.25),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--plan", action="store_true", help="print the plan, and do not train")
    arguments = parser.parse_args()
    L.seed_everything(1)
    trainer = L.Trainer(
        max_epochs=arguments.epochs,
        logger=False,
        enable_checkpointing=False,
        callbacks=[bstuner.BatchSizeScheduler()],  # without it, the learning rate falls
    )
    model, data = Decayed(), Digits(arguments.batch_size)
    if not arguments.plan:
        trainer.fit(model, datamodule=data)
        return
    plan = bstuner.schedule(trainer, model, datamodule=data)
    for phase in plan.phases:
        epoch = phase.start_sample / plan.samples_per_epoch
        print(f"from epoch {epoch:g}: batch {phase.batch_size}, learning rate {phase.lr_factor:g} times the schedule's")
    print(f"{plan.planned_steps:,} optimizer steps instead of {plan.nominal_steps:,}; capped by {plan.capped_by}")


if __name__ == "__main__":
    main()
