"""What a study keeps of each trial."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from formula_runner import FormulaRunner, new_study, search
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from bstuner.core.trial import TrialRequest
from bstuner.study.record import StudyView


def test_a_result_is_rebuilt_from_the_file_alone(tmp_path: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    study = optuna.create_study(storage=storage, study_name="tuning", direction="minimize")
    first = search(FormulaRunner(), study, n_trials=8)

    again = optuna.load_study(
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.log"))), study_name="tuning"
    )

    assert search(FormulaRunner(), again, n_trials=8) == first


def test_the_batch_of_a_trial_is_kept_before_it_trains() -> None:
    study, seen = new_study(), []

    def look(request: TrialRequest) -> None:
        attrs = study.get_trials(deepcopy=False)[-1].user_attrs
        seen.append((attrs["effective_batch_size"], attrs["lr"]) == (request.global_batch_size, request.lr))

    search(FormulaRunner(before=look), study, n_trials=3, confirm=False)

    assert seen == [True] * 3


def test_a_dashboard_finds_numbers_for_every_trial() -> None:
    study = new_study()
    search(FormulaRunner(), study, n_trials=4, confirm=False, capacity_bytes=2**31)

    for trial in study.trials:
        attrs = trial.user_attrs
        for name in ("batch_size", "accumulate_grad_batches", "effective_batch_size", "lr", "samples_per_second",
                     "steps", "samples_seen", "seconds_trained", "peak_memory_gib", "memory_headroom_gib", "oom",
                     "feasible", "metric"):  # fmt: skip
            assert type(attrs[name]) in (int, float), name
        assert attrs["peak_memory_gib"] + attrs["memory_headroom_gib"] == 2.0
        assert trial.constraints == {"memory_gib": -attrs["memory_headroom_gib"]}
        assert attrs["outcome"] in ("ok", "pruned")


@pytest.mark.parametrize("capacity", [2**30 + 2**20 * 100, None])
def test_whether_a_trial_fits_is_told_as_a_number(capacity: int | None) -> None:
    study = new_study()
    runner = FormulaRunner(ends=lambda request: "out of memory" if request.global_batch_size > 128 else "finished")

    search(runner, study, n_trials=12, patience=None, confirm=False, capacity_bytes=capacity)

    sizes = {trial.user_attrs["effective_batch_size"]: trial.user_attrs["feasible"] for trial in study.trials}
    assert max(sizes) == 256
    assert sizes == {size: int(size <= 128 and (capacity is None or size <= 100)) for size in sizes}


def test_nothing_that_dashboards_show_is_longer_than_a_line_of_them() -> None:
    study = new_study()
    search(FormulaRunner(), study, n_trials=8)

    assert study.trials[-1].user_attrs["role"] == "confirm"
    for trial in study.trials:
        assert max(len(str(value)) for value in trial.user_attrs.values()) < 120


def test_a_trial_without_an_answer_is_not_drawn_among_the_seconds() -> None:
    study = new_study()
    search(FormulaRunner(), study, n_trials=12, patience=None, confirm=False)

    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert all(trial.intermediate_values and trial.value is None for trial in pruned)


def test_trials_that_reached_the_target_tell_when() -> None:
    study = new_study()
    result = search(FormulaRunner(), study, n_trials=8, confirm=False)

    reached = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(reached) > 1
    for trial in reached:
        # As long as a win is not confirmed, the baseline counts on top.
        on_top = 0.0 if trial.number == 0 else result.baseline.seconds
        assert trial.user_attrs["seconds_to_target"] + on_top == pytest.approx(trial.value)
        assert result.trials[trial.number].seconds == trial.user_attrs["seconds_to_target"]


def test_what_confirms_a_winner_is_no_trial_of_the_search_and_the_best_of_the_study() -> None:
    study = new_study()
    result = search(FormulaRunner(on_other_seed=1.5), study, n_trials=8, patience=None)

    assert result.confirmed
    assert len(study.trials) == len(result.trials) + 1
    assert study.best_trial.number == len(study.trials) - 1
    told = study.best_trial.user_attrs
    assert (told["role"], told["confirms"]) == ("confirm", result.best.number)
    assert (told["batch_size"], told["lr"]) == (result.best.batch_size, result.best.lr)
    assert len(StudyView.read(study, "time", "min").records) == len(result.trials)


def test_a_trial_that_somebody_added_by_hand_is_left_alone() -> None:
    study = new_study()
    search(FormulaRunner(), study, n_trials=2, confirm=False)
    study.add_trial(optuna.create_trial(value=0.0))

    result = search(FormulaRunner(), study, n_trials=4)

    assert len([trial for trial in result.trials if trial.role != "edge"]) == 4
    assert result.confirmed
