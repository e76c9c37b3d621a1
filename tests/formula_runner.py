"""A trial runner whose learning curves are a formula, with trials that go wrong where a test wants them to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import optuna

from bstuner.core.layout import BatchLayout
from bstuner.core.trial import Ending, Mark, Mode, TrialRequest, TrialRun, Watch
from bstuner.core.tune_result import Objective, Role, TrialSummary, TuneResult
from bstuner.study.objective import directions
from bstuner.study.search import tune
from bstuner.study.settings import TuneSettings
from bstuner.study.space import SearchSpace

SPACE = SearchSpace(reference_batch_size=32, reference_lr=0.001, rule="none", low=-2, high=3)

Ends = Callable[[TrialRequest], Ending]


@dataclass
class FormulaRunner:
    """A loss that falls as exp(-progress): faster at larger learning rates up to `best_lr`, then slower again.

    A step takes a fixed time and one per sample, so that larger batches train more samples per second.
    """

    best_lr: float = 0.01
    mode: Mode = "min"
    ends: Ends = lambda request: "finished"
    before: Callable[[TrialRequest], None] = lambda request: None
    on_other_seed: float = 1.0
    budget: int = 10_240
    requests: list[TrialRequest] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def marks(self) -> tuple[int, ...]:
        return tuple(self.budget * part // 20 for part in range(1, 21))

    def metric(self, request: TrialRequest, samples: int) -> float:
        off = abs(math.log(request.lr / self.best_lr))
        progress = 3 * math.exp(-off) * samples / self.budget / (1 + request.global_batch_size / 200)
        if request.seed is not None and request.global_batch_size != SPACE.reference_batch_size:
            progress *= self.on_other_seed
        loss = math.exp(-progress)
        return loss if self.mode == "min" else 1 - loss

    def run(self, request: TrialRequest, watch: Watch) -> TrialRun:
        self.requests.append(request)
        self.before(request)
        rate = request.global_batch_size / (0.01 + 0.0001 * request.global_batch_size)
        ending: Ending = self.ends(request)
        marks: list[Mark] = []
        if ending == "finished":
            for samples in self.marks:
                marks.append(Mark(samples, self.metric(request, samples), samples / rate))
                if not watch(marks[-1]):
                    ending = "stopped"
                    break
        samples = marks[-1].samples if marks else 0
        self.trained.append(samples)
        return TrialRun(
            request,
            BatchLayout(request.global_batch_size),
            ending,
            tuple(marks),
            samples,
            math.ceil(samples / request.global_batch_size),
            rate if marks else None,
            2**30 + 2**20 * request.global_batch_size,
            "" if ending in ("finished", "stopped") else f"it was {ending}",
        )

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


@dataclass
class Diary:
    """An observer that keeps what it heard."""

    started: list[tuple[int | None, Role]] = field(default_factory=list)
    marks: int = 0
    ended: list[TrialSummary] = field(default_factory=list)
    waited_for: list[str] = field(default_factory=list)

    def trial_started(self, number: int | None, role: Role, request: TrialRequest) -> None:
        self.started.append((number, role))

    def trial_marked(self, mark: Mark) -> None:
        self.marks += 1

    def trial_ended(self, trial: TrialSummary) -> None:
        self.ended.append(trial)

    def waiting(self, reason: str) -> None:
        self.waited_for.append(reason)


def new_study(objective: Objective = "time", mode: Mode = "min") -> optuna.Study:
    return optuna.create_study(directions=directions(objective, mode))


def search(
    runner: FormulaRunner,
    study: optuna.Study | None = None,
    space: SearchSpace = SPACE,
    observer: Diary | None = None,
    **settings: object,
) -> TuneResult:
    """Search with a clock that stands still, on a new study unless one is given."""
    how = TuneSettings(**{"monitor": "val_loss", "mode": runner.mode, "seed": 1, **settings})  # type: ignore[arg-type]
    study = study or new_study(how.objective, how.mode)
    return tune(runner, space, how, study, observer=observer, clock=lambda: 0.0)
