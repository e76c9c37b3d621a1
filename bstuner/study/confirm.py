"""The winner once more beside the baseline, with another order of the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace

from optuna.trial import FrozenTrial, Trial

from bstuner.core import Mode, Role, TrialRequest, TrialRun, TrialSummary, Verdict, Watch, samples_to_target
from bstuner.study.objective import best_metric, to_target
from bstuner.study.ranking import MARGIN, Ranking
from bstuner.study.record import Confirmation, Record, role_of, summarize, trained_seconds
from bstuner.study.system_attrs import write_system_attr

__all__ = ["confirm", "confirms", "keep", "seconds_ratios"]

Run = Callable[[Role, TrialRequest, Watch], TrialRun]


def confirms(trial: FrozenTrial | Trial) -> int | None:
    """The number of the winner that a trial confirms; None for any other trial."""
    return trial.user_attrs.get("confirms") if role_of(trial) == "confirm" else None


def keep(trial: Trial, confirmation: Confirmation) -> None:
    """Keep a confirmation in the study, with the trial that claimed it."""
    trial.set_user_attr("confirmed", int(confirmation.holds))
    write_system_attr(trial, "confirmation", [asdict(run) for run in confirmation.runs])
    trial.set_user_attr("seconds_trained", confirmation.seconds_trained)


def confirm(run: Run, ranking: Ranking, winner: Record, seed: int) -> Confirmation:
    """Train winner and baseline for a whole budget each, with another order of the data.

    It holds if, with both orders, the winner reaches sooner what the baseline ends with, and its end is better by the
    margin on the average of both. Where only the metric counts, the end alone decides. The winner goes first, and alone
    where it runs out of memory or diverges. A baseline that has run once more already is not run again.

    Args:
        run: Runs a trial of a role, watched.
        ranking: The trials of the study, in their order.
        winner: The trial whose settings may be the answer.
        seed: The seed of both.
    """
    view, own, mode = ranking.view, ranking.own, ranking.view.mode
    ours = run("confirm", _again(winner, seed), lambda mark: True)
    spent = trained_seconds(ours)
    mine = _summary(ours, "confirm", winner.summary.number, view.target, mode)
    theirs = next((c.runs[0] for c in view.confirmations.values() if c.runs[0].role == "confirm baseline"), None)
    if theirs is None and mine.verdict not in ("out of memory", "not finite"):
        again = run("confirm baseline", _again(own, seed), lambda mark: True)
        spent += trained_seconds(again)
        target = again.marks[-1].metric if again.marks else view.target
        theirs = _summary(again, "confirm baseline", own.summary.number, target, mode)
    if theirs is None:
        return Confirmation(False, (mine,), spent, None)
    holds = _holds(ranking, winner, mine, theirs)
    if holds:
        mine = replace(mine, verdict="best")
    return Confirmation(holds, (theirs, mine), spent, _value(ranking, winner, ours, mine, theirs) if holds else None)


def _samples_to_own_end(summary: TrialSummary, own: TrialSummary, mode: Mode) -> tuple[float | None, float]:
    """Samples of a trial to what the user's own settings ended with, None for never; and those of the settings."""
    curve, reference = ([(mark.samples, mark.metric) for mark in run.curve] for run in (summary, own))
    end = own.curve[-1].metric
    return samples_to_target(curve, end, mode), samples_to_target(reference, end, mode) or float(own.curve[-1].samples)


def _trained(summary: TrialSummary) -> bool:
    return bool(summary.curve) and summary.verdict not in ("out of memory", "not finite")


def _holds(ranking: Ranking, winner: Record, mine: TrialSummary, theirs: TrialSummary) -> bool:
    if not _trained(mine):
        return False
    first = ranking.bar.ahead(winner, ranking.own)
    second = ranking.bar.doublings(_end(theirs) - _end(mine)) if _trained(theirs) else math.inf
    if not (first + second) / 2 >= MARGIN:  # nor where nothing tells what a doubling is worth
        return False
    ratios = seconds_ratios(ranking, winner, mine, theirs)
    return ranking.objective != "time" or all(ratio is not None and ratio < 1 for ratio in ratios)


def seconds_ratios(ranking: Ranking, winner: Record, mine: TrialSummary, theirs: TrialSummary) -> list[float | None]:
    """A winner's seconds to the own end over those of the user's settings, for each order in which both have trained.

    None where it never got there. The paces are those of the two that ran side by side, where they were told.

    Args:
        ranking: The trials of the study, in their order.
        winner: The trial whose settings may be the answer.
        mine: How they did once more.
        theirs: How the user's own settings did.
    """
    own = ranking.own.summary
    pairs = [(winner.summary, own), *([(mine, theirs)] if _trained(mine) and _trained(theirs) else [])]
    rates = (
        mine.samples_per_second or winner.summary.samples_per_second,
        theirs.samples_per_second or own.samples_per_second,
    )
    return [_seconds_ratio(*pair, *rates, ranking.view.mode) for pair in pairs]


def _seconds_ratio(
    summary: TrialSummary, own: TrialSummary, rate: float | None, own_rate: float | None, mode: Mode
) -> float | None:
    samples, reference = _samples_to_own_end(summary, own, mode)
    if samples is None or not rate or not own_rate:
        return None
    return (samples / rate) / (reference / own_rate)


def _value(ranking: Ranking, winner: Record, ours: TrialRun, mine: TrialSummary, theirs: TrialSummary) -> float | None:
    """What Optuna is told: the worse of the two."""
    mode, own = ranking.view.mode, ranking.own
    if ranking.view.objective == "metric":
        worse = max if mode == "min" else min
        return worse(best_metric(ours, mode), winner.value[0])
    if ranking.view.objective == "both":
        return None
    return max(ratio or 0.0 for ratio in seconds_ratios(ranking, winner, mine, theirs)) * own.value[0]


def _again(record: Record, seed: int) -> TrialRequest:
    return TrialRequest(record.summary.global_batch_size, record.summary.lr, seed)


def _end(summary: TrialSummary) -> float:
    return summary.curve[-1].metric


def _summary(run: TrialRun, role: Role, number: int | None, target: float, mode: Mode) -> TrialSummary:
    if run.ending in ("out of memory", "not finite"):
        return summarize(None, role, run, run.ending)
    samples, seconds = to_target(run, target, mode)
    missed: Verdict = "not reached" if seconds is None else "slower"
    verdict: Verdict = "baseline" if role == "confirm baseline" else missed
    return summarize(None, role, run, verdict, seconds=seconds, samples=samples)
