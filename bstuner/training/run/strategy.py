"""Which strategies a search works with, and the wrapper that some put around the module."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch.nn.parallel import DistributedDataParallel

from bstuner.errors import UnsupportedStrategy
from bstuner.ranks import Peers
from bstuner.training._lightning import has_communication_hook

__all__ = ["refuse_unsupported", "replicas", "unwrap", "wrap", "wrap_for_probe"]

_SUPPORTED = (SingleDeviceStrategy, DDPStrategy, FSDPStrategy, ModelParallelStrategy)


def refuse_unsupported(trainer: Trainer) -> None:
    """Refuse a Trainer or a strategy under which a search would measure something else, or hang.

    Raises:
        UnsupportedStrategy: they are not of a kind that is known.

    """
    if not isinstance(trainer, Trainer):
        raise UnsupportedStrategy(
            f"Expected a Trainer of lightning.pytorch, found one of {type(trainer).__module__.partition('.')[0]}: "
            "write `import lightning.pytorch as pl` instead of `import pytorch_lightning as pl`, everywhere in your "
            "code."
        )
    if not isinstance(trainer.strategy, _SUPPORTED):
        raise UnsupportedStrategy(
            f"Expected one device, DDP or FSDP, found {type(trainer.strategy).__name__}, which bstuner does not know. "
            "Search with devices=1 or strategy='ddp', and train with the size found."
        )


def replicas(trainer: Trainer) -> int:
    """How many processes see samples of their own; those of a tensor-parallel group see the same."""
    sampled = trainer.distributed_sampler_kwargs
    return int(sampled["num_replicas"]) if sampled else trainer.world_size


def unwrap(trainer: Trainer) -> None:
    """Take DistributedDataParallel off: it remembers in which order the gradients of its first step came.

    Probes get a wrapper of their own, and so does the training that follows, as if it had never trained.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.model.module


def wrap(trainer: Trainer) -> None:
    """Put a fresh wrapper on what was unwrapped; all processes must call this."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and trainer.state.fn == "fit":
        strategy.configure_ddp()


def wrap_for_probe(trainer: Trainer, peers: Peers) -> None:
    """Put on a wrapper whose collectives are guarded."""
    wrap(trainer)
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        peers.guard(strategy.model, own_hook=has_communication_hook(strategy))
