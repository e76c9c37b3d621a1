"""The whole search by two processes on one PostgreSQL study, one of which is killed in mid-trial."""

from __future__ import annotations

import math
import pickle
import time
from pathlib import Path

import optuna
import pytest
from crew import HANG, Crew, until
from optuna import Study
from optuna.trial import TrialState
from postgres import Server
from test_store import FACTS

from bstuner.core.layout import BatchLayout
from bstuner.core.trial import Mark, TrialRequest, TrialRun, Watch
from bstuner.core.tune_result import TuneResult
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.space import SearchSpace
from bstuner.study.store import open_study
from bstuner.study.workers import Worker

BUDGET = 10_000
N_TRIALS = 6
SPACE = SearchSpace(reference_batch_size=32, reference_lr=0.001, rule="sqrt", low=-2, high=3)


class Formula:
    """Trains in no time: the loss falls with the samples, fastest at one learning rate; steps cost what samples do not.

    Args:
        folder: Where it notes that it waits.
        hangs_at: The run, from 0, that never ends; None for none.
    """

    budget = BUDGET
    marks = tuple(range(1000, BUDGET + 1, 1000))

    def __init__(self, folder: Path, hangs_at: int | None) -> None:
        self.folder = folder
        self.hangs_at = hangs_at
        self.runs = 0

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        per_second = 1 / (0.001 + 0.1 / request.global_batch_size)
        pace = math.exp(-(math.log(request.lr / 0.01) ** 2) / 8)
        marks: list[Mark] = []
        goes_on = True
        for samples in self.marks:
            if goes_on:
                marks.append(Mark(samples, 1 / (1 + pace * samples / 1000), samples / per_second))
                goes_on = watch(marks[-1])
        if self.runs == self.hangs_at:
            (self.folder / "hangs").touch()
            time.sleep(2 * HANG)
        self.runs += 1
        return TrialRun(
            request=request,
            layout=BatchLayout(request.global_batch_size),
            ending="finished" if len(marks) == len(self.marks) else "stopped",
            marks=tuple(marks),
            samples=marks[-1].samples,
            steps=marks[-1].samples // request.global_batch_size,
            samples_per_second=per_second,
        )

    def wait(self, seconds: float) -> None:
        (self.folder / "waits").touch()
        time.sleep(0.1)


def search(place: str, folder: Path, hangs_at: int | None) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(place, "digits", FACTS)
    settings = TuneSettings(monitor="val_loss", n_trials=N_TRIALS, patience=None, seed=1)
    with Worker(study, beat_seconds=0.2, patience=10.0) as worker:
        result = tune(Formula(folder, hangs_at), SPACE, settings, study, worker=worker)
    (folder / "result.pickle").write_bytes(pickle.dumps(result))


def running(study: Study) -> list[int]:
    return [trial.number for trial in study.get_trials(states=(TrialState.RUNNING,))]


@pytest.mark.parametrize("hangs_at", [0, 1], ids=["the baseline", "another trial"])
def test_a_search_goes_on_when_one_of_two_is_killed_in_mid_trial(
    hangs_at: int, server: Server, crew: Crew, tmp_path: Path
) -> None:
    place = server.new_database()
    folders = tmp_path / "victim", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    victim = crew.start(search, place, folders[0], hangs_at)
    until((folders[0] / "hangs").exists)
    study = open_study(place, "digits", FACTS)
    lost = running(study)
    assert len(lost) == 1

    other = crew.start(search, place, folders[1], None)
    until((folders[1] / "waits").exists)  # there is nothing more to do without the victim
    assert running(study) == lost
    victim.kill()
    crew.all_succeed(other)

    trials = study.trials
    result: TuneResult = pickle.loads((folders[1] / "result.pickle").read_bytes())
    assert [trial.number for trial in trials if trial.user_attrs.get("outcome") == "lost"] == lost
    again = [
        trial.number
        for trial in trials
        if trial.params == trials[lost[0]].params and trial.number not in lost and trial.user_attrs["role"] != "confirm"
    ]
    assert len(again) == 1
    assert again[0] in [trial.number for trial in result.trials]
    assert trials[again[0]].user_attrs["role"] == trials[lost[0]].user_attrs["role"]
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    assert len([trial for trial in result.trials if trial.role != "edge"]) == N_TRIALS
    assert study.best_trial.params == trials[result.answer.number or 0].params
    assert [trial.role for trial in result.trials].count("baseline") == 1
    assert result.confirmed is True
    assert result.study_name == "digits"
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
