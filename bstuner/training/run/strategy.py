"""Which Trainers and strategies a search works with, and the wrapper that a probe gets under DDP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bstuner.errors import UnsupportedStrategy
from bstuner.ranks import Peers
from bstuner.training._lightning import ddp_wrapper, has_communication_hook, has_known_strategy, is_served, wrap

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["refuse_unsupported", "wrap_for_probe"]


def refuse_unsupported(trainer: Trainer) -> None:
    """Refuse a Trainer or a strategy under which a search would measure something else, or hang.

    Raises:
        UnsupportedStrategy: they are not of a kind that is known.

    """
    if not is_served(trainer):
        raise UnsupportedStrategy(
            f"Expected a Trainer of lightning.pytorch, found one of {type(trainer).__module__.partition('.')[0]}: "
            "write `import lightning.pytorch as pl` instead of `import pytorch_lightning as pl`, everywhere in your "
            "code."
        )
    if not has_known_strategy(trainer):
        raise UnsupportedStrategy(
            f"Expected one device, DDP or FSDP, found {type(trainer.strategy).__name__}, which bstuner does not know. "
            "Search with devices=1 or strategy='ddp', and train with the size found."
        )


def wrap_for_probe(trainer: Trainer, peers: Peers) -> None:
    """Put on a wrapper whose collectives are guarded."""
    wrap(trainer)
    wrapper = ddp_wrapper(trainer)
    if wrapper is not None:
        peers.guard(wrapper, own_hook=has_communication_hook(trainer.strategy))
