"""A study, opened by any number of workers, and bound to the device and the settings that its trials stand for."""

from __future__ import annotations

import math
import platform
import time
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version

import optuna
from optuna import Study
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection, StudySummary

from bstuner.core import Mode, Objective, Rule
from bstuner.errors import StudyMismatch
from bstuner.study._optuna import storage_of
from bstuner.study.objective import directions
from bstuner.study.storage import DEFAULT_FILE, Storage, open_storage, storage_in_words, storage_trouble

__all__ = ["DEFAULT_FILE", "StudyFacts", "is_ours", "open_study", "storage_in_words"]

# The last attribute that is written when a study is made: where it is, the others are.
_LAST = "bstuner_version"
_PACKAGES = ("torch", "lightning", "optuna")
# They are written at once by whoever makes the study. After this many seconds, that worker is gone.
_FACTS_WAIT = 5.0
# What two machines of the same kind may honestly differ in.
_MAY_DIFFER = ("gpu_memory_gib", "max_fitting_batch_size")


@dataclass(frozen=True)
class StudyFacts:
    """What the trials of a study stand for. Each is kept as an attribute of the study, under the same name.

    Args:
        gpu_name: The device's name.
        gpu_memory_gib: The device's memory; None where unknown. May differ between the machines of a study.
        world_size: Number of processes that train together.
        precision: As the Trainer names it.
        max_fitting_batch_size: Samples per device and forward pass that fit. May differ between the machines of a
            study, as long as the range they search is the same.
        scaling_rule: How the learning rate follows the batch size.
        reference_batch_size: The global batch size that the user's own code asks for, in samples.
        reference_lr: The learning rate that the user's own code asks for.
        trial_budget: Samples of a whole trial, over all processes.
        objective: What is optimized.
        monitor: The metric.
        mode: "min" where less of the metric is better, "max" where more is.
        log2_batch_ratio_low: The smallest global batch size searched is the reference times 2 to this power.
        log2_batch_ratio_high: The largest, likewise.
        base_lr_low: The lowest learning rate searched, at the reference batch size.
        base_lr_high: The highest, likewise.
        model: The class of the model; empty where that is not told.
        parameters: How many numbers it trains; 0 where that is not told.
    """

    gpu_name: str
    gpu_memory_gib: float | None
    world_size: int
    precision: str
    max_fitting_batch_size: int
    scaling_rule: Rule
    reference_batch_size: int
    reference_lr: float
    trial_budget: int
    objective: Objective
    monitor: str
    mode: Mode
    log2_batch_ratio_low: int
    log2_batch_ratio_high: int
    base_lr_low: float
    base_lr_high: float
    model: str = ""
    parameters: int = 0

    @property
    def metric_names(self) -> list[str]:
        """What Optuna is told of each trial, in words for dashboards."""
        names = {
            "time": [f"seconds to the baseline's {self.monitor}"],
            "metric": [self.monitor],
            "both": [self.monitor, "seconds per trial"],
        }
        return names[self.objective]


def open_study(
    storage: Storage,
    study_name: str,
    facts: StudyFacts,
    *,
    study: Study | None = None,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
) -> Study:
    """Make a study or go on with it, whichever worker comes first.

    >>> facts = StudyFacts(
    ...     gpu_name="NVIDIA H200", gpu_memory_gib=139.8, world_size=1, precision="bf16-mixed",
    ...     max_fitting_batch_size=1024, scaling_rule="sqrt", reference_batch_size=96, reference_lr=0.001,
    ...     trial_budget=98_304, objective="time", monitor="val_loss", mode="min",
    ...     log2_batch_ratio_low=-2, log2_batch_ratio_high=4, base_lr_low=1e-5, base_lr_high=0.3,
    ... )
    >>> study = open_study(optuna.storages.InMemoryStorage(), "digits", facts)
    >>> study.user_attrs["gpu_name"], study.metric_names
    ('NVIDIA H200', ["seconds to the baseline's val_loss"])

    Args:
        storage: A path that ends in `.log`, for a journal file; an Optuna URL, for a database; an Optuna storage; None
            for the journal file `bstuner-study.log` in the current folder.
        study_name: The study's name in that storage.
        facts: What its trials stand for.
        study: The user's own study, to be used instead.
        sampler: Any Optuna sampler.
        pruner: Any Optuna pruner.

    Raises:
        InvalidSetting: The storage is not one that Optuna knows.
        StorageUnusable: The storage cannot be reached, read or written.
        StudyMismatch: The study exists and stands for something else.
    """
    backend = open_storage(storage) if study is None else storage_of(study)
    with storage_trouble(storage_in_words(backend)):
        if study is None:
            study = _make_or_load(backend, study_name, facts, sampler, pruner)
        _bind(study, facts)
    return study


def is_ours(study: Study | StudySummary) -> bool:
    """Whether bstuner has written all that a study stands for."""
    return _LAST in study.user_attrs


def _make_or_load(
    backend: BaseStorage, study_name: str, facts: StudyFacts, sampler: BaseSampler | None, pruner: BasePruner | None
) -> Study:
    try:
        study = optuna.create_study(
            storage=backend, study_name=study_name, directions=_directions(facts), sampler=sampler, pruner=pruner
        )
    except DuplicatedStudyError:
        study = optuna.load_study(storage=backend, study_name=study_name, sampler=sampler, pruner=pruner)
        give_up = time.monotonic() + _FACTS_WAIT
        while not is_ours(study) and time.monotonic() < give_up:
            time.sleep(0.1)
        if not is_ours(study) and study.get_trials(deepcopy=False):
            raise StudyMismatch(
                f"study_name: expected a new study or one that bstuner made, found {study_name!r} in "
                f"{storage_in_words(backend)} with trials of another origin. Choose another study_name."
            ) from None
    else:
        _write(study, facts)
    return study


def _directions(facts: StudyFacts) -> list[StudyDirection]:
    return [StudyDirection[way.upper()] for way in directions(facts.objective, facts.mode)]


def _check_directions(study: Study, facts: StudyFacts) -> None:
    wanted = _directions(facts)
    if study.directions != wanted:
        found, expected = (", ".join(way.name.lower() for way in ways) for ways in (study.directions, wanted))
        raise StudyMismatch(
            f"study: objective={facts.objective!r} with mode={facts.mode!r} expects a study that is to {expected}, "
            f"found {study.study_name!r}, which is to {found}. Choose "
            f"another, or make one with directions={directions(facts.objective, facts.mode)}."
        )


def _bind(study: Study, facts: StudyFacts) -> None:
    """Compare what a study stands for with what it is to stand for, or write it where nobody has."""
    if not is_ours(study):
        _check_directions(study, facts)
        _write(study, facts)
        return
    known = study.user_attrs
    wanted = asdict(facts)
    differences = [
        f"{name}: expected {known.get(name)!r}, found {wanted[name]!r}"
        for name in wanted
        if name not in _MAY_DIFFER and not _same(known.get(name), wanted[name])
    ]
    if differences:
        raise StudyMismatch(
            f"The trials of study {study.study_name!r} in {storage_in_words(study)} stand for something else. "
            f"{'; '.join(differences)}. Go on with it on the same kind of device and with the same settings, or start "
            "a new study with another study_name."
        )


def _same(known: object, wanted: object) -> bool:
    if isinstance(known, float) and isinstance(wanted, float):
        return math.isclose(known, wanted, rel_tol=1e-9)  # the last digits depend on the machine
    return known == wanted


def _write(study: Study, facts: StudyFacts) -> None:
    """Keep what a study stands for, where dashboards show it."""
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(facts.metric_names)
    attributes = {
        **asdict(facts),
        "budget_unit": "samples",
        "step_unit": "samples",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        _LAST: version("bstuner"),
    }
    for name, value in attributes.items():
        study.set_user_attr(name, value)
