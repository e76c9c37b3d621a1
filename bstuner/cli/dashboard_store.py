"""The files of studies, wherever they lie on this machine, for optuna-dashboard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from optuna.artifacts import FileSystemArtifactStore

__all__ = ["FoldersOfArtifacts"]


class FoldersOfArtifacts:
    """An artifact store of Optuna that reads from several folders, whether they are there or not.

    Args:
        folders: The folders, at least one; new files go to the first.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = list(dict.fromkeys(folders))

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a file."""
        folder = self._folder_of(artifact_id)
        if folder is None:
            # optuna-dashboard brings it along, and takes any other error for a crash of its own.
            from bottle import HTTPError  # type: ignore[import-not-found, import-untyped, unused-ignore]

            looked = ", ".join(map(str, self._folders))
            raise HTTPError(404, f"This file lies on the machine that has written it: there is none in {looked}.")
        return FileSystemArtifactStore(folder).open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a file that somebody has dropped on the page."""
        self._folders[0].mkdir(parents=True, exist_ok=True)
        FileSystemArtifactStore(self._folders[0]).write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove a file. Where it lies on another machine, its study can be deleted all the same."""
        folder = self._folder_of(artifact_id)
        if folder is not None:
            FileSystemArtifactStore(folder).remove(artifact_id)

    def _folder_of(self, artifact_id: str) -> Path | None:
        return next((folder for folder in self._folders if (folder / artifact_id).is_file()), None)
