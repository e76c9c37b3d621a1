"""`BatchSizeTuner`: find the batch size and learning rate that reach your quality soonest, then train with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn
from optuna import Study
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from bstuner.callbacks.conflicts import refuse_beside_tuner
from bstuner.callbacks.mailbox import Mailbox
from bstuner.callbacks.search_start import SearchStart
from bstuner.callbacks.tuned_fit import TunedFit
from bstuner.callbacks.tuner_search import StudyChoices, TunerSearch, keep_for_reports
from bstuner.core import (
    MAX_COST,
    FindResult,
    FindSettings,
    Mode,
    Objective,
    Rule,
    TrialBudget,
    TuneResult,
    check,
    check_trial_budget,
    is_whole,
    parse_bytes,
)
from bstuner.core.growth import RunPlan
from bstuner.dashboards import Publisher
from bstuner.errors import SettingRefused
from bstuner.report import plan_for_study
from bstuner.report.terminal import SearchDisplay, TuningDisplay
from bstuner.study import TuneSettings, write_answer, write_growth
from bstuner.training._lightning import (
    checkpoint_to_resume,
    end_run_early,
    is_tried_by_tuner,
    spawns_processes,
    state_to_come,
)
from bstuner.training.batching import Placement
from bstuner.training.freezing import FrozenStart
from bstuner.training.probing import find_largest, take_up, to_save
from bstuner.training.run import OwnCallback, shows_progress
from bstuner.training.settings import SettingsInPlace, TunedPlacement
from bstuner.training.trials import TrialSettings, largest_worth_finding, locate_settings, open_trials

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["BatchSizeTuner"]

EXIT_INTERRUPTED = 130


class BatchSizeTuner(OwnCallback):
    """Finds the batch size and learning rate that reach your own quality soonest, and trains with them.

    Example:
        >>> import lightning as L
        >>> from bstuner import BatchSizeTuner
        >>> trainer = L.Trainer(max_epochs=30, callbacks=[BatchSizeTuner(monitor="val_loss")], logger=False)

    When `fit` starts, it finds the largest batch that fits, then runs short trainings (trials) from the same weights
    on the same data. The first one, with your own settings, sets the target: its metric at the end of the trial's
    budget. Better ends raise the bar from there, and trials are ranked by the seconds of training they need to it. The
    first choice has to prove itself: beside a neighbour at a higher learning rate, which shows whether it sits at the
    edge, and once more beside your own settings, with another order of the data. Then training goes on exactly as if it
    had been started by hand with that pair, or with your own settings where nothing held, and is watched: where it
    falls behind what your own settings had reached, a warning says so.

    Args:
        monitor: the metric that validation logs.
        mode: "min" where less of it is better, "max" where more is.
        n_trials: most trials, that of your own settings among them.
        timeout: seconds after which no trial is started; None for no limit.
        objective: "time" for the least training time to your own quality. "metric" for the best metric at equal samples
            (which favours small batches). "both" shows the trade-off between the two, and applies nothing unless `take`
            says which end.
        trial_budget: how long a trial is at most: a whole number of samples, a float share of the fit, or epochs such
            as "0.5ep". None for a sixteenth of the fit.
        patience: stop after this many trials in a row that brought nothing better, or sooner where they cost three
            trials of your own settings, or where nothing that is left promises anything; None to run all of `n_trials`.
        on_regret: what happens where the fit that follows falls behind what your own settings had reached: "warn", or
            "stop" to end it there, too.
        take: for objective="both", the end of the trade-off to train with: "metric" or "speed"; None for your own
            settings.
        scaling_rule: how the learning rate follows the batch size: "linear", "sqrt", "none", or "auto" by the
            optimizer's class.
        scale_adam: also let Adam's betas and epsilon follow the batch size, so that they average over equal samples.
        warmup: "auto" to raise the learning rate gradually, over 5 % of the fit, where it is more than twice your own
            and your schedule has no warm-up; a number of samples to do so wherever it is raised; None for never.
        lr_arg_name: attribute of the module or its hparams that holds the learning rate; None for `lr` or
            `learning_rate`, or where there is none, the parameter groups themselves.
        batch_arg_name: attribute of the module, the datamodule or their hparams that holds the batch size, where
            loaders come from `*_dataloader()` hooks. Loaders passed to the Trainer are changed themselves.
        max_cost: the most that the search may cost, as a share of the fit's training time, with the confirmation of its
            answer; None for no bound. The default gives way to a `trial_budget` of which it does not pay eight.
        max_val: largest batch size per device to try; None for no limit but memory and dataset.
        margin: share of the device's memory to keep free, 0 to 1.
        memory_limit: bytes, or text such as "24GiB"; None for the device's own memory.
        probe_with: the sample to probe memory with: an index, or a function of the dataset.
        scan: how far to look for the largest sample: seconds (a float), a number of samples (an int), or "all".
        storage: where the study is kept: an Optuna URL (postgresql://..., for many machines), a path of a journal file,
            or an Optuna storage. None for the file bstuner-study.log in the Trainer's default_root_dir.
        study_name: name of the study. An existing one goes on where it was. None for a new one.
        study: an Optuna study to use instead.
        sampler: an Optuna sampler; None for bstuner's own.
        pruner: an Optuna pruner to stop trials early, on top of the cut-off; not for objective="both".
        seed: for a search that can be repeated; None for another one each time.

    Attributes:
        search_only: end the run after the search instead of going on with it.
        placement: the answer and where it belongs; None before the search.

    Raises:
        InvalidSetting: an argument is out of range or unreadable.

    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: Mode = "min",
        n_trials: int = 20,
        timeout: float | None = None,
        *,
        objective: Objective = "time",
        trial_budget: TrialBudget | None = None,
        patience: int | None = 10,
        take: Literal["metric", "speed"] | None = None,
        scaling_rule: Rule | Literal["auto"] = "auto",
        scale_adam: bool = False,
        warmup: int | Literal["auto"] | None = "auto",
        lr_arg_name: str | None = None,
        batch_arg_name: str = "batch_size",
        max_cost: float | None = MAX_COST,
        on_regret: Literal["warn", "stop"] = "warn",
        max_val: int | None = None,
        margin: float = 0.1,
        memory_limit: int | str | None = None,
        probe_with: int | Callable[[Any], Any] | None = None,
        scan: int | float | Literal["all"] = 5.0,
        storage: str | BaseStorage | None = None,
        study_name: str | None = None,
        study: Study | None = None,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
        seed: int | None = None,
    ) -> None:
        limit = None if memory_limit is None else parse_bytes(memory_limit)
        self.find_settings = FindSettings(
            batch_arg_name=batch_arg_name,
            max_val=max_val,
            margin=margin,
            memory_limit=limit,
            probe_with=probe_with,
            scan=scan,
            converts=True,
        )
        check(isinstance(monitor, str) and bool(monitor), "monitor", "the name of a logged metric", monitor)
        check(
            isinstance(margin, (int, float)) and 0 <= margin < 1,
            "margin",
            "a share of the memory from 0 up to 1",
            margin,
        )
        check(max_val is None or is_whole(max_val), "max_val", "a whole number from 1", max_val)
        rules = ("linear", "sqrt", "none", "auto")
        check(scaling_rule in rules, "scaling_rule", " or ".join(map(repr, rules)), scaling_rule)
        fine = warmup in ("auto", None) or is_whole(warmup)
        check(fine, "warmup", "'auto', a whole number of samples, or None", warmup)
        check(on_regret in ("warn", "stop"), "on_regret", "'warn' or 'stop'", on_regret)
        check(pruner is None or objective != "both", "pruner", "None with objective='both': nothing is pruned", pruner)
        check(study is None or study_name is None, "study_name", "None beside a study", study_name)
        check(study is None or storage is None, "storage", "None beside a study", storage)
        check_trial_budget(trial_budget)
        self.trial_settings = TrialSettings(
            monitor, trial_budget, lr_arg_name, scaling_rule, scale_adam, warmup, max_cost, memory_limit=limit
        )
        self.tune_settings = TuneSettings(monitor, mode, objective, n_trials, timeout, patience, seed, max_cost, take)
        self.on_regret = on_regret
        self.choices = StudyChoices(storage, study_name, study, sampler, pruner)
        self.search_only = False
        self.placement: TunedPlacement | None = None
        self._result: TuneResult | None = None
        self._mailbox = Mailbox()
        self._search_start = SearchStart()
        self._saved: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}
        self._fit: TunedFit | None = None
        self._publisher: Publisher | None = None  # while the fit that follows the search goes on

    @property
    def result(self) -> TuneResult | None:
        """What was found; None before the search, and after a fit that took its answer from a checkpoint."""
        posted = self._mailbox.take()  # by a search in a process that Lightning has spawned
        if posted is not None:
            self._result = posted
        return self._result

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the first place among the callbacks, and remember the run as it is before optimizers exist."""
        self._resumed = {}  # filled from the checkpoint, if there is one, between now and the start of the fit
        if stage == "fit" and not is_tried_by_tuner(trainer):  # the search is for the fit that trains
            refuse_beside_tuner(trainer)
            self._search_start.watch(trainer, stage, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search before training, or take the answer from the checkpoint that is being resumed."""
        start = self._search_start.take()
        if start is None:
            return
        if trainer.fast_dev_run:
            rank_zero_warn("BatchSizeTuner does not search under fast_dev_run: batch size and learning rate stay.")
            return
        self._resumed = self._resumed or state_to_come(trainer, self)
        if self._resumed:
            self._saved, self._result = self._resumed, None
            self._put_in_place(trainer, start, self._take_up(trainer, start))
        else:
            self._search(trainer, start)
        if self.search_only:
            end_run_early(trainer)

    def _search(self, trainer: Trainer, start: FrozenStart) -> None:
        path = checkpoint_to_resume(trainer)
        if path is not None:
            raise SettingRefused(
                f"Expected a fit from its beginning, or a checkpoint of one that was tuned, found {path}: "
                "its optimizer's learning rate would replace the one that is found. Tune first, then train."
            )
        shows = shows_progress(trainer)
        try:
            with SearchDisplay(enabled=shows) as display:
                found, placement = self._find(trainer, display)
            # Silent itself about what it found: the findings at the end hold it.
            with open_trials(trainer, start, found, placement, self.trial_settings) as trials:
                search = TunerSearch(trainer, trials, found, self.tune_settings, self.choices)
                tuning = TuningDisplay(enabled=shows, **search.shown)
                result = search.run(tuning)
        except KeyboardInterrupt:
            # Not passed on as it is: Lightning would exit with 1 and hide that the user asked for it.
            raise SystemExit(EXIT_INTERRUPTED) from None
        self._saved = {
            **to_save(found, placement, self.find_settings, trainer.current_epoch),
            "batch_size": result.answer.batch_size,
            "accumulate_grad_batches": result.answer.accumulate_grad_batches,
            "lr": result.answer.lr,
            "warmup": search.warmup_of_the_fit(result.answer.lr),
            "own": _to_compare(result),
        }
        self._result = self._put_in_place(trainer, start, trials.in_place).with_settings(result)
        self._publisher = search.publisher
        keep_for_reports(self._publisher, partial(write_answer, result=self._result))
        if trainer.is_global_zero:
            tuning.show(self._result)
            if spawns_processes(trainer):
                self._mailbox.post(self._result)

    def _find(self, trainer: Trainer, display: SearchDisplay) -> tuple[FindResult, Placement]:
        bounds = (self.find_settings.max_val, largest_worth_finding(trainer, self.trial_settings, self.find_settings))
        asked = replace(self.find_settings, max_val=min((size for size in bounds if size is not None), default=None))
        try:
            return find_largest(trainer, "fit", asked, display, fresh=True)
        except KeyboardInterrupt as interrupt:
            interrupt.args = (display.show_interrupted(init_val=False),)
            raise

    def _take_up(self, trainer: Trainer, start: FrozenStart) -> SettingsInPlace:
        with SearchDisplay(enabled=shows_progress(trainer)) as display:
            placement = take_up(trainer, self.find_settings, display, self._saved, fresh=True)
        return locate_settings(trainer, placement.batching, self.trial_settings, start)

    def _put_in_place(self, trainer: Trainer, start: FrozenStart, in_place: SettingsInPlace) -> TunedFit:
        self._fit = TunedFit(in_place, self._saved, not self.search_only, self.on_regret)
        self.placement = self._fit.placement
        self._fit.put_in_place(trainer, start)
        return self._fit

    def keep_growth(self, plan: RunPlan) -> None:
        """Keep in the study how the batch grows in the fit that follows the search.

        Args:
            plan: that of the fit.

        """
        keep_for_reports(self._publisher, lambda study: write_growth(study, plan_for_study(plan)))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count what the fit has trained on."""
        if self._fit is not None:
            self._fit.trained()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether the fit keeps up with what the user's own settings had reached."""
        if self._fit is not None:
            self._fit.validated(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind in the Trainer."""
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind in the Trainer."""
        self._search_start.forget()
        self._publisher = None
        if self._fit is not None:
            self._fit.put_back(trainer)
            self._fit = None

    def state_dict(self) -> dict[str, Any]:
        """The answer, for the checkpoint."""
        state = {} if self._fit is None else self._fit.state()
        return {**self._saved, **state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The answer, from the checkpoint."""
        self._resumed = dict(state_dict)


def _to_compare(result: TuneResult) -> dict[str, Any] | None:
    """What the user's own settings had reached in their trial, in plain types; None where they are the answer."""
    own = result.baseline
    if result.answer is own:
        return None
    curve = [list(mark) for mark in own.curve]
    compared = {"monitor": result.monitor, "mode": result.mode, "curve": curve}
    return {**compared, "batch_size": own.global_batch_size, "lr": own.lr}
