"""Several workers on one study: each set of parameters is run by one of them, whoever dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Event
from typing import Any

import optuna
import pytest
from crew import CONTEXT, HANG, Crew, until
from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from postgres import Server
from test_store import FACTS

from bstuner.errors import InvalidSetting
from bstuner.study import process_id as processes, workers
from bstuner.study.process_id import ProcessMark
from bstuner.study.store import open_study
from bstuner.study.system_attrs import read_system_attrs
from bstuner.study.workers import Worker

BEAT, PATIENCE = 0.2, 8.0

WAITING, RUNNING, COMPLETE, FAIL = TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> str:
    """Where a study is kept that several processes share."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        return server.new_database()
    return {"journal": str(Path("study.log").absolute()), "sqlite": f"sqlite:///{Path('study.db').absolute()}"}[
        request.param
    ]


def enqueue(study: Study, count: int) -> None:
    for x in range(count):
        study.enqueue_trial({"x": x}, user_attrs={"role": f"role {x}"})


def work(place: str, machine: str, hang: bool, together: Barrier | None = None) -> None:
    """Run what is enqueued until all is done; with `hang`, never come to the end of the first trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if machine:
        processes._machine = lambda: machine
    if together:
        together.wait()
    study = open_study(place, "digits", FACTS)
    with Worker(study, BEAT, PATIENCE) as worker:
        while True:
            worker.reap()
            states = {trial.state for trial in study.get_trials(deepcopy=False)}
            if not states & {WAITING, RUNNING}:
                return
            if WAITING not in states:
                time.sleep(0.05)
                continue
            trial = study.ask()
            if not worker.own(trial):
                continue
            x = trial.suggest_int("x", 0, 99)
            if "role" not in trial.user_attrs:  # somebody else took the last one that waited
                study.tell(trial, state=FAIL)
                continue
            trial.set_user_attr("partial", x)
            if hang:
                time.sleep(2 * HANG)
            time.sleep(0.01)
            study.tell(trial, x)


def owner(trial: FrozenTrial) -> dict[str, Any]:
    return read_system_attrs(trial).get("owner", {})


def enqueued(study: Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials in some states, without those that a worker drew because nothing waited any more."""
    return [trial for trial in study.get_trials(states=states or None) if "role" in trial.user_attrs]


def assert_each_is_done_once(study: Study, count: int) -> None:
    complete = enqueued(study, COMPLETE)
    assert Counter(trial.params["x"] for trial in complete) == Counter(range(count))
    assert all(trial.user_attrs["role"] == f"role {trial.params['x']}" for trial in complete)
    assert not study.get_trials(states=(WAITING, RUNNING))


def test_each_set_of_parameters_is_run_by_one_worker(place: str, crew: Crew) -> None:
    """They start together on a place where nothing is yet, so they also make the tables and the study together."""
    together = CONTEXT.Barrier(3)
    members = [crew.start(work, place, "", False, together) for _ in range(2)]
    together.wait()
    study = open_study(place, "digits", FACTS)
    enqueue(study, 20)
    crew.all_succeed(*members)
    # Both may have found nothing to do, before anything was enqueued.
    crew.all_succeed(*[crew.start(work, place, "", False) for _ in range(3)])
    assert_each_is_done_once(study, 20)
    assert len(enqueued(study)) == 20
    assert {name: study.user_attrs[name] for name in asdict(FACTS)} == asdict(FACTS)
    close(study)


@pytest.mark.parametrize("machines", ["one machine", "a machine each"])
@pytest.mark.parametrize("place", ["journal", "postgresql"], indirect=True)
def test_the_others_go_on_when_one_is_killed_in_mid_trial(place: str, machines: str, crew: Crew) -> None:
    names = ["", "", ""] if machines == "one machine" else ["first", "second", "third"]
    study = open_study(place, "digits", FACTS)
    enqueue(study, 8)
    victim = crew.start(work, place, names[0], True)
    lost = until(lambda: [trial for trial in enqueued(study, RUNNING) if "partial" in trial.user_attrs])[0]
    assert owner(lost)["pid"] == victim.pid

    others = [crew.start(work, place, name, False) for name in names[1:]]
    until(lambda: len(enqueued(study, COMPLETE)) == 7)
    # It takes for ever, but it lives, and the others have looked at it before each of their trials.
    assert [trial.number for trial in enqueued(study, RUNNING)] == [lost.number]

    victim.kill()
    crew.all_succeed(*others)
    assert_each_is_done_once(study, 8)
    trials = enqueued(study)
    assert len(trials) == 9
    assert [trial.number for trial in trials if trial.state == FAIL] == [lost.number]
    assert trials[lost.number].user_attrs["outcome"] == "lost"
    assert f"process {victim.pid}" in trials[lost.number].user_attrs["error"]
    assert owner(trials[-1])["pid"] in [other.pid for other in others]
    close(study)


@pytest.mark.parametrize("place", ["journal", "postgresql"], indirect=True)
def test_a_study_whose_workers_all_died_goes_on(place: str, crew: Crew) -> None:
    study = open_study(place, "digits", FACTS)
    enqueue(study, 4)
    victims = [crew.start(work, place, "", True) for _ in range(2)]
    until(lambda: len([trial for trial in enqueued(study, RUNNING) if "partial" in trial.user_attrs]) == 2)
    for victim in victims:
        victim.kill()
    crew.all_succeed(crew.start(work, place, "", False))
    assert_each_is_done_once(study, 4)
    assert len(enqueued(study)) == 6
    close(study)


def reap_together(place: str, together: Barrier) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(place, "digits", FACTS)
    with Worker(study, BEAT, PATIENCE) as worker:
        together.wait()
        worker.reap()


def test_trials_of_the_dead_are_put_back_once_when_all_do_it_together(place: str, crew: Crew) -> None:
    study = open_study(place, "digits", FACTS)
    enqueue(study, 5)
    for _ in range(5):
        begin(died(Worker(study)))
    together = CONTEXT.Barrier(3)
    crew.all_succeed(*[crew.start(reap_together, place, together) for _ in range(3)])
    assert [trial.state for trial in study.trials] == [FAIL] * 5 + [WAITING] * 5
    assert sorted(trial.system_attrs["fixed_params"]["x"] for trial in study.trials[5:]) == list(range(5))
    close(study)


def test_connections_that_were_dropped_are_made_again(server: Server) -> None:
    place = server.new_database()
    study = open_study(place, "digits", FACTS)
    enqueue(study, 1)
    with Worker(study, BEAT, PATIENCE) as worker:
        trial = begin(worker)
        server.drop_connections(place)
        beat = owner(study.trials[0])["beat"]
        until(lambda: owner(study.trials[0])["beat"] > beat)
        server.drop_connections(place)
        study.tell(trial, 1.0)
    assert study.trials[0].state == COMPLETE
    close(study)


# From here on in one process, with a clock of the test's own.


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(workers, "monotonic", clock)
    return clock


@pytest.fixture
def study() -> Study:
    study = open_study(InMemoryStorage(), "digits", FACTS)
    enqueue(study, 1)
    return study


def died(worker: Worker) -> Worker:
    """A worker whose process has ended, and whose number another process has."""
    worker._process = replace(worker._process, started=worker._process.started - 1000)
    return worker


def elsewhere(worker: Worker) -> Worker:
    """A worker on another machine."""
    worker._process = replace(worker._process, machine="elsewhere")
    return worker


def begin(worker: Worker) -> optuna.Trial:
    """Ask for a trial and own it."""
    trial = worker._study.ask()
    assert worker.own(trial)
    trial.suggest_int("x", 0, 99)
    return trial


def close(study: Study) -> None:
    """Close the connections to a database, where there are any."""
    backend = getattr(study._storage, "_backend", None)
    if engine := getattr(backend, "engine", None):
        engine.dispose()


def test_a_beat_is_judged_by_its_change_and_not_by_anybodys_clock(study: Study, clock: Clock) -> None:
    far, observer = elsewhere(Worker(study)), Worker(study, patience=60)
    begin(far)
    for _ in range(5):
        assert observer.alive(study.trials[0])
        clock.now += 60
        assert observer.alive(study.trials[0])
        clock.now += 1000  # nobody looked
        far._show()
    assert observer.alive(study.trials[0])
    clock.now += 60.1
    assert not observer.alive(study.trials[0])


def test_a_trial_that_nobody_owns_is_given_time(study: Study, clock: Clock) -> None:
    observer = Worker(study, patience=60)
    study.ask()
    observer.reap()
    clock.now += 60
    observer.reap()
    assert [trial.state for trial in study.trials] == [RUNNING]
    clock.now += 0.1
    observer.reap()
    assert [trial.state for trial in study.trials] == [FAIL, WAITING]
    assert study.trials[1].user_attrs == {"role": "role 0"}


def test_a_trial_that_was_drawn_and_has_no_parameters_yet_is_not_repeated(clock: Clock) -> None:
    study = open_study(InMemoryStorage(), "digits", FACTS)
    observer = Worker(study, patience=60)
    study.ask()
    for _ in range(3):
        observer.reap()
        clock.now += 61
    assert [trial.state for trial in study.trials] == [FAIL]


def test_drawn_parameters_are_repeated(clock: Clock) -> None:
    study = open_study(InMemoryStorage(), "digits", FACTS)
    x = begin(died(Worker(study))).params["x"]
    Worker(study).reap()
    assert begin(Worker(study)).params == {"x": x}


def test_only_attributes_of_the_request_are_repeated(study: Study) -> None:
    trial = begin(died(Worker(study)))
    trial.set_user_attr("partial", 1)
    trial.report(0.5, 1)
    Worker(study).reap()
    again = study.trials[1]
    assert again.user_attrs == {"role": "role 0"}
    assert again.intermediate_values == {}
    assert study.trials[0].user_attrs["partial"] == 1


def test_who_was_given_up_cannot_finish_the_trial(study: Study, clock: Clock) -> None:
    far, observer = elsewhere(Worker(study)), Worker(study, patience=60)
    trial = begin(far)
    observer.reap()
    clock.now += 61
    observer.reap()
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr("steps", 1)
    with pytest.raises(ValueError, match="Cannot tell a FAIL trial"):
        study.tell(trial, 1.0)
    far._show()
    assert far._current is None
    assert [trial.state for trial in study.trials] == [FAIL, WAITING]
    assert begin(observer).params == {"x": 0}


def test_who_asked_and_was_given_up_does_not_run_the_trial(study: Study, clock: Clock) -> None:
    slow, observer = Worker(study), Worker(study, patience=60)
    trial = study.ask()
    observer.reap()
    clock.now += 61
    observer.reap()
    assert not slow.own(trial)


def test_a_repetition_that_was_never_enqueued_is_enqueued_by_others(study: Study, clock: Clock) -> None:
    begin(died(Worker(study)))
    reaper, observer = Worker(study), Worker(study, patience=60)
    reaper._repeat = lambda trial, deaths: None  # type: ignore[method-assign]  # it dies right there
    reaper.reap()
    observer.reap()
    assert [trial.state for trial in study.trials] == [FAIL]
    clock.now += 61
    observer.reap()
    assert [trial.state for trial in study.trials] == [FAIL, WAITING]
    clock.now += 61
    observer.reap()
    assert begin(observer).params == {"x": 0}
    assert study.trials[1].user_attrs["role"] == "role 0"
    assert len(study.trials) == 2


def test_of_two_repetitions_the_first_is_run(study: Study) -> None:
    begin(died(Worker(study)))
    worker = Worker(study)
    worker.reap()
    worker._repeat(study.trials[0], deaths=1)
    assert [trial.state for trial in study.trials] == [FAIL, WAITING, WAITING]
    study.tell(begin(worker), 1.0)
    assert not worker.own(study.ask())
    assert [trial.state for trial in study.trials] == [FAIL, COMPLETE, FAIL]
    assert study.trials[2].user_attrs["outcome"] == "repeated"
    worker.reap()
    assert len(study.trials) == 3


def test_settings_that_kill_their_workers_are_given_up(study: Study) -> None:
    for _ in range(3):
        begin(died(Worker(study)))
        Worker(study).reap()
    assert [trial.state for trial in study.trials] == [FAIL] * 3
    assert [trial.user_attrs["outcome"] for trial in study.trials] == ["lost", "lost", "abandoned"]
    assert "the last of 3" in study.trials[2].user_attrs["error"]
    Worker(study).reap()
    assert len(study.trials) == 3


def test_settings_are_repeated_however_often_their_worker_leaves(study: Study) -> None:
    for _ in range(5):
        with Worker(study) as worker:
            begin(worker)
    assert [trial.state for trial in study.trials] == [FAIL] * 5 + [WAITING]


def test_an_error_in_a_trial_puts_it_back_at_once(study: Study) -> None:
    def run() -> None:
        with Worker(study) as worker:
            begin(worker)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [trial.state for trial in study.trials] == [FAIL, WAITING]
    assert "left before" in study.trials[0].user_attrs["error"]


def test_an_error_in_a_trial_is_told_even_if_the_storage_is_gone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(trial_id: int) -> FrozenTrial:
        raise ConnectionError("the storage is gone")

    def run() -> None:
        with Worker(study) as worker:
            begin(worker)
            monkeypatch.setattr(study._storage, "get_trial", gone)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    # Its process lives, but not its context.
    assert not Worker(study).alive(study.trials[0])


def test_nothing_is_left_of_a_worker_that_has_done_its_work(study: Study) -> None:
    before = study.user_attrs
    with Worker(study) as worker:
        study.tell(begin(worker), 1.0)
    assert [trial.state for trial in study.trials] == [COMPLETE]
    assert study.user_attrs == before
    assert not workers._PRESENT
    assert not worker._heart.is_alive()


def test_workers_in_threads_of_one_process_know_each_other(study: Study, clock: Clock) -> None:
    with Worker(study) as worker, Worker(study) as other:
        begin(worker)
        clock.now += 1e6
        other.reap()
        assert [trial.state for trial in study.trials] == [RUNNING]


class Faulty(InMemoryStorage):
    """A storage that cannot be written while it is out of reach."""

    reachable = True
    failed = Event()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if not self.reachable:
            self.failed.set()
            raise ConnectionError("out of reach")
        super().set_trial_system_attr(trial_id, key, value)


def test_who_cannot_reach_the_storage_does_not_judge_the_silence_of_others(clock: Clock) -> None:
    storage = Faulty()
    study = open_study(storage, "digits", FACTS)
    enqueue(study, 2)
    begin(elsewhere(Worker(study)))
    with Worker(study, beat_seconds=0.01, patience=60) as worker:
        trial = begin(worker)
        assert worker.alive(study.trials[0])
        clock.now += 61
        assert not worker.alive(study.trials[0])
        storage.reachable = False
        assert storage.failed.wait(HANG)
        until(lambda: not worker._seen)
        storage.reachable = True
        assert worker.alive(study.trials[0])
        beat = owner(study.trials[1])["beat"]
        until(lambda: owner(study.trials[1])["beat"] > beat)  # and it beats again
        study.tell(trial, 1.0)


def test_patience_outlasts_two_beats(study: Study) -> None:
    Worker(study, beat_seconds=30, patience=60)
    with pytest.raises(InvalidSetting, match="at least two beats, found 31 and 60 seconds"):
        Worker(study, beat_seconds=31, patience=60)
    with pytest.raises(InvalidSetting, match="at least two beats, found 0 and 60"):
        Worker(study, beat_seconds=0, patience=60)


def test_a_process_is_known_by_its_machine_its_number_and_its_start() -> None:
    here = ProcessMark.here()
    assert here.is_running() is True
    assert replace(here, machine="elsewhere").is_running() is None
    assert replace(here, started=here.started - 10).is_running() is False


def test_a_process_that_ended_is_told_from_one_that_runs() -> None:
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        mark = replace(ProcessMark.here(), pid=child.pid)
        started = processes._started(processes.psutil.Process(child.pid))
        mark = replace(mark, started=started)
        assert mark.is_running() is True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still in the table
        assert mark.is_running() is False
    assert mark.is_running() is False
