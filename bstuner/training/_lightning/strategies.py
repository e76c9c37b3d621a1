"""Strategies: which ones bstuner knows, the wrapper that DDP puts around the module, and the making of optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch.nn.parallel import DistributedDataParallel

from bstuner.training._lightning.roots import lightning_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies import Strategy

__all__ = [
    "before_optimizers_exist",
    "ddp_wrapper",
    "has_communication_hook",
    "has_known_strategy",
    "make_optimizers",
    "replicas",
    "unwrap",
    "wrap",
]


def has_known_strategy(trainer: Trainer) -> bool:
    """Whether the Trainer runs on one device, by DDP or by FSDP."""
    kinds = lightning_of(trainer, "strategies")
    known = (kinds.SingleDeviceStrategy, kinds.DDPStrategy, kinds.FSDPStrategy, kinds.ModelParallelStrategy)
    return isinstance(trainer.strategy, known)


def replicas(trainer: Trainer) -> int:
    """How many processes see samples of their own; those of a tensor-parallel group see the same."""
    sampled = trainer.distributed_sampler_kwargs  # undocumented: what Lightning builds its samplers with
    return int(sampled["num_replicas"]) if sampled else trainer.world_size


def ddp_wrapper(trainer: Trainer) -> DistributedDataParallel | None:
    """Return the wrapper that DDP has put around the module; None where there is none."""
    model = trainer.strategy.model if _is_ddp(trainer) else None  # undocumented: nothing else refers to the wrapper
    return model if isinstance(model, DistributedDataParallel) else None


def unwrap(trainer: Trainer) -> None:
    """Take DistributedDataParallel off: it remembers in which order the gradients of its first step came.

    Probes get a wrapper of their own, and so does the training that follows, as if it had never trained.
    """
    wrapper = ddp_wrapper(trainer)
    if wrapper is not None:
        trainer.strategy.model = wrapper.module


def wrap(trainer: Trainer) -> None:
    """Put a fresh wrapper on what was unwrapped; all processes must call this."""
    if _is_ddp(trainer) and trainer.state.fn == "fit":
        trainer.strategy.configure_ddp()  # undocumented: builds it as the user has set


def _is_ddp(trainer: Trainer) -> bool:
    return isinstance(trainer.strategy, lightning_of(trainer, "strategies").DDPStrategy)


def has_communication_hook(strategy: Strategy) -> bool:
    """Whether DistributedDataParallel has a communication hook of the user's, and so takes no other."""
    # _ddp_comm_hook: kept nowhere public; _register_ddp_hooks() passes it over where the device is no GPU.
    return strategy._ddp_comm_hook is not None and strategy.root_device.type == "cuda"


def make_optimizers(trainer: Trainer) -> None:
    """Have the user's code make optimizers and schedulers anew, as at the start of a fit."""
    trainer.strategy.setup_optimizers(trainer)  # undocumented: nothing public calls configure_optimizers() again


def before_optimizers_exist(trainer: Trainer, action: Callable[[], None]) -> Callable[[], None]:
    """Run `action` once, when the model is on its device and no optimizer exists yet.

    No hook sits there, so the strategy's public method is replaced on the instance until it is called. For
    `validate`, `test` and `predict`, which make no optimizers, the moment is the end of the strategy's setup.

    Returns:
        A function that takes the arrangement back, should that moment never come.

    """
    strategy = trainer.strategy
    fitting = trainer.state.fn == "fit"
    name = "setup_optimizers" if fitting else "setup"
    original = getattr(strategy, name)
    replaced = {key: value for key, value in vars(strategy).items() if key == name}  # by someone else, before
    actions = [action]

    def cancel() -> None:
        actions.clear()  # should another replacement still hold on to this one
        if vars(strategy).get(name) is once:
            del vars(strategy)[name]
            vars(strategy).update(replaced)

    def once(trainer: Trainer) -> None:
        arranged = list(actions)
        cancel()
        if not fitting:
            original(trainer)
        for act in arranged:
            act()
        if fitting:
            original(trainer)

    vars(strategy)[name] = once
    return cancel
