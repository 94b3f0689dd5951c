"""What else lies in a run directory: models, training checkpoints, pictures, videos."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
DIAGNOSIS = "diagnosis.json"

_CHECKPOINT = re.compile(r"step_\d+")
_MEDIA = (".png", ".pdf", ".svg", ".mp4", ".gif")


def is_model(path: Path) -> bool:
    """Whether a folder looks like a model directory; its hash is checked by who reads it."""
    return (path / WEIGHTS).is_file() and (path / "config.json").is_file()


def is_diagnosis(run: Path) -> bool:
    """Whether a run directory is a finished one of ``recipes/diagnose.py``, which has no scores."""
    return (run / DIAGNOSIS).is_file()


def models_of(run: Path) -> list[Path]:
    """Model directories of a run, the final one (``model``) first, then by training step."""
    folders = [run / "model", *_children(run / "models"), *_children(run / "checkpoints")]
    return [folder for folder in folders if is_model(folder)]


def stored_states(run: Path) -> list[dict[str, Any]]:
    """Models to share and checkpoints to continue from: ``path``, ``kind`` and ``bytes`` of each."""
    checkpoints = [folder for folder in _children(run / "checkpoints") if _CHECKPOINT.fullmatch(folder.name)]
    kinds = dict.fromkeys(models_of(run), "model") | dict.fromkeys(checkpoints, "checkpoint")
    return [{"path": str(path), "kind": kind, "bytes": folder_size(path)} for path, kind in kinds.items()]


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; one that vanishes meanwhile counts nothing."""
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # A run that goes on deletes its oldest checkpoint.
                continue
    return size


def named_files(run: Path) -> list[str]:
    """Paths of pictures and videos."""
    files = (file for folder in ("figures", "videos") for file in sorted((run / folder).rglob("*")))
    return [str(file) for file in files if file.suffix in _MEDIA]


def _children(folder: Path) -> list[Path]:
    """Visible folders, ``step-2000`` before ``step-10000``."""
    if not folder.is_dir():
        return []
    found = [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")]
    return sorted(
        found, key=lambda child: (int("0" + "".join(re.findall(r"\d+", child.name)[-1:])), child.name)
    )
