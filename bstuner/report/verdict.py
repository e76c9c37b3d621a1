"""What a study says, in a sentence that holds in every case: also before its end, and where nothing was won."""

from __future__ import annotations

from bstuner.core import TrialSummary, TuneResult
from bstuner.report.words import (
    alike_words,
    format_lr,
    format_metric,
    format_seconds,
    format_settings,
    format_sooner,
    quality,
)
from bstuner.study import Findings

__all__ = ["state_words", "verdict_words"]


def verdict_words(findings: Findings) -> str:
    """The verdict in a sentence.

    Args:
        findings: Those of a study.
    """
    result = findings.result
    if result is None:
        return _before_the_baseline(findings)
    sentence = _sentence(result)
    return sentence if findings.state in ("ended", "unknown") else f"So far: {sentence[0].lower()}{sentence[1:]}"


def state_words(findings: Findings) -> str:
    """How far the search has come, and why it ended."""
    ended = len(findings.trials)
    count = f"{ended} of {findings.n_trials} trials" if findings.n_trials else f"{ended} trials"
    if findings.state == "searching":
        running = len(findings.running)
        return f"Still searching: {count} have ended" + (f", {running} running" if running else "")
    if findings.state == "interrupted":
        return f"Interrupted after {count}: the same command with this study's name goes on with it"
    if findings.state == "failed":
        return f"Ended by an error after {count}"
    if findings.state == "unknown":
        return f"{count}; made by an older bstuner, which did not keep whether the search has ended"
    return f"Ended after {ended} {'trial' if ended == 1 else 'trials'}: {_stopped(findings)}"


def _stopped(findings: Findings) -> str:
    return findings.result.stopped if findings.result is not None else ""


def _before_the_baseline(findings: Findings) -> str:
    if findings.state == "failed":
        return "There is no answer: the search was ended by an error."
    if findings.state == "interrupted":
        return "There is no answer: the search was interrupted before a trial with your own settings had ended."
    return "There is no answer yet: no trial has ended. The first one, with your own settings, sets the bar."


def _sentence(result: TuneResult) -> str:
    if result.objective == "both":
        return _trade(result)
    if result.best.number == result.baseline.number:
        return _yours(result)
    settings = f"batch {result.best.global_batch_size:,} with learning rate {format_lr(result.best.lr)}"
    won = _sooner(result) if result.objective == "time" else _better(result)
    if result.confirmed is False:
        return f"Keep your own settings: {settings} {won}, but not with another order of the data."
    again = "confirmed with another order of the data" if result.confirmed else "not confirmed"
    alike = alike_words(result)
    return f"{settings[0].upper()}{settings[1:]} {won}, {again}{f'; {alike}' if alike else ''}."


def _yours(result: TuneResult) -> str:
    bar = f"{result.monitor} {format_metric(result.target)} after {result.baseline.samples:,} samples"
    others = len(result.trials) - 1
    if not others:
        return f"Your own settings have set the bar, {bar}; no others have been tried."
    better = "was ahead and held" if result.objective == "time" else "did better within the same samples"
    return f"Your own settings were the best found ({bar}): none of {others} others {better}."


def _sooner(result: TuneResult) -> str:
    mine, yours = result.best.seconds, result.baseline.seconds
    target = format_metric(result.target)
    sooner = f"reaches what your own settings end with {format_sooner(result)}"
    if mine is None or yours is None:
        return sooner
    times = f"{target} after {format_seconds(mine)} of training instead of {format_seconds(yours)}"
    return f"{sooner} (in a trial, {result.monitor} {times})"


def _better(result: TuneResult) -> str:
    mine, yours = (format_metric(quality(trial, result.mode)) for trial in (result.best, result.baseline))
    return f"reaches {result.monitor} {mine} instead of {yours} within the same {result.budget:,} samples"


def _trade(result: TuneResult) -> str:
    front = result.pareto_front
    if result.best.number != result.baseline.number:
        return f"Taken from the front of {len(front)}: {_traded(result.best, result)}, {_against(result)}."
    if len(front) < 2:
        return _one_end(result)
    slow, *_, fast = sorted(front, key=lambda trial: trial.samples_per_second or 0.0)
    return (
        f"{len(front)} settings trade {result.monitor} against speed, from {_traded(slow, result)} to "
        f"{_traded(fast, result)}; your own stay until you choose."
    )


def _one_end(result: TuneResult) -> str:
    if not result.pareto_front:
        return "No trial has trained for its whole budget, so there is nothing to choose from."
    only = result.pareto_front[0]
    if only.number == result.baseline.number:
        return f"Nothing is to be traded: no trial beats {_traded(only, result)}, your own settings, in either."
    return f"Nothing is to be traded: best in both is {_traded(only, result)}, {_against(result)}."


def _traded(trial: TrialSummary, result: TuneResult) -> str:
    metric = format_metric(trial.metric if trial.metric is not None else float("nan"))
    return f"{format_settings(trial)} ({result.monitor} {metric}, {trial.samples_per_second or 0.0:,.0f} samples/s)"


def _against(result: TuneResult) -> str:
    return f"against {_traded(result.baseline, result)} with your own"
