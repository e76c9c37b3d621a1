"""All that a study holds for people: what was found and measured, where, and how far the search has come."""

from __future__ import annotations

import platform
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from bstuner.core import FindResult, TrialSummary, TuneResult
from bstuner.errors import StudyMismatch
from bstuner.study.next_step import answer_so_far
from bstuner.study.process_id import ProcessMark
from bstuner.study.ranking import Ranking
from bstuner.study.record import StudyView
from bstuner.study.result import result_of
from bstuner.study.storage import storage_in_words
from bstuner.study.store import StudyFacts
from bstuner.study.system_attrs import read_system_attrs, write_system_attr

__all__ = [
    "Environment",
    "Findings",
    "RunningTrial",
    "State",
    "best",
    "write_answer",
    "write_environment",
    "write_find",
    "write_growth",
    "write_search",
]

# The attribute of a study that says which trial is its answer.
_ANSWER = "answer"

State = Literal["searching", "interrupted", "failed", "ended", "unknown"]


def write_search(study: Study, n_trials: int, lr_holder: str) -> None:
    """Keep how many trials there are to be, at most, and where the learning rate lives, in words."""
    study.set_user_attr("n_trials", n_trials)
    study.set_user_attr("lr_holder", lr_holder)


def write_find(study: Study, find: FindResult) -> None:
    """Keep what the search for the largest batch found, unless another worker was first."""
    if "find" not in read_system_attrs(study):
        write_system_attr(study, "find", find.as_dict())


def write_environment(study: Study, strategy: str) -> None:
    """Keep where the search runs, unless another worker was first; device and versions are kept by `open_study`."""
    if "environment" not in read_system_attrs(study):
        write_system_attr(study, "environment", {"strategy": strategy, "system": platform.platform()})


def write_answer(study: Study, result: TuneResult) -> None:
    """Keep of an answer what the trials do not tell."""
    content = {
        "of_trials": len(result.trials),
        "best": result.best.number,
        "stopped": result.stopped,
        "share_of_fit": result.share_of_fit,
        "set_values": list(result.set_values),
        "by_hand": list(result.by_hand),
        "warmup": result.warmup,
        "warnings": list(result.warnings),
        "seconds": result.seconds,
    }
    write_system_attr(study, "answer", content)
    study.set_user_attr(_ANSWER, result.answer.number)


def write_growth(study: Study, plan: dict[str, Any]) -> None:
    """Keep the growth plan of the fit that follows the search, in plain types."""
    write_system_attr(study, "growth", plan)


def best(study: Study) -> FrozenTrial:
    """Tell which trial of a study is the answer of its search: the winner, or that of the user's own settings.

    >>> import optuna
    >>> best(optuna.create_study(study_name="mine"))
    Traceback (most recent call last):
    bstuner.errors.StudyMismatch: Expected a study whose search has ended, found 'mine', which says no answer. Let its \
search end, or read `bstuner report` for what was found by now.

    Args:
        study: A study of `BatchSizeTuner`, in any storage, by whichever of its workers.

    Raises:
        StudyMismatch: Its search has not ended, or it is none of bstuner's.
    """
    number = study.user_attrs.get(_ANSWER)
    if number is None:
        raise StudyMismatch(
            f"Expected a study whose search has ended, found {study.study_name!r}, which says no answer. Let its "
            "search end, or read `bstuner report` for what was found by now."
        )
    return study.get_trials()[int(number)]


@dataclass(frozen=True)
class Environment:
    """Where the trials ran.

    Args:
        device: The device's name.
        memory_gib: Its memory; None where unknown.
        world_size: Number of processes that train together.
        precision: As the Trainer names it.
        strategy: The class of the Trainer's strategy; empty where that is not told.
        system: The operating system; empty where that is not told.
        hosts: The machines that have run trials.
        versions: Of Python, bstuner and the packages beneath it.
    """

    device: str
    memory_gib: float | None
    world_size: int
    precision: str
    strategy: str
    system: str
    hosts: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has not ended.

    Args:
        number: Its number in the study.
        global_batch_size: Samples per optimizer step, over all processes; None before its worker has said.
        lr: The learning rate; None likewise.
        host: The machine that runs it; empty likewise.
    """

    number: int
    global_batch_size: int | None
    lr: float | None
    host: str


@dataclass(frozen=True)
class Findings:
    """All that a study holds, read once.

    Args:
        study_name: The study's name.
        storage: Where the study is kept, without password.
        facts: What its trials stand for.
        state: "ended": the search has its answer. "failed": by an error, told in `failure`. "interrupted": by Ctrl-C or
            the end of its process. "unknown": an older bstuner, which did not keep it, has made the study.
        failure: The error that ended the search; empty for none.
        n_trials: How many trials there are to be, at most; None where that is not told.
        trials: Every trial that has ended with an answer, in order, without those that confirm a winner.
        running: The trials that run just now.
        find: What the search for the largest batch found; None where that is not told.
        result: What the search found, or has found by now; None before the baseline has ended.
        environment: Where the trials ran.
        growth: The growth plan of the fit that followed, in plain types; None for none.
        updated: When a trial last began or ended, by the clock of the machine that ran it; None before the first.
    """

    study_name: str
    storage: str
    facts: StudyFacts
    state: State
    failure: str
    n_trials: int | None
    trials: tuple[TrialSummary, ...]
    running: tuple[RunningTrial, ...]
    find: FindResult | None
    result: TuneResult | None
    environment: Environment
    growth: dict[str, Any] | None
    updated: datetime | None

    @classmethod
    def read(cls, study: Study) -> Findings:
        """Read a study, also while workers write to it; nothing of it is changed.

        >>> import optuna
        >>> Findings.read(optuna.create_study(study_name="mine"))
        Traceback (most recent call last):
        bstuner.errors.StudyMismatch: Expected a study that bstuner made, found 'mine', which it did not. Name another.

        Args:
            study: The study.

        Raises:
            StudyMismatch: bstuner did not make it, or a version did whose studies this one cannot read.
        """
        attributes, apart = study.user_attrs, read_system_attrs(study)
        facts = _facts(study.study_name, attributes)
        view = StudyView.read(study, facts.objective, facts.mode)
        find = FindResult.from_dict(apart["find"]) if "find" in apart else None
        alive = [trial for trial in view.in_state(TrialState.RUNNING) if _may_live(trial)]
        answer = apart.get("answer")
        if answer is not None and (alive or answer["of_trials"] != len(view.records)):
            answer = None  # the search goes on from there
        state, failure = _state(view, alive, answer is not None, "n_trials" in attributes)
        storage = storage_in_words(study)
        times = [time for trial in view.trials for time in (trial.datetime_start, trial.datetime_complete) if time]
        result = None
        if view.baseline is not None:
            ranking = Ranking(view, "time" if facts.objective == "time" else "metric")
            come_to = answer_so_far(ranking, None if answer is None else answer["best"])
            result = result_of(
                ranking, come_to, facts.monitor, facts.trial_budget, facts.scaling_rule, facts.reference_lr
            )
            result = replace(
                result,
                study_name=study.study_name,
                storage=storage,
                find=find,
                lr_holder=attributes.get("lr_holder", result.lr_holder),
                seconds=(max(times) - min(times)).total_seconds(),
            )
            result = result if answer is None else _completed(result, answer)
        return cls(
            study_name=study.study_name,
            storage=storage,
            facts=facts,
            state=state,
            failure=failure,
            n_trials=attributes.get("n_trials"),
            trials=tuple(record.summary for record in view.records),
            running=tuple(_running(trial) for trial in alive),
            find=find,
            result=result,
            environment=_environment(facts, attributes, apart, view),
            growth=apart.get("growth"),
            updated=max(times, default=None),
        )


def _facts(name: str, attributes: dict[str, Any]) -> StudyFacts:
    if "bstuner_version" not in attributes:
        raise StudyMismatch(f"Expected a study that bstuner made, found {name!r}, which it did not. Name another.")
    known = {field.name: attributes[field.name] for field in fields(StudyFacts) if field.name in attributes}
    try:
        return StudyFacts(**known)
    except TypeError as error:
        raise StudyMismatch(
            f"Expected a study whose settings can be read, found {name!r}, made by bstuner "
            f"{attributes['bstuner_version']}, without some of them: {error}. Read it with that version."
        ) from None


def _completed(result: TuneResult, answer: dict[str, Any]) -> TuneResult:
    """With what only the worker that wrote the answer knew."""
    return replace(
        result,
        stopped=answer["stopped"],
        share_of_fit=answer.get("share_of_fit"),
        set_values=tuple(answer["set_values"]),
        by_hand=tuple(answer["by_hand"]),
        warmup=None if answer["warmup"] is None else tuple(answer["warmup"]),
        warnings=tuple(answer["warnings"]),
        seconds=answer["seconds"],
    )


def _state(view: StudyView, alive: list[FrozenTrial], answered: bool, told: bool) -> tuple[State, str]:
    """How far the search has come, and the error that ended it."""
    if answered:
        return "ended", ""
    if not told:
        return "unknown", ""
    if alive:
        return "searching", ""
    begun = [trial for trial in view.trials if trial.state != TrialState.WAITING]
    last = begun[-1] if begun else None
    if last is None or last.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return "searching", ""  # between two trials
    if last.user_attrs.get("outcome") == "error":
        return "failed", str(last.user_attrs.get("error", ""))
    return "interrupted", ""


def _may_live(trial: FrozenTrial) -> bool:
    """Whether the process that runs a trial may be there; of other machines, nobody knows at one look."""
    owner = read_system_attrs(trial).get("owner")
    if owner is None:
        return True
    return ProcessMark(owner["host"], owner["machine"], owner["pid"], owner["started"]).is_running() is not False


def _running(trial: FrozenTrial) -> RunningTrial:
    told = trial.user_attrs
    host = read_system_attrs(trial).get("owner", {}).get("host", "")
    return RunningTrial(trial.number, told.get("effective_batch_size"), told.get("lr"), host)


def _environment(facts: StudyFacts, attributes: dict[str, Any], apart: dict[str, Any], view: StudyView) -> Environment:
    told = apart.get("environment", {})
    owners = [kept["owner"] for kept in map(read_system_attrs, view.trials) if "owner" in kept]
    hosts = [owner["host"] for owner in owners]
    return Environment(
        device=facts.gpu_name,
        memory_gib=facts.gpu_memory_gib,
        world_size=facts.world_size,
        precision=facts.precision,
        strategy=told.get("strategy", ""),
        system=told.get("system", ""),
        hosts=tuple(dict.fromkeys(hosts)),
        versions={"bstuner": attributes["bstuner_version"], **attributes.get("versions", {})},
    )
