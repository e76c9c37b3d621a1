"""Write an answer to disk, all of it or nothing."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

__all__ = ["write_json", "write_text", "write_yaml"]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON, replacing a file of that name in one step."""
    _replace(path, json.dumps(content, indent=2) + "\n")


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as YAML, replacing a file of that name in one step."""
    _replace(path, yaml.safe_dump(content, sort_keys=False))


def write_text(path: Path, content: str) -> None:
    """Write `content`, replacing a file of that name in one step."""
    _replace(path, content)


def _replace(path: Path, text: str) -> None:
    # In the same folder, so that the replacement is one atomic rename.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes a private file; this one is for whoever may read the folder.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
