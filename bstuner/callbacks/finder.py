"""`BatchSizeFinder`: find the largest batch that fits, then train with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn

from bstuner.callbacks.mailbox import Mailbox
from bstuner.callbacks.search_start import SearchStart
from bstuner.core import FindResult, FindSettings, parse_bytes
from bstuner.errors import InvalidSetting
from bstuner.report.terminal import SearchDisplay
from bstuner.training._lightning import (
    begin_epoch_anew,
    end_run_early,
    forget_loaders,
    is_tried_by_tuner,
    make_optimizers,
    replicas,
    restart_evaluation,
    spawns_processes,
    state_to_come,
)
from bstuner.training.batching import Placement
from bstuner.training.probing import accumulation_warnings, find_largest, matches, take_up, to_save
from bstuner.training.run import OwnCallback, shows_progress

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

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
        scan: how far to look for the largest sample: seconds (a float; for the training data, and as many for the
            validation data), a number of samples (an int), or "all". Where not all were looked at, the result says so.
        global_batch_size: samples per optimizer step over all processes, met exactly: by the largest batch per device
            that fits and divides it, and accumulation. None to leave the Trainer's accumulation as it is.
        validation: also find the largest batch of the validation loaders of a fit. False to leave them at their own,
            or where one attribute drives both, at the training batch size; they are checked to fit.
        milestones: epochs, counted from 0, at whose start to search again; for example where layers unfreeze.

    Attributes:
        search_only: end the run after the search instead of going on with it.

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
        scan: int | float | Literal["all"] = 5.0,
        global_batch_size: int | None = None,
        validation: bool = False,
        milestones: Sequence[int] = (),
    ) -> None:
        if mode not in ("power", "binsearch"):
            raise InvalidSetting(f"Expected mode to be 'power' or 'binsearch', found {mode!r}.")
        whole = {"steps_per_trial": steps_per_trial, "init_val": init_val}
        optional = {"max_val": max_val, "global_batch_size": global_batch_size}
        for name, value in {**whole, **optional}.items():
            if not isinstance(value, int) and not (name in optional and value is None):
                raise InvalidSetting(f"Expected {name} to be a whole number, found {value!r}.")
        if global_batch_size is not None and global_batch_size < 1:
            raise InvalidSetting(f"Expected global_batch_size of at least 1, found {global_batch_size}.")
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
            scan=scan,
            global_batch_size=global_batch_size,
            validation=validation,
        )
        self.milestones = _epochs(milestones)
        self.search_only = False
        self._result: FindResult | None = None
        self._mailbox = Mailbox()
        self._placement: Placement | None = None
        self._saved: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}
        self._search_start = SearchStart()

    @property
    def result(self) -> FindResult | None:
        """What was found; None before the search, and after a fit that took its answer from a checkpoint."""
        posted = self._mailbox.take()  # by a search in a process that Lightning has spawned
        if posted is not None:
            self._result, self._placement = posted, None
        return self._result

    @property
    def optimal_batch_size(self) -> int | None:
        """The answer, by the name that Lightning's finder gives it."""
        result = self.result
        if self._placement is not None:
            return self._placement.micro
        return None if result is None else result.batch_size

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the first place among the callbacks, and remember the run as it is before optimizers exist."""
        self._resumed = {}  # filled from the checkpoint, if there is one, between now and the start of the fit
        if is_tried_by_tuner(trainer):
            return  # the search is for the run that trains
        self._search_start.watch(trainer, stage, self)

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
        if is_tried_by_tuner(trainer):
            return
        if trainer.fast_dev_run:
            rank_zero_warn("BatchSizeFinder does not search under fast_dev_run: the batch size stays as it is.")
            return
        stage = str(trainer.state.fn.value)  # type: ignore[union-attr]  # set while a run is on
        start = self._search_start.take()
        fresh = stage == "fit" and start is not None
        with SearchDisplay(enabled=shows_progress(trainer)) as display:
            try:
                self._search(trainer, stage, display, fresh)
            except KeyboardInterrupt as interrupt:
                interrupt.args = (display.show_interrupted(),)  # for who has typed a command and has no bars
                # Not passed on as it is: Lightning would exit with 1 and hide that the user asked for it.
                raise SystemExit(EXIT_INTERRUPTED) from None
        if start is not None:
            start.restore()
        if self.search_only:
            end_run_early(trainer)
            return
        self.apply(trainer)
        if stage != "fit":
            restart_evaluation(trainer, stage)
        elif fresh:
            forget_loaders(trainer)
            make_optimizers(trainer)
        else:
            begin_epoch_anew(trainer)

    def _search(self, trainer: Trainer, stage: str, display: SearchDisplay, fresh: bool) -> None:
        if stage == "fit" and fresh:
            self._resumed = self._resumed or state_to_come(trainer, self)
            if matches(self._resumed, self.settings, replicas(trainer)):
                self._saved, self._result = self._resumed, None
                self._placement = take_up(trainer, self.settings, display, self._saved, fresh=fresh)
                return
        self._result, self._placement = find_largest(trainer, stage, self.settings, display, fresh=fresh)
        display.show(self._result)
        if self.settings.global_batch_size is not None and stage == "fit":
            for warning in accumulation_warnings(trainer.lightning_module, self._result.layout):
                rank_zero_warn(warning)
        if stage == "fit":
            self._saved = to_save(self._result, self._placement, self.settings, trainer.current_epoch)
        if trainer.is_global_zero and spawns_processes(trainer):
            self._mailbox.post(self._result)

    def apply(self, trainer: Trainer) -> None:
        """Put the answer in place: the batch size where it lives, and the accumulation that goes with it."""
        if self._placement is not None:
            self._placement.apply(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search again at a milestone, before the epoch's first batch."""
        epoch = trainer.current_epoch
        if epoch in self.milestones and epoch != self._saved.get("epoch"):
            self.scale_batch_size(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a search is one in the middle of a fit: the optimizers exist and stay."""
        self._search_start.take()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind in the Trainer."""
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind in the Trainer."""
        self._search_start.forget()

    def state_dict(self) -> dict[str, Any]:
        """The answer, for the checkpoint."""
        return dict(self._saved)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The answer, from the checkpoint."""
        self._resumed = dict(state_dict)


def _epochs(milestones: Sequence[int]) -> tuple[int, ...]:
    epochs = tuple(milestones) if isinstance(milestones, Sequence) else (milestones,)
    if any(not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0 for epoch in epochs):
        raise InvalidSetting(f"Expected milestones to be epochs, whole numbers counted from 0, found {milestones!r}.")
    return epochs
