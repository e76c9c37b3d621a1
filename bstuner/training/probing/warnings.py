"""What else the user should know of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bstuner.core import BatchLayout, fuller_layouts
from bstuner.training._lightning import lightning_of
from bstuner.training.probing.batches import Scanned
from bstuner.training.probing.session import Session

__all__ = ["accumulation_warnings", "data_warnings", "layout_warnings", "thaw_warnings"]


# A largest sample of at least so many times the median is told.
_FAR_ABOVE = 3


def data_warnings(session: Session, scanned: Sequence[Scanned]) -> Iterator[str]:
    """What of the data the probes may have missed.

    Args:
        session: the search.
        scanned: how far was looked for the largest samples, for each loader.

    """
    if session.batching_warning:
        yield session.batching_warning
    for each in scanned:
        if not each.whole:
            of = f" of {each.total:,}" if each.total is not None else ""
            data = "" if each.searched else "validation "
            sizes = "of different sizes" if each.differ else "all of one size"
            yield (
                f"{each.scanned:,}{of} {data}samples were looked at, {sizes}: if a larger one than {each.elements:,} "
                "elements exists, name it with probe_with, or look further with scan (scan='all' looks at all)."
            )
        if each.searched and each.elements >= _FAR_ABOVE * each.usual > 0:
            yield (
                f"The largest sample has {each.elements:,} elements, {each.elements / each.usual:.1f} times the "
                f"median: ordinary batches need about {each.usual / each.elements:.0%} of the memory. "
                "probe_with=... takes another sample."
            )
    yield from session.changed()
    every, last = session.trainer.reload_dataloaders_every_n_epochs, session.trainer.max_epochs
    if session.stage == "fit" and every and (last in (None, -1) or session.trainer.current_epoch + every < last):
        yield (
            f"Loaders are made anew every {'epoch' if every == 1 else f'{every} epochs'}, and only the first ones were "
            "looked at: if a larger sample may come later, name it with probe_with, or keep a wider margin."
        )
    for kind in session.data.as_they_come:
        yield (
            f"{kind} makes its batches itself: probes took the first ones as they come, so a larger one may follow. "
            "Keep a wider margin where they differ in size."
        )


def thaw_warnings(session: Session) -> Iterator[str]:
    """Where more of the model is trained later than the probes have seen."""
    kind = lightning_of(session.trainer, "callbacks").BackboneFinetuning
    for callback in session.trainer.callbacks if session.stage == "fit" else ():
        if isinstance(callback, kind) and callback.unfreeze_backbone_at_epoch > session.trainer.current_epoch:
            epoch = callback.unfreeze_backbone_at_epoch
            yield (
                f"{type(callback).__name__} unfreezes the backbone at epoch {epoch}: from there on a step takes more "
                f"memory than was probed. BatchSizeFinder(milestones=({epoch},)) searches again then."
            )


def accumulation_warnings(module: nn.Module, layout: BatchLayout) -> Iterator[str]:
    """Where accumulating micro-batches is not the same as one large batch, by the name of the layer.

    Args:
        module: the module that is trained.
        layout: how the global batch is laid out.

    """
    if layout.accumulate == 1:
        return
    wanted = layout.global_batch_size
    norms = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    if norms:
        name, layer = norms[0]
        others = f" (and {len(norms) - 1} more)" if len(norms) > 1 else ""
        synced = isinstance(layer, nn.SyncBatchNorm) and layout.world > 1
        together = layout.micro * layout.world
        over = (
            f"the {together} samples that {layout.world} processes have at a time (SyncBatchNorm)"
            if synced
            else f"the {layout.micro} samples of a micro-batch"
        )
        remedy = f" Trainer(sync_batchnorm=True) would take {together}." if layout.world > 1 and not synced else ""
        yield (
            f"{name} ({type(layer).__name__}){others} takes its statistics over {over}, not over {wanted}: "
            f"accumulation does not change that, so training is not the same as with one batch of {wanted}.{remedy}"
        )
    summed = [(name, layer) for name, layer in module.named_modules() if getattr(layer, "reduction", None) == "sum"]
    if summed:
        name, layer = summed[0]
        yield (
            f"{name} ({type(layer).__name__}) sums its loss, and Lightning divides it by the {layout.accumulate} "
            f"accumulated batches: gradients are {layout.accumulate} times smaller than in one batch of {wanted}."
        )


def layout_warnings(layout: BatchLayout, fits: int, batches: int | None) -> Iterator[str]:
    """What is wasteful in a layout, or uneven at the end of an epoch.

    Args:
        layout: how the global batch is laid out.
        fits: the largest micro-batch that fits, in samples.
        batches: micro-batches in an epoch on one process; None where unknown.

    """
    fuller = [f"{near.global_batch_size} ({near.micro} x {near.accumulate})" for near in fuller_layouts(layout, fits)]
    if fuller:
        yield (
            f"A global batch of {layout.global_batch_size} divides only into micro-batches of {layout.micro}, where "
            f"up to {fits} may fit. Near it, {' and '.join(fuller)} would use the device better."
        )
    left = 0 if batches is None else batches % layout.accumulate
    if left:
        yield (
            f"An epoch of {batches} batches ends with an optimizer step over {left} of {layout.accumulate}, whose "
            f"loss Lightning divides by {layout.accumulate} all the same. A multiple as limit_train_batches, for "
            f"example {max(layout.accumulate, (batches or 0) - left)}, leaves it out."
        )
