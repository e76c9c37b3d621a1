"""What a real search in a real fit shows in dashboards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import optuna_dashboard
import pytest
import zoo
from optuna import Study
from tuning import REFERENCE, Noisy, Wish, result_of, wishing

from bstuner.cli.studies import existing_storage, pick_study
from bstuner.study.storage import DEFAULT_FILE

ANSWER = (
    "Batch 16 with learning rate 0.15 reaches wish 16 instead of 8 within the same 128 samples, confirmed with another "
    "order of the data; 1 other pair is as good."
)


class Looks(L.Callback):
    """Notes what the study's note says at each validation."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if Path(DEFAULT_FILE).exists():  # the probes come before the study
            zoo.NOTES.append(optuna_dashboard.get_note(pick_study(existing_storage(None))))


def tuned(**settings: Any) -> Study:
    tuner = wishing(storage=None, **settings)
    zoo.trainer(tuner, Wish(), max_epochs=1).fit(Noisy(lr=REFERENCE))
    study = pick_study(existing_storage(None))
    assert result_of(tuner).study_name == study.study_name
    return study


def test_the_study_is_ready_to_be_looked_at_when_the_search_has_ended() -> None:
    study = tuned()
    kept = study._storage.get_study_system_attrs(study._study_id)

    body = optuna_dashboard.get_note(study)
    assert body.startswith(
        "### Batch 16 with learning rate 0.15 reaches wish 16 instead of 8 within the same 128 samples"
    )
    assert "batch_size = 16  # Noisy.batch_size\nlr = 0.15" in body
    assert "the best wish within 128 samples" in body
    for name in ("memory-vs-batch", "throughput-vs-batch", "trials", "curves"):
        assert json.loads(kept[f"dashboard:plot_data:{name}:0"])["data"]
    (probes,) = Path("bstuner-artifacts").iterdir()
    assert json.loads(probes.read_text())["batch_size"] == 16
    assert study.metric_names == ["wish"]


def test_while_it_goes_on_the_note_says_so() -> None:
    tuner = wishing(storage=None)
    zoo.trainer(tuner, Wish(), Looks(), max_epochs=1).fit(Noisy(lr=REFERENCE))

    headings = list(dict.fromkeys(note.partition("\n")[0].partition(":")[0] for note in zoo.NOTES))
    assert headings == [
        "### There is no answer yet",
        "### So far",
        f"### {ANSWER}",
    ]


def test_training_goes_on_where_dashboards_cannot_be_served() -> None:
    Path("bstuner-artifacts").write_text("a file in the place of the folder")
    with pytest.warns(UserWarning, match=r"dashboards .* could not be written: FileExistsError"):
        study = tuned()
    assert len(study.trials) == 4  # with a neighbour, and the confirmation
