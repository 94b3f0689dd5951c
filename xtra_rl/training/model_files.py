"""Model directories: weights to share, as safetensors, with a description that says how to build the model.

Nothing here unpickles anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from xtra_rl.files import (
    atomic_write_text,
    file_sha256,
    read_json,
    recover_directory,
    write_directory,
    write_json,
)
from xtra_rl.wording import first_of

WEIGHTS = "model.safetensors"
FORMAT = "xtra_rl.model"
FORMAT_VERSION = 1


class ModelFiles(NamedTuple):
    """What a model directory holds."""

    state_dict: dict[str, torch.Tensor]
    config: dict[str, Any]
    metadata: dict[str, Any]


class ModelNotes(NamedTuple):
    """What a model directory says of its model."""

    config: dict[str, Any]
    metadata: dict[str, Any]


def save_model(
    path: str | os.PathLike[str],
    world_model: nn.Module,
    *,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    readme: str | None = None,
) -> Path:
    """Write the directory ``path`` with ``model.safetensors`` and ``config.json``, atomically.

    Args:
        path: the model directory; an older model there is replaced when the new one is complete.
        world_model: the module whose parameters and buffers are saved.
        config: constructor arguments of the architecture; what :func:`load_into` names when shapes differ.
        metadata: anything plain about the model: task set, scores, steps, the run that made it.
        readme: text of a ``README.md`` beside them, for a model to share.

    Raises:
        ValueError: if the module's state holds something that is not a tensor, or ``path`` is a file or holds
            something else than a model of this library, which would be lost.
    """
    path = Path(path)
    _check_replaceable(path, {WEIGHTS, "config.json"} | ({"README.md"} if readme is not None else set()))
    tensors = {}
    for name, value in world_model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"state_dict()[{name!r}] is a {type(value).__name__}, but a model directory holds tensors "
                "only; make it a buffer or leave it out of the state"
            )
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()

    def write(folder: Path) -> None:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "config": config,
            "metadata": metadata,
            "sha256": {WEIGHTS: file_sha256(folder / WEIGHTS)},
        }
        write_json(folder / "config.json", description)
        # safetensors writes for the owner alone; a model is for whoever may read its folder.
        shutil.copymode(folder / "config.json", folder / WEIGHTS)
        if readme is not None:
            atomic_write_text(folder / "README.md", readme)

    write_directory(path, write)
    return path


def _check_replaceable(path: Path, names: set[str]) -> None:
    """Refuse a folder that is not empty and not an older model of this library."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"path={str(path)!r} is a file, but a folder was expected; pass another path")
    found = {file.name for file in path.iterdir()} if path.exists() else set()
    lost = found - names
    if found and not lost and not _is_model_description(path / "config.json"):
        lost = found
    if lost:
        raise ValueError(
            f"path={str(path)!r} holds {min(lost)!r} and would be replaced as a whole; "
            "pass a new or empty folder"
        )


def _is_model_description(file: Path) -> bool:
    try:
        description = read_json(file)
    except ValueError:
        return False
    return isinstance(description, dict) and description.get("format") == FORMAT


def load_model_weights(path: str | os.PathLike[str]) -> ModelFiles:
    """Read a model directory, after checking its weights against the stored sha256.

    Returns:
        ``(state_dict, config, metadata)``; the tensors are on the CPU.

    Raises:
        ValueError: if the directory or a file is missing, of another format or corrupt.
    """
    path = Path(path)
    description = _read_description(path)
    expected = description["sha256"][WEIGHTS]
    found = file_sha256(path / WEIGHTS)
    if found != expected:
        raise ValueError(
            f"{path / WEIGHTS} is corrupt: its sha256 is {found[:12]}..., but config.json says "
            f"{str(expected)[:12]}...; copy or make the model again"
        )
    try:
        return ModelFiles(load_file(path / WEIGHTS), description["config"], description["metadata"])
    except SafetensorError as error:
        raise ValueError(
            f"{path / WEIGHTS} is not a safetensors file ({error}); copy or make the model again"
        ) from error


def read_model_notes(path: str | os.PathLike[str]) -> ModelNotes:
    """What a model directory says of its model, without reading the weights.

    Raises:
        ValueError: if the directory or a file is missing or of another format.
    """
    description = _read_description(Path(path))
    return ModelNotes(description["config"], description["metadata"])


def _read_description(path: Path) -> dict[str, Any]:
    recover_directory(path)
    for file in (path / "config.json", path / WEIGHTS):
        if not file.is_file():
            inside = path / "model"
            meant = f"; did you mean {str(inside)!r}?" if (inside / file.name).is_file() else ""
            raise ValueError(
                f"model={str(path)!r} is not a model directory: {file.name} is missing; expected a folder "
                f"with config.json and {WEIGHTS}, as save_model writes it{meant}"
            )
    description = read_json(path / "config.json")
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(
            f"{path / 'config.json'} does not describe a model of this library (format {FORMAT!r} expected); "
            "pass the directory that save_model wrote"
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {description.get('format_version')!r}, but this version of xtra_rl "
            f"reads {FORMAT_VERSION}; use the version that wrote it"
        )
    parts = [description.get(name) for name in ("config", "metadata", "sha256")]
    if not all(isinstance(part, dict) for part in parts) or WEIGHTS not in description["sha256"]:
        raise ValueError(
            f"{path / 'config.json'} is incomplete: config, metadata and the sha256 of {WEIGHTS} were expected; "
            "copy or make the model again"
        )
    return description


def load_into(
    world_model: nn.Module,
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
) -> ModelFiles:
    """Copy the weights of a model directory into a module of the same architecture.

    Args:
        world_model: the module that receives the weights; it is not touched if anything differs.
        path: the model directory.
        config: constructor arguments of ``world_model``; if given, an error names those that differ.

    Raises:
        ValueError: as :func:`load_model_weights`, and if names or shapes of tensors differ.

    Example:
        >>> import tempfile
        >>> model, other = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> path = save_model(f"{tempfile.mkdtemp()}/model", model, config={"sizes": 2}, metadata={"task": "pong"})
        >>> load_into(other, path).metadata, torch.equal(model.weight, other.weight)
        ({'task': 'pong'}, True)
        >>> sorted(load_model_weights(path).state_dict), read_model_notes(path).config
        (['bias', 'weight'], {'sizes': 2})
    """
    model = load_model_weights(path)
    problems = _shape_differences(world_model.state_dict(), model.state_dict)
    if problems:
        raise ValueError(
            f"model={str(path)!r} has another architecture: {first_of(problems, 3)}."
            f" {_advice(config, model.config)}"
        )
    world_model.load_state_dict(model.state_dict)
    return model


def _shape_differences(here: Mapping[str, Any], stored: Mapping[str, torch.Tensor]) -> list[str]:
    problems = []
    for name in [*here, *(name for name in stored if name not in here)]:
        ours = list(here[name].shape) if name in here else None
        theirs = list(stored[name].shape) if name in stored else None
        if ours != theirs:
            problems.append(f"{name} is {_shape(theirs)} in the file and {_shape(ours)} in the module")
    return problems


def _shape(shape: list[int] | None) -> str:
    return "absent" if shape is None else str(shape)


def _advice(config: Mapping[str, Any] | None, stored: Mapping[str, Any]) -> str:
    differing = [name for name in stored if config is not None and config.get(name) != stored[name]]
    names = differing or list(stored)
    arguments = ", ".join(f"{name}={stored[name]!r}" for name in names)
    return f"Build the module with the stored arguments: {arguments}"
