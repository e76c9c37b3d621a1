"""The digits on two processes of the CPU that talk by gloo. On GPUs leave `accelerator` out, and NCCL takes its place.

python examples/ddp.py                     # trains at batch size 16 on each process: 32 per step
bstuner find examples/ddp.py               # the largest batch per process, probed by both in lock-step
bstuner tune examples/ddp.py               # the global batch size and the learning rate that get there soonest
bstuner schedule examples/ddp.py           # what a batch that grows would look like

The script is started once: Lightning starts it again for the second process, under `bstuner` too.
"""

from __future__ import annotations

import argparse

import lightning as L
from digits import Classifier, Digits
from lightning.pytorch.strategies import DDPStrategy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16, help="samples per process")
    arguments = parser.parse_args()
    L.seed_everything(1)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=arguments.epochs,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(), datamodule=Digits(arguments.batch_size))


if __name__ == "__main__":
    main()
