"""What a search asks of the workers that share its study."""

from __future__ import annotations

from typing import Protocol

from optuna.trial import FrozenTrial, Trial

__all__ = ["LoneWorker", "StudyWorker"]


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
