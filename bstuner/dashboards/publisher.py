"""A search whose dashboards are brought up to date as it goes on."""

from __future__ import annotations

from pathlib import Path

from optuna import Study

from bstuner.core import Mark, Role, TrialRequest, TrialSummary, TuningObserver
from bstuner.dashboards.publish import publish_study

__all__ = ["Publisher"]


class Publisher:
    """Brings dashboards up to date when the baseline has ended, and whenever a trial is the best so far.

    What goes wrong there ends no search: no more is tried, and `trouble` says what it was.

    Args:
        study: The study.
        folder: As for `publish`.
        observer: Hears how the search goes on.

    Attributes:
        study: The study.
        trouble: What went wrong, in words; empty for nothing.
    """

    def __init__(self, study: Study, folder: Path | None, observer: TuningObserver) -> None:
        self.study = study
        self._folder = folder
        self._observer = observer
        self.trouble = ""

    def trial_started(self, number: int | None, role: Role, request: TrialRequest) -> None:
        """Pass it on."""
        self._observer.trial_started(number, role, request)

    def trial_marked(self, mark: Mark) -> None:
        """Pass it on."""
        self._observer.trial_marked(mark)

    def trial_ended(self, trial: TrialSummary) -> None:
        """Pass it on, and show in dashboards what has changed."""
        self._observer.trial_ended(trial)
        if trial.number is not None and trial.verdict in ("baseline", "best"):
            self.publish()

    def waiting(self, reason: str) -> None:
        """Pass it on."""
        self._observer.waiting(reason)

    def publish(self) -> None:
        """Show in dashboards what the study holds by now."""
        if self.trouble:
            return
        try:
            publish_study(self.study, self._folder)
        except Exception as error:
            self.trouble = (
                "What dashboards show of the study beside its trials could not be written: "
                f"{type(error).__name__}: {error}. `bstuner dashboard` tries again when it opens the study."
            )
