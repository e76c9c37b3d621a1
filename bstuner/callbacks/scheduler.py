"""`BatchSizeScheduler`: grow the batch instead of decaying the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from bstuner.callbacks.conflicts import refuse_beside_scheduler
from bstuner.callbacks.finder import EXIT_INTERRUPTED
from bstuner.callbacks.mailbox import Mailbox
from bstuner.callbacks.tuner import BatchSizeTuner
from bstuner.core import FindSettings, Rule, check, is_whole, parse_bytes
from bstuner.core.growth import GrowthSettings, Rounding, RunPlan
from bstuner.device import RandomState
from bstuner.errors import SettingRefused
from bstuner.optim import lr_at_last_step
from bstuner.report.terminal import SearchDisplay
from bstuner.training._lightning import (
    checkpoint_to_resume,
    end_run_early,
    is_tried_by_tuner,
    log_step,
    spawns_processes,
    state_to_come,
)
from bstuner.training.growing import GrowingFit, GrowthPlanner, IndexedFit, LoaderDraws, StreamedFit
from bstuner.training.probing import find_largest
from bstuner.training.run import OwnCallback, refuse_unsupported, shows_progress

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["BatchSizeScheduler"]


class BatchSizeScheduler(OwnCallback):
    """Grows the batch where your schedule lowers the learning rate: as much noise at every sample, in fewer steps.

    Example:
        >>> import lightning as L
        >>> from bstuner.callbacks.scheduler import BatchSizeScheduler
        >>> trainer = L.Trainer(max_epochs=90, callbacks=[BatchSizeScheduler()], logger=False)

    Your learning rate schedule is run ahead on copies when `fit` starts. From its peak on, the batch grows by as much
    as the learning rate would fall, up to the largest batch allowed, where the learning rate falls again. Every batch
    is planned by its place in the data before the first step. A larger batch is met by a larger micro-batch up to what
    fits the device, and by accumulation beyond. Your scheduler goes on counting the steps that your own batch size
    would take, `max_steps` ends training after the same samples, and validation comes after the same samples.

    Or you write the batch sizes down: `BatchSizeScheduler("0:256 30ep:512 60ep:1024")`. Then the learning rate is that
    of your own schedule; with `rule` it follows the batch size from your own on.

    The learning rate used is in place only while the optimizer steps, and is logged as `effective_lr`, beside
    `batch_size` and `samples`. Training can be resumed from a checkpoint of any optimizer step and goes on as if it had
    not been interrupted, but for random augmentation inside workers.

    An `IterableDataset` has no places to plan by. There, the micro-batch grows where an epoch ends and the batch by
    accumulation anywhere; `max_steps` tells how long the schedule is, and a fit is resumed as Lightning resumes it:
    exactly between epochs, and within one from the start of the stream.

    Args:
        plan: where each batch size starts, in samples or epochs, and that size over all processes; None to turn the
            learning rate schedule into batch sizes.
        rule: how the learning rate follows the batch size: "linear", "sqrt", or "auto" by the optimizer's class; with
            a written plan, "auto" and "none" leave it alone.
        rounding: "power" for your own batch size times the power of two below, "nearest" for the nearest such,
            "integer" for the whole number below.
        max_batch_size: the largest batch, in samples per optimizer step over all processes; never more than a tenth of
            the samples of an epoch.
        max_accumulate: the most micro-batches per optimizer step that the batch grows by.
        fits: the largest micro-batch that fits the device, in samples; None to find it when `fit` starts.
        batch_arg_name: for finding it, as for `BatchSizeFinder`; so are the arguments that follow.
        margin: share of the device's memory to keep free, 0 to 1.
        memory_limit: bytes, or text such as "24GiB"; None for the device's own memory.
        probe_with: the sample to probe memory with: an index, or a function of the dataset.
        scan: how far to look for the largest sample: seconds (a float), a number of samples (an int), or "all".

    Attributes:
        search_only: end the run once the plan is made, instead of going on with it.

    Raises:
        InvalidSetting: an argument is out of range or unreadable.

    """

    def __init__(
        self,
        plan: str | None = None,
        *,
        rule: Rule | Literal["auto"] = "auto",
        rounding: Rounding = "power",
        max_batch_size: int | None = None,
        max_accumulate: int = 8,
        fits: int | None = None,
        batch_arg_name: str = "batch_size",
        margin: float = 0.1,
        memory_limit: int | str | None = None,
        probe_with: int | Callable[[Any], Any] | None = None,
        scan: int | float | Literal["all"] = 5.0,
    ) -> None:
        self.settings = GrowthSettings(plan, rule, rounding, max_batch_size, max_accumulate)
        check(fits is None or is_whole(fits), "fits", "None or a whole number of at least 1", fits)
        check(isinstance(margin, (int, float)) and 0 <= margin < 1, "margin", "a share from 0 up to 1", margin)
        self._fits = fits
        self._find = FindSettings(
            batch_arg_name=batch_arg_name,
            margin=margin,
            memory_limit=None if memory_limit is None else parse_bytes(memory_limit),
            probe_with=probe_with,
            scan=scan,
            converts=True,
        )
        self.search_only = False
        self._plan: RunPlan | None = None
        self._fit: GrowingFit | None = None
        self._loader_draws: LoaderDraws | None = None
        self._mailbox = Mailbox()
        self._resumed: dict[str, Any] = {}
        self._kept: dict[str, Any] = {}

    @property
    def plan(self) -> RunPlan | None:
        """The plan of the fit; None before it is made."""
        posted = self._mailbox.take()  # by a fit in a process that Lightning has spawned
        if posted is not None:
            self._plan = posted
        return self._plan

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the first place among the callbacks but for those that search."""
        refuse_unsupported(trainer)
        # Filled from the checkpoint, if there is one, between now and the start of the fit.
        self._resumed = {}
        if stage == "fit":
            self._kept = {}
        if stage == "fit" and not is_tried_by_tuner(trainer):  # the plan is for the fit that trains
            refuse_beside_scheduler(trainer)
            others = [callback for callback in trainer.callbacks if callback is not self]
            searches = [callback for callback in others if isinstance(callback, OwnCallback)]
            trainer.callbacks = [*searches, self, *(other for other in others if other not in searches)]
            self._loader_draws = LoaderDraws(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan the fit, and put the plan in place before the loaders are made."""
        drawn = self._end_loader_draws()
        if is_tried_by_tuner(trainer):
            return
        if trainer.fast_dev_run or trainer.overfit_batches:
            rank_zero_warn(
                "BatchSizeScheduler does nothing under fast_dev_run or overfit_batches: all batches are your own."
            )
            return
        if 0 in (trainer.limit_train_batches, trainer.max_epochs, trainer.max_steps):
            return  # nothing is trained
        self._resumed = self._resumed or state_to_come(trainer, self)
        self._check_checkpoint(trainer)
        self._plan = self._make_plan(trainer)
        if trainer.is_global_zero and spawns_processes(trainer):
            self._mailbox.post(self._plan)
        if self.search_only:
            end_run_early(trainer)
            return
        if self._resumed:
            self._refuse_another_plan(trainer, self._plan.with_cuts(self._resumed["cuts"]))
        kind = StreamedFit if self._plan.streams else IndexedFit
        fit: GrowingFit = kind(trainer, self._plan, self._resumed, None if self._resumed else drawn)
        if fit.resumes_within_a_step:
            rank_zero_warn(
                "The checkpoint was saved between two batches of one optimizer step: the gradients of those before it "
                "are lost. Save at optimizer steps, as ModelCheckpoint(every_n_train_steps=...) does."
            )
        for callback in trainer.callbacks:
            if isinstance(callback, BatchSizeTuner):
                callback.keep_growth(self._plan)
        rank_zero_info(str(self._plan))
        for remark in self._plan.remarks:
            rank_zero_info(remark)
        self._fit = fit
        fit.install()

    def _end_loader_draws(self) -> RandomState | None:
        draws, self._loader_draws = self._loader_draws, None
        return None if draws is None else draws.end()

    def _make_plan(self, trainer: Trainer) -> RunPlan:
        planner = GrowthPlanner(trainer, self.settings)
        fits = self._fits
        if self._resumed:
            fits = self._resumed["plan"]["fits"]
        elif fits is None and planner.most > planner.micro:
            fits = self._find_largest(trainer, planner.most)
        return planner.plan(fits)

    def _find_largest(self, trainer: Trainer, most: int) -> int:
        settings = FindSettings(**{**vars(self._find), "max_val": most})
        try:
            with SearchDisplay(enabled=shows_progress(trainer)) as display:
                return find_largest(trainer, "fit", settings, display, fresh=True)[0].batch_size
        except KeyboardInterrupt:
            # Not passed on as it is: Lightning would exit with 1 and hide that the user asked for it.
            raise SystemExit(EXIT_INTERRUPTED) from None

    def _check_checkpoint(self, trainer: Trainer) -> None:
        path = checkpoint_to_resume(trainer)
        if path is not None and not self._resumed:
            raise SettingRefused(
                f"Expected a checkpoint of a fit with BatchSizeScheduler, found {path} without: its steps "
                "are counted in other batches. Resume it without this callback, or load its weights alone and train "
                "from the beginning."
            )
        if trainer.global_step and not self._resumed:
            raise SettingRefused(
                f"Expected a fit from its beginning, found a Trainer that has taken {trainer.global_step} steps. Make "
                "a new Trainer for a new schedule."
            )

    def _refuse_another_plan(self, trainer: Trainer, plan: RunPlan) -> None:
        different = plan.differences(self._resumed["plan"], self._resumed["epoch"])
        if different:
            raise SettingRefused(
                f"Expected the plan that the checkpoint {checkpoint_to_resume(trainer)} was trained by, found "
                f"{'; '.join(different)}. Resume with the settings, the learning rate schedule and the data that it "
                "was started with."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loaders exist from here on, and what is resumed is in place."""
        if self._fit is not None:
            self._fit.train_starts()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell Lightning, and the progress bar, how many batches this epoch has."""
        if self._fit is not None:
            self._fit.epoch_starts()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the accumulation and the learning rate of this batch in place."""
        if self._fit is None:
            return
        self._fit.batch_starts(batch_idx, batch)
        if self._fit.order_differs:
            rank_zero_warn(
                "The order of this epoch's samples is another one than in the run that is resumed: some are seen twice "
                "in it and others not at all. Its sampler keeps a state that no checkpoint holds."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step the schedulers, see whether a validation is due, and log."""
        if self._fit is None or not self._fit.batch_ends(batch_idx):
            return
        every = trainer.log_every_n_steps
        if every and trainer.global_step % every == 0:
            values = {"batch_size": float(self._fit.step.batch_size), "samples": float(self._fit.samples)}
            lr = lr_at_last_step(trainer.optimizers[0])
            if lr is not None:
                values["effective_lr"] = lr
            for logger in trainer.loggers:
                logger.log_metrics(values, step=log_step(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember it, for a checkpoint that is saved now."""
        if self._fit is not None and not trainer.sanity_checking:
            self._fit.validated()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a checkpoint stands between two epochs."""
        if self._fit is not None:
            self._fit.epoch_ends()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what a checkpoint has to hold that is saved after the fit."""
        if self._fit is not None:
            self._kept = self._fit.state()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind in the Trainer, but keep what a checkpoint that is saved now has to hold."""
        if self._fit is not None and trainer.world_size == 1:  # of the other processes, nobody knows where they are
            self._kept = self._fit.state()
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind in the Trainer."""
        self._end_loader_draws()
        if self._fit is not None:
            self._fit.put_back()
            self._plan, self._fit = self._fit.plan, None

    def state_dict(self) -> dict[str, Any]:
        """The plan and where the fit is in it, for the checkpoint."""
        return self._kept if self._fit is None else self._fit.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The same, from the checkpoint."""
        self._resumed = dict(state_dict)
