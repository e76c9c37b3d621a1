"""When a search has done enough, and when its first trial does not let it begin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from bstuner.core import Mode, TrialRun
from bstuner.errors import BaselineFailed
from bstuner.study.purse import Purse
from bstuner.study.ranking import Ranking
from bstuner.study.record import Record, StudyView
from bstuner.study.settings import TuneSettings
from bstuner.study.space import BASE_LR, SearchSpace

__all__ = ["baseline_trouble", "lowered", "refuse_baseline", "stop_reason"]

# Nothing is left to try where so many trials in a row were not better and had not promised this share of the best time.
_PROMISING, _UNPROMISING_TRIALS = 0.02, 3
# So many baselines of training that brought nothing better are enough, however many trials that was.
_IDLE_COST = 3.0
# A baseline that does not train is tried again at a learning rate that is lower by this.
_LOWER_BY = math.sqrt(10)


def stop_reason(ranking: Ranking, settings: TuneSettings, purse: Purse, running: int, seconds: float) -> str | None:
    """Tell in words why no further trial is to start; None where one is.

    Args:
        ranking: The trials of the study, with its baseline, in their order.
        settings: How the search is to go.
        purse: What may still be spent.
        running: How many trials other workers run just now.
        seconds: How long this process has searched.
    """
    view = ranking.view
    count = sum(record.summary.role != "edge" for record in view.records) + running
    if count >= settings.n_trials:
        return f"all {settings.n_trials} trials were run" if settings.n_trials > 1 else "the one trial was run"
    if settings.timeout is not None and seconds >= settings.timeout:
        return f"the timeout of {settings.timeout:g} s was over"
    candidate = next((record.summary.global_batch_size for record in ranking.candidates), None)
    if not any(purse.affords(size, candidate) for size in purse.space.batch_sizes):
        assert settings.max_cost is not None
        return f"no further trial was to be had for {settings.max_cost:.0%} of the fit"
    if settings.patience is None or settings.objective == "both":
        return None
    idle, found = _idle_trials(view)
    if not _enough(view, idle, settings.patience):
        return None
    if not found:
        return f"your settings were already the best found: {len(idle)} others were not better"
    return f"nothing better was found in the last {len(idle)} trials"


def _enough(view: StudyView, idle: list[Record], patience: int) -> bool:
    assert view.baseline is not None
    last = [record.promise for record in idle[-_UNPROMISING_TRIALS:]]
    unpromising = len(last) == _UNPROMISING_TRIALS and all(p is not None and p < _PROMISING for p in last)
    cost = sum(record.seconds_trained for record in idle)
    return unpromising or len(idle) >= patience or cost >= _IDLE_COST * view.baseline.seconds_trained


def _idle_trials(view: StudyView) -> tuple[list[Record], bool]:
    """The trials that have ended since one was better, and whether any was."""
    found, idle = False, list[Record]()
    for record in view.records:
        if record.summary.verdict == "best":
            found, idle = True, []
        elif record.summary.role not in ("baseline", "edge"):
            idle.append(record)
    return idle, found


def lowered(params: Mapping[str, Any], space: SearchSpace) -> dict[str, Any] | None:
    """The settings to try next as a baseline where these did not train; None where there are none."""
    lr, lowest = params[BASE_LR] / _LOWER_BY, space.lr_range[0]
    return {**params, BASE_LR: max(lr, lowest)} if lr >= lowest * (1 - 1e-9) else None


def _never_improved(run: TrialRun, mode: Mode) -> bool:
    sign = 1 if mode == "min" else -1
    return len(run.marks) > 1 and sign * run.marks[-1].metric >= sign * run.marks[0].metric


def baseline_trouble(run: TrialRun, settings: TuneSettings) -> Literal["not finite", "not reached"] | None:
    """How a baseline failed to train, if a lower learning rate may help: it diverged, or never got better.

    Args:
        run: How it went.
        settings: How the search is to go.
    """
    if run.ending == "not finite":
        return "not finite"
    if run.ending == "finished" and settings.objective == "time" and _never_improved(run, settings.mode):
        return "not reached"
    return None


def refuse_baseline(run: TrialRun, settings: TuneSettings, budget: int, first_lr: float) -> None:
    """Refuse a baseline that sets no bar.

    Args:
        run: How it went.
        settings: How the search is to go.
        budget: Samples of a whole trial.
        first_lr: The learning rate of the user's own, from which it may have been lowered.

    Raises:
        BaselineFailed: It ran out of memory, diverged, stopped early, or gave no metric or no throughput.
    """
    monitor = settings.monitor
    rates = f"learning rate {run.request.lr:g}"
    if not math.isclose(run.request.lr, first_lr):
        rates = f"learning rates from {first_lr:g} down to {run.request.lr:g}"
    asked = f"batch size {run.request.global_batch_size}, {rates}"
    if run.ending == "out of memory":
        found, todo = "it ran out of memory", "start from a smaller batch size"
    elif run.ending == "not finite":
        found, todo = f"{monitor} was not finite", "start from a lower learning rate still, or see what makes it so"
    elif run.ending == "stopped":
        found, todo = "it was stopped", "let it train for its whole budget"
    elif not run.marks:
        found, todo = f"{monitor} was never logged", "log it in validation_step"
    elif not run.samples_per_second:
        found, todo = "it was too short to tell its throughput", "give trials a larger budget"
    elif run.samples + run.layout.global_batch_size <= budget:
        found, todo = (
            f"it ended by itself after {run.samples:,} of {budget:,} samples",
            "see what ends it (a callback, or data that runs out), or lower trial_budget",
        )
    elif settings.objective == "time" and _never_improved(run, settings.mode):
        found, todo = (
            f"{monitor} was no better at the end ({run.marks[-1].metric:.4g}) than at the first validation "
            f"({run.marks[0].metric:.4g}), so there is no quality to reach",
            f"check mode={settings.mode!r}, train trials for longer with trial_budget, or use objective='metric'",
        )
    else:
        return
    reason = f" ({run.reason})" if run.reason else ""
    raise BaselineFailed(
        f"Expected your own settings to train for a whole trial, as every other trial is compared with them; "
        f"found that with {asked} {found}{reason}; {todo}."
    )
