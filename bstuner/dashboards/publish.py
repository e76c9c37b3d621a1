"""What dashboards show of a study beside its trials: a note, our figures, and the probes as a file.

optuna-dashboard reads them from the study, from attributes whose form is written here. Its own functions would cut each
text into pieces of 2,045 characters and write them one by one: a page that is loaded between two of them shows a broken
figure, and so do two workers that write at once. One piece may be as long as the storage allows, and is there or not.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore
from optuna.storages import InMemoryStorage
from plotly.graph_objects import Figure

from bstuner.core import FindResult
from bstuner.dashboards.note import note
from bstuner.report.figures import (
    curves_figure,
    front_figure,
    growth_figure,
    memory_figure,
    throughput_figure,
    trials_figure,
)
from bstuner.study import (
    Findings,
    artifact_attr,
    storage_file,
    storage_in_words,
    storage_of,
    study_system_attrs,
    write_study_system_attrs,
)

__all__ = [
    "ARTIFACTS_FOLDER",
    "FOLDER_ATTRIBUTE",
    "PROBES_FILE",
    "artifacts_folder",
    "changes",
    "is_published",
    "publish_study",
]

ARTIFACTS_FOLDER = "bstuner-artifacts"
PROBES_FILE = "bstuner-probes.json"
FOLDER_ATTRIBUTE = "artifacts_folder"  # of a study in a database: where its files lie, on the machine that wrote them

# The name of its place in a dashboard, and its title there.
_FIGURES = (
    ("memory-vs-batch", "Peak memory", memory_figure),
    ("throughput-vs-batch", "Throughput", throughput_figure),
    ("trials", "Batch size and learning rate", trials_figure),
    ("front", "Metric against throughput", front_figure),
    ("curves", "Training curves", curves_figure),
    ("growth", "How the batch grows", growth_figure),
)

_NOTE, _NOTE_VERSION, _OUR_VERSION = "dashboard:note_str:0", "dashboard:note_ver", "bstuner:note_ver"
_FIGURE = "dashboard:plot_data:{}:0"
_OUR_ARTIFACT = "bstuner:artifact"
_SPACE = uuid.UUID("5d6c3f0e-1a52-4c39-9a0b-7f0a5f3b8c11")  # any: within it, each study has a name of its own


def publish_study(study: Study, folder: Path | None) -> None:
    """Bring what dashboards show of a study up to date, from all that it holds. Writes what has changed alone.

    Args:
        study: The study.
        folder: For the probes as a file, made where it is needed; None to write no file.
    """
    findings = Findings.read(study)
    figures = {}
    for name, title, draw in _FIGURES:
        figure = draw(findings)
        if figure is not None:
            figures[name] = _placed(figure, title)
    kept = study_system_attrs(study)
    if findings.find is not None and folder is not None and _OUR_ARTIFACT not in kept:
        _keep_probes(study, findings.find, folder)
    write_study_system_attrs(study, changes(kept, note(findings), figures))


def is_published(study: Study) -> bool:
    """Whether `publish` has been here."""
    return _OUR_VERSION in study_system_attrs(study)


def artifacts_folder(study: Study, otherwise: Path) -> Path | None:
    """The folder for the files of a study: beside the file that holds the study; None where it is kept in memory.

    Args:
        study: The study.
        otherwise: The folder in which it is to be where no file holds the study.
    """
    if isinstance(storage_of(study), InMemoryStorage):
        return None
    file = storage_file(study)
    return (otherwise.absolute() if file is None else file.parent) / ARTIFACTS_FOLDER


def changes(kept: Mapping[str, Any], note: str, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """What has to be written into a study so that dashboards show a note and figures, in the order of writing.

    A note that somebody has edited in the dashboard is theirs from then on, and stays.

    Args:
        kept: The system attributes of the study, as they are.
        note: The note, in Markdown.
        figures: The figures by the names of their places: letters, digits and `-_.` alone.
    """
    wanted: dict[str, Any] = {}
    ours = kept.get(_OUR_VERSION, 0)
    if note != kept.get(_NOTE) and kept.get(_NOTE_VERSION, 0) <= ours:
        # Ours first: whoever is interrupted between the two has not made the note somebody else's.
        wanted |= {_OUR_VERSION: ours + 1, _NOTE: note, _NOTE_VERSION: ours + 1}
    wanted |= {_FIGURE.format(name): figure.to_json() for name, figure in figures.items()}
    return {name: value for name, value in wanted.items() if kept.get(name) != value}


def _placed(figure: Figure, title: str) -> Figure:
    """A figure for its place in a dashboard: 450 pixels high, half a page wide, and without a title of its own."""
    return figure.update_layout(
        height=None,
        title={"text": title, "x": 0.02, "y": 0.98, "yanchor": "top"},
        margin={"t": 90},  # the title, and two rows of the legend
        modebar={"bgcolor": "rgba(0, 0, 0, 0)"},
    )


def _keep_probes(study: Study, find: FindResult, folder: Path) -> None:
    """Keep the probes as a file of the study, once: if somebody deletes it in the dashboard, it does not come back.

    Optuna's own function would give it a new name each time, and workers that begin at once would leave several.
    """
    name = str(uuid.uuid5(_SPACE, f"{study.study_name} in {storage_in_words(study)}"))
    folder.mkdir(parents=True, exist_ok=True)
    FileSystemArtifactStore(folder).write(name, io.BytesIO(json.dumps(find.as_dict(), indent=2).encode()))
    key, told = artifact_attr(ArtifactMeta(name, PROBES_FILE, mimetype="application/json", encoding=None))
    write_study_system_attrs(study, {key: told, _OUR_ARTIFACT: name})
    if storage_file(study) is None:
        study.set_user_attr(FOLDER_ATTRIBUTE, str(folder))
