"""One of the processes that share a study: it shows that it lives, and puts back the trials of those that died."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import asdict
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Protocol

import optuna
from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from bstuner.errors import InvalidSetting
from bstuner.study._optuna import FIXED_PARAMS, get_trial, set_trial_state, set_trial_user_attr
from bstuner.study.process_id import ProcessMark
from bstuner.study.system_attrs import read_system_attrs, write_system_attr

__all__ = ["Worker"]

# What is kept apart with a trial. A template of a trial brings it along under its whole name.
_OWNER = "owner"
_REPEATS = "bstuner:repeats"
_DEATHS = "bstuner:deaths"
# A trial that kills its worker, for example by taking all of the host's memory, must not kill all of them.
_MOST_DEATHS = 3
# A storage out of reach may not hold up the end of a process.
_LAST_BEAT = 5.0

# The workers of this process that are in their context.
_PRESENT: set[str] = set()


class Worker:
    """One process, or one of its threads, that runs trials of a study, one at a time. A context manager.

    >>> study = optuna.create_study()
    >>> study.enqueue_trial({"x": 7.0})
    >>> with Worker(study) as worker:
    ...     worker.reap()
    ...     trial = study.ask()
    ...     worker.own(trial), worker.alive(study.trials[0])
    (True, True)
    >>> [trial.state.name for trial in study.trials]  # it was left without an answer, so it waits for another worker
    ['FAIL', 'WAITING']

    Optuna's own heartbeats serve `Study.optimize` on a database alone, so trials carry their owner and a beat that goes
    on while the owner lives, in any storage. On one machine, an owner lives while its process is there. On others, it
    does while the beat changes, as seen by the clock of whoever looks: clocks differ.

    A trial whose owner is dead is told FAIL, with outcome "lost", and its parameters are enqueued again with the
    attributes it was enqueued with. Of several workers that do so at the same time, the storage lets one tell it. If
    that one dies before it has enqueued the parameters, others do; where two of them do, the first repetition counts,
    which `own` sees to.

    A worker that was cut off, or stopped for longer than the patience of others, may find its trial finished by them:
    whatever it then writes to the trial raises `optuna.exceptions.UpdateFinishedTrialError`.

    Args:
        study: The study.
        beat_seconds: Seconds from one beat to the next.
        patience: Seconds after which an owner on another machine that has not beaten counts as dead. So does one that
            nobody knows: its worker has asked for the trial, and not yet owned it.

    Raises:
        InvalidSetting: The patience does not outlast two beats.
    """

    def __init__(self, study: Study, beat_seconds: float = 10.0, patience: float = 60.0) -> None:
        if not 0 < 2 * beat_seconds <= patience:
            raise InvalidSetting(
                f"beat_seconds, patience: expected a patience of at least two beats, found {beat_seconds} and "
                f"{patience} seconds; raise the patience."
            )
        self._study = study
        self._beat_seconds = beat_seconds
        self._patience = patience
        self._name = uuid.uuid4().hex
        self._process = ProcessMark.here()
        self._current: tuple[Trial, dict[str, Any]] | None = None  # the trial that runs, and what it says of its owner
        self._seen: dict[tuple[str, int], tuple[int | None, float]] = {}  # the last change, and when it was seen
        self._leaving = Event()
        self._heart = Thread(target=self._beat, name="bstuner-beat", daemon=True)

    def __enter__(self) -> Worker:
        _PRESENT.add(self._name)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._heart.join(_LAST_BEAT)
        try:
            trial = get_trial(self._study, self._current[0]) if self._current else None
            if trial and not trial.state.is_finished():
                self._lose(trial, "its worker left before it was finished", deaths=0)
        except Exception:
            if error is None:
                raise
            # What went wrong first is what counts. The others will miss the beat.
        finally:
            _PRESENT.discard(self._name)

    def own(self, trial: Trial) -> bool:
        """Mark a trial as this worker's own, right after it was asked for.

        Args:
            trial: What `study.ask` returned.

        Returns:
            Whether it is to be run. If not, it is finished already: ask for another.
        """
        frozen = get_trial(self._study, trial)
        owner = {
            "worker": self._name,
            **asdict(self._process),
            "enqueued": sorted(frozen.user_attrs),
            "beat": 0,
        }
        try:
            if self._is_second(frozen):
                set_trial_user_attr(self._study, trial, "outcome", "repeated")
                set_trial_state(self._study, trial, TrialState.FAIL)
                return False
            write_system_attr(trial, _OWNER, owner)
        except UpdateFinishedTrialError:  # it took so long that others gave it up
            return False
        self._current = trial, owner
        return True

    def alive(self, trial: FrozenTrial) -> bool:
        """Whether the process that runs a trial lives.

        Of an owner on another machine that is seen for the first time, this says yes.

        Args:
            trial: A running trial, just read from the study.
        """
        owner = read_system_attrs(trial).get(_OWNER)
        if owner is None:
            return self._changes("trial", trial.number, None)
        if owner["worker"] in _PRESENT:
            return True
        mark = ProcessMark(owner["host"], owner["machine"], owner["pid"], owner["started"])
        running = mark.is_running()
        if running is None:
            return self._changes("trial", trial.number, owner["beat"])
        return running and mark.pid != self._process.pid  # a worker of this process that is not present has left

    def reap(self) -> None:
        """Free the trials of dead workers, and enqueue their parameters again."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and not self.alive(trial):
                owner = read_system_attrs(trial).get(_OWNER)
                who = f"process {owner['pid']} on {owner['host']}" if owner else "its worker"
                self._lose(trial, f"{who} ended before it was finished", deaths=1)
        repeated = {trial.system_attrs.get(_REPEATS) for trial in trials}
        for trial in trials:
            # Somebody may be about to do it, but nobody takes that long.
            lost = trial.state == TrialState.FAIL and trial.user_attrs.get("outcome") == "lost"
            if lost and trial.number not in repeated and not self._changes("repetition", trial.number, None):
                self._repeat(trial, deaths=1)

    def _beat(self) -> None:
        while not self._leaving.wait(self._beat_seconds):
            self._show()

    def _show(self) -> None:
        """Show that this worker lives, where its trial does."""
        current = self._current
        if current is None:
            return
        trial, owner = current
        owner["beat"] += 1
        try:
            write_system_attr(trial, _OWNER, dict(owner))
        except UpdateFinishedTrialError:
            if self._current is current:
                self._current = None
        except Exception:
            # The storage is out of reach, perhaps for the others too, so their silence proves nothing. If it stays out
            # of reach, the search says so at its next step.
            self._seen = {}

    def _changes(self, kind: str, number: int, now: int | None) -> bool:
        """Whether something has changed within the patience of this worker, by its own clock."""
        seen = self._seen
        last = seen.get((kind, number))
        if last is None or last[0] != now:
            last = seen[kind, number] = now, monotonic()
        return monotonic() - last[1] <= self._patience

    def _is_second(self, trial: FrozenTrial) -> bool:
        """Whether a trial repeats one that is repeated already. The storage numbers trials in one order for all."""
        repeats = trial.system_attrs.get(_REPEATS)
        return repeats is not None and any(
            other.system_attrs.get(_REPEATS) == repeats and other.number < trial.number
            for other in self._study.get_trials(deepcopy=False)
        )

    def _lose(self, trial: FrozenTrial, reason: str, deaths: int) -> None:
        """Tell a trial as lost, unless somebody has told it before, and enqueue its parameters again."""
        deaths += trial.system_attrs.get(_DEATHS, 0)
        again = deaths < _MOST_DEATHS
        if not again:
            reason = f"{reason}, the last of {deaths} that these settings have ended"
        with suppress(UpdateFinishedTrialError):
            set_trial_user_attr(self._study, trial, "outcome", "lost" if again else "abandoned")
            set_trial_user_attr(self._study, trial, "error", reason)
            set_trial_state(self._study, trial, TrialState.FAIL)
            if again:
                self._repeat(trial, deaths)

    def _repeat(self, trial: FrozenTrial, deaths: int) -> None:
        """Enqueue the parameters of a lost trial, with the attributes it was enqueued with itself."""
        params = {**trial.system_attrs.get(FIXED_PARAMS, {}), **trial.params}
        if not params:  # the worker died before it had any: there is nothing to lose
            return
        owner = read_system_attrs(trial).get(_OWNER)
        enqueued = owner["enqueued"] if owner else trial.user_attrs.keys() - {"outcome", "error"}
        self._study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                user_attrs={name: trial.user_attrs[name] for name in enqueued},
                system_attrs={FIXED_PARAMS: params, _REPEATS: trial.number, _DEATHS: deaths},
            )
        )


class StudyWorker(Protocol):
    """One of the processes that share a study."""

    def own(self, trial: Trial) -> bool:
        """Mark a trial as this process's own, right after it was asked for; False where it is not to be run."""

    def reap(self) -> None:
        """Tell the trials of dead processes as failed, and enqueue them again with the role they had."""

    def alive(self, trial: FrozenTrial) -> bool:
        """Whether the process that runs a trial lives."""


class LoneWorker:
    """A process alone with its study: whoever began what is still running there is gone."""

    def own(self, trial: Trial) -> bool:
        """Nobody else asks."""
        return True

    def reap(self) -> None:
        """Leave them: their parameters were never judged, so nothing is lost."""

    def alive(self, trial: FrozenTrial) -> bool:
        """Nobody else lives."""
        return False
