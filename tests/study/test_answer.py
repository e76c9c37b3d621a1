"""A study says which of its trials is the answer, in every storage, whoever has searched it; so does Optuna."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import optuna
import pytest
from crew import Crew
from formula_runner import SPACE, FormulaRunner
from optuna import Study
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from studies import FACTS

import bstuner
from bstuner.core.trial import TrialRequest
from bstuner.core.tune_result import TuneResult
from bstuner.errors import StudyMismatch
from bstuner.study.findings import Findings, write_answer
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.storage import Storage
from bstuner.study.store import open_study
from bstuner.study.workers import Worker

NOBODY = (1.0, 1.0)
ALL_BUT_THE_BASELINE = (1.01 * SPACE.reference_lr, 1.0)


@dataclass
class Waits(FormulaRunner):
    """Waits for another worker, but not for long. Learning rates in a range lose with another order of the data."""

    loses: tuple[float, float] = NOBODY

    def metric(self, request: TrialRequest, samples: int) -> float:
        low, high = self.loses
        lost = request.seed is not None and low < request.lr < high
        return super().metric(request, samples // 10 if lost else samples)

    def wait(self, seconds: float) -> None:
        time.sleep(0.01)


def work(storage: Storage, loses: tuple[float, float] = NOBODY, n_trials: int = 5) -> TuneResult:
    """One worker's part in a search."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(storage, "mine", FACTS)
    settings = TuneSettings("val_loss", n_trials=n_trials, patience=None, seed=1)
    with Worker(study, beat_seconds=0.2, patience=10.0) as worker:
        result = tune(Waits(loses=loses), SPACE, settings, study, worker=worker)
    write_answer(study, result)
    return result


def settings_of(trial: optuna.trial.FrozenTrial) -> tuple[Any, ...]:
    return trial.user_attrs["effective_batch_size"], trial.user_attrs["lr"]


def check(study: Study, *, confirmed: bool) -> None:
    """The answer that is written, the one that is read and Optuna's best trial are one pair of settings."""
    best, shown = bstuner.best(study), Findings.read(study).result
    assert shown is not None
    assert shown.confirmed is confirmed
    answer = shown.answer.global_batch_size, shown.answer.lr
    assert settings_of(best) == settings_of(study.best_trial) == answer
    assert best.number == study.user_attrs["answer"] == shown.answer.number
    assert study.best_trial.user_attrs["role"] == ("confirm" if confirmed else "baseline")
    assert best.params == study.best_trial.params
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    asked = [trial.user_attrs["confirms"] for trial in study.trials if "confirmed" in trial.user_attrs]
    assert len(asked) == len(set(asked)), "nobody confirms what another has confirmed"


@pytest.fixture(params=["memory", "journal", "sqlite"])
def storage(request: pytest.FixtureRequest) -> Storage:
    made: dict[str, Callable[[], Storage]] = {
        "memory": InMemoryStorage,
        "journal": lambda: "study.log",
        "sqlite": lambda: "sqlite:///study.db",
    }
    return made[request.param]()


def test_a_study_has_one_answer(storage: Storage) -> None:
    assert work(storage).confirmed is True

    check(open_study(storage, "mine", FACTS), confirmed=True)


def test_where_nothing_holds_it_is_the_users_own_trial() -> None:
    storage = InMemoryStorage()
    assert work(storage, ALL_BUT_THE_BASELINE).confirmed is False

    check(open_study(storage, "mine", FACTS), confirmed=False)


def test_and_so_it_has_where_two_have_searched(storage: Storage, crew: Crew) -> None:
    if isinstance(storage, InMemoryStorage):
        told: list[TuneResult] = []
        threads = [Thread(target=lambda: told.append(work(storage))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told[0].answer == told[1].answer
    else:
        crew.all_succeed(*(crew.start(work, storage) for _ in range(2)))

    study = open_study(storage, "mine", FACTS)
    check(study, confirmed=True)
    judged = [trial.user_attrs["role"] for trial in study.trials if "verdict" in trial.user_attrs]
    assert len([role for role in judged if role not in ("edge", "confirm")]) == 5
    assert judged.count("baseline") == 1


def test_the_next_candidate_is_the_answer_where_the_first_does_not_hold() -> None:
    storage = InMemoryStorage()
    first = work(storage, n_trials=12).best.lr

    other = InMemoryStorage()
    result = work(other, (0.99 * first, 1.01 * first), n_trials=12)

    study = open_study(other, "mine", FACTS)
    check(study, confirmed=True)
    assert result.best.lr != first
    held = [trial.user_attrs["confirmed"] for trial in study.trials if "confirmed" in trial.user_attrs]
    assert held == [0] * (len(held) - 1) + [1]
    assert 2 <= len(held) <= 3


def test_a_search_that_goes_on_has_another_answer() -> None:
    storage = InMemoryStorage()
    work(storage, n_trials=1)
    study = open_study(storage, "mine", FACTS)
    assert bstuner.best(study).user_attrs["role"] == "baseline"

    work(storage, n_trials=5)

    assert bstuner.best(study).user_attrs["role"] != "baseline"
    check(study, confirmed=True)


def test_a_study_without_an_answer_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyMismatch, match="which says no answer"):
        bstuner.best(open_study(str(tmp_path / "new.log"), "mine", FACTS))
