"""`BatchSizeFinder`: find the largest batch that fits, then train with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from bstuner.core.result import FindResult
from bstuner.device.limit import format_bytes, parse_bytes
from bstuner.device.memory import memory_of
from bstuner.errors import InvalidSetting, StoredSizeTooLarge, UnsupportedStrategy
from bstuner.report.live import SearchDisplay, shows_progress
from bstuner.training._lightning import (
    end_run_early,
    forget_loaders,
    loaders_come_from_hooks,
    request_loaders,
    restart_evaluation,
)
from bstuner.training.batching import Batching, locate_batching
from bstuner.training.find import FindSettings, find_largest, verify_size
from bstuner.training.rehearsal import OwnCallback
from bstuner.training.state import FrozenStart, before_optimizers_exist

__all__ = ["BatchSizeFinder"]

EXIT_INTERRUPTED = 130


class BatchSizeFinder(OwnCallback):
    """Finds the largest batch that fits the device, puts it in place, and leaves no other trace.

    Example:
        >>> import lightning as L
        >>> from bstuner import BatchSizeFinder
        >>> trainer = L.Trainer(callbacks=[BatchSizeFinder(max_val=1024)], logger=False)

    The search runs when `fit`, `validate`, `test` or `predict` starts. Every size that is returned has run: forward,
    backward and optimizer step twice, and one validation batch, on the largest sample found in the data. Training then
    goes on exactly as if it had been started with that batch size by hand.

    Args:
        mode: "power" for the largest power of two, "binsearch" for the largest integer (to about one in a thousand).
        steps_per_trial: optimizer steps per probe, at least 2: the first allocates the optimizer's state, the second
            shows the peak with that state in place.
        init_val: first batch size to probe. Not a floor: smaller ones are tried should it not fit.
        max_val: largest batch size to probe; None for no limit but the dataset.
        batch_arg_name: attribute of the module, the datamodule or their hparams that holds the batch size, where
            loaders come from `*_dataloader()` hooks. Loaders passed to the Trainer are changed themselves.
        margin: share of the *device's* memory to keep free, 0 to 1. (Lightning's own `margin` is a share of the
            answer.)
        memory_limit: bytes, or text such as "24GiB": what would fit on a card of that size? None for the device's own
            memory. On the CPU the limit counts the bytes of live tensors.
        probe_with: the sample to probe with: an index into the training dataset, or a function of the dataset that
            returns a sample. None to scan the dataset for its largest sample.

    Attributes:
        result: what was found, a `bstuner.FindResult`; None before the search, and after a fit that was resumed from
            a checkpoint that holds the answer.
        search_only: end the run after the search instead of going on with it.
        optimal_batch_size: the answer, by the name that Lightning's finder gives it.

    Raises:
        InvalidSetting: an argument is out of range or unreadable.

    """

    def __init__(
        self,
        mode: Literal["power", "binsearch"] = "power",
        steps_per_trial: int = 2,
        init_val: int = 2,
        *,
        max_val: int | None = None,
        batch_arg_name: str = "batch_size",
        margin: float = 0.1,
        memory_limit: int | str | None = None,
        probe_with: int | Callable[[Any], Any] | None = None,
    ) -> None:
        if mode not in ("power", "binsearch"):
            raise InvalidSetting(f"Expected mode to be 'power' or 'binsearch', found {mode!r}.")
        for name, value in (("steps_per_trial", steps_per_trial), ("init_val", init_val), ("max_val", max_val)):
            if not isinstance(value, int) and not (name == "max_val" and value is None):
                raise InvalidSetting(f"Expected {name} to be a whole number, found {value!r}.")
        if steps_per_trial < 2:
            raise InvalidSetting(
                f"Expected steps_per_trial of at least 2 (the first step allocates the optimizer's state, the second "
                f"shows the peak with it), found {steps_per_trial}."
            )
        if init_val < 1:
            raise InvalidSetting(f"Expected init_val of at least 1, found {init_val}.")
        if max_val is not None and max_val < init_val:
            raise InvalidSetting(
                f"Expected max_val to be at least init_val={init_val}, found {max_val}. "
                f"Raise max_val or start lower with init_val={max(1, max_val)}."
            )
        if not 0 <= margin < 1:
            raise InvalidSetting(f"Expected margin to be a share of the memory from 0 up to 1, found {margin}.")
        self.settings = FindSettings(
            mode=mode,
            steps_per_trial=steps_per_trial,
            init_val=init_val,
            max_val=max_val,
            batch_arg_name=batch_arg_name,
            margin=margin,
            memory_limit=None if memory_limit is None else parse_bytes(memory_limit),
            probe_with=probe_with,
        )
        self.result: FindResult | None = None
        self.search_only = False
        self.optimal_batch_size: int | None = None
        self._batching: Batching | None = None
        self._saved: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}
        self._start: FrozenStart | None = None
        self._cancel: Callable[[], None] = _nothing

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the first place among the callbacks, and remember the run as it is before optimizers exist."""
        if trainer.world_size > 1:
            raise UnsupportedStrategy(
                f"Expected one process, found a world of {trainer.world_size} "
                f"({type(trainer.strategy).__name__}). Search with devices=1 and train with the size found."
            )
        self._resumed = {}  # filled from the checkpoint, if there is one, between now and the start of the fit
        # First, so that the other callbacks' on_fit_start comes after the search, as without one.
        trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]

        def remember() -> None:
            self._start = FrozenStart(trainer, _passed_loaders(trainer, stage))

        self._cancel = before_optimizers_exist(trainer, remember)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search before training, or take the answer from the checkpoint that is being resumed."""
        self.scale_batch_size(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search before `trainer.validate`."""
        if trainer.state.fn == "validate":
            self.scale_batch_size(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search before `trainer.test`."""
        self.scale_batch_size(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search before `trainer.predict`."""
        self.scale_batch_size(trainer, pl_module)

    def scale_batch_size(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search now and go on with the answer; a subclass may call this from a hook of its choice."""
        if trainer.fast_dev_run:
            rank_zero_warn("BatchSizeFinder does not search under fast_dev_run: the batch size stays as it is.")
            return
        stage = str(trainer.state.fn.value)  # type: ignore[union-attr]  # set while a run is on
        start, self._start = self._start, None
        fresh = stage == "fit" and start is not None
        with SearchDisplay(enabled=shows_progress(trainer)) as display:
            try:
                if stage == "fit" and self._resumed:
                    self._batching = self._verify_resumed(trainer, display, fresh)
                    self.optimal_batch_size = self._resumed["batch_size"]
                else:
                    self.result, self._batching = find_largest(trainer, stage, self.settings, display, fresh=fresh)
                    self.optimal_batch_size = self.result.batch_size
                    display.show(self.result)
            except KeyboardInterrupt:
                display.show_interrupted()
                # Not passed on as it is: Lightning would exit with 1 and hide that the user asked for it.
                raise SystemExit(EXIT_INTERRUPTED) from None
        if stage == "fit":
            self._saved = self._resumed or _to_save(self.result)  # type: ignore[arg-type]  # found just now
        if start is not None:
            start.restore()
        if self.search_only:
            end_run_early()
        self.apply()
        if stage != "fit":
            restart_evaluation(trainer, stage)
            return
        forget_loaders(trainer)
        if fresh:
            trainer.strategy.setup_optimizers(trainer)
        else:
            trainer.fit_loop.setup_data()

    def apply(self) -> None:
        """Put the answer in place: write the attribute that holds the batch size, or change the loaders."""
        if self._batching is not None and self.optimal_batch_size is not None:
            self._batching.apply(self.optimal_batch_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a search is one in the middle of a fit: the optimizers exist and stay."""
        self._start = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind in the Trainer."""
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind in the Trainer."""
        self._cancel()
        self._start = None

    def _verify_resumed(self, trainer: Trainer, display: SearchDisplay, fresh: bool) -> Batching:
        """Take the checkpoint's answer; on another or a smaller device only after it has run there."""
        size, device, capacity = (self._resumed[key] for key in ("batch_size", "device", "capacity_bytes"))
        weights = trainer.lightning_module.parameters()
        memory = memory_of(trainer.strategy.root_device, self.settings.memory_limit, weights)
        if memory.label == device and memory.capacity >= capacity:
            return locate_batching(trainer, "train", self.settings.batch_arg_name)
        probe, batching = verify_size(trainer, "fit", self.settings, display, size, fresh=fresh)
        if not probe.fits:
            raise StoredSizeTooLarge(
                f"Expected the checkpoint's batch size, {size} (found on {device} with {format_bytes(capacity)}), to "
                f"fit {memory.label} with {format_bytes(memory.capacity)}: {probe.reason}. Resume on a device of the "
                f"first size, or take BatchSizeFinder out of the callbacks and keep the same {size} samples per step "
                f"with a batch size of {max(1, size // 2)} and accumulate_grad_batches doubled."
            )
        return batching

    def state_dict(self) -> dict[str, Any]:
        """The answer, for the checkpoint."""
        return dict(self._saved)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The answer, from the checkpoint."""
        self._resumed = dict(state_dict)


def _nothing() -> None:
    """No arrangement to take back yet."""


def _to_save(result: FindResult) -> dict[str, Any]:
    return {"batch_size": result.batch_size, "device": result.device, "capacity_bytes": result.capacity_bytes}


def _passed_loaders(trainer: Trainer, stage: str) -> list[Any]:
    """Loaders the user passed to the Trainer: building optimizers may start their workers."""
    roles = ("train", "val") if stage == "fit" else (stage,)
    return [request_loaders(trainer, role) for role in roles if not loaders_come_from_hooks(trainer, role)]
