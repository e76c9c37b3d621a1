"""Take an answer up again from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bstuner.core import BatchLayout, FindResult, FindSettings, Observer, format_bytes
from bstuner.errors import StoredSizeTooLarge
from bstuner.training.batching import Placement, locate_validation_batching
from bstuner.training.probing.session import open_session

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["matches", "take_up", "to_save"]


def to_save(result: FindResult, placement: Placement, asked: FindSettings, epoch: int) -> dict[str, Any]:
    """What a checkpoint has to hold of an answer: plain values."""
    return {
        "batch_size": placement.micro,
        "accumulate_grad_batches": placement.accumulate,
        "validation_batch_size": result.validation_batch_size,
        "validation": asked.validation,
        "device": result.device,
        "capacity_bytes": result.capacity_bytes,
        "scanned_samples": result.scanned,
        "dataset_size": result.dataset_size,
        "epoch": epoch,
    }


def matches(saved: dict[str, Any], settings: FindSettings, world: int) -> bool:
    """Whether what a checkpoint holds answers the question that is asked now."""
    if not saved or settings.validation != saved["validation"]:
        return False
    accumulate, wanted = saved["accumulate_grad_batches"], settings.global_batch_size
    if wanted is None or accumulate is None:
        return wanted is None and accumulate is None
    return BatchLayout(saved["batch_size"], accumulate, world).global_batch_size == wanted


def take_up(
    trainer: Trainer, settings: FindSettings, observer: Observer, saved: dict[str, Any], *, fresh: bool
) -> Placement:
    """Place a checkpoint's answer; on another or a smaller device only after it has run there.

    Raises:
        StoredSizeTooLarge: it does not fit this device.

    """
    size, device, capacity = (saved[key] for key in ("batch_size", "device", "capacity_bytes"))
    with open_session(trainer, "fit", settings, observer, fresh=fresh) as session:
        session.locate()
        known, validation = saved["validation_batch_size"], None
        if known is not None:
            validation = locate_validation_batching(trainer), known
        accumulate = saved["accumulate_grad_batches"]
        placement = Placement(session.batching, size, accumulate, validation)
        if session.memory.label == device and session.capacity >= capacity:
            return placement
        session.look(lambda _: accumulate or trainer.accumulate_grad_batches)
        probe = session.probe(size, lambda _: placement.apply(trainer))
        if probe.fits:
            return placement
        raise StoredSizeTooLarge(
            f"Expected the checkpoint's batch size, {size} (found on {device} with {format_bytes(capacity)}), to "
            f"fit {session.memory.label} with {format_bytes(session.capacity)}: {probe.reason}. Resume on a device of "
            f"the first size, or take bstuner's callback out and keep the same {size} samples per step "
            f"with a batch size of {max(1, size // 2)} and accumulate_grad_batches doubled."
        )
