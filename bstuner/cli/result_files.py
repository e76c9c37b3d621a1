"""The files that hold an answer: the result, and an overlay for LightningCLI or lines of Python."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from bstuner.errors import InvalidSetting
from bstuner.report import write_json, write_text, write_yaml

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

__all__ = ["OVERLAY_FILE", "RESULT_FILE", "SNIPPET_FILE", "Overlay", "ResultFiles", "writable"]

RESULT_FILE = "bstuner-result.json"
OVERLAY_FILE = "bstuner-overlay.yaml"
SNIPPET_FILE = "bstuner-snippet.py"


def writable(folder: Path) -> Path:
    """The folder for the answer, made and tried out before the script runs (which may change directories)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except OSError as error:
        raise InvalidSetting(f"Expected --output to be a folder that can be written to, found {error}.") from error


@dataclass(frozen=True)
class ResultFiles:
    """An answer in every form that it is given in.

    Args:
        result: all of it, in plain types.
        overlay: the part of a LightningCLI configuration that sets it; empty where there is none.
        snippet: the lines of Python that set it, for a script of another kind; empty where there is nothing to set.
        steps: what to do now, in words.
        file: name of the file for the result.
        see: the command that shows more of it; empty where there is none.

    """

    result: dict[str, Any]
    overlay: dict[str, Any]
    snippet: str
    steps: Sequence[str]
    file: str = RESULT_FILE
    see: str = ""

    def save(self, folder: Path) -> list[str]:
        """Write the files; their names."""
        write_json(folder / self.file, self.result)
        if self.overlay:
            write_yaml(folder / OVERLAY_FILE, self.overlay)
            return [self.file, OVERLAY_FILE]
        if self.snippet:
            write_text(folder / SNIPPET_FILE, f"{self.snippet}\n")
            return [self.file, SNIPPET_FILE]
        return [self.file]

    def outdated(self, folder: Path, saved: list[str]) -> list[str]:
        """The names of files for an answer that are of an earlier one: they stay, for they may be in use."""
        return [name for name in (OVERLAY_FILE, SNIPPET_FILE) if name not in saved and (folder / name).exists()]


class Overlay:
    """The part of a LightningCLI configuration that sets an answer.

    Args:
        cli: the script's own, after it has read its configuration.

    Attributes:
        content: the part, empty until something was set.

    """

    def __init__(self, cli: LightningCLI) -> None:
        config: Namespace = cli.config
        self._config = config[cli.subcommand] if cli.subcommand else config
        self.content: dict[str, Any] = {}

    def set_argument(self, name: str, value: Any, parts: tuple[str, ...] = ("model", "data")) -> bool:
        """Set an argument of the model, the data or another part wherever the configuration has it; whether it has."""
        found = False
        for part in parts:
            for path in ((part, name), (part, "init_args", name)):
                if self._config.get(".".join(path)) is not None:
                    self._set(path, value)
                    found = True
        return found

    def set_trainer(self, name: str, value: Any) -> None:
        """Set an argument of the Trainer where the configuration has another value."""
        if self._config.trainer[name] != value:
            self._set(("trainer", name), value)

    def add_callback(self, kind: type, **arguments: Any) -> None:
        """Add a callback to those that the configuration has."""
        # With the plus sign, as a list alone would take the place of the user's.
        self._set(("trainer", "callbacks+"), [{"class_path": f"bstuner.{kind.__name__}", "init_args": arguments}])

    def _set(self, path: tuple[str, ...], value: Any) -> None:
        content = self.content
        for key in path[:-1]:
            content = content.setdefault(key, {})
        content[path[-1]] = value
